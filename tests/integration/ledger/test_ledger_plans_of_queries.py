"""The hot statements use their indexes, whatever the planner knows: on a campaign of 120,000 rows beside another one,
analysed and not, as the owner and as a tenant's role."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import psycopg
import pytest

from fullsend.ledger.database import Database
from fullsend.ledger.flush import _array, _told
from fullsend.ledger.named import QUERIES, query
from fullsend.ledger.tenants import tenant_dsn
from support import ledger_worlds as world

ROWS = 120_000
BIG = {"delivery", "recipient", "attempt", "suppression"}


async def fill(db: Database, tenant: str, key: str) -> int:
    """A sealed campaign that is half sent, by plain SQL."""
    campaign = await world.sealed(db, 0, tenant=tenant, key=key)
    statements = (
        "INSERT INTO fullsend.recipient SELECT {c}, n, n, {t}, 1, decode(md5({c} || '-' || n), 'hex'), true,"
        " 'u' || n || '@example.com', 'example.com', '{{}}', 't' || n, 'csv', '' FROM generate_series(1, {n}) n",
        "INSERT INTO fullsend.delivery (campaign_id, seq, tenant_id, state, due_at, session_id, attempts)"
        " SELECT {c}, n, {t}, (CASE WHEN n % 50 = 0 THEN 'deferred' WHEN n < {n} / 2 THEN 'accepted'"
        " ELSE 'pending' END)::fullsend.delivery_state,"
        " CASE WHEN n % 50 = 0 THEN clock_timestamp() + (n - {n} / 2) * interval '1 second' END, NULL, 1"
        " FROM generate_series(1, {n}) n",
        "INSERT INTO fullsend.attempt (campaign_id, seq, session_id, armed_at, tenant_id, attempt, state)"
        " SELECT {c}, n, 1, clock_timestamp(), {t}, 1, 'accepted' FROM generate_series(1, {n} / 2) n",
        "INSERT INTO fullsend.suppression (scope, tenant_id, identity_hash, reason)"
        " SELECT 'tenant', {t}, decode(md5({c} || '+' || n), 'hex'), 'unsubscribed' FROM generate_series(1, {n} / 4) n",
        "UPDATE fullsend.campaign SET sealed_seq = {n} WHERE id = {c}",
    )
    [(tenant_id,)] = await world.sql(db, "SELECT tenant_id FROM fullsend.campaign WHERE id = %s", campaign)
    for statement in statements:
        await world.sql(db, statement.format(c=campaign, t=tenant_id, n=ROWS))
    return campaign


@pytest.fixture(params=["owner, not analysed", "owner", "tenant"])
async def big(
    request: pytest.FixtureRequest, ledger: Database, postgres_dsn: str
) -> AsyncIterator[tuple[Database, int]]:
    for table in BIG:
        await world.sql(ledger, f"ALTER TABLE fullsend.{table} SET (autovacuum_enabled = off)")
    campaign = await fill(ledger, "blue", "one")
    await fill(ledger, "blue", "two")
    if request.param != "owner, not analysed":
        await world.sql(ledger, "VACUUM ANALYZE")
    if request.param != "tenant":
        yield ledger, campaign
        return
    theirs = await Database.open(await tenant_dsn(postgres_dsn, "blue"), application="tests")
    yield theirs, campaign
    await theirs.close()


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def explain(db: Database, name: str, params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nodes of the plan, run once for the row counts and rolled back."""
    named = QUERIES[name]
    values = [params[key] for key in named.parameters]
    async with db.connection() as connection:
        cursor = psycopg.AsyncRawCursor(connection)
        async with connection.transaction(force_rollback=True):
            if name.startswith("claim_"):
                await connection.execute(query("walk_in_order"))
            await cursor.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + named.positional, values)
            row = await cursor.fetchone()
    assert row is not None
    document = row[0] if isinstance(row[0], list) else json.loads(row[0])
    return list(nodes(document[0]["Plan"]))


def read_little(found: list[Mapping[str, Any]], most: int) -> None:
    for node in found:
        relation = node.get("Relation Name")
        if relation not in BIG:
            continue
        where = f"{node['Node Type']} on {relation}"
        assert node["Node Type"] != "Seq Scan", where
        touched = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        assert touched <= most, f"{where} touched {touched} rows"


async def test_hot_statements_touch_no_more_rows_than_they_are_about(big: tuple[Database, int]) -> None:
    db, campaign = big
    session = await world.opened(db, world.CampaignId(campaign))
    key = {"session": session.id, "campaign": campaign, "tenant": session.tenant}
    fresh = {**key, "after": ROWS // 2, "bound": 2**62, "limit": 64}
    read_little(await explain(db, "claim_fresh", fresh), 70)
    read_little(await explain(db, "claim_due", {**key, "limit": 64}), 70)
    rows = await world.claimed(db, session, 64, after=ROWS // 2)
    seqs = _array([row.seq for row in rows])
    attempts = _array([row.attempts for row in rows])
    arm = {**key, "seqs": seqs, "attempts": attempts, "hashes": b"".join(row.identity_hash for row in rows)}
    read_little(await explain(db, "arm", arm), 70)
    await world.armed(db, session, rows)
    read_little(await explain(db, "still_meant", arm), 70)
    told = _told([world.accepted(row) for row in rows])
    read_little(await explain(db, "record", {**key, "seqs": seqs, "told": told, "took_ms": 9, "took": "{1}"}), 70)
    read_little(await explain(db, "held_rows", key), 70)
    read_little(await explain(db, "give_back", {**key, "seqs": [row.seq for row in rows]}), 70)
    sweep = {**key, "chunk": 64, "reason": "x", "max_unknown_resends": 1, "unknown_delay": 0}
    read_little(await explain(db, "sweep_chunk", sweep), 70)
    read_little(await explain(db, "observe_campaign", {"campaign": campaign, "lease": 60.0}), 10_001)
    read_little(await explain(db, "session_sees", {**key, "silent": 5.0}), 0)


@pytest.mark.parametrize("big", ["owner, not analysed", "owner"], indirect=True)
async def test_the_operators_figures_read_no_rows(big: tuple[Database, int]) -> None:
    db, _ = big
    bounds = {"finished_for": 60.0, "owned_for": 60.0, "limit": 10}
    read_little(await explain(db, "figures_of_campaigns", bounds), 0)
    read_little(await explain(db, "figures_of_transports", {}), 0)
