"""Rows that end by a decision on the whole campaign (a deadline, a cancellation), and rows a person reopens.

Both walk the rows by key in chunks, each its own transaction, because one over a million rows would stall the counters
of every sender. Both may be cut short and called again: ending takes only rows that still wait, and a reopen keeps its
place in the request, so that a row it reopened once and that ended anew is not reopened twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fullsend.errors import SessionFenced
from fullsend.ledger.database import Connection, Database, unknown_campaign
from fullsend.ledger.flush import guarding
from fullsend.ledger.named import query
from fullsend.ledger.view import FINISHED, Phase
from fullsend.states import REOPENABLE, TRANSITIONS, CampaignId, DeliveryState

if TYPE_CHECKING:
    from fullsend.ledger.sessions import OpenedSession

_WAITING: Final = frozenset({DeliveryState.PENDING, DeliveryState.DEFERRED, DeliveryState.UNKNOWN})
_REOPEN_CHUNK: Final = 5_000


async def end_rows(
    db: Database,
    campaign: CampaignId,
    from_states: Collection[DeliveryState],
    to_state: DeliveryState,
    reason: str,
    chunk: int = 5_000,
) -> int:
    """Moves waiting rows of a sending campaign to an end state; returns how many.

    Rows in a session's hands are not touched: stop the senders first and call again while rows are open.
    """
    for state in from_states:
        if state not in _WAITING or to_state not in TRANSITIONS[state]:
            raise ValueError(f"a {state} row cannot be made {to_state} this way")
    params = {
        "campaign": campaign,
        "states": sorted(state.value for state in from_states),
        "becomes": to_state.value,
        "reason": reason,
        "chunk": chunk,
    }
    total = after = 0
    while True:
        [[(count, last, _)]] = await db.unit(("end_rows_chunk", {**params, "after": after}))
        total += int(count)
        if count < chunk:
            return total
        after = last


async def request_reopen(
    db: Database,
    campaign: CampaignId,
    *,
    id: str,
    states: Collection[DeliveryState],
    identities: Sequence[bytes] | None = None,
) -> bool:
    """Notes a wish to retry ended rows: those in ``states``, of everybody or of the given identity hashes only.

    Idempotent by ``id``; False where that id was asked before. Nothing moves until ``carry_out_reopen``.
    """
    for state in states:
        if state not in REOPENABLE:
            raise ValueError(f"{state} rows cannot be reopened")
    [[(asked,)]] = await db.unit(
        (
            "request_reopen",
            {
                "campaign": campaign,
                "id": id,
                "states": sorted(state.value for state in states),
                "identities": None if identities is None else list(identities),
            },
        )
    )
    return bool(asked)


async def reopen_run(db: Database, campaign: CampaignId, *, halt_id: str, halted_at: datetime) -> int:
    """Retries whom the relay refused in the run that led to a halt which was not about them: since the last message it
    accepted before it, by whichever sender. Reads the campaign's rows; idempotent by the halt."""
    rows = await db.fetch("refused_in_the_run", {"campaign": campaign, "halted_at": halted_at})
    if not rows:
        return 0
    identities = [bytes(row["identity_hash"]) for row in rows]
    await request_reopen(db, campaign, id=f"halt-{halt_id}", states=[DeliveryState.REJECTED], identities=identities)
    return await carry_out_reopen(db, campaign)


async def reopen_refused(db: Database, session: OpenedSession, *, id: str, identities: Sequence[bytes]) -> int:
    """A sender's own wish: retries the few whose refusal turned out to be everybody's trouble. In one transaction with
    the proof that the session is live and the campaign sends, so that a sender that comes too late opens nothing that
    was finished meanwhile (0 then). Raises SessionFenced."""

    async def work(connection: Connection) -> int:
        guard = await (await connection.execute(query("lock_session"), guarding(session))).fetchone()
        if guard != (True,):
            raise SessionFenced(f"Session {session.id} was fenced: it reopens nothing.")
        row = await (await connection.execute(query("lock_reopen"), {"campaign": session.campaign})).fetchone()
        if row is None or Phase(row[2]) is not Phase.SENDING:
            return 0
        tenant, sealed_seq, _ = row
        key = {"campaign": session.campaign, "id": id}
        asked = {**key, "states": [DeliveryState.REJECTED.value], "identities": list(identities)}
        await connection.execute(query("request_reopen"), asked)
        # One row more than there can be: the chunk is the last, and the request done.
        chunk = {**key, "tenant": tenant, "sealed_seq": sealed_seq, "chunk": len(identities) + 1}
        moved = await (await connection.execute(query("reopen_chunk"), chunk)).fetchone()
        return 0 if moved is None else int(moved[0])

    return await db.transaction(work)


async def carry_out_reopen(db: Database, campaign: CampaignId) -> int:
    """Carries out the campaign's open requests, oldest first: the rows become deferred, due now, and a finished
    campaign sends again. Returns how many rows were reopened. A purged campaign's requests end without effect."""
    total = 0
    while (request := await db.fetch_one("next_reopen", {"campaign": campaign})) is not None:
        done = False
        while not done:
            count, done = await _reopen_chunk(db, campaign, request["id"])
            total += count
    return total


async def _reopen_chunk(db: Database, campaign: CampaignId, request: str) -> tuple[int, bool]:
    async def work(connection: Connection) -> tuple[int, bool]:
        row = await (await connection.execute(query("lock_reopen"), {"campaign": campaign})).fetchone()
        if row is None:
            raise unknown_campaign(campaign)
        tenant, sealed_seq, phase = row
        key = {"campaign": campaign, "id": request}
        if Phase(phase) in (Phase.PURGED, Phase.REGISTERED):
            await connection.execute(query("refuse_reopen"), key)
            return 0, True
        if Phase(phase) in FINISHED:
            await connection.execute(query("reopen_phase"), {"campaign": campaign})
        cursor = await connection.execute(
            query("reopen_chunk"), {**key, "tenant": tenant, "sealed_seq": sealed_seq, "chunk": _REOPEN_CHUNK}
        )
        moved = await cursor.fetchone()
        return (0, True) if moved is None else (moved[0], moved[1])

    return await db.transaction(work)
