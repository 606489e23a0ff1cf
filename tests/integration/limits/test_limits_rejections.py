"""Too many refused mailboxes: one provider's wait while others are sent to; a bad list stops before it is burned."""

from __future__ import annotations

from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Fault, Faults, Rule, Stage
from fullsend.reconcile import breaker
from fullsend.sender.worker import Ended
from fullsend.states import CampaignId
from support import ledger_worlds as world
from support.sender_world import Place, S


async def mixed(dsn: str, db: Database, sink: MailSink, *, small: int, large: int, **settings: object) -> Place:
    """A campaign to ``small`` recipients at small.example, spread over ``large`` at a dozen other domains."""
    made = Place(dsn, db, CampaignId(0), sink.port, {"max_rejected": 0.05, "min_sample": 200, **settings})
    made.campaign = await world.registered(db)
    await world.controlled(db, made.campaign, made.control())
    few = world.plan_rows(small, domain="small.example")
    rows = []
    for number in range(large):
        rows += world.plan_rows(1, start=1000 + number, domain=f"d{number % 12}.example")
        if few and number % (large // small) == 0:
            rows.append(few.pop())
    await world.plan(db, made.campaign, rows)
    return made


async def test_a_provider_that_rejects_waits_for_a_person_while_the_others_are_sent_to(
    postgres_dsn: str, ledger: Database
) -> None:
    gone = Rule(match="*@small.example", fault=Fault.UNKNOWN_MAILBOX)
    async with MailSink(faults=Faults(rules=(gone,))) as sink:
        here = await mixed(postgres_dsn, ledger, sink, small=100, large=1200, retry={"min_backoff": 600.0})
        assert await here.run() is Ended.DRAINED
        view = await here.view()
        assert view.counts[S.ACCEPTED] == 1200
        assert 20 <= view.counts[S.REJECTED] <= 20 + 8, "its sample, and what was in flight is finished and recorded"
        assert view.counts[S.DEFERRED] == 100 - view.counts[S.REJECTED]
        [blocked] = view.breaker.blocked
        assert blocked.provider == "small.example"
        rows = await world.sql(
            ledger, "SELECT DISTINCT reason, attempts, charges FROM fullsend.delivery WHERE state = 'deferred'"
        )
        assert rows == [("ProviderBlocked", 0, 0)]
        # A person who knows better says go on: they are sent to like everybody.
        sink.faults = Faults()
        await campaigns.update_breaker(
            ledger, here.campaign, lambda held: breaker.acknowledge(held, blocked.id, view.now)
        )
        await here.say(acknowledged_halt=blocked.id)
        await world.sql(ledger, "UPDATE fullsend.delivery SET due_at = clock_timestamp() WHERE state = 'deferred'")
        assert await here.run() is Ended.DRAINED
        assert (await here.view()).counts.open == 0


async def test_a_bad_list_is_halted_by_its_recent_rejections_before_it_is_burned(
    postgres_dsn: str, ledger: Database
) -> None:
    bad = Rule(fault=Fault.UNKNOWN_MAILBOX, share=0.3)
    async with MailSink(faults=Faults(rules=(bad,))) as sink:
        here = await mixed(postgres_dsn, ledger, sink, small=0, large=2400)
        assert await here.run() is Ended.HELD_BACK
        view = await here.view()
        assert view.breaker.reason == breaker.Reason.TOO_MANY_REJECTED
        assert view.breaker.needs_person
        assert view.counts[S.REJECTED] < 120
        assert view.counts[S.CLAIMED] == view.counts[S.ARMED] == 0
        # Acknowledged, it is not asked again before twice as many are rejected.
        await campaigns.update_breaker(
            ledger, here.campaign, lambda held: breaker.acknowledge(held, view.breaker.halt_id, view.now)
        )
        await here.say(acknowledged_halt=view.breaker.halt_id)
        await here.run()
        assert (await here.view()).counts[S.REJECTED] >= 1.8 * view.counts[S.REJECTED]


async def test_a_provider_that_refuses_this_sender_does_not_halt_the_campaign_at_the_others(
    postgres_dsn: str, ledger: Database
) -> None:
    listed = "550 5.7.1 Service unavailable, client host blocked using a block list"
    refuses = Rule(match="*@small.example", fault=Fault.REPLY, stage=Stage.RCPT, reply=listed)
    async with MailSink(faults=Faults(rules=(refuses,))) as sink:
        here = await mixed(postgres_dsn, ledger, sink, small=60, large=600, retry={"min_backoff": 600.0})
        assert await here.run() is Ended.DRAINED
        view = await here.view()
        assert view.counts[S.ACCEPTED] == 600
        assert view.counts[S.REJECTED] == 0
        [blocked] = view.breaker.blocked
        assert blocked.reason == breaker.Reason.PROVIDER_REFUSES_SENDER
