"""What the flusher is given is committed once, in order, or given up by name."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from sender_fakes import SESSION, FakeLedger, S, hand

from fullsend.errors import LedgerError
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Record
from fullsend.sender.flusher import MAX_GROUP, Flusher, Permission
from fullsend.states import DeliveryState, Seq


def made(ledger: FakeLedger, monkeypatch: pytest.MonkeyPatch, *, rows: int = 10) -> tuple[Flusher, list[str]]:
    ledger.install(monkeypatch)
    ledger.states = {Seq(seq): S.CLAIMED for seq in range(1, rows + 1)}
    fenced: list[str] = []
    return Flusher(cast(Database, ledger), SESSION, lambda: fenced.append("fenced")), fenced


def recorded(seq: int, state: DeliveryState = S.ACCEPTED) -> Record:
    return Record(Seq(seq), 1, state)


async def finish(flusher: Flusher, task: asyncio.Task[None]) -> None:
    flusher.close()
    await asyncio.wait_for(task, 5)


async def test_what_waits_together_is_committed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger()
    flusher, _ = made(ledger, monkeypatch)
    answers = [flusher.arm(hand(seq)) for seq in range(1, 9)]
    task = asyncio.create_task(flusher.run())
    assert {await answer for answer in answers} == {Permission.ARMED}
    assert ledger.groups == [(8, 0)]
    await finish(flusher, task)


async def test_no_arm_overtakes_a_record_that_was_handed_over_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger()
    flusher, _ = made(ledger, monkeypatch, rows=MAX_GROUP + 50)
    for seq in range(1, MAX_GROUP + 10):
        ledger.states[Seq(seq)] = S.ARMED
        flusher.record(recorded(seq))
    last = flusher.arm(hand(MAX_GROUP + 20))
    task = asyncio.create_task(flusher.run())
    await last
    assert ledger.groups == [(0, MAX_GROUP), (1, 9)]
    await finish(flusher, task)


@pytest.mark.parametrize("lost", ["refuse", "doubt"])
async def test_an_arming_in_doubt_ends_as_not_sent_whichever_way_the_commit_went(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = iter([lost])
    ledger = FakeLedger(fate=lambda: next(fates, "commit"))
    flusher, _ = made(ledger, monkeypatch)
    ledger.states[Seq(2)] = S.ARMED
    done, answer = flusher.record(recorded(2)), flusher.arm(hand(1))
    task = asyncio.create_task(flusher.run())
    assert await answer is Permission.RETURNED
    await done
    assert (ledger.states[Seq(1)], ledger.states[Seq(2)]) == (S.DEFERRED, S.ACCEPTED)
    assert ledger.attempts[Seq(2), 1] == 1
    assert flusher.away_since is None
    await finish(flusher, task)


async def test_a_fenced_session_arms_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    flusher, fenced = made(FakeLedger(live=False), monkeypatch)
    answer = flusher.arm(hand(1))
    task = asyncio.create_task(flusher.run())
    assert await answer is Permission.REFUSED
    assert fenced
    await finish(flusher, task)


async def test_records_of_a_fenced_session_are_still_told_to_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger(live=False)
    flusher, fenced = made(ledger, monkeypatch)
    ledger.states[Seq(1)] = S.ARMED
    done, answer = flusher.record(recorded(1)), flusher.arm(hand(2))
    task = asyncio.create_task(flusher.run())
    await done
    assert await answer is Permission.REFUSED
    assert ledger.states[Seq(1)] is S.ACCEPTED
    assert fenced
    await finish(flusher, task)


async def test_one_record_that_the_ledger_refuses_keeps_no_other_from_being_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = FakeLedger(refuses=lambda record: LedgerError("no") if record.seq == 3 else None)
    flusher, _ = made(ledger, monkeypatch)
    for seq in (1, 2, 3, 4):
        ledger.states[Seq(seq)] = S.ARMED
    waits = [flusher.record(recorded(seq)) for seq in (1, 2, 3, 4)]
    answer = flusher.arm(hand(5))
    task = asyncio.create_task(flusher.run())
    await asyncio.wait_for(asyncio.gather(*waits), 5)
    assert await answer is Permission.ARMED
    assert [ledger.states[Seq(seq)] for seq in (1, 2, 3, 4)] == [S.ACCEPTED, S.ACCEPTED, S.ARMED, S.ACCEPTED]
    assert flusher.lost == 1
    await finish(flusher, task)


async def test_a_row_armed_for_somebody_who_no_longer_waits_is_recorded_as_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = FakeLedger()
    flusher, _ = made(ledger, monkeypatch)
    flusher.arm(hand(1)).cancel()
    task = asyncio.create_task(flusher.run())
    await asyncio.sleep(0)
    await finish(flusher, task)
    assert ledger.states[Seq(1)] is S.DEFERRED


async def test_a_database_that_stays_away_is_waited_for_until_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger(fate=lambda: "refuse")
    flusher, _ = made(ledger, monkeypatch)
    ledger.states[Seq(1)] = S.ARMED
    done, answer = flusher.record(recorded(1)), flusher.arm(hand(2))
    task = asyncio.create_task(flusher.run())
    await asyncio.sleep(0.05)
    assert flusher.away_since is not None
    assert flusher.in_hand() == {1, 2}
    flusher.abandon()
    await asyncio.wait_for(asyncio.gather(done, task), 5)
    assert await answer is Permission.REFUSED
    assert flusher.lost == 1
    assert await flusher.arm(hand(3)) is Permission.REFUSED


async def test_a_flusher_that_breaks_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger(refuses=lambda _: ZeroDivisionError())
    flusher, _ = made(ledger, monkeypatch)
    done, answer = flusher.record(recorded(1)), flusher.arm(hand(2))
    task = asyncio.create_task(flusher.run())
    with pytest.raises(ZeroDivisionError):
        await task
    await asyncio.wait_for(done, 1)
    assert await answer is Permission.REFUSED
    assert flusher.lost == 1
