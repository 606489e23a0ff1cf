"""The ledger behind pgbouncer in transaction mode: every transaction may be on another server connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fullsend.errors import LedgerError
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world
from support.pgbouncer import pgbouncer


@pytest.fixture
def pooled_dsn(postgres_dsn: str) -> Iterator[str]:
    with pgbouncer(postgres_dsn, pool_size=3) as dsn:
        yield dsn


async def test_a_pooler_is_noticed_and_nothing_is_prepared(pooled_dsn: str, ledger: Database) -> None:
    pooled = await Database.open(pooled_dsn, application="tests")
    assert pooled.pooled
    assert not ledger.pooled
    campaign = await world.sealed(pooled, 30)
    for _ in range(8):
        await campaigns.observe(pooled, campaign, session_lease_seconds=60)
    assert await world.sql(pooled, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]
    await pooled.close()


async def test_senders_that_share_three_server_connections_deliver_to_everybody_once(
    pooled_dsn: str, ledger: Database
) -> None:
    campaign = await world.sealed(ledger, 300)
    sent: list[int] = []

    async def sender() -> None:
        db = await Database.open(pooled_dsn, application="tests")
        session = await world.opened(db, campaign)
        after = 0
        while rows := await world.claimed(db, session, 7, after=after):
            after = rows[-1].seq
            armed = (await world.armed(db, session, rows)).armed
            sent.extend(armed)
            await world.record(db, session, *(world.accepted(row) for row in rows if row.seq in armed))
        await sessions.close_session(db, session, "done")
        await db.close()

    await asyncio.gather(*(sender() for _ in range(8)))
    assert len(sent) == len(set(sent))
    counts = await world.counts(ledger, campaign)
    assert counts == await world.rows_by_state(ledger, campaign)
    assert counts[S.ACCEPTED] == len(sent)
    assert (await campaigns.prove(ledger, campaign)).holds == (len(sent) == 300)


async def test_behind_a_pooler_asynchronous_commit_is_refused(
    postgres_dsn: str, pooled_dsn: str, ledger: Database
) -> None:
    [(name,)] = await world.sql(ledger, "SELECT current_database()::text")
    await world.sql(ledger, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    await world.sql(
        ledger,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
        name,
    )
    await asyncio.sleep(0.2)
    with pytest.raises(LedgerError, match="commits asynchronously"):
        await Database.open(pooled_dsn, application="tests")
