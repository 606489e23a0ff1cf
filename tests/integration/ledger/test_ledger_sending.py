"""From a plan to a proof, through the hands of sessions."""

from __future__ import annotations

import pytest

from fullsend.errors import SessionFenced
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.view import Phase
from fullsend.states import DeliveryState as S
from fullsend.states import Seq
from support import ledger_worlds as world


async def test_a_campaign_that_delivers_to_everybody_is_proved_complete(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 50)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 100)
    assert [row.seq for row in rows] == list(range(1, 51))
    assert (await world.armed(ledger, session, rows)).armed == {row.seq for row in rows}
    await world.record(ledger, session, *(world.accepted(row) for row in rows))
    assert await world.counts(ledger, campaign) == await world.rows_by_state(ledger, campaign) == {S.ACCEPTED: 50}
    proof = await campaigns.prove(ledger, campaign)
    assert proof.differences == ("1 sessions have not ended",)
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
    await sessions.close_session(ledger, session, "done")
    proof = await campaigns.prove(ledger, campaign)
    assert proof.holds
    assert await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert view.phase is Phase.COMPLETE
    assert view.proof == proof
    assert await sessions.open_session(ledger, campaign, wave=2, holder="late", connections=1) is None


async def test_a_fenced_session_can_claim_arm_and_give_back_nothing(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 10)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 4)
    result = await sessions.fence(ledger, session.id, 1)
    assert (result.given_back, result.unknown, result.held) == (4, 0, 0)
    with pytest.raises(SessionFenced):
        await world.armed(ledger, session, rows)
    with pytest.raises(SessionFenced):
        await world.claimed(ledger, session, 1)
    with pytest.raises(SessionFenced):
        await sessions.claim_due(ledger, session, limit=1)
    with pytest.raises(SessionFenced):
        await sessions.give_back(ledger, session, [row.seq for row in rows])
    with pytest.raises(SessionFenced):
        await sessions.grant(ledger, session, 1)
    assert not (await sessions.heartbeat(ledger, session)).live
    assert await world.counts(ledger, campaign) == {S.PENDING: 6, S.DEFERRED: 4}


async def test_a_row_armed_by_a_fenced_session_is_unknown_and_its_late_accepted_wins(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 3)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 3)
    await world.armed(ledger, session, rows)
    result = await sessions.fence(ledger, session.id, 1)
    assert (result.given_back, result.unknown, result.held) == (0, 3, 0)
    assert await world.counts(ledger, campaign) == {S.UNKNOWN: 3}
    flushed = await world.record(
        ledger, session, world.accepted(rows[0]), world.outcome(rows[1], S.REJECTED, reason="MailboxUnknown")
    )
    assert not flushed.live
    assert await world.counts(ledger, campaign) == {S.UNKNOWN: 2, S.ACCEPTED: 1}
    assert await world.state_of(ledger, campaign, 1) is S.ACCEPTED
    assert await world.state_of(ledger, campaign, 2) is S.UNKNOWN


async def test_deferred_rows_come_due_and_are_claimed_oldest_first(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 5)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 5)
    await world.armed(ledger, session, rows)
    delays = [0.2, 0.1, 0.0, 900.0, 0.05]
    await world.record(
        ledger,
        session,
        *(world.outcome(r, S.DEFERRED, charged=True, delay=d) for r, d in zip(rows, delays, strict=True)),
    )
    await world.sql(ledger, "SELECT pg_sleep(0.25)")
    due = await sessions.claim_due(ledger, session, limit=10)
    assert [row.seq for row in due] == [3, 5, 2, 1]
    assert all((row.attempts, row.charges) == (1, 1) and row.charged_since is not None for row in due)
    assert await sessions.give_back(ledger, session, [Seq(3), Seq(4)]) == 1
    assert await world.counts(ledger, campaign) == {S.DEFERRED: 2, S.CLAIMED: 3}
    assert await sessions.held(ledger, session) == [(1, S.CLAIMED), (2, S.CLAIMED), (5, S.CLAIMED)]
