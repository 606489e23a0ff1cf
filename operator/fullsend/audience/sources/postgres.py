"""A query on the user's own database as an audience: read only, in one snapshot, streamed.

The invariant: what is read is one state of the database (REPEATABLE READ), nothing is written to it (READ ONLY, and a
cursor takes one query only: the server refuses several statements in it), and no error text carries the DSN's secret.
A row's values become text, but for numbers, booleans and JSON, which templates can use as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import psycopg
from psycopg import AsyncConnection, errors, pq
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fullsend.audience.sources.base import CHUNK_ROWS, Chunks, SourceRow, find_column
from fullsend.errors import SourceError

CONNECT_TIMEOUT: Final = 15  # seconds
STATEMENT_TIMEOUT: Final = 600  # seconds; for the query's first rows, and for each chunk after that


@dataclass(frozen=True, slots=True)
class PostgresSource:
    """``secret`` names where the DSN came from, for messages. ``column`` is the address's."""

    dsn: str = field(repr=False)
    query: str
    secret: str
    column: str = "email"
    timeout: float = STATEMENT_TIMEOUT
    notes: list[str] = field(default_factory=list)

    async def chunks(self) -> Chunks:
        connection = await self._connect()
        async with connection:
            try:
                async with connection.cursor(name="audience") as cursor:
                    await cursor.execute(self.query.encode())
                    columns = [column.name for column in cursor.description or ()]
                    position = self._check(columns)
                    keys = [name for place, name in enumerate(columns) if place != position]
                    row = 0
                    while records := await cursor.fetchmany(CHUNK_ROWS):
                        chunk = []
                        for record in records:
                            row += 1
                            values = (*record[:position], *record[position + 1 :])
                            address = record[position]
                            chunk.append(
                                SourceRow(
                                    "" if address is None else str(address),
                                    dict(zip(keys, values, strict=True)),
                                    row,
                                )
                            )
                        yield chunk
            except psycopg.Error as error:
                self._fail(error)

    def _check(self, columns: Sequence[str]) -> int:
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise SourceError("DuplicateColumn", f"the query gives more than one column {', '.join(twice)}; name them")
        return find_column(self.column, columns, "the query")

    async def _connect(self) -> AsyncConnection[tuple[Any, ...]]:
        try:
            wanted = conninfo_to_dict(
                self.dsn, application_name="fullsend plan", connect_timeout=CONNECT_TIMEOUT, client_encoding="utf8"
            )
        except psycopg.Error:
            # The library's text quotes the string it could not read, with the password in it.
            raise SourceError("BadDsn", f"the DSN in Secret {self.secret} is not a valid connection string") from None
        try:
            connection = await AsyncConnection.connect(make_conninfo("", **wanted), autocommit=False)
        except psycopg.Error as error:
            self._fail(error, reason="DatabaseUnreachable")
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        for name in _AS_TEXT:
            connection.adapters.register_loader(name, _Text)
        for name in ("float4", "float8"):
            connection.adapters.register_loader(name, _Float)
        try:
            await connection.execute(
                "SELECT set_config('statement_timeout', %s, true)", (str(math.ceil(self.timeout * 1000)),)
            )
        except psycopg.Error as error:
            await connection.close()
            self._fail(error)
        return connection

    def _fail(self, error: psycopg.Error, reason: str = "QueryFailed") -> NoReturn:
        said = self._without_secret(error.diag.message_primary or str(error)).strip()
        if position := error.diag.statement_position:
            said += f" (at character {max(1, int(position) - _PREFIX)} of the query)"
        if hint := error.diag.message_hint:
            said += f" (hint: {self._without_secret(hint)})"
        first_word = (self.query.split(maxsplit=1) or [""])[0].upper()
        match error:
            case errors.ReadOnlySqlTransaction():
                reason, text = "QueryWrites", f"the query must only read: {said}"
            case errors.FeatureNotSupported() if "data-modifying" in said:
                reason, text = "QueryWrites", f"the query must only read: {said}"
            case errors.SyntaxError() if "multiple commands" in said:
                reason, text = "SeveralStatements", "the query must be one statement, and it is several"
            case errors.SyntaxError() if first_word in _WRITING:
                reason, text = "QueryWrites", f"the query must be a SELECT, and it begins with {first_word!r}"
            case errors.QueryCanceled():
                reason, text = "QueryTimeout", f"the query gave no rows for {self.timeout:g} s: {said}"
            case _ if reason == "DatabaseUnreachable":
                text = f"the database of Secret {self.secret} can't be reached: {said}"
            case _:
                text = f"the database of Secret {self.secret} says: {said}"
        # The driver's error is kept, unless it is what quotes the secret.
        raise SourceError(reason, " ".join(text.split())) from (
            error if str(error) == self._without_secret(str(error)) else None
        )

    def _without_secret(self, text: str) -> str:
        """The server's text, whatever it quotes."""
        password = conninfo_to_dict(self.dsn).get("password")
        for secret in (self.dsn, password):
            if secret:
                text = text.replace(str(secret), "***")
        return text


_WRITING: Final = frozenset(
    {
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "TRUNCATE",
        "CREATE",
        "ALTER",
        "DROP",
        "GRANT",
        "REVOKE",
        "CALL",
        "DO",
        "SET",
    }
)
# A cursor is declared for the query; the server counts an error's position from the start of the declaration.
_PREFIX: Final = len('DECLARE "audience" CURSOR FOR ')

# Python's own types can't hold all that PostgreSQL's can ("infinity", years before 1): their text can.
_AS_TEXT: Final = ("date", "timestamp", "timestamptz", "time", "timetz", "interval", "numeric", "uuid", "bytea")


class _Text(Loader):
    format = pq.Format.TEXT

    def load(self, data: Buffer) -> str:
        return bytes(data).decode("utf-8")


class _Float(Loader):
    """JSON has no NaN and no infinity; their names are kept."""

    format = pq.Format.TEXT

    def load(self, data: Buffer) -> float | str:
        text = bytes(data).decode("ascii")
        value = float(text)
        return value if math.isfinite(value) else text
