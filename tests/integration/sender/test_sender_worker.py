"""A sender against a real ledger and a relay that misbehaves: nobody missed, nobody mailed twice, nothing stranded."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Any

import pytest

from fullsend.errors import LedgerUnavailable
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.tenants import tenant_access
from fullsend.ledger.view import BreakerState
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Banner, Fault, Faults, Rule, Stage
from fullsend.reconcile import breaker
from fullsend.sender.lease import Lease
from fullsend.sender.worker import Ended
from support import ledger_worlds as world
from support.sender_world import COMPOSER, Place, S, place, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullsend.sender.worker.HELD_BACK_PATIENCE", 0.5)


each_mode = pytest.mark.parametrize("mode", ["Off", "Group", "Overlap"])
K = {"Off": 1, "Group": 1, "Overlap": 2}


def copies(sink: MailSink) -> list[int]:
    assert sink._memory is not None
    return list(sink._memory.by_recipient.values())


async def nothing_in_hand(here: Place) -> bool:
    rows = await world.rows_by_state(here.db, here.campaign)
    view = await here.view()
    assert {s: n for s, n in view.counts.by_state.items() if n} == rows, "counters and rows disagree"
    return not rows.get(S.CLAIMED) and not rows.get(S.ARMED) and not view.sessions


@each_mode
async def test_everybody_is_sent_one_copy_and_the_session_ends(mode: str, postgres_dsn: str, ledger: Database):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 200, relay={"pipelining": mode})
        assert await here.run() is Ended.DRAINED
        assert await here.count(S.ACCEPTED) == 200
        assert copies(sink) == [1] * 200
        assert await nothing_in_hand(here)


async def test_an_ordinary_bad_day_ends_with_everybody_settled(postgres_dsn: str, ledger: Database):
    rules = [
        Rule(fault=Fault.UNKNOWN_MAILBOX, share=0.05),
        Rule(fault=Fault.GREYLIST, share=0.1),
        Rule(fault=Fault.DROP_AT_RCPT, share=0.02, times=1),
        Rule(fault=Fault.DROP_IN_CONTENT, share=0.02, times=1),
        Rule(fault=Fault.DROP_AFTER_DOT, share=0.02, times=1),
    ]
    async with MailSink(faults=Faults(rules=tuple(rules), messages_per_connection=7)) as sink:
        here = await place(postgres_dsn, ledger, sink, 300)
        while (await here.view()).counts.open:
            await here.run()
        rows = await world.rows_by_state(ledger, here.campaign)
        assert set(rows) == {S.ACCEPTED, S.REJECTED}
        unknowns = await here.unknowns()
        assert sink._memory is not None
        assert all(n <= 1 + unknowns.get(who, 0) for who, n in sink._memory.by_recipient.items())
        assert (await here.view()).breaker.state is not BreakerState.HALTED


@each_mode
async def test_a_relay_that_never_answers_the_dot_is_given_up_long_before_the_end_of_the_list(
    mode: str, postgres_dsn: str, ledger: Database
):
    silent = Faults(rules=(Rule(fault=Fault.SILENT_AFTER_DOT),))
    async with MailSink(faults=silent) as sink:
        here = await place(postgres_dsn, ledger, sink, 300, relay={"pipelining": mode, "dot_timeout": 0.3})
        assert await here.run() is Ended.HELD_BACK
        view = await here.view()
        assert view.breaker.state is BreakerState.HALTED
        k, connections = K[mode], 4
        assert 0 < sum(copies(sink)) <= connections * k + 4 * k
        assert not view.breaker.needs_person  # a relay that restarts looks the same: one probe tells
        probe = view.now
        await campaigns.update_breaker(ledger, here.campaign, lambda b: replace(b, next_probe_at=probe))
        assert await here.run() is Ended.HELD_BACK
        assert (await here.view()).breaker.needs_person
        assert sum(copies(sink)) <= connections * k + 4 * k + 1
        assert max(copies(sink)) <= 2
        assert await nothing_in_hand(here)
        # A person says "go on" again and again: still nobody gets more than the resends allowed.
        for _ in range(3):
            halted = (await here.view()).breaker
            await campaigns.update_breaker(
                ledger, here.campaign, lambda b, h=halted: breaker.acknowledge(b, h.halt_id, view.now)
            )
            await here.run()
        assert max(copies(sink)) <= 2
        assert sum(copies(sink)) < 60


async def test_somebody_who_says_no_while_claimed_is_not_mailed(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(reply_delay=0.5)) as sink:
        here = await place(postgres_dsn, ledger, sink, 12)
        async with here.sender() as sender:
            await until(lambda: here.count(S.CLAIMED))
            await world.sql(
                ledger,
                "INSERT INTO fullsend.suppression (scope, identity_hash, reason) SELECT 'installation', h, 'asked'"
                " FROM unnest(%s::bytea[]) AS h",
                [world.identity(n) for n in (1, 2, 7)],
            )
            sink.faults = Faults()
            assert await sender.ends() is Ended.DRAINED
        assert await here.count(S.SUPPRESSED) == 3
        assert await here.count(S.ACCEPTED) == 9
        assert not {f"user{n}@example.com" for n in (1, 2, 7)} & set(sink._memory.by_recipient)  # type: ignore[union-attr]


async def test_a_stop_reads_the_replies_in_flight_and_makes_no_unknowns(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(rules=(Rule(fault=Fault.SLOW, delay=0.7),))) as sink:
        here = await place(postgres_dsn, ledger, sink, 60)
        async with here.sender() as sender:
            await until(lambda: here.count(S.ARMED))
            await asyncio.sleep(0.3)
            sender.worker.stop()
            assert await sender.ends(10) is Ended.STOPPED
        assert await nothing_in_hand(here)
        assert await here.unknowns() == {}
        assert await here.count(S.ACCEPTED) == sum(copies(sink)) > 0


async def test_a_stop_does_not_wait_for_a_relay_that_does_not_greet(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(banner=Banner.SILENT)) as sink:
        here = await place(postgres_dsn, ledger, sink, 60)
        async with here.sender() as sender:
            await until(lambda: here.count(S.CLAIMED))
            await asyncio.sleep(0.3)
            before = time.monotonic()
            sender.worker.stop()
            assert await sender.ends(10) is Ended.STOPPED
            assert time.monotonic() - before < 2
        assert await nothing_in_hand(here)


async def test_a_stop_does_not_wait_for_a_relay_that_hesitates_before_the_content(postgres_dsn: str, ledger: Database):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 60, relay={"reply_timeout": 60.0})
        async with here.sender() as sender:
            await until(lambda: here.count(S.ACCEPTED))
            sink.faults = Faults(reply_delay=20.0)
            await asyncio.sleep(0.5)
            before = time.monotonic()
            sender.worker.stop()
            ended = await sender.ends(30)
            took = time.monotonic() - before
        assert ended is Ended.STOPPED
        assert await nothing_in_hand(here)
        assert took < 25  # at most the one reply that content was written for


async def test_a_second_stop_waits_for_nobody_and_names_what_is_on_the_wire(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(rules=(Rule(fault=Fault.SILENT_AFTER_DOT),))) as sink:
        here = await place(postgres_dsn, ledger, sink, 60, relay={"dot_timeout": 60.0})
        async with here.sender() as sender:
            await until(lambda: here.count(S.ARMED))
            await asyncio.sleep(0.5)
            sender.worker.stop()
            await asyncio.sleep(0.2)
            before = time.monotonic()
            sender.worker.stop()
            await sender.ends(10)
            assert time.monotonic() - before < 3
        assert await nothing_in_hand(here)
        assert len(await here.unknowns()) == sum(copies(sink)) == 4


async def test_a_fenced_sender_finishes_what_is_on_the_wire_and_another_one_does_the_rest(
    postgres_dsn: str, ledger: Database
):
    async with MailSink(faults=Faults(rules=(Rule(fault=Fault.SLOW, share=0.2, delay=0.3),))) as sink:
        here = await place(postgres_dsn, ledger, sink, 400)
        async with here.sender() as sender:
            await until(lambda: here.count(S.ACCEPTED))
            await sessions.fence(ledger, sender.session.id, 1, unknown_delay=1.0)
            assert await sender.ends(10) is Ended.FENCED
        assert await here.run() is Ended.DRAINED
        assert await here.count(S.ACCEPTED) == 400
        unknowns = await here.unknowns()
        assert sink._memory is not None
        assert all(n <= 1 + unknowns.get(who, 0) for who, n in sink._memory.by_recipient.items())
        assert len(unknowns) <= 4 * 2
        assert await nothing_in_hand(here)


async def test_a_sender_whose_clock_has_jumped_past_its_lease_starts_no_content_until_the_ledger_confirms_it(
    postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    offset = 0.0
    lease = Lease(60.0, lambda: time.monotonic() + offset)
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 4000)
        async with here.sender(lease=lease) as sender:
            await until(lambda: here.count(S.ACCEPTED))
            monkeypatch.setattr(sender.worker._pulse, "beat", lambda: asyncio.sleep(0))
            offset = 40.0
            sender.worker._notify()
            await asyncio.sleep(0.3)
            before = sum(copies(sink))
            await asyncio.sleep(1.0)
            assert sum(copies(sink)) == before < 4000
            assert await here.count(S.ARMED) == 0
            assert await here.count(S.CLAIMED) == 0
            monkeypatch.undo()
            await sender.worker._pulse.beat()
            await until(lambda: asyncio.sleep(0, sum(copies(sink)) > before))


async def test_a_sender_that_the_ledger_no_longer_answers_does_not_idle_for_ever(
    postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    offset = 0.0
    lease = Lease(60.0, lambda: time.monotonic() + offset)
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 30, rates=[{"messages": 1, "seconds": 3600.0}])
        async with here.sender(lease=lease) as sender:
            await until(lambda: here.count(S.ACCEPTED))
            monkeypatch.setattr(sender.worker._pulse, "beat", lambda: asyncio.sleep(0))
            offset = 301.0
            assert await sender.ends(5) is Ended.CUT_OFF


async def test_connections_of_the_database_may_be_cut_at_any_time(postgres_dsn: str, ledger: Database):
    dice = random.Random(5)
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 1500)
        async with here.sender() as sender:
            while not sender.running.done():
                await asyncio.sleep(dice.uniform(0.02, 0.25))
                await world.sql(
                    ledger,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = %s",
                    dice.choice(["sender", "flusher"]),
                )
            assert await sender.ends() is Ended.DRAINED
        assert await here.count(S.ACCEPTED) == 1500
        assert copies(sink) == [1] * 1500
        assert await here.unknowns() == {}


@pytest.mark.parametrize("call", ["claim_fresh", "claim_due", "give_back", "grant"])
async def test_what_was_committed_without_an_answer_is_found_and_given_back(
    call: str, postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    real, lost = getattr(sessions, call), []

    async def doubtful(*args: Any, **options: Any) -> Any:
        answer = await real(*args, **options)
        if answer and len(lost) < 2:
            lost.append(answer)
            raise LedgerUnavailable("the answer is lost")
        return answer

    monkeypatch.setattr(sessions, call, doubtful)
    rates = [{"messages": 1000, "seconds": 1.0}] if call == "grant" else []
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 150, rates=rates)
        await world.sql(
            ledger,
            "INSERT INTO fullsend.suppression (scope, identity_hash, reason) VALUES ('installation', %s, 'asked')",
            world.identity(3),
        )
        if call == "claim_due":
            await world.sql(
                ledger,
                "UPDATE fullsend.delivery SET state = 'deferred', due_at = now() WHERE campaign_id = %s AND seq < 20",
                here.campaign,
            )
            await world.sql(
                ledger,
                "UPDATE fullsend.counter SET pending = pending - 19, deferred = deferred + 19 WHERE campaign_id = %s",
                here.campaign,
            )
        if call == "give_back":
            async with here.sender() as sender:
                await until(lambda: here.count(S.ACCEPTED))
                await here.say(stop=True)
                await sender.ends(15)
            await here.say()
        assert await here.run() is Ended.DRAINED
        assert await here.count(S.ACCEPTED) == 149
        assert copies(sink) == [1] * 149
        assert await nothing_in_hand(here)
        assert lost


async def test_a_suspension_is_obeyed_while_waiting_for_tokens_and_nothing_stays_claimed(
    postgres_dsn: str, ledger: Database
):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 50, rates=[{"messages": 1, "seconds": 3600.0}])
        async with here.sender() as sender:
            await until(lambda: here.count(S.ACCEPTED))
            await here.say(stop=True)
            await until(lambda: _none(here, S.CLAIMED), 2.5)
            assert await sender.ends(8) is Ended.HELD_BACK
        assert sum(copies(sink)) == 1


async def test_a_raised_rate_is_used_at_once_not_when_the_old_one_would_have_given_the_next_token(
    postgres_dsn: str, ledger: Database
):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 50, rates=[{"messages": 1, "seconds": 3600.0}])
        async with here.sender() as sender:
            await until(lambda: here.count(S.ACCEPTED))
            await here.say(rates=[{"messages": 100, "seconds": 1.0}])
            assert await sender.ends(10) is Ended.DRAINED
        assert sum(copies(sink)) == 50


async def _none(here: Place, state: Any) -> bool:
    return not await here.count(state)


async def test_a_rollout_ends_with_its_first_recipients(postgres_dsn: str, ledger: Database):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 200, fresh_limit=25)
        assert await here.run(seconds=10) is Ended.DRAINED
        assert sum(copies(sink)) == await here.count(S.ACCEPTED) == 25
        await here.say(fresh_limit=None)
        assert await here.run() is Ended.DRAINED
        assert copies(sink) == [1] * 200


async def test_a_sender_without_a_share_of_the_connections_holds_no_rows_and_takes_over_when_it_gets_one(
    postgres_dsn: str, ledger: Database
):
    async with MailSink(faults=Faults(reply_delay=0.01)) as sink:
        here = await place(postgres_dsn, ledger, sink, 150, relay={"connections": 1})
        async with here.sender() as first, here.sender() as second:
            await until(lambda: here.count(S.ACCEPTED))
            held = "SELECT count(*) FROM fullsend.delivery WHERE session_id = %s"
            assert (await world.sql(ledger, held, second.session.id))[0][0] == 0
            first.worker.stop()
            assert await first.ends() is Ended.STOPPED
            assert await second.ends() is Ended.DRAINED
        assert copies(sink) == [1] * 150
        assert sink.peak_connections == 1


async def test_a_sender_that_joins_another_does_not_take_the_fleet_beyond_its_connections(
    postgres_dsn: str, ledger: Database
):
    async with MailSink(faults=Faults(reply_delay=0.01)) as sink:
        here = await place(postgres_dsn, ledger, sink, 600)
        async with here.sender() as first:
            await until(lambda: here.count(S.ACCEPTED))
            async with here.sender() as second:
                await until(lambda: asyncio.sleep(0, second.worker._pulse.open_connections == 2))
                assert first.worker._pulse.open_connections == 2
                await first.ends()
                await second.ends()
        assert sink.peak_connections == 4
        assert copies(sink) == [1] * 600


async def test_a_relay_that_takes_fewer_connections_than_offered_is_no_trouble(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(max_connections=2, messages_per_connection=20, reply_delay=0.002)) as sink:
        here = await place(postgres_dsn, ledger, sink, 300, relay={"connections": 8})
        assert await here.run() is Ended.DRAINED
        assert copies(sink) == [1] * 300


async def test_a_secret_that_cannot_be_read_is_trouble_of_the_transport_however_few_are_left(
    postgres_dsn: str, ledger: Database
):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 3, relay={"credentials_secret": "login"})
        async with here.sender():

            async def halted() -> bool:
                return (await here.view()).breaker.state is BreakerState.HALTED

            await until(halted)
        view = await here.view()
        assert "login" in view.breaker.message
        assert view.counts.open == 3


async def test_when_everybody_is_refused_the_first_to_be_rejected_wait_again_also_for_a_tenants_role(
    postgres_dsn: str, ledger: Database
):
    denied = Rule(fault=Fault.REPLY, stage=Stage.RCPT, reply="550 no")
    async with MailSink(faults=Faults(rules=(denied,))) as sink:
        here = await place(postgres_dsn, ledger, sink, 100)
        access = await tenant_access(postgres_dsn, "ns")
        assert access.isolated
        assert await here.run(dsn=access.dsn) is Ended.HELD_BACK
        view = await here.view()
        assert view.breaker.reason == breaker.Reason.EVERYONE_REFUSED
        assert view.counts[S.REJECTED] == 0
        assert await nothing_in_hand(here)


async def test_a_message_that_cannot_be_built_is_its_recipients_alone(
    postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    compose = COMPOSER.compose

    def failing(recipient: Any) -> Any:
        if recipient.address == "user7@example.com":
            raise ZeroDivisionError("a mistake")
        return compose(recipient)

    monkeypatch.setattr(COMPOSER, "compose", failing)
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 20)
        assert await here.run() is Ended.DRAINED
        assert await here.count(S.UNRENDERABLE) == 1
        assert copies(sink) == [1] * 19


async def test_a_part_that_breaks_ends_the_sender_in_order_and_is_raised(postgres_dsn: str, ledger: Database):
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 300)
        async with here.sender() as sender:
            judge, calls = sender.worker._judge.judge, 0

            def breaking(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == 50:
                    raise ZeroDivisionError("a mistake")
                return judge(*args, **options)

            sender.worker._judge.judge = breaking  # type: ignore[method-assign]
            with pytest.raises(ZeroDivisionError):
                await sender.ends()
        assert await nothing_in_hand(here)
        assert len(await here.unknowns()) == 1  # the one whose outcome was not judged
        assert await here.run() is Ended.DRAINED
        assert await here.count(S.ACCEPTED) == 300
        assert sum(copies(sink)) == 301


async def test_a_ledger_that_went_back_halts_the_campaign_for_a_person(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(reply_delay=0.05)) as sink:
        here = await place(postgres_dsn, ledger, sink, 400)
        async with here.sender() as sender:
            await until(lambda: here.count(S.ACCEPTED))
            await world.sql(ledger, "UPDATE fullsend.counter SET revision = 1 WHERE session_id > 0")
            assert await sender.ends() is Ended.WENT_BACK
        view = await here.view()
        assert (view.breaker.state, view.breaker.reason) == (BreakerState.HALTED, breaker.Reason.LEDGER_WENT_BACK)
        assert view.breaker.needs_person
        assert max(copies(sink)) == 1
        assert len(copies(sink)) < 400
        assert len(copies(sink)) == await here.count(S.ACCEPTED), "what was in flight is recorded"


async def test_a_halt_for_a_ledger_that_went_back_does_not_wait_for_replies(postgres_dsn: str, ledger: Database):
    async with MailSink(faults=Faults(rules=(Rule(fault=Fault.SLOW, delay=4.0),))) as sink:
        here = await place(postgres_dsn, ledger, sink, 40)
        async with here.sender() as sender:
            await until(lambda: here.count(S.ARMED))
            await asyncio.sleep(0.5)  # for content to be on the wire
            await world.sql(ledger, "UPDATE fullsend.counter SET revision = 0 WHERE session_id > 0")
            await until(lambda: _halted(here))
            assert not await here.count(S.ACCEPTED), "no reply has come yet"
            assert await sender.ends() is Ended.WENT_BACK
        assert len(copies(sink)) == await here.count(S.ACCEPTED)


async def test_a_sender_that_ends_calls_nothing_unknown_in_a_ledger_that_went_back(
    postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fullsend.sender.worker.HELD_BACK_PATIENCE", 60.0)
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 20, rates=[{"messages": 5, "seconds": 1}])
        async with here.sender() as sender:
            await until(lambda: here.count(S.ACCEPTED))
            await here.say(stop=True)
            await until(lambda: _none(here, S.CLAIMED))
            monkeypatch.setattr("fullsend.sender.pulse.BEAT", 60.0)
            await asyncio.sleep(1.2)  # the last beat: from here on only its end asks the ledger
            await world.sql(ledger, "UPDATE fullsend.counter SET revision = 1 WHERE session_id > 0")
            mine = sender.session.id
            await world.sql(ledger, "UPDATE fullsend.delivery SET state = 'armed', session_id = %s WHERE seq = 1", mine)
            sender.worker.stop()
            assert await sender.ends() is Ended.WENT_BACK
        assert await _halted(here)
        assert await here.unknowns() == {}


async def _halted(here: Place) -> bool:
    return (await here.view()).breaker.reason == breaker.Reason.LEDGER_WENT_BACK
