"""The proof that nobody was missed, and the only door through which a campaign ends.

A proof reads every row of the campaign once, in one REPEATABLE READ snapshot, and compares three independent accounts:
the rows by state, the counters kept while they changed, and the seals written when they were planned (how many, and an
order-independent digest of who). Both tables have (campaign, seq) as their key, so the same count over the same dense
range 1..n on both sides is a pairing of every recipient with exactly one row.

Finishing is a compare-and-set under the campaign's row lock: no session lives (opening one needs a lock that
conflicts), nothing is open, and the revision is the one the proof saw.
"""

from __future__ import annotations

import json
from typing import Any, Final

from psycopg import IsolationLevel
from psycopg.rows import dict_row

from fullsend.ledger.database import Connection, Database, unknown_campaign, utc
from fullsend.ledger.mapping import counts_of, proof_of, proof_to_json
from fullsend.ledger.named import query
from fullsend.ledger.view import FINISHED, Phase, Proof
from fullsend.states import CampaignId, DeliveryState

PLAN_LEASE_SECONDS: Final = 60.0
"""A plan without a heart-beat for this long has no writer any more (as ``reconcile`` sees it too): a top-up that was
cut short must not keep a campaign from its end."""


async def prove(db: Database, campaign: CampaignId) -> Proof:
    """Proves the campaign as it is now and stores the proof on it. Reads every row: for the end of a campaign and for
    audits, never for a tick."""
    await db.unit(("discard_dead_plans", {"campaign": campaign, "lease": PLAN_LEASE_SECONDS}))
    books, rows, recipients = await db.run(lambda connection: _read(connection, campaign))
    proof = _judge(books, rows, recipients)
    await db.unit(
        (
            "store_proof",
            {"campaign": campaign, "proof": json.dumps(proof_to_json(proof)), "revision": books["revision"]},
        )
    )
    return proof


async def _read(connection: Connection, campaign: CampaignId) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    async def one(name: str) -> dict[str, Any]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query(name), {"campaign": campaign})
            row = await cursor.fetchone()
        if row is None:
            raise unknown_campaign(campaign)
        return row

    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    try:
        async with connection.transaction():
            return await one("proof_of_books"), await one("proof_of_rows"), await one("proof_of_recipients")
    finally:
        await connection.set_isolation_level(None)


def _judge(books: dict[str, Any], rows: dict[str, Any], recipients: dict[str, Any]) -> Proof:
    counted, kept = counts_of(rows["counts"]), counts_of(books["counts"])
    sealed_rows, sealed_digest = books["sealed_rows"], str(books["sealed_digest"])
    differences = [
        f"{counted[state]} rows are {state}, the counters say {kept[state]}"
        for state in DeliveryState
        if counted[state] != kept[state]
    ]
    if not books["seals"]:
        differences.append("no plan was sealed")
    for what, seen in (("rows", rows), ("recipients", recipients)):
        if seen["rows"] != sealed_rows:
            differences.append(f"there are {seen['rows']} {what}, {sealed_rows} were sealed")
        elif sealed_rows and (seen["first"], seen["last"]) != (1, sealed_rows):
            differences.append(f"{what} are numbered {seen['first']} to {seen['last']}, not 1 to {sealed_rows}")
    if books["sealed_seq"] != sealed_rows:
        differences.append(f"the campaign's last sealed number is {books['sealed_seq']}, {sealed_rows} were sealed")
    if str(recipients["digest"]) != sealed_digest:
        differences.append(f"the digest of the recipients is {recipients['digest']}, {sealed_digest} was sealed")
    if books["sessions"]:
        differences.append(f"{books['sessions']} sessions have not ended")
    if books["running_plans"]:
        differences.append("a plan is running")
    if counted.open:
        differences.append(f"{counted.open} rows are open")
    return Proof(
        at=utc(books["at"]),
        counts=counted,
        rows=rows["rows"],
        digest=str(recipients["digest"]),
        holds=not differences,
        differences=tuple(differences),
        revision=books["revision"],
    )


def _counts_agree(proof: Proof, stored: Proof | None) -> bool:
    return stored is not None and stored.at == proof.at and stored.counts == proof.counts


async def finish(db: Database, campaign: CampaignId, phase: Phase, proof: Proof) -> bool:
    """Ends the campaign as COMPLETE, FAILED or CANCELLED, if the proof still speaks of what is there.

    COMPLETE needs a proof that holds and a sealed plan; every ending needs that no session lives and nothing is open.
    A plan that still runs is discarded with a cancelled or failed campaign and prevents a complete one. False: look
    again, something changed; true also where the campaign had ended in this phase before.
    """
    if phase not in (Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED):
        raise ValueError(f"a campaign cannot be finished as {phase}")

    async def work(connection: Connection) -> bool:
        row = await (await connection.execute(query("lock_for_finish"), {"campaign": campaign})).fetchone()
        if row is None:
            raise unknown_campaign(campaign)
        current, stored, proof_revision, sealed, planning = row
        if Phase(current) in FINISHED:
            return Phase(current) is phase
        if not _counts_agree(proof, proof_of(stored)):
            return False
        state = await (await connection.execute(query("state_for_finish"), {"campaign": campaign})).fetchone()
        assert state is not None
        revision, sessions, still_open = state
        if revision != proof_revision or sessions or still_open:
            return False
        if phase is Phase.COMPLETE and not (proof.holds and sealed and not planning):
            return False
        await connection.execute(query("discard_running_plans"), {"campaign": campaign})
        await connection.execute(query("finish_campaign"), {"campaign": campaign, "phase": phase.value})
        return True

    return await db.transaction(work)
