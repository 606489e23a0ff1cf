"""One connection to the ledger, and what every use of it has in common.

Invariants held here: outcomes are committed synchronously; the schema is one this program can use; a unit of work is
never interleaved with another task's statements; a driver's error never leaves this room except as a ``LedgerError``
(the original is its ``__cause__``).

    psycopg                                             becomes
    deadlock, serialization failure                     retried here, then LedgerUnavailable
    connection lost, shut down, disk full, time-out     LedgerUnavailable
    read-only transaction (a standby after failover)    LedgerUnavailable, and the connection is dropped
    undefined table, column or function                 SchemaMismatch
    older than what the session was told (FS001)        LedgerWentBack
    anything else                                       LedgerError

A unit is sent in pipeline mode: its statements travel together, and without an explicit BEGIN they are one implicit
transaction that ends at the pipeline's Sync (PostgreSQL, "Pipeline Mode"): all of it is committed or nothing.
Everything is qualified with the schema's name and no state is kept in the database session, so that a transaction
pooler such as pgbouncer may sit between; server-side prepared statements are then turned off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow, dict_row
from psycopg.types.numeric import Int8Dumper

from fullsend.errors import LedgerError, LedgerUnavailable, LedgerWentBack, SchemaMismatch
from fullsend.ledger.named import QUERIES, query
from fullsend.states import CampaignId

PROGRAM_SCHEMA: Final = 3
"""The schema version this program was built for: the number of the newest migration."""

OLDEST_SCHEMA: Final = 3
"""The oldest schema version this program can use."""

_DEFAULTS: Final = {
    # A peer that vanished (node death, dropped NAT entry) is noticed in half a minute, well within a session's lease.
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
_ATTEMPTS: Final = 6  # of a unit that lost a deadlock or a serialization race

T = TypeVar("T")
Connection = psycopg.AsyncConnection[TupleRow]
Params = Mapping[str, Any]


def translate(error: psycopg.Error) -> LedgerError:
    """The ledger's error for a driver's one."""
    text = str(error).strip() or type(error).__name__
    match error:
        case pg.UndefinedTable() | pg.UndefinedColumn() | pg.UndefinedFunction() | pg.InvalidSchemaName():
            return SchemaMismatch(f"The ledger's schema is not one this program can use: {text}. Run the migration.")
        case _ if error.sqlstate == "FS001":
            return LedgerWentBack(f"The ledger is older than it was: {error.diag.message_primary}.")
        case pg.ReadOnlySqlTransaction():
            return LedgerUnavailable(f"The database is read-only (a standby after a failover?): {text}")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return LedgerUnavailable(f"The ledger cannot be used now: {text}")
        case _:
            return LedgerError(f"The ledger refused: {text}")


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Driver errors raised inside leave as ledger errors."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def utc(value: datetime) -> datetime:
    """A timestamp of the database in UTC, whatever time zone the connection has."""
    return value.astimezone(UTC)


def utc_or_none(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


PATIENCE: Final = 120.0
"""Seconds for which a process waits at its start for a database that is there and takes no connection now, since it has
too many (those of many campaigns that begin at once are soon over) or is starting up or shutting down: a process that
ended would only come back."""
PAUSE: Final = (0.5, 3.0)
"""Seconds between two tries, at random, so that those who were refused together don't come back together."""


