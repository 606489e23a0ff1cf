"""A million recipients leave the ledger about as large as their rows: the churn of claim, arm and record is reused."""

from __future__ import annotations

import os

import pytest

from fullsend.ledger import plans, sessions
from fullsend.ledger.database import Database
from fullsend.states import Seq
from support import ledger_worlds as world

ROWS = int(os.environ.get("FULLSEND_TEST_BLOAT_ROWS", "1000000"))
FLUSH = 256


@pytest.mark.slow
async def test_a_campaign_of_a_million_bloats_its_rows_at_most_threefold(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    generation = await plans.begin_plan(ledger, campaign)
    for start in range(1, ROWS + 1, 20_000):
        await plans.add_rows(ledger, campaign, generation, world.plan_rows(20_000, start=start))
    await plans.seal_plan(
        ledger, campaign, generation, compiled=b"{}", rows_read=ROWS, render_checked=0, render_failed=0
    )
    sizes = "SELECT pg_table_size('fullsend.delivery'), pg_indexes_size('fullsend.delivery')"
    [(table, indexes)] = await world.sql(ledger, sizes)
    session = await world.opened(ledger, campaign)
    after = Seq(0)
    while rows := await world.claimed(ledger, session, FLUSH, after=after):
        after = rows[-1].seq
        await world.armed(ledger, session, rows)
        await world.record(ledger, session, *(world.accepted(row) for row in rows))
    await sessions.close_session(ledger, session, "done")
    [(table_after, indexes_after)] = await world.sql(ledger, sizes)
    assert table_after < 3 * table, f"{table / 1e6:.0f} MB became {table_after / 1e6:.0f} MB"
    assert indexes_after < 4 * indexes, f"{indexes / 1e6:.0f} MB became {indexes_after / 1e6:.0f} MB"
