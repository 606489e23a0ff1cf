"""The user's own database as an audience: one snapshot, read only, streamed, and its secret kept."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fullsend.audience.sources.base import CHUNK_ROWS, SourceRow
from fullsend.audience.sources.postgres import PostgresSource
from fullsend.errors import SourceError


async def read(dsn: str, query: str, **settings: Any) -> list[SourceRow]:
    return [row async for chunk in PostgresSource(dsn, query, "crm", **settings).chunks() for row in chunk]


async def failure(dsn: str, query: str, **settings: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await read(dsn, query, **settings)
    return caught.value


@pytest.fixture
def people(postgres_dsn: str) -> str:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE people (id int PRIMARY KEY, email text, name text)")
        connection.execute("INSERT INTO people VALUES (1, 'ann@x.de', 'Ann'), (2, 'bob@x.de', 'Bob'), (3, NULL, 'Eve')")
    return postgres_dsn


async def test_every_row_is_given_and_a_missing_address_is_an_empty_one(people: str) -> None:
    assert await read(people, "SELECT * FROM people ORDER BY id") == [
        SourceRow("ann@x.de", {"id": 1, "name": "Ann"}, 1),
        SourceRow("bob@x.de", {"id": 2, "name": "Bob"}, 2),
        SourceRow("", {"id": 3, "name": "Eve"}, 3),
    ]


async def test_values_are_text_but_for_numbers_booleans_and_json(people: str) -> None:
    [row] = await read(
        people,
        """SELECT 'a@x.de' AS email, 1.50::numeric AS price, true AS ok, 'infinity'::date AS until,
        'nan'::float8 AS odd, 2.5::float8 AS share, '{"a": [1]}'::jsonb AS extra,
        ARRAY['x', 'y'] AS tags, NULL AS nothing,
        '2026-01-02 03:04:05+00'::timestamptz AT TIME ZONE 'UTC' AS at""",
    )
    assert row.variables == {
        "price": "1.50",
        "ok": True,
        "until": "infinity",
        "odd": "NaN",
        "share": 2.5,
        "extra": {"a": [1]},
        "tags": ["x", "y"],
        "nothing": None,
        "at": "2026-01-02 03:04:05",
    }


@pytest.mark.parametrize(
    ("query", "reason", "said"),
    [
        ("INSERT INTO people VALUES (9, 'x@x.de') RETURNING email", "QueryWrites", "begins with 'INSERT'"),
        (
            "WITH w AS (DELETE FROM people RETURNING email) SELECT email FROM w",
            "QueryWrites",
            "the query must only read",
        ),
        ("SELECT lo_create(0)::text AS email", "QueryWrites", "read-only transaction"),
        ("SELECT email FROM people; DROP TABLE people", "SeveralStatements", "one statement"),
        ("COMMIT; SELECT email FROM people", "QueryFailed", 'syntax error at or near "COMMIT"'),
        ("SELECT set_config('transaction_read_only', 'off', false) AS email", "QueryFailed", "read-write mode"),
        (
            "SELECT email FROM persons",
            "QueryFailed",
            'relation "persons" does not exist (at character 19 of the query)',
        ),
        ("SELECT nonsense(", "QueryFailed", "syntax error"),
        ("", "QueryFailed", "syntax error"),
        ("SELECT 1 / 0 AS email", "QueryFailed", "division by zero"),
        ("SELECT mail AS mail FROM (SELECT email AS mail FROM people) p", "MissingColumn", "did you mean 'mail'?"),
        ("SELECT email, 1 AS a, 2 AS a FROM people", "DuplicateColumn", "more than one column a"),
    ],
)
async def test_a_query_that_cannot_be_used_says_why_and_changes_nothing(
    people: str, query: str, reason: str, said: str
) -> None:
    error = await failure(people, query)
    assert error.reason == reason
    assert said in str(error)
    with psycopg.connect(people) as connection:
        assert connection.execute("SELECT count(*) FROM people").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (0,)


async def test_a_comment_and_a_semicolon_at_the_end_are_no_second_statement(people: str) -> None:
    assert len(await read(people, "SELECT email FROM people;\n-- everybody 100%\n")) == 3


async def test_a_query_that_takes_too_long_is_ended_by_the_database(people: str) -> None:
    error = await failure(people, "SELECT pg_sleep(30)::text AS email", timeout=0.2)
    assert error.reason == "QueryTimeout"
    assert "0.2 s" in str(error)


async def test_what_is_read_is_one_snapshot(people: str) -> None:
    source = PostgresSource(people, "SELECT 'u' || n || '@x.de' AS email FROM numbers ORDER BY n", "crm")
    with psycopg.connect(people, autocommit=True) as connection:
        connection.execute("CREATE TABLE numbers AS SELECT generate_series(1, %s) AS n" % (CHUNK_ROWS + 10))
        chunks = source.chunks()
        first = await anext(chunks)
        connection.execute("DELETE FROM numbers")
        rest = [row async for chunk in chunks for row in chunk]
    assert len(first) == CHUNK_ROWS
    assert len(rest) == 10


async def test_rows_are_streamed_and_an_abandoned_read_lets_go_of_the_database(people: str) -> None:
    source = PostgresSource(people, "SELECT generate_series(1, 100000000) || '@x.de' AS email", "crm")
    chunks = source.chunks()
    started = asyncio.get_running_loop().time()
    assert len(await anext(chunks)) == CHUNK_ROWS
    await chunks.aclose()
    assert asyncio.get_running_loop().time() - started < 20
    with psycopg.connect(people) as connection:
        for _ in range(50):
            left = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fullsend plan'"
            ).fetchone()
            if left == (0,):
                break
            await asyncio.sleep(0.1)
        assert left == (0,)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://crm:hunter2@/crm?host=/nowhere",
        "postgresql://crm:hunter2@/crm?hoost=/nowhere",
        "host=/nowhere password=hunter2 user=crm",
        "host=/nowhere password='hunter2",
        "hunter2",
    ],
)
async def test_no_error_gives_the_secret_away(dsn: str) -> None:
    error = await failure(dsn, "SELECT 1")
    assert error.reason in {"BadDsn", "DatabaseUnreachable"}
    assert "Secret crm" in str(error)
    seen: BaseException | None = error
    while seen is not None:
        assert "hunter2" not in str(seen)
        seen = seen.__cause__
    assert "hunter2" not in repr(PostgresSource(dsn, "SELECT 1", "crm"))


async def test_a_server_that_quotes_the_secret_is_not_quoted(people: str) -> None:
    dsn = make_conninfo(people, password="hunter2")
    error = await failure(dsn, "SELECT 'hunter2'::int AS email")
    assert error.reason == "QueryFailed"
    assert "hunter2" not in str(error)
    assert error.__cause__ is None