async def patiently(open_: Callable[[], Awaitable[T]], *, give_up: Callable[[], bool] = lambda: False) -> T:
    """What ``open_`` returns, once it does. Raises its last LedgerUnavailable after ``PATIENCE``, or when told to
    ``give_up``, and at once what no waiting mends: a server that is not there, a password it does not take. ``open_``
    holds nothing after it failed, so that processes that each want two don't wait for ever for one another."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return await open_()
        except LedgerUnavailable as error:
            if not takes_none_now(error) or give_up() or time.monotonic() > end:
                raise
        await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 - not a secret


def takes_none_now(error: LedgerUnavailable) -> bool:
    """By the server's own words: psycopg gives no code for a connection that was refused, and a server may speak
    another language; then it is not waited for."""
    return any(word in str(error) for word in _TAKES_NONE)


_TAKES_NONE: Final = (
    "too many connections",
    "too many clients",
    "connection slots are reserved",
    "starting up",
    "shutting down",
    "not yet accepting connections",
    "in recovery mode",
    "no more connections allowed",  # pgbouncer, with the next
    "query_wait_timeout",
)


def unknown_campaign(campaign: CampaignId) -> LedgerError:
    return LedgerError(f"The ledger has no campaign {campaign} (or it belongs to another tenant).")


class Database:
    """An open ledger. Units of work from several tasks take turns; a lost connection is opened again by the next one.

    A sender must not rely on that: after ``LedgerUnavailable`` a commit may or may not have happened, so it calls
    ``reconnect`` and then looks at what its session holds.
    """

    def __init__(self, conninfo: str, connection: Connection, *, pooled: bool) -> None:
        self._conninfo = conninfo
        self._connection = connection
        self._turn = asyncio.Lock()
        self.pooled = pooled
        self.fresh_bounds: dict[tuple[int, int], int] = {}  # see sessions.claim_fresh

    @classmethod
    async def open(cls, dsn: str, *, application: str) -> Self:
        """Connects and checks the schema. Raises LedgerUnavailable, SchemaMismatch or LedgerError."""
        conninfo = with_defaults(dsn, application)
        connection, pooled = await _connect(conninfo)
        return cls(conninfo, connection, pooled=pooled)

    async def close(self) -> None:
        async with self._turn:
            await self._connection.close()

    async def reconnect(self) -> None:
        """Drops the connection and opens a new one, with the checks of ``open``."""
        async with self._turn:
            await self._reopen()

    async def _reopen(self) -> None:
        await self._connection.close()
        self._connection, self.pooled = await _connect(self._conninfo)

    @property
    def dsn(self) -> str:
        return self._conninfo

    @property
    def backend_pid(self) -> int:
        """The server process as the client knows it (a pooler's invention where one sits between)."""
        return self._connection.info.backend_pid

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """This task's turn on the connection, opened again if it was lost; errors are translated."""
        async with self._turn:
            if self._connection.closed:
                await self._reopen()
            try:
                yield self._connection
            except psycopg.Error as error:
                if isinstance(error, pg.ReadOnlySqlTransaction):
                    await self._connection.close()
                raise translate(error) from error
            except asyncio.CancelledError:
                # A cancelled unit may have left a half-read pipeline behind: never reuse such a connection.
                await self._connection.close()
                raise

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs a unit of work that may be repeated: lost deadlocks and serialization races are tried again."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self.connection() as connection:
                    return await work(connection)
            except LedgerUnavailable as error:
                lost_a_race = isinstance(error.__cause__, pg.DeadlockDetected | pg.SerializationFailure)
                if not lost_a_race or attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(0.01 * attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Like ``run``, in an explicit READ COMMITTED transaction."""

        async def inside(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self.run(inside)

    async def unit(self, *statements: tuple[str, Params]) -> list[list[TupleRow]]:
        """Sends named queries as one round trip and one transaction; returns the rows of each."""

        async def together(connection: Connection) -> list[list[TupleRow]]:
            cursors = []
            async with connection.pipeline():
                for name, params in statements:
                    named = QUERIES[name]
                    cursor = psycopg.AsyncRawCursor(connection)
                    await cursor.execute(named.positional, [params[key] for key in named.parameters])
                    cursors.append(cursor)
            return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]

        return await self.run(together)

    async def fetch(self, name: str, params: Params | None = None) -> list[dict[str, Any]]:
        """The rows of one named query, as dictionaries."""

        async def rows(connection: Connection) -> list[dict[str, Any]]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query(name), params)
                return await cursor.fetchall() if cursor.description else []

        return await self.run(rows)

    async def fetch_one(self, name: str, params: Params | None = None) -> dict[str, Any] | None:
        rows = await self.fetch(name, params)
        return rows[0] if rows else None


def with_defaults(dsn: str, application: str) -> str:
    """The DSN with time-outs where it has none, and the application's name."""
    given = conninfo_to_dict(dsn)
    return make_conninfo(dsn, **{k: v for k, v in _DEFAULTS.items() if k not in given}, application_name=application)


async def _connect(conninfo: str) -> tuple[Connection, bool]:
    async with translated():
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    # psycopg sends an integer in the smallest type that holds it, and a statement is prepared anew for each type.
    connection.adapters.register_dumper(int, Int8Dumper)
    try:
        async with translated():
            pooled = await _prepare(connection)
            await _check_schema(connection)
    except BaseException:
        await connection.close()
        raise
    return connection, pooled


async def _prepare(connection: Connection) -> bool:
    row = await (await connection.execute(query("connection_facts"))).fetchone()
    assert row is not None
    backend_pid, synchronous_commit = row
    pooled: bool = connection.info.backend_pid != backend_pid
    if pooled:
        connection.prepare_threshold = None
    else:
        await connection.execute(query("plan_once"))
    if synchronous_commit == "off":
        if pooled:
            raise LedgerError(
                "The database commits asynchronously (synchronous_commit = off), so outcomes could be lost. Set it on "
                "for this role (ALTER ROLE ... SET synchronous_commit = on): a pooler does not let a client set it."
            )
        await connection.execute(query("commit_synchronously"))
    return pooled


async def _check_schema(connection: Connection) -> None:
    try:
        row = await (await connection.execute(query("schema_version"))).fetchone()
    except (pg.UndefinedTable, pg.InvalidSchemaName) as error:
        raise SchemaMismatch("There is no ledger in this database yet. Run `fullsend migrate`.") from error
    except pg.InsufficientPrivilege as error:
        raise SchemaMismatch("This role may not use the ledger of this database.") from error
    if row is None:
        raise SchemaMismatch("The ledger's migration was not finished. Run `fullsend migrate`.")
    version, oldest_program = row
    if version < OLDEST_SCHEMA:
        raise SchemaMismatch(
            f"The ledger's schema is version {version}; this program needs {OLDEST_SCHEMA}. Run `fullsend migrate`."
        )
    if oldest_program > PROGRAM_SCHEMA:
        raise SchemaMismatch(
            f"The ledger's schema is version {version}, for programs that know version {oldest_program} or newer; this "
            f"one knows {PROGRAM_SCHEMA}. Upgrade this program."
        )
