"""Bringing the ledger's schema up to this program: forward only, one migration a transaction, one migrator at a time.

The migrations are plain SQL files under ``migrations/``, applied by yoyo. Around it stand what running against a busy
ledger needs:

- An advisory lock, taken by a transaction of its own connection, keeps migrators apart and cannot outlive its holder.
- ``lock_timeout`` and retries: an ALTER TABLE that queues behind a long proof would block every sender behind itself.
- A migration and the note that it was applied are one transaction, so a crash leaves either both or neither.
- yoyo's own tables live in the schema ``fullsend`` too.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import as_file, files
from typing import Any, Final

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend  # type: ignore[import-untyped]  # has no types
from yoyo.connections import DatabaseURI  # type: ignore[import-untyped]
from yoyo.migrations import Migration, MigrationList, read_migrations  # type: ignore[import-untyped]

from fullsend.errors import LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger.database import OLDEST_SCHEMA, PROGRAM_SCHEMA, translate, with_defaults

_LOCK: Final = 0x66756C6C  # "full": the advisory lock's key
_LOCK_TIMEOUT: Final = "3s"
_RETRIES: Final = 40  # at 3 s each: two minutes of looking for a gap between proofs
OLDEST_SERVER: Final = 150000  # as libpq counts versions; see docs/decisions/postgresql-15.md
_MIGRATOR_WAIT: Final = 300.0  # seconds to wait for another migrator


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """The migrations applied by this call, and the schema's version now."""

    applied: tuple[str, ...]
    schema_version: int


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """``schema_version`` 0: no ledger yet. ``usable``: this program can work with it as it is."""

    schema_version: int
    oldest_program: int
    pending: tuple[str, ...]
    usable: bool


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo has no types
    """yoyo on psycopg 3, with its tables in our schema and without its habit of probing for transactional DDL."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        nowhere = DatabaseURI("postgresql+psycopg", None, None, None, None, "", {})  # connect() below knows better
        super().__init__(nowhere, "_yoyo_migration")
        self.schema = "fullsend"
        self.create_lock_table()
        self.break_lock()  # ours is the advisory lock; a row left by a crash must not stop everybody

    def connect(self, dburi: DatabaseURI) -> psycopg.Connection[Any]:  # noqa: ARG002 - yoyo's signature
        connection: psycopg.Connection[Any] = psycopg.connect(self._conninfo, autocommit=True)
        connection.execute("CREATE SCHEMA IF NOT EXISTS fullsend")
        connection.execute("SET search_path TO fullsend")
        connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
        return connection

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, Any]:
        """yoyo's asks for the user's and the host's name, which a container may not have."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": "fullsend",
            "hostname": "",
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        """One transaction for the change and for the note that it was made."""
        self.ensure_internal_schema_updated()
        with self.transaction():
            migration.process_steps(self, "apply", force=force)
            self.log_migration(migration, "apply")
            if mark:
                self.mark_one(migration, log=False)


def _migrations() -> MigrationList:
    with as_file(files("fullsend.ledger").joinpath("migrations")) as folder:
        found = read_migrations(str(folder))
        for migration in found:
            migration.load()
        return found


async def migrate(dsn: str) -> MigrationReport:
    """Installs or upgrades the schema. Safe to call at any time and from several places at once.

    Needs a direct connection (not through a transaction pooler) as the schema's owner. Raises SchemaMismatch where the
    schema is newer than this program, LedgerUnavailable where it could not be locked or reached.
    """
    return await asyncio.to_thread(_migrate, make_conninfo(with_defaults(dsn, "fullsend-migrate")))


def _migrate(conninfo: str) -> MigrationReport:
    try:
        with psycopg.connect(conninfo) as guard:  # its open transaction holds the advisory lock
            _check_server(guard.info.server_version)
            guard.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            _take_turn(guard)
            applied = _apply(conninfo)
            return MigrationReport(applied, _install(conninfo))
    except psycopg.Error as error:
        raise translate(error) from error


def _check_server(version: int) -> None:
    if version < OLDEST_SERVER:
        raise LedgerError(f"This is PostgreSQL {version // 10000}; the ledger needs {OLDEST_SERVER // 10000} or newer.")


def _take_turn(guard: psycopg.Connection[Any]) -> None:
    give_up_at = time.monotonic() + _MIGRATOR_WAIT
    while True:
        row = guard.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
        if row is not None and row[0]:
            return
        if time.monotonic() > give_up_at:
            raise LedgerUnavailable("Another migration of this ledger has been running for five minutes.")
        time.sleep(0.1)


def _apply(conninfo: str) -> tuple[str, ...]:
    applied: list[str] = []
    with _Backend(conninfo) as backend:
        for migration in backend.to_apply(_migrations()):
            for attempt in range(1, _RETRIES + 1):
                try:
                    backend.apply_one(migration)
                    break
                except pg.LockNotAvailable:
                    if attempt == _RETRIES:
                        raise
                    time.sleep(min(0.1 * attempt, 1.0))
            applied.append(migration.id)
    return tuple(applied)


def _install(conninfo: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO fullsend.installation (id, hash_key, role_key) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (uuid.uuid4(), secrets.token_bytes(32), secrets.token_bytes(32)),
        )
        row = connection.execute("SELECT schema_version, oldest_program FROM fullsend.meta").fetchone()
    if row is None:
        raise LedgerError("The ledger's meta row is missing: the schema was not installed by this program.")
    version, oldest_program = row
    if oldest_program > PROGRAM_SCHEMA:
        raise SchemaMismatch(
            f"The ledger's schema is version {version}, for programs that know version {oldest_program} or newer; this "
            f"one knows {PROGRAM_SCHEMA}. Upgrade this program."
        )
    return int(version)


async def schema_status(dsn: str) -> SchemaStatus:
    """What the schema is, without changing it."""
    return await asyncio.to_thread(_status, with_defaults(dsn, "fullsend-migrate"))


def _status(conninfo: str) -> SchemaStatus:
    everything = tuple(migration.id for migration in _migrations())
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            try:
                row = connection.execute("SELECT schema_version, oldest_program FROM fullsend.meta").fetchone()
                done = {r[0] for r in connection.execute("SELECT migration_id FROM fullsend._yoyo_migration")}
            except (pg.UndefinedTable, pg.InvalidSchemaName):
                return SchemaStatus(0, 0, everything, usable=False)
    except psycopg.Error as error:
        raise translate(error) from error
    version, oldest_program = row or (0, 0)
    usable = version >= OLDEST_SCHEMA and oldest_program <= PROGRAM_SCHEMA
    return SchemaStatus(version, oldest_program, tuple(m for m in everything if m not in done), usable=usable)
