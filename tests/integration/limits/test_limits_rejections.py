"""Too many refused mailboxes: one provider's wait while others are sent to; a bad list stops before it is burned."""

from __future__ import annotations

import asyncio

from fullsend.ledger import campaigns
from fullsend.ledger.control import Control
from fullsend.ledger.database import Database
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Fault, Faults, Rule, Stage
from fullsend.reconcile import breaker
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import Claimant, Desired, Observed
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


async def decided(here: Place) -> Decision:
    """What whoever reconciles makes of the ledger as it is."""
    view = await here.view()
    control = Control.from_json(here.control())
    desired = Desired(control=control, max_rejected=control.max_rejected, min_sample=control.min_sample)
    return decide(desired, Observed(us=Claimant(world.OWNER.cluster, world.OWNER.uid), view=view), view.now)


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
        assert rows == [("ProviderBlocked:small.example", 0, 0)]
        assert view.blocked_only, "only a person can say how it goes on"
        assert (await decided(here)).status.state == "Halted"
        # A person who knows better says go on: they are sent to like everybody.
        sink.faults = Faults()
        await campaigns.update_breaker(
            ledger, here.campaign, lambda held: breaker.acknowledge(held, blocked.id, view.now)
        )
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


async def test_two_blocked_providers_are_let_go_on_one_after_the_other(postgres_dsn: str, ledger: Database) -> None:
    gone = tuple(Rule(match=f"*@{name}.example", fault=Fault.UNKNOWN_MAILBOX) for name in ("small", "d3"))
    async with MailSink(faults=Faults(rules=gone)) as sink:
        here = await mixed(
            postgres_dsn, ledger, sink, small=60, large=1200, retry={"min_backoff": 600.0}, max_rejected=0.2
        )
        assert await here.run() is Ended.DRAINED
        first = await here.view()
        assert {one.provider for one in first.breaker.blocked} == {"small.example", "d3.example"}
        assert first.blocked_only
        for one in first.breaker.blocked:
            assert (await decided(here)).status.state == "Halted"
            await campaigns.update_breaker(
                ledger, here.campaign, lambda held, id_=one.id: breaker.acknowledge(held, id_, first.now)
            )
            assert not (await here.view()).blocked_only, "those at the provider that was let go on need no person"
            await world.sql(ledger, "UPDATE fullsend.delivery SET due_at = clock_timestamp() WHERE state = 'deferred'")
            await here.run()
        last = await here.view()
        assert last.breaker.blocked == ()
        assert last.counts[S.REJECTED] == 160, "nobody was asked again for the first one"
        assert last.counts.open == 0


async def test_a_list_is_not_burned_by_senders_that_never_live_long_enough_to_see_that_it_is_bad(
    postgres_dsn: str, ledger: Database
) -> None:
    """Each sender ends after a few recipients, before what it remembers tells anything; nobody reconciles."""
    bad = Rule(fault=Fault.UNKNOWN_MAILBOX)
    async with MailSink(faults=Faults(rules=(bad,))) as sink:
        here = await mixed(postgres_dsn, ledger, sink, small=0, large=1000, relay={"connections": 1}, min_sample=40)
        for _ in range(60):
            before = (await here.view()).counts[S.REJECTED]
            async with here.sender() as sender:
                while not sender.running.done() and (await here.view()).counts[S.REJECTED] < before + 5:
                    await asyncio.sleep(0.01)
                sender.worker.stop()
                ended = await sender.ends(20)
            if ended is Ended.HELD_BACK or (await here.view()).breaker.needs_person:
                break
        view = await here.view()
        assert view.breaker.reason == breaker.Reason.TOO_MANY_REJECTED
        assert view.counts[S.REJECTED] < 200
