"""A relay that takes its time over the envelope gets no content that somebody has said no to meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fullsend.errors import LedgerUnavailable
from fullsend.ledger import sessions
from fullsend.ledger.database import Database
from fullsend.sender import connection
from fullsend.sender.worker import Ended
from support import ledger_worlds as world
from support.scripted_smtp import Say, Script, ScriptedServer, say
from support.sender_world import Place, S, place

each_mode = pytest.mark.parametrize("mode", ["Off", "Group", "Overlap"])
PATIENT = {"reply_timeout": 30.0, "connections": 2}


def hesitant(seconds: float, *, times: int = 1) -> Script:
    """Takes ``seconds`` over the first RCPTs of user1, and is quick about everybody else."""
    left = [times]

    def rcpt(line: str) -> Say:
        slow = "<user1@" in line and left[0] > 0
        left[0] -= slow
        return say("250 2.1.5 ok", delay=seconds if slow else 0.0)

    return Script(rcpt=rcpt)


def copies(server: ScriptedServer, number: int) -> int:
    return sum(f"user{number}@".encode() in content for content in server.contents)


async def say_no(here: Place, number: int) -> None:
    await world.sql(
        here.db,
        "INSERT INTO fullsend.suppression (scope, identity_hash, reason) VALUES ('installation', %s, 'asked')",
        world.identity(number),
    )


async def seen(server: ScriptedServer, number: int) -> None:
    async with asyncio.timeout(10):
        while not any(f"<user{number}@" in line for c in server.connections for line in c.commands):
            await asyncio.sleep(0.02)


@each_mode
async def test_who_says_no_while_the_relay_takes_its_time_over_the_envelope_gets_no_content(
    mode: str, postgres_dsn: str, ledger: Database
):
    async with ScriptedServer(hesitant(8.0)) as server:
        here = await place(postgres_dsn, ledger, server.port, 9, relay={"pipelining": mode, **PATIENT})
        async with here.sender() as sender:
            await seen(server, 1)
            await asyncio.sleep(2.0)
            await say_no(here, 1)
            assert await sender.ends(20) is Ended.DRAINED
    assert await world.rows_by_state(ledger, here.campaign) == {S.ACCEPTED: 8, S.SUPPRESSED: 1}
    assert [copies(server, number) for number in range(1, 10)] == [0, *[1] * 8]
    assert await here.unknowns() == {}
    assert await world.counts(ledger, here.campaign) == await world.rows_by_state(ledger, here.campaign)


@each_mode
async def test_who_has_not_said_no_gets_it_over_the_same_connection_however_slow_the_relay(
    mode: str, postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "ARMING_KEEPS", 0.5)
    async with ScriptedServer(Script(rcpt=say("250 2.1.5 ok", delay=1.0))) as server:
        relay = {"pipelining": mode, **PATIENT, "connections": 1}
        here = await place(postgres_dsn, ledger, server.port, 4, relay=relay)
        assert await here.run() is Ended.DRAINED
    assert [copies(server, number) for number in range(1, 5)] == [1] * 4
    assert await here.count(S.ACCEPTED) == 4
    assert len(server.connections) == 1


@each_mode
async def test_a_halt_that_the_sender_has_not_heard_of_is_seen_as_well(
    mode: str, postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "ARMING_KEEPS", 0.5)
    async with ScriptedServer(hesitant(2.0, times=100)) as server:
        here = await place(postgres_dsn, ledger, server.port, 4, relay={"pipelining": mode, **PATIENT})
        async with here.sender() as sender:
            await seen(server, 1)
            monkeypatch.setattr(sender.worker._pulse, "beat", lambda: asyncio.sleep(0))
            await here.say(stop=True)
            await asyncio.sleep(3.0)
            assert copies(server, 1) == 0
            assert await here.count(S.ARMED) == 0


@each_mode
async def test_while_the_ledger_does_not_answer_nothing_is_sent_and_nothing_is_lost(
    mode: str, postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "ARMING_KEEPS", 1.0)
    async with ScriptedServer(hesitant(2.0)) as server:
        here = await place(postgres_dsn, ledger, server.port, 9, relay={"pipelining": mode, **PATIENT})
        async with here.sender() as sender:
            await seen(server, 1)
            async with ledger.connection() as away:
                await away.execute(b"BEGIN")
                await away.execute(b"SELECT FROM fullsend.session FOR UPDATE")
                await asyncio.sleep(4.0)
                assert copies(server, 1) == 0
                await away.execute(b"ROLLBACK")
            assert await sender.ends(20) is Ended.DRAINED
    assert [copies(server, number) for number in range(1, 10)] == [1] * 9
    assert await here.count(S.ACCEPTED) == 9
    assert await here.unknowns() == {}


async def test_a_ledger_that_is_away_when_it_is_asked_again_costs_nobody_a_charge(
    postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    async def away(*args: Any) -> Any:
        asked.append(copies(server, 1))
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(connection, "ARMING_KEEPS", 0.5)
    monkeypatch.setattr(sessions, "still_meant", away)
    async with ScriptedServer(hesitant(1.0)) as server:
        here = await place(postgres_dsn, ledger, server.port, 9, relay=PATIENT)
        assert await here.run() is Ended.DRAINED
    assert asked == [0]
    assert [copies(server, number) for number in range(1, 10)] == [1] * 9
    [(attempts, charges)] = await world.sql(
        ledger,
        "SELECT attempts, charges FROM fullsend.delivery WHERE campaign_id = %s AND seq = 1",
        here.campaign,
    )
    assert (attempts, charges) == (2, 0)
