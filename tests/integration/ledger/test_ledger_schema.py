"""Migrating, and refusing a schema this program cannot use."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID

import psycopg
import pytest

from fullsend.errors import LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger import migrate as migration
from fullsend.ledger.database import PROGRAM_SCHEMA, Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.migrate import migrate, schema_status
from support import ledger_worlds as world


async def test_a_database_without_a_ledger_is_told_apart_and_migrated_once(empty_dsn: str) -> None:
    assert (await schema_status(empty_dsn)).schema_version == 0
    with pytest.raises(SchemaMismatch, match="no ledger in this database"):
        await Database.open(empty_dsn, application="tests")
    reports = await asyncio.gather(*(migrate(empty_dsn) for _ in range(4)))
    assert sorted(len(report.applied) for report in reports) == [0, 0, 0, PROGRAM_SCHEMA]
    assert {report.schema_version for report in reports} == {PROGRAM_SCHEMA}
    status = await schema_status(empty_dsn)
    assert (status.schema_version, status.pending, status.usable) == (PROGRAM_SCHEMA, (), True)
    db = await Database.open(empty_dsn, application="tests")
    schemas = await world.sql(
        db,
        "SELECT DISTINCT schemaname::text FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    assert schemas == [("fullsend",)], "the migrator's own tables are in our schema too"
    here = await installation(db)
    assert isinstance(here.id, UUID)
    assert "hash_key" not in repr(here)
    assert len(hash_identity(here.hash_key, "user@example.com")) == 16
    await migrate(empty_dsn)
    assert await installation(db) == here, "migrating again changes no identity"
    await db.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE fullsend.meta SET schema_version = 99, oldest_program = 98", "Upgrade this program"),
        ("UPDATE fullsend.meta SET schema_version = 1, oldest_program = 1", "Run `fullsend migrate`"),
        ("DELETE FROM fullsend.meta", "was not finished"),
    ],
)
async def test_a_schema_too_new_or_too_old_is_refused(
    postgres_dsn: str, ledger: Database, change: str, message: str
) -> None:
    await world.sql(ledger, change)
    with pytest.raises(SchemaMismatch, match=message):
        await Database.open(postgres_dsn, application="tests")
    assert not (await schema_status(postgres_dsn)).usable


async def test_a_newer_schema_that_this_program_may_use_is_used(postgres_dsn: str, ledger: Database) -> None:
    await world.sql(ledger, "UPDATE fullsend.meta SET schema_version = 99")
    await (await Database.open(postgres_dsn, application="tests")).close()
    assert (await migrate(postgres_dsn)).schema_version == 99


async def test_a_migration_waits_for_a_gap_without_blocking_anybody(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty_dsn)
    db = await Database.open(empty_dsn, application="tests")
    await world.sql(db, "DELETE FROM fullsend._yoyo_migration WHERE migration_id LIKE '0003%'")
    for table, policy in await world.sql(db, "SELECT tablename::text, policyname::text FROM pg_policies"):
        await world.sql(db, f"DROP POLICY {policy} ON fullsend.{table}")
    monkeypatch.setattr(migration, "_LOCK_TIMEOUT", "100ms")
    let_go = threading.Event()

    def long_proof() -> None:
        with psycopg.connect(empty_dsn) as connection:
            connection.execute("SELECT count(*) FROM fullsend.delivery")
            let_go.wait(10)

    proof = asyncio.create_task(asyncio.to_thread(long_proof))
    await asyncio.sleep(0.2)
    migrating = asyncio.create_task(migrate(empty_dsn))
    for _ in range(8):
        await asyncio.wait_for(world.sql(db, "SELECT count(*) FROM fullsend.delivery"), 1)
        await asyncio.sleep(0.1)
    assert not migrating.done()
    let_go.set()
    await proof
    assert (await migrating).applied == ("0003.tenants-kept-apart",)
    await db.close()


async def test_a_lost_connection_is_unavailable_and_the_next_unit_opens_another(
    postgres_dsn: str, ledger: Database
) -> None:
    other = await Database.open(postgres_dsn, application="tests")
    await world.sql(other, "SELECT pg_terminate_backend(%s::integer)", ledger.backend_pid)
    with pytest.raises(LedgerUnavailable) as caught:
        await world.sql(ledger, "SELECT 1")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert await world.sql(ledger, "SELECT 1") == [(1,)]
    await other.close()


async def test_a_cancelled_unit_leaves_no_half_read_answer_to_the_next(ledger: Database) -> None:
    task = asyncio.create_task(world.sql(ledger, "SELECT pg_sleep(5)"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.sql(ledger, "SELECT 42") == [(42,)]


async def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    with pytest.raises(LedgerUnavailable):
        await Database.open("host=127.0.0.1 port=1 dbname=nothing", application="tests")


async def test_a_standby_is_unavailable_and_its_connection_is_dropped(postgres_dsn: str, ledger: Database) -> None:
    await world.sql(ledger, "SET default_transaction_read_only = on")
    with pytest.raises(LedgerUnavailable, match="read-only"):
        await world.registered(ledger)
    await world.registered(ledger)


async def test_outcomes_are_committed_synchronously_whatever_the_default(postgres_dsn: str, ledger: Database) -> None:
    [(name,)] = await world.sql(ledger, "SELECT current_database()::text")
    await world.sql(ledger, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    db = await Database.open(postgres_dsn, application="tests")
    assert await world.sql(db, "SELECT current_setting('synchronous_commit')") == [("on",)]
    await db.close()


async def test_what_postgresql_refuses_is_a_ledger_error_with_its_cause(ledger: Database) -> None:
    with pytest.raises(LedgerError) as caught:
        await world.sql(ledger, "SELECT 1 / 0")
    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)


async def test_a_server_that_is_too_old_is_named(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "OLDEST_SERVER", 990000)
    with pytest.raises(LedgerError, match=r"This is PostgreSQL \d+; the ledger needs 99 or newer"):
        await migrate(empty_dsn)
