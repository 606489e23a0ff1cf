"""One address that breaks whatever touches it, and a relay whose account is used up: each is charged to whom it is."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from functools import partial

import pytest

from fullsend.ledger.database import Database
from fullsend.ledger.view import BreakerState
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Fault, Faults, Rule, Stage
from fullsend.reconcile.breaker import BreakerPolicy
from fullsend.sender.verdict import ALONE_AFTER
from fullsend.sender.worker import Ended
from support import ledger_worlds as world
from support.sender_world import Place, S, place, until

SHORT = {"min_backoff": 0.3, "max_backoff": 0.5, "expire_after": 2.0}


@pytest.fixture(autouse=True)
def hours_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that was found in trouble is asked again after a third of a second, and at least twice a second."""
    probing = {"first_probe": 0.3, "last_probe": 0.4, "recovery_step": 0.3}
    quick = partial(BreakerPolicy, **{name: timedelta(seconds=value) for name, value in probing.items()})
    monkeypatch.setattr("fullsend.sender.pulse.BreakerPolicy", quick)


async def worked_off(here: Place, seconds: float = 60.0) -> None:
    """Sender after sender, until nobody is open."""
    deadline = time.monotonic() + seconds
    while (await here.view()).counts.open:
        assert time.monotonic() < deadline, await world.rows_by_state(here.db, here.campaign)
        await here.run()
        await asyncio.sleep(0.1)


async def charges(here: Place) -> list[tuple[str, str, int, bool]]:
    """Who was charged: address, state, how often, and whether the clock of `expireAfter` runs."""
    return await world.sql(  # type: ignore[return-value]
        here.db,
        "SELECT r.address, d.state::text, d.charges, d.first_charged_at IS NOT NULL FROM fullsend.delivery AS d"
        " JOIN fullsend.recipient AS r USING (campaign_id, seq)"
        " WHERE d.campaign_id = %s AND (d.charges > 0 OR d.first_charged_at IS NOT NULL) ORDER BY 1",
        here.campaign,
    )


POISON = {
    "421 to RCPT": Rule(
        fault=Fault.REPLY, match="user7@*", stage=Stage.RCPT, reply="421 4.3.2 service shutting down, closing channel"
    ),
    "the connection drops at RCPT": Rule(fault=Fault.DROP_AT_RCPT, match="user7@*"),
    "the connection drops in the content": Rule(fault=Fault.DROP_AT_DATA, match="user7@*"),
}


@pytest.mark.parametrize("how", POISON)
async def test_an_address_that_always_breaks_the_connection(how: str, postgres_dsn: str, ledger: Database):
    """One of 600 addresses draws 421, or an end of the connection, whoever tries it.

    Fullsend: it is charged once others pass in between, and ends by name; the others are sent to meanwhile.
    """
    async with MailSink(faults=Faults(rules=(POISON[how],), reply_delay=0.002)) as sink:
        here = await place(postgres_dsn, ledger, sink, 600, retry=SHORT)
        started = time.monotonic()
        async with here.sender():
            await until(lambda: asyncio.sleep(0, sink.accepted == 599), 20)
            others = time.monotonic() - started
        await worked_off(here)
        assert {who: sink.count(who) for delivery in sink.deliveries for who in delivery.recipients} == {
            f"user{n}@example.com": 1 for n in range(1, 601) if n != 7
        }
        assert [(who, state) for who, state, _, _ in await charges(here)] == [("user7@example.com", "expired")]
        assert others < 10
        assert (await here.view()).breaker.state is not BreakerState.HALTED


@pytest.mark.parametrize("rows", [1, 200])
async def test_a_relay_whose_daily_quota_is_used_up(rows: int, postgres_dsn: str, ledger: Database):
    """The relay answers "daily sending quota exceeded" for three times as long as `expireAfter`, then takes mail again.

    Fullsend: it is the relay's trouble: nobody is charged, no clock runs, nobody expires; then everybody gets it.
    """
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, rows, retry=SHORT)
        sink.faults = Faults(rules=(Rule(fault=Fault.QUOTA_EXCEEDED),))
        until_when = time.monotonic() + 6.0
        while time.monotonic() < until_when:
            async with here.sender() as sender:
                await asyncio.wait({sender.running}, timeout=max(0.1, until_when - time.monotonic()))
        assert sink.accepted == 0
        assert await charges(here) == []
        counts = await world.rows_by_state(ledger, here.campaign)
        assert counts.get(S.PENDING, 0) + counts.get(S.DEFERRED, 0) == rows
        tries = await world.sql(ledger, "SELECT count(*) FROM fullsend.attempt WHERE reason = 'QuotaExceeded'")
        assert tries[0][0] > ALONE_AFTER
        sink.faults = Faults()
        await worked_off(here)
        assert sink.accepted == rows
        assert await here.count(S.ACCEPTED) == rows
        assert await charges(here) == []


async def test_greylisting_that_does_not_say_so(postgres_dsn: str, ledger: Database):
    """Each of 150 people is put off once with a bare "451 Temporary failure, please try again later".

    Fullsend: taken for the relay's trouble when nobody passes, and probed; those whose turn has come again pass, and
    all are worked off without a person.
    """
    rule = Rule(fault=Fault.REPLY, stage=Stage.RCPT, reply="451 Temporary failure, please try again later.", times=1)
    async with MailSink(faults=Faults(rules=(rule,))) as sink:
        here = await place(postgres_dsn, ledger, sink, 150, retry={"min_backoff": 1.0, "max_backoff": 1.0})
        troubled = 0
        first_pass = 0  # people not tried yet when the first one passes
        async with here.sender() as sender:
            deadline = time.monotonic() + 60
            while not sender.running.done():
                assert time.monotonic() < deadline, await world.rows_by_state(ledger, here.campaign)
                seen = (await here.view()).breaker
                troubled += seen.state is not BreakerState.CLOSED
                assert not seen.needs_person
                if sink.accepted and not first_pass:
                    first_pass = sum(not sink.tries(f"user{n}@example.com") for n in range(1, 151))
                await asyncio.sleep(0.02)
        await worked_off(here)
        assert troubled
        assert first_pass > 75
        assert sorted(sink.count(f"user{n}@example.com") for n in range(1, 151)) == [1] * 150


async def test_unsubscribed_between_planning_and_sending(postgres_dsn: str, ledger: Database):
    """Somebody unsubscribes after the plan was sealed and before the first message.

    Fullsend: suppressions are looked at again when a row is armed: the person gets nothing, and is counted.
    """
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 20)
        said_no = "INSERT INTO fullsend.suppression (scope, identity_hash, reason) VALUES ('installation', %s, 'asked')"
        await world.sql(ledger, said_no, world.identity(13))
        assert await here.run() is Ended.DRAINED
        assert sink.count("user13@example.com") == 0
        assert sink.accepted == 19
        assert await here.count(S.SUPPRESSED) == 1
