"""Fencing, and what a dead session may still say: its ``accepted`` wins, nothing else of it counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fullsend.errors import LedgerWentBack, SessionFenced
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.named import query
from fullsend.ledger.sessions import Claimed, OpenedSession
from fullsend.states import CampaignId
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world


async def armed_and_fenced(
    db: Database, count: int = 1, *, unknown_delay: float = 0
) -> tuple[CampaignId, OpenedSession, list[Claimed]]:
    campaign = await world.sealed(db, count)
    session = await world.opened(db, campaign)
    rows = await world.claimed(db, session, count)
    await world.armed(db, session, rows)
    await sessions.fence(db, session.id, 1, unknown_delay=unknown_delay)
    return campaign, session, rows


async def agree(db: Database, campaign: CampaignId, **expected: int) -> None:
    counts = {S(state): count for state, count in expected.items()}
    assert await world.counts(db, campaign) == await world.rows_by_state(db, campaign) == counts


@pytest.mark.parametrize("taken_as", ["claimed", "armed", "deferred", "rejected", "expired", "held", "given back"])
async def test_a_late_accepted_wins_over_whatever_became_of_the_row(ledger: Database, taken_as: str) -> None:
    campaign, dead, [row] = await armed_and_fenced(ledger)
    other = await world.opened(ledger, campaign)
    [again] = await sessions.claim_due(ledger, other, limit=1)
    assert (again.attempts, again.unknowns) == (1, 1)
    if taken_as == "given back":
        await sessions.give_back(ledger, other, [again.seq])
        await agree(ledger, campaign, unknown=1)
    elif taken_as != "claimed":
        await world.armed(ledger, other, [again])
        if taken_as != "armed":
            state = S.UNKNOWN if taken_as == "held" else S(taken_as)
            await world.record(ledger, other, world.outcome(again, state, delay=60.0, charged=True))
            await agree(ledger, campaign, **{taken_as: 1})
    await world.record(ledger, dead, world.accepted(row))
    await agree(ledger, campaign, accepted=1)
    if taken_as == "claimed":
        assert (await world.armed(ledger, other, [again])).refused == {1}
    if taken_as == "armed":
        await world.record(ledger, other, world.outcome(again, S.REJECTED, feed_suppression=True))
    await sessions.close_session(ledger, other, "done")
    await agree(ledger, campaign, accepted=1)
    assert await world.sql(ledger, "SELECT count(*) FROM fullsend.suppression") == [(0,)]


@pytest.mark.parametrize("state", [S.REJECTED, S.DEFERRED, S.UNKNOWN, S.EXPIRED, S.HELD])
async def test_anything_else_a_dead_session_says_only_completes_the_history(ledger: Database, state: S) -> None:
    campaign, dead, [row] = await armed_and_fenced(ledger)
    other = await world.opened(ledger, campaign)
    [again] = await sessions.claim_due(ledger, other, limit=1)
    await world.armed(ledger, other, [again])
    flushed = await world.record(ledger, dead, world.outcome(row, state, reason="Late", feed_suppression=True))
    assert not flushed.live
    await agree(ledger, campaign, armed=1)
    await world.record(ledger, other, world.accepted(again))
    await agree(ledger, campaign, accepted=1)
    noted = await world.sql(ledger, "SELECT attempt, session_id, reason FROM fullsend.attempt ORDER BY 1")
    assert noted == [(1, dead.id, "Late"), (2, other.id, "")]
    assert await world.sql(ledger, "SELECT count(*) FROM fullsend.suppression") == [(0,)]


async def test_an_arm_that_a_late_accepted_overtakes_is_noted_though_its_sender_dies(ledger: Database) -> None:
    campaign, dead, [row] = await armed_and_fenced(ledger)
    other = await world.opened(ledger, campaign)
    await world.armed(ledger, other, await sessions.claim_due(ledger, other, limit=1))
    await world.record(ledger, dead, world.accepted(row))
    await sessions.fence(ledger, other.id, 1)
    noted = await world.sql(ledger, "SELECT attempt, session_id, state FROM fullsend.attempt ORDER BY 1")
    assert noted == [(1, dead.id, "accepted"), (2, other.id, "unknown")]


async def test_a_session_cannot_claim_to_have_delivered_what_it_never_armed(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    liar, honest = await world.opened(ledger, campaign), await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, honest, 1)
    await world.armed(ledger, honest, rows)
    await world.record(ledger, liar, world.accepted(rows[0]))
    await agree(ledger, campaign, pending=1, armed=1)
    [mine] = await world.claimed(ledger, liar, 1)
    await world.record(ledger, liar, world.accepted(mine))
    await agree(ledger, campaign, armed=1, claimed=1)


async def test_a_row_is_armed_only_by_the_session_that_claimed_it(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 3)
    one, two = await world.opened(ledger, campaign), await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, one, 2)
    assert (await world.armed(ledger, two, rows)).refused == {1, 2}
    assert (await world.armed(ledger, one, rows[:1])).armed == {1}
    assert (await world.armed(ledger, one, rows)).armed == {2}, "an armed row is not armed twice"
    await agree(ledger, campaign, pending=1, armed=2)


async def test_a_record_repeated_after_a_commit_in_doubt_changes_nothing(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 3)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 3)
    await world.armed(ledger, session, rows)
    records = [
        world.accepted(rows[0]),
        world.outcome(rows[1], S.DEFERRED, delay=0.0, charged=True),
        world.outcome(rows[2], S.UNKNOWN, delay=0.0),
    ]
    await world.record(ledger, session, *records)
    again = await sessions.claim_due(ledger, session, limit=2)
    await world.armed(ledger, session, again)
    await world.record(ledger, session, *records)
    await agree(ledger, campaign, accepted=1, armed=2)
    rows_now = await world.sql(ledger, "SELECT attempts, unknowns, charges FROM fullsend.delivery ORDER BY seq")
    assert rows_now == [(1, 0, 0), (2, 0, 1), (2, 1, 0)]
    assert await world.sql(ledger, "SELECT count(*) FROM fullsend.attempt") == [(3,)]


async def test_an_unknown_row_is_resent_once_and_then_held(ledger: Database) -> None:
    campaign, _, _ = await armed_and_fenced(ledger)
    second = await world.opened(ledger, campaign)
    await world.armed(ledger, second, await sessions.claim_due(ledger, second, limit=1))
    result = await sessions.fence(ledger, second.id, 1)
    assert (result.unknown, result.held) == (0, 1)
    await agree(ledger, campaign, held=1)
    third = await world.opened(ledger, campaign)
    assert await sessions.claim_due(ledger, third, limit=1) == []


async def test_a_recorded_unknown_beyond_the_resends_is_held_whoever_records_it(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1, control={"retry": {"max_unknown_resends": 0}})
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    await world.record(ledger, session, world.outcome(row, S.UNKNOWN, delay=0.0))
    await agree(ledger, campaign, held=1)


async def test_fewer_resends_hold_for_whoever_is_unknown_already(ledger: Database) -> None:
    campaign, _, _ = await armed_and_fenced(ledger, 3)
    session = await world.opened(ledger, campaign)
    [busy] = await sessions.claim_due(ledger, session, limit=1)
    await world.armed(ledger, session, [busy])
    await world.record(ledger, session, world.outcome(busy, S.DEFERRED, delay=0.0, charged=True))
    await agree(ledger, campaign, unknown=2, deferred=1)
    await world.controlled(ledger, campaign, {"retry": {"max_unknown_resends": 0}})
    for _ in range(2):
        assert await sessions.claim_due(ledger, session, limit=10) == []
        await agree(ledger, campaign, held=3)
    told = await world.sql(ledger, "SELECT DISTINCT unknowns, reason, session_id, due_at FROM fullsend.delivery")
    assert told == [(1, "ResendsUsedUp", None, None)]
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert (view.due_now, view.counts.open) == (0, 0)
    await world.controlled(ledger, campaign, {"retry": {"max_unknown_resends": 1}})
    assert await sessions.claim_due(ledger, session, limit=10) == [], "who is held waits for a person"


@pytest.mark.parametrize("given_back", [False, True])
@pytest.mark.parametrize("resends", [0, 1])
async def test_whom_a_person_reopens_is_sent_once_more_and_then_held(
    ledger: Database, given_back: bool, resends: int
) -> None:
    campaign, _, _ = await armed_and_fenced(ledger)
    second = await world.opened(ledger, campaign)
    await world.armed(ledger, second, await sessions.claim_due(ledger, second, limit=1))
    await sessions.fence(ledger, second.id, 1)
    await agree(ledger, campaign, held=1)
    await world.controlled(ledger, campaign, {"retry": {"max_unknown_resends": resends}})
    await campaigns.request_reopen(ledger, campaign, id="r", states=[S.HELD])
    assert await campaigns.carry_out_reopen(ledger, campaign) == 1
    session = await world.opened(ledger, campaign)
    [row] = await sessions.claim_due(ledger, session, limit=1)
    if given_back:
        await sessions.give_back(ledger, session, [row.seq])
        await agree(ledger, campaign, unknown=1)
        [row] = await sessions.claim_due(ledger, session, limit=1)
    assert (await world.armed(ledger, session, [row])).armed == {1}
    await world.record(ledger, session, world.outcome(row, S.UNKNOWN, delay=0.0))
    await agree(ledger, campaign, held=1)


async def test_a_reopening_pardons_only_what_was_unknown_before_it(ledger: Database) -> None:
    """More resends are allowed for a while, and somebody is unknown again in that time."""
    campaign, _, _ = await armed_and_fenced(ledger)
    await world.controlled(ledger, campaign, {"retry": {"max_unknown_resends": 0}})
    session = await world.opened(ledger, campaign)
    assert await sessions.claim_due(ledger, session, limit=1) == []
    await campaigns.request_reopen(ledger, campaign, id="r", states=[S.HELD])
    await campaigns.carry_out_reopen(ledger, campaign)
    await world.controlled(ledger, campaign, {"retry": {"max_unknown_resends": 3}})
    [row] = await sessions.claim_due(ledger, session, limit=1)
    await world.armed(ledger, session, [row])
    await world.record(ledger, session, world.outcome(row, S.UNKNOWN, delay=0.0))
    await agree(ledger, campaign, unknown=1)
    await world.controlled(ledger, campaign, {"retry": {"max_unknown_resends": 1}})
    assert await sessions.claim_due(ledger, session, limit=1) == []
    await agree(ledger, campaign, held=1)


async def test_a_late_accepted_that_waits_behind_a_sweep_finds_what_the_sweep_noted(
    ledger: Database, postgres_dsn: str
) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    sweeper = await Database.open(postgres_dsn, application="tests")
    key = {"session": session.id, "campaign": campaign, "tenant": session.tenant}
    await sweeper.unit(("fence_session", {**key, "lease": None}))
    async with sweeper.connection() as connection, connection.transaction():
        await connection.execute(query("lock_fenced_session"), key)
        late = asyncio.create_task(world.record(ledger, session, world.accepted(row)))
        await asyncio.sleep(0.1)
        assert not late.done()
        await connection.execute(
            query("sweep_chunk"),
            {**key, "chunk": 10, "reason": "SessionEnded", "max_unknown_resends": 1, "unknown_delay": 0},
        )
    await late
    await agree(ledger, campaign, accepted=1)
    await sweeper.close()


async def test_a_flush_that_waits_behind_a_fence_arms_nothing(ledger: Database, postgres_dsn: str) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 1)
    other = await Database.open(postgres_dsn, application="tests")
    async with other.connection() as connection, connection.transaction():
        await connection.execute(query("fence_session"), {"session": session.id, "lease": None})
        late = asyncio.create_task(world.armed(ledger, session, rows))
        await asyncio.sleep(0.1)
        assert not late.done()
    with pytest.raises(SessionFenced):
        await late
    await agree(ledger, campaign, claimed=1)
    result = await sessions.sweep(other, campaign, lease_seconds=60, max_unknown_resends=1)
    assert (result.fenced, result.given_back) == ((session.id,), 1)
    await agree(ledger, campaign, deferred=1)
    await other.close()


async def test_a_sweep_leaves_the_living_alone_and_finishes_what_another_began(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 6)
    alive, silent, half_swept = [await world.opened(ledger, campaign) for _ in range(3)]
    for session in (alive, silent, half_swept):
        await world.claimed(ledger, session, 2)
    await world.sql(
        ledger,
        "UPDATE fullsend.session SET heartbeat_at = clock_timestamp() - interval '61 s' WHERE id = %s",
        silent.id,
    )
    await world.sql(ledger, "UPDATE fullsend.session SET fenced_at = clock_timestamp() WHERE id = %s", half_swept.id)
    result = await sessions.sweep(ledger, campaign, lease_seconds=60, max_unknown_resends=1)
    assert result == sessions.SweepResult((silent.id, half_swept.id), 4, 0, 0)
    await agree(ledger, campaign, claimed=2, deferred=4)
    assert (await sessions.heartbeat(ledger, alive)).live


async def test_closing_gives_back_what_is_claimed_and_doubts_what_is_armed(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 4)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 4)
    await world.armed(ledger, session, rows[:1])
    result = await sessions.close_session(ledger, session, "SIGTERM")
    assert (result.given_back, result.unknown) == (3, 1)
    assert (await sessions.close_session(ledger, session, "again")).fenced == ()
    await agree(ledger, campaign, deferred=3, unknown=1)
    assert await world.sql(ledger, "SELECT end_reason FROM fullsend.session") == [("SIGTERM",)]


async def test_rows_given_back_after_an_unknown_stay_unknown(ledger: Database) -> None:
    campaign, _, _ = await armed_and_fenced(ledger)
    session = await world.opened(ledger, campaign)
    [row] = await sessions.claim_due(ledger, session, limit=1)
    await world.record(ledger, session, world.outcome(row, S.UNKNOWN, delay=0.0))
    [row] = await sessions.claim_due(ledger, session, limit=1)
    assert row.unknowns == 1, "it was not armed again, so nothing new is unknown"
    await sessions.close_session(ledger, session, "done")
    await agree(ledger, campaign, unknown=1)


async def test_a_claimed_row_may_be_recorded_as_unrenderable_without_an_attempt(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.record(ledger, session, world.outcome(row, S.UNRENDERABLE, reason="'name' is undefined"))
    await agree(ledger, campaign, unrenderable=1)
    assert await world.sql(ledger, "SELECT count(*) FROM fullsend.attempt") == [(0,)]


async def test_a_fenced_session_neither_writes_the_breaker_nor_reopens(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 2)
    await world.armed(ledger, session, rows)
    await world.record(ledger, session, *(world.outcome(row, S.REJECTED) for row in rows))
    who = [world.identity(1)]
    assert await campaigns.reopen_refused(ledger, session, id="r1", identities=who) == 1
    assert await campaigns.reopen_refused(ledger, session, id="r1", identities=who) == 0
    assert await world.counts(ledger, campaign) == {S.DEFERRED: 1, S.REJECTED: 1}
    view = await campaigns.update_breaker(ledger, campaign, lambda b: replace(b, failures=1), session=session)
    assert view.failures == 1
    await sessions.fence(ledger, session.id, 1)
    view = await campaigns.update_breaker(ledger, campaign, lambda b: replace(b, failures=2), session=session)
    assert view == await campaigns.load_breaker(ledger, campaign)
    assert view.failures == 1
    with pytest.raises(SessionFenced):
        await campaigns.reopen_refused(ledger, session, id="r2", identities=[world.identity(2)])
    assert (await world.counts(ledger, campaign))[S.REJECTED] == 1


async def test_a_sender_reopens_nothing_of_a_campaign_that_is_finished(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    await world.record(ledger, session, world.outcome(row, S.REJECTED))
    await world.sql(ledger, "UPDATE fullsend.campaign SET phase = 'failed' WHERE id = %s", campaign)
    assert await campaigns.reopen_refused(ledger, session, id="r1", identities=[world.identity(1)]) == 0
    assert await world.counts(ledger, campaign) == {S.REJECTED: 1}


async def test_nothing_is_claimed_or_armed_in_a_ledger_older_than_what_the_session_was_told(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 4)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 3)
    await world.armed(ledger, session, rows[:2])
    told = session.told.revision
    assert told == 2
    await world.sql(ledger, "UPDATE fullsend.counter SET revision = 1 WHERE session_id = %s", session.id)
    for ask in (
        lambda mine: world.armed(ledger, mine, rows[2:]),
        lambda mine: world.claimed(ledger, mine, 1),
        lambda mine: sessions.claim_due(ledger, mine, limit=1),
        lambda mine: sessions.heartbeat(ledger, mine),
        lambda mine: sessions.grant(ledger, mine, 1),
        lambda mine: sessions.give_back(ledger, mine, [rows[2].seq]),
        lambda mine: sessions.held(ledger, mine),
        lambda mine: sessions.close_session(ledger, mine, "done"),
        lambda mine: campaigns.reopen_refused(ledger, mine, id="r1", identities=[world.identity(1)]),
        lambda mine: campaigns.update_breaker(ledger, campaign, lambda view: view, session=mine),
    ):
        with pytest.raises(LedgerWentBack):
            await ask(replace(session, told=sessions.Told(told)))
    with pytest.raises(LedgerWentBack):
        await world.armed(ledger, session, rows[2:])
    assert await world.counts(ledger, campaign) == {S.PENDING: 1, S.CLAIMED: 1, S.ARMED: 2}
    await world.record(ledger, session, world.accepted(rows[0]))
    assert await world.counts(ledger, campaign) == {S.PENDING: 1, S.CLAIMED: 1, S.ARMED: 1, S.ACCEPTED: 1}


async def test_a_ledger_without_the_session_is_an_older_one(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    await world.sql(ledger, "DELETE FROM fullsend.session WHERE id = %s", session.id)
    with pytest.raises(LedgerWentBack):
        await sessions.heartbeat(ledger, session)


async def test_a_session_of_the_same_number_in_an_older_ledger_is_another_one(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    await world.sql(ledger, "UPDATE fullsend.session SET started_at = started_at + interval '1 s'")
    with pytest.raises(LedgerWentBack):
        await world.claimed(ledger, session, 1)
    assert await world.counts(ledger, campaign) == {S.PENDING: 1}


async def test_what_is_recorded_in_an_older_ledger_is_never_told_of_another_session(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    await world.sql(ledger, "UPDATE fullsend.session SET started_at = started_at + interval '1 s'")
    with pytest.raises(LedgerWentBack):
        await world.record(ledger, session, world.accepted(row))
    assert not (await world.record(ledger, session, world.accepted(row))).live
    assert await world.counts(ledger, campaign) == {S.ARMED: 1}


async def test_a_silent_session_has_no_part_in_what_a_breaker_leaves_of_the_connections(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 3)
    dead, alive, younger = [await world.opened(ledger, campaign, wave=wave) for wave in (1, 2, 3)]
    beat = await sessions.heartbeat(ledger, alive)
    assert (beat.rank, beat.beating) == (1, 3)
    await world.sql(
        ledger,
        "UPDATE fullsend.session SET heartbeat_at = clock_timestamp() - interval '6 s' WHERE id = %s",
        dead.id,
    )
    ranks = [await sessions.heartbeat(ledger, one) for one in (alive, younger)]
    assert [(beat.rank, beat.beating) for beat in ranks] == [(0, 2), (1, 2)]
    awake = await sessions.heartbeat(ledger, dead)
    assert (awake.rank, awake.beating) == (0, 3)


async def test_a_session_that_lost_nothing_itself_learns_of_it_by_its_heartbeat(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 4)
    idle, busy = await world.opened(ledger, campaign), await world.opened(ledger, campaign)
    await world.armed(ledger, busy, await world.claimed(ledger, busy, 2))
    assert (await sessions.heartbeat(ledger, idle)).live
    await world.sql(ledger, "UPDATE fullsend.counter SET revision = 1 WHERE session_id = %s", busy.id)
    with pytest.raises(LedgerWentBack):
        await sessions.heartbeat(ledger, idle)
    with pytest.raises(LedgerWentBack):
        await world.claimed(ledger, idle, 1)


async def test_folding_the_counters_of_the_dead_is_no_going_back(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 4)
    alive, dead = await world.opened(ledger, campaign), await world.opened(ledger, campaign)
    await world.armed(ledger, dead, await world.claimed(ledger, dead, 2))
    assert (await sessions.heartbeat(ledger, alive)).live
    await sessions.fence(ledger, dead.id, 1)
    assert (await sessions.heartbeat(ledger, alive)).live


async def test_an_end_declared_by_others_is_no_going_back(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    assert (await sessions.heartbeat(ledger, session)).live
    await sessions.fence(ledger, session.id, 1)
    assert not (await sessions.heartbeat(ledger, session)).live
    assert not (await world.record(ledger, session, world.accepted(row))).live
    with pytest.raises(SessionFenced) as fenced:
        await world.claimed(ledger, session, 1)
    assert not isinstance(fenced.value, LedgerWentBack)
