"""A connection never has more rows armed than its mode allows, and ends every row it took in exactly one way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
from sender_fakes import SESSION, FakeLedger, FakeSupply, S

from fullsend.ledger.database import Database
from fullsend.sender.connection import Connection
from fullsend.sender.flusher import Flusher
from fullsend.sender.hand import Armed
from fullsend.sender.verdict import Judgement
from fullsend.smtp.outcome import Outcome
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining

ARMED_AT_MOST = {Pipelining.OFF: 1, Pipelining.GROUP: 1, Pipelining.OVERLAP: 2}
each_mode = pytest.mark.parametrize("mode", tuple(Pipelining))


@asynccontextmanager
async def flushing(ledger: FakeLedger) -> AsyncIterator[Flusher]:
    flusher = Flusher(cast(Database, ledger), SESSION, lambda: None)
    task = asyncio.create_task(flusher.run())
    yield flusher
    flusher.close()
    await asyncio.wait_for(task, 5)


async def drive(supply: FakeSupply, flusher: Flusher, connections: int) -> list[asyncio.Task[None]]:
    """Runs connections until there is no work left and all of them are idle."""
    ours = [Connection(index, supply, flusher) for index in range(connections)]
    tasks = [asyncio.create_task(connection.run()) for connection in ours]
    async with asyncio.timeout(20):
        while supply.rows or any(c.busy for c in ours):
            await asyncio.sleep(0)
    supply.ended = True
    supply.notify()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    return tasks


@each_mode
@pytest.mark.parametrize("connections", [1, 3])
async def test_no_more_than_k_rows_a_connection_are_ever_armed_and_each_ends_once(
    mode: Pipelining, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(25):
        ledger = FakeLedger(suppressed={*range(3, 60, 7)}, refused={*range(5, 60, 11)})  # type: ignore[arg-type]
        ledger.install(monkeypatch)
        supply = FakeSupply(ledger, 60, mode, seed)
        async with flushing(ledger) as flusher:
            await drive(supply, flusher, connections)
        assert ledger.most_armed <= ARMED_AT_MOST[mode] * connections
        assert not {S.CLAIMED, S.ARMED} & set(ledger.states.values())
        assert set(ledger.attempts.values()) == {1}
        contents = sum((relay.contents for relay in supply.relays), start=type(ledger.attempts)())
        assert max(contents.values()) == 1
        assert supply.connected == 0


async def test_two_rows_are_armed_where_the_next_envelope_travels_with_the_content(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    async with flushing(ledger) as flusher:
        await drive(FakeSupply(ledger, 60, Pipelining.OVERLAP), flusher, 1)
    assert ledger.most_armed == 2


async def test_a_probing_breaker_lets_one_row_at_a_time_be_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    supply = FakeSupply(ledger, 60, Pipelining.OVERLAP)
    supply.one_at_a_time = True
    async with flushing(ledger) as flusher:
        await drive(supply, flusher, 1)
    assert ledger.most_armed == 1


@each_mode
async def test_every_flush_may_be_in_doubt_and_still_each_row_ends_once(
    mode: Pipelining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullsend.sender.flusher.RECONNECT_FIRST", 0.001)
    monkeypatch.setattr("fullsend.sender.flusher.RECONNECT_MAX", 0.002)
    for seed in range(15):
        dice = random.Random(seed)
        fates = lambda dice=dice: dice.choices(["commit", "refuse", "doubt"], [6, 2, 2])[0]  # noqa: E731
        ledger = FakeLedger(fate=fates)
        ledger.install(monkeypatch)
        supply = FakeSupply(ledger, 40, mode, seed)
        async with flushing(ledger) as flusher:
            await drive(supply, flusher, 2)
        assert ledger.most_armed <= ARMED_AT_MOST[mode] * 2
        assert not {S.CLAIMED, S.ARMED} & set(ledger.states.values())
        assert set(ledger.attempts.values()) <= {1}


@each_mode
async def test_a_stop_writes_no_more_content_and_leaves_nothing_armed(
    mode: Pipelining, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(20):
        ledger = FakeLedger()
        ledger.install(monkeypatch)
        supply = FakeSupply(ledger, 60, mode, seed)
        async with flushing(ledger) as flusher:
            connections = [Connection(index, supply, flusher) for index in range(2)]
            tasks = [asyncio.create_task(connection.run()) for connection in connections]
            for _ in range(20 + 7 * seed):
                await asyncio.sleep(0)
            supply.may_send = False
            supply.ended = True
            supply.notify()
            for connection in connections:
                connection.hold_back()
            before = sum(sum(relay.contents.values()) for relay in supply.relays)
            await asyncio.wait_for(asyncio.gather(*tasks), 5)
            after = sum(sum(relay.contents.values()) for relay in supply.relays)
        assert after == before
        assert ledger.armed == 0
        assert S.UNKNOWN not in ledger.states.values() or any(not relay.usable for relay in supply.relays)


@each_mode
async def test_a_connection_that_is_cancelled_says_unknown_only_of_what_is_on_the_wire(
    mode: Pipelining, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    supply = FakeSupply(ledger, 10, mode, seed=3)
    async with flushing(ledger) as flusher:
        connection = asyncio.create_task(Connection(0, supply, flusher).run())
        while not (supply.relays and supply.relays[-1].delivered):
            await asyncio.sleep(0)
        supply.relays[-1].hang = asyncio.Event()
        for _ in range(50):
            await asyncio.sleep(0)
        assert supply.relays[-1].content_started
        connection.cancel()
        await asyncio.wait({connection})
    states = list(ledger.states.values())
    assert states.count(S.UNKNOWN) == 1
    assert states.count(S.ARMED) == 0
    assert states.count(S.DEFERRED) == ARMED_AT_MOST[mode] - 1  # armed ahead, nothing of it written


async def test_a_connection_carries_no_more_messages_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    supply = FakeSupply(ledger, 60, Pipelining.OVERLAP)
    supply.limit = 5
    async with flushing(ledger) as flusher:
        await drive(supply, flusher, 2)
    assert max(sum(relay.contents.values()) for relay in supply.relays) == 5


@each_mode
async def test_a_relay_that_is_quick_over_the_envelope_costs_no_question(
    mode: Pipelining, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    supply = FakeSupply(ledger, 40, mode)
    async with flushing(ledger) as flusher:
        await drive(supply, flusher, 2)
    assert ledger.asked_again == 0
    assert S.ACCEPTED in ledger.states.values()


async def test_a_row_armed_too_long_ago_is_not_sent_where_the_ledger_does_not_answer_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    monkeypatch.setattr("fullsend.sender.connection.ARMING_KEEPS", 0.0)
    supply = FakeSupply(ledger, 5, Pipelining.GROUP)
    async with flushing(ledger) as flusher:
        await drive(supply, flusher, 1)
    assert not any(relay.contents for relay in supply.relays)
    assert set(ledger.states.values()) == {S.DEFERRED}


async def test_a_connection_that_the_relay_calls_at_its_end_is_closed_and_another_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = FakeLedger()
    ledger.install(monkeypatch)
    supply = FakeSupply(ledger, 60, Pipelining.OVERLAP)
    judge = supply.judge

    def at_its_end(armed: Armed, outcome: Outcome, session: Session, took_ms: int) -> Judgement:
        return replace(judge(armed, outcome, session, took_ms), hang_up=True)

    monkeypatch.setattr(supply, "judge", at_its_end)
    async with flushing(ledger) as flusher:
        await drive(supply, flusher, 1)
    assert max(sum(relay.contents.values()) for relay in supply.relays) == 1
    assert not {S.CLAIMED, S.ARMED} & set(ledger.states.values())
