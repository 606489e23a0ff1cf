"""A database that takes no more connections is waited for by who begins, and is nobody's failure."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from fullsend.errors import LedgerUnavailable
from fullsend.ledger import database
from fullsend.ledger.database import Database, patiently
from fullsend.ledger.tenants import tenant_dsn


async def room_for_one(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The DSN of a tenant that may have one connection."""
    monkeypatch.setattr(database, "PAUSE", (0.05, 0.1))
    tenant = await tenant_dsn(dsn, "shop")
    user = psycopg.conninfo.conninfo_to_dict(tenant)["user"]
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(f'ALTER ROLE "{user}" CONNECTION LIMIT 1'.encode())
    return tenant


async def test_who_finds_no_room_waits_until_there_is_some(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = await room_for_one(postgres_dsn, monkeypatch)
    first = await patiently(lambda: Database.open(dsn, application="first"))  # that of the check may not be gone yet
    second = asyncio.create_task(patiently(lambda: Database.open(dsn, application="second")))
    await asyncio.sleep(0.5)
    assert not second.done()
    await first.close()
    await (await asyncio.wait_for(second, 10)).close()


async def test_it_does_not_wait_for_ever_nor_once_it_is_told_to_end(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = await room_for_one(postgres_dsn, monkeypatch)
    first = await patiently(lambda: Database.open(dsn, application="first"))  # that of the check may not be gone yet
    with pytest.raises(LedgerUnavailable, match="too many connections"):
        await patiently(lambda: Database.open(dsn, application="second"), give_up=lambda: True)
    monkeypatch.setattr(database, "PATIENCE", 0.2)
    with pytest.raises(LedgerUnavailable, match="too many connections"):
        await patiently(lambda: Database.open(dsn, application="second"))
    await first.close()


@pytest.mark.parametrize("wrong", ["host=/nowhere", "host=127.0.0.1 port=1"])
async def test_a_server_that_is_not_there_is_not_waited_for(postgres_dsn: str, wrong: str) -> None:
    with pytest.raises(LedgerUnavailable):
        await asyncio.wait_for(patiently(lambda: Database.open(wrong, application="tests")), 5)


@pytest.mark.parametrize(
    "words",
    [
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    ],
)
async def test_a_server_that_takes_none_now_is_waited_for(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(database, "PAUSE", (0.0, 0.0))
    answers = [LedgerUnavailable(f"The ledger cannot be used now: {words}"), None]

    async def open_() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "open"

    assert await patiently(open_) == "open"
