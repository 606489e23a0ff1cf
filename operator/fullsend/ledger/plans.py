"""Planning: an audience becomes rows, once, and the seal says how many and which.

A plan generation is written in chunks while it runs and becomes what the campaign owes only when sealed. Invariants:

- One running plan a campaign; beginning another discards it, and its writer finds out at its next chunk.
- Nothing of an unsealed plan can be claimed, counted or proved (``campaign.sealed_seq`` bounds them all).
- ``rows_read == inserted + duplicates`` and ``inserted`` equals the rows there are: checked by query at the seal.
- Sealed sequence numbers are dense from 1, over all sealed generations.
- The first copy of an identity in the source's order wins; a suppression on any copy suppresses the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from fullsend.errors import LedgerError, SessionFenced
from fullsend.ledger.database import Connection, Database, unknown_campaign
from fullsend.ledger.mapping import plan_of
from fullsend.ledger.named import query
from fullsend.ledger.view import Phase, PlanView
from fullsend.states import CampaignId, DeliveryState

CHUNK: Final = 10_000
"""Rows a transaction. Backend CPU a row, over 60,000 rows (bench/ledger.py): 8.6 us at 1,000, 7.5 at 5,000, 7.5 at
10,000, 9.8 at 20,000; this process spends 14 us whatever the chunk."""

_SUPPRESS_CHUNK: Final = 50_000
_DELETE_CHUNK: Final = 5_000


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One row of the source. ``variables`` is JSON text, kept as it is; ``source_status`` is the source's own word for
    this person ("" where it has none); ``reason`` says why a row is suppressed or invalid."""

    address: str
    identity_hash: bytes
    domain: str
    variables: str
    token: str
    source: str
    source_row: int
    source_status: str = ""
    state: Literal[DeliveryState.PENDING, DeliveryState.SUPPRESSED, DeliveryState.INVALID] = DeliveryState.PENDING
    reason: str = ""


async def begin_plan(db: Database, campaign: CampaignId, *, lists: Sequence[str] = ()) -> int:
    """Starts a plan and returns its generation; a running one is discarded and its rows are removed.

    ``lists`` names the tenant's lists the audience is drawn from: their own suppressions bind the campaign, at the seal
    and whenever a row is armed. Raises LedgerError where the campaign takes no more plans (finished or purged).
    """

    async def start(connection: Connection) -> int | None:
        lock = await connection.execute(query("lock_plan_for_start"), {"campaign": campaign})
        row = await lock.fetchone()
        if row is None:
            raise unknown_campaign(campaign)
        _, phase, sealed_seq = row
        if Phase(phase) not in (Phase.REGISTERED, Phase.SENDING):
            raise LedgerError(f"Campaign {campaign} is {phase}: it takes no new plan.")
        await connection.execute(query("discard_running_plans"), {"campaign": campaign})
        left = await connection.execute(query("unsealed_left"), {"campaign": campaign, "sealed_seq": sealed_seq})
        if await left.fetchone() == (True,):
            return None
        made = await (await connection.execute(query("start_plan"), {"campaign": campaign})).fetchone()
        assert made is not None
        await connection.execute(query("note_plan_lists"), {"campaign": campaign, "lists": list(lists)})
        return int(made[0])

    while (generation := await db.transaction(start)) is None:
        await _delete_unsealed(db, campaign)
    return generation


async def heartbeat_plan(db: Database, campaign: CampaignId, generation: int) -> bool:
    """The planner is alive. False once the plan no longer runs: the planner must stop."""
    return await db.fetch_one("heartbeat_plan", {"campaign": campaign, "generation": generation}) is not None


async def add_rows(db: Database, campaign: CampaignId, generation: int, rows: Iterable[PlanRow]) -> int:
    """Adds rows in the source's order, committed a chunk at a time; returns how many were read.

    Raises SessionFenced where the plan was discarded by another one.
    """
    total = 0
    source = iter(rows)
    while chunk := list(islice(source, CHUNK)):
        await _add_chunk(db, campaign, generation, chunk)
        total += len(chunk)
    return total


async def _add_chunk(db: Database, campaign: CampaignId, generation: int, rows: Sequence[PlanRow]) -> None:
    columns = {
        "addresses": [row.address for row in rows],
        "hashes": [row.identity_hash for row in rows],
        "domains": [row.domain for row in rows],
        "variables": [row.variables for row in rows],
        "tokens": [row.token for row in rows],
        "sources": [row.source for row in rows],
        "source_rows": [row.source_row for row in rows],
        "statuses": [row.source_status for row in rows],
        "states": [row.state.value for row in rows],
        "reasons": [row.reason for row in rows],
    }
    key = {"campaign": campaign, "generation": generation}

    async def work(connection: Connection) -> None:
        tenant, sealed_seq, _, inserted = await _lock_running(connection, campaign, generation)
        added = await connection.execute(
            query("add_plan_rows"),
            {**key, **columns, "tenant": tenant, "after": sealed_seq + inserted, "sealed_seq": sealed_seq},
        )
        row = await added.fetchone()
        assert row is not None
        await connection.execute(query("count_plan_chunk"), {**key, "read": row[0], "fresh": row[1]})

    await db.transaction(work)


