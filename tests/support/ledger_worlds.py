"""Ready-made ledgers for tests: a sealed campaign of N recipients, sessions, records, and what the rows really say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fullsend.ledger import campaigns, plans, sessions
from fullsend.ledger.campaigns import OwnerClaim
from fullsend.ledger.database import Database
from fullsend.ledger.plans import PlanRow
from fullsend.ledger.sessions import Arm, Claimed, Flushed, OpenedSession, Record
from fullsend.states import CampaignId, DeliveryState, Seq

CONTROL: Mapping[str, Any] = {
    "stop": False,
    "cancel": False,
    "relay": {"name": "relay", "host": "127.0.0.1", "port": 2525},
    "rates": [],
    "retry": {"max_unknown_resends": 1},
}
OWNER = OwnerClaim("cluster", "uid", 60)


def identity(number: int) -> bytes:
    """A made-up identity hash, different for every number and spread over the key space."""
    return ((number * 0x9E3779B97F4A7C15) % 2**64).to_bytes(8, "big") + number.to_bytes(8, "big")


def plan_rows(count: int, *, start: int = 1, domain: str = "example.com") -> list[PlanRow]:
    return [
        PlanRow(
            address=f"user{n}@{domain}",
            identity_hash=identity(n),
            domain=domain,
            variables="{}",
            token=f"t{n}",
            source="inline:test",
            source_row=n,
        )
        for n in range(start, start + count)
    ]


async def registered(db: Database, *, tenant: str = "ns", key: str = "spring") -> CampaignId:
    made = await campaigns.register(
        db, tenant=tenant, key=key, name=key, owner=OWNER, content={"class": "Marketing"}, fingerprint="f1"
    )
    return made.campaign


async def controlled(db: Database, campaign: CampaignId, control: Mapping[str, Any]) -> CampaignId:
    await campaigns.write_control(db, campaign, {**CONTROL, **control})
    return campaign


async def plan(
    db: Database,
    campaign: CampaignId,
    rows: Sequence[PlanRow],
    *,
    lists: Sequence[str] = (),
    compiled: bytes = b"{}",
) -> CampaignId:
    generation = await plans.begin_plan(db, campaign, lists=lists)
    read = await plans.add_rows(db, campaign, generation, rows)
    await plans.seal_plan(
        db, campaign, generation, compiled=compiled, rows_read=read, render_checked=0, render_failed=0
    )
    return campaign


async def sealed(
    db: Database,
    count: int,
    *,
    tenant: str = "ns",
    key: str = "spring",
    control: Mapping[str, Any] | None = None,
    lists: Sequence[str] = (),
) -> CampaignId:
    """A campaign that sends to ``count`` recipients."""
    campaign = await registered(db, tenant=tenant, key=key)
    await campaigns.write_control(db, campaign, {**CONTROL, **(control or {})})
    return await plan(db, campaign, plan_rows(count), lists=lists)


async def opened(db: Database, campaign: CampaignId, *, wave: int = 1, holder: str = "pod") -> OpenedSession:
    session = await sessions.open_session(db, campaign, wave=wave, holder=holder, connections=4)
    assert session is not None
    return session


async def claimed(db: Database, session: OpenedSession, limit: int, *, after: int = 0) -> list[Claimed]:
    return await sessions.claim_fresh(db, session, after=Seq(after), limit=limit, fresh_limit=None)


def arms(rows: Sequence[Claimed]) -> list[Arm]:
    return [Arm(row.seq, row.identity_hash, row.attempts) for row in rows]


async def armed(db: Database, session: OpenedSession, rows: Sequence[Claimed]) -> Flushed:
    return await sessions.flush(db, session, arm=arms(rows), record=[])


def accepted(row: Claimed, **changes: Any) -> Record:
    """The record of an accepted message of this claim."""
    record = Record(
        seq=row.seq,
        attempt=row.attempts + 1,
        state=DeliveryState.ACCEPTED,
        content_sent=True,
        stage="dot",
        code=250,
        text="2.0.0 queued as 4F2",
        relay="relay[127.0.0.1]:25",
        took_ms=12,
    )
    return replace(record, **changes)


def outcome(row: Claimed, state: DeliveryState, **changes: Any) -> Record:
    return replace(accepted(row), state=state, code=None, text="", **changes)


async def record(db: Database, session: OpenedSession, *records: Record) -> Flushed:
    return await sessions.flush(db, session, arm=[], record=records)


async def rows_by_state(db: Database, campaign: CampaignId) -> dict[DeliveryState, int]:
    """By counting the rows."""
    rows = await sql(
        db,
        "SELECT state, count(*) FROM fullsend.delivery WHERE campaign_id = %s GROUP BY 1",
        campaign,
    )
    return {DeliveryState(state): count for state, count in rows}


async def counts(db: Database, campaign: CampaignId) -> dict[DeliveryState, int]:
    """By the counters; states nobody is in are left out."""
    view = await campaigns.observe(db, campaign, session_lease_seconds=60)
    return {state: view.counts[state] for state in DeliveryState if view.counts[state]}


async def state_of(db: Database, campaign: CampaignId, seq: int) -> DeliveryState:
    rows = await sql(db, "SELECT state FROM fullsend.delivery WHERE campaign_id = %s AND seq = %s", campaign, seq)
    return DeliveryState(rows[0][0])


async def sql(db: Database, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Plain SQL, for what tests look at or tamper with."""
    async with db.connection() as connection:
        cursor = await connection.execute(statement.encode(), params or None)
        return await cursor.fetchall() if cursor.description else []