async def seal_plan(
    db: Database,
    campaign: CampaignId,
    generation: int,
    *,
    compiled: bytes,
    rows_read: int,
    render_checked: int,
    render_failed: int,
) -> PlanView:
    """Joins the suppressions, checks the numbers against the rows, and opens the campaign for sending.

    ``rows_read`` is the planner's own count; where it is not the ledger's the plan is not sealed (LedgerError). Raises
    SessionFenced where the plan was discarded by another one.
    """
    key = {"campaign": campaign, "generation": generation}

    async def running(connection: Connection) -> tuple[int, int, int, int]:
        return await _lock_running(connection, campaign, generation)

    tenant, after, ledger_rows_read, inserted = await db.transaction(running)
    if ledger_rows_read != rows_read:
        raise LedgerError(
            f"The planner read {rows_read} rows and the ledger has {ledger_rows_read} of them: the plan is not sealed."
        )
    await _suppress(db, campaign, generation, after, after + inserted)
    measured = (await db.unit(("measure_planned_rows", {**key, "after": after})))[0][0]
    rows, digest, first, last, pending, suppressed, invalid = measured
    if (rows, pending + suppressed + invalid) != (inserted, inserted) or (
        inserted and (first, last) != (after + 1, after + inserted)
    ):
        raise LedgerError(
            f"Plan {generation} of campaign {campaign} should have {inserted} rows from {after + 1} on, and has {rows} "
            f"from {first} to {last}: the plan is not sealed."
        )

    async def seal(connection: Connection) -> PlanView:
        await connection.execute(query("lock_plan_for_start"), {"campaign": campaign})
        sealed = await connection.execute(
            query("seal_plan"),
            {
                **key,
                "invalid": invalid,
                "suppressed": suppressed,
                "digest": digest,
                "render_checked": render_checked,
                "render_failed": render_failed,
            },
        )
        row = await sealed.fetchone()
        if row is None:
            raise _discarded(campaign, generation)
        opened = await connection.execute(
            query("open_campaign_for_sending"),
            {"campaign": campaign, "compiled": compiled, "sealed_seq": after + inserted},
        )
        if await opened.fetchone() is None:
            raise LedgerError(f"Campaign {campaign} ended while its plan was made: the plan is not sealed.")
        await connection.execute(
            query("add_planned_counts"),
            {
                "campaign": campaign,
                "tenant": tenant,
                "pending": pending,
                "suppressed": suppressed,
                "invalid": invalid,
            },
        )
        return plan_of(row[0])

    return await db.transaction(seal)


async def fail_plan(db: Database, campaign: CampaignId, generation: int, reason: str, message: str) -> None:
    """Ends a plan that could not be made: ``reason`` is a stable CamelCase word, ``message`` is for a person."""
    failed, _ = await db.unit(
        (
            "fail_plan",
            {
                "campaign": campaign,
                "generation": generation,
                "reason": reason,
                "message": message.replace("\x00", ""),
            },
        ),
        ("bump_revision", {"campaign": campaign}),
    )
    if failed:
        await _delete_unsealed(db, campaign)


async def _suppress(db: Database, campaign: CampaignId, generation: int, after: int, last: int) -> None:
    for start in range(after, last, _SUPPRESS_CHUNK):

        async def work(connection: Connection, start: int = start) -> None:
            await _lock_running(connection, campaign, generation)
            await connection.execute(
                query("suppress_planned_chunk"),
                {"campaign": campaign, "after": start, "upto": min(start + _SUPPRESS_CHUNK, last)},
            )

        await db.transaction(work)


async def _lock_running(connection: Connection, campaign: CampaignId, generation: int) -> tuple[int, int, int, int]:
    """Tenant, last sealed seq, rows read and inserted so far of the running plan, under its lock."""
    cursor = await connection.execute(query("lock_running_plan"), {"campaign": campaign, "generation": generation})
    row = await cursor.fetchone()
    if row is None:
        raise _discarded(campaign, generation)
    tenant, after, rows_read, inserted = row
    return tenant, after, rows_read, inserted


async def _delete_unsealed(db: Database, campaign: CampaignId) -> None:
    while True:
        [[(deleted,)]] = await db.unit(("delete_unsealed_chunk", {"campaign": campaign, "chunk": _DELETE_CHUNK}))
        if not deleted:
            return


def _discarded(campaign: CampaignId, generation: int) -> SessionFenced:
    return SessionFenced(f"Plan {generation} of campaign {campaign} no longer runs: another plan took its place.")
