"""The end of sessions: fencing the dead, sweeping up what they held, closing the living.

Fencing updates the session's row first and commits; only then are its rows swept, in chunks, each under the lock of
that row. So whatever a sender does afterwards waits, and finds itself fenced. Any number of sweepers may work on the
same session and any may die: the next one goes on where it stopped, because a fenced session is ended only when no
row is left in its hands.

A row that was armed becomes ``unknown`` (its attempt is noted, so that a late ``accepted`` can be matched), or ``held``
beyond the resends allowed; a claimed one becomes due at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fullsend.ledger.database import Connection, Database
from fullsend.ledger.flush import in_session
from fullsend.ledger.named import query
from fullsend.states import CampaignId, SessionId

if TYPE_CHECKING:
    from fullsend.ledger.sessions import OpenedSession

UNKNOWN_DELAY_SECONDS: Final = 60.0
"""How long an unknown row waits before it is sent again: time for a frozen sender's late ``accepted``."""

_CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Sessions ended by this sweep, and what became of their rows."""

    fenced: tuple[SessionId, ...]
    given_back: int
    unknown: int
    held: int


async def sweep(
    db: Database,
    campaign: CampaignId,
    *,
    lease_seconds: float,
    max_unknown_resends: int,
    unknown_delay: float = UNKNOWN_DELAY_SECONDS,
) -> SweepResult:
    """Fences the campaign's silent sessions and sweeps up their rows; also finishes a sweep that was cut short."""
    fenced: list[SessionId] = []
    totals = (0, 0, 0)
    for row in await db.fetch("sessions_to_sweep", {"campaign": campaign, "lease": lease_seconds}):
        session = SessionId(row["id"])
        swept = await _end(
            db, session, "lease expired", max_unknown_resends, unknown_delay, lease_seconds=lease_seconds
        )
        if swept is not None:
            fenced.append(session)
            totals = (totals[0] + swept[0], totals[1] + swept[1], totals[2] + swept[2])
    return SweepResult(tuple(fenced), *totals)


async def fence(
    db: Database,
    session: SessionId,
    max_unknown_resends: int,
    *,
    unknown_delay: float = UNKNOWN_DELAY_SECONDS,
    reason: str = "fenced",
) -> SweepResult:
    """Ends a session now, whatever its heart-beat says."""
    swept = await _end(db, session, reason, max_unknown_resends, unknown_delay, lease_seconds=None)
    return SweepResult((), 0, 0, 0) if swept is None else SweepResult((session,), *swept)


async def close_session(db: Database, session: OpenedSession, reason: str) -> SweepResult:
    """Ends the caller's own session: unspent tokens return to their buckets, claimed rows are due at once, and a row
    still armed is unknown from here on. Closing twice, or after a fence, does nothing more. Raises LedgerWentBack, and
    closes nothing, in a ledger older than what the session was told."""
    key = {"session": session.id, "campaign": session.campaign}
    _, ([(resends,)], _) = await in_session(db, session, ("max_unknown_resends", key), ("return_tokens", key))
    return await fence(db, session.id, resends, reason=reason)


async def _end(
    db: Database,
    session: SessionId,
    reason: str,
    max_unknown_resends: int,
    unknown_delay: float,
    *,
    lease_seconds: float | None,
) -> tuple[int, int, int] | None:
    """Fences, sweeps and ends one session. None where it is alive after all, or had ended."""
    await db.unit(("fence_session", {"session": session, "lease": lease_seconds}))
    totals = (0, 0, 0)
    while True:
        swept = await _sweep_chunk(db, session, reason, max_unknown_resends, unknown_delay)
        if swept is None:
            return None
        *moved, ended = swept
        totals = (totals[0] + moved[0], totals[1] + moved[1], totals[2] + moved[2])
        if ended:
            return totals


async def _sweep_chunk(
    db: Database, session: SessionId, reason: str, max_unknown_resends: int, unknown_delay: float
) -> tuple[int, int, int, bool] | None:
    async def work(connection: Connection) -> tuple[int, int, int, bool] | None:
        locked = await (await connection.execute(query("lock_fenced_session"), {"session": session})).fetchone()
        if locked is None:
            return None
        campaign, tenant = locked
        key = {"session": session, "campaign": campaign, "tenant": tenant}
        cursor = await connection.execute(
            query("sweep_chunk"),
            {
                **key,
                "chunk": _CHUNK,
                "reason": "SessionEnded",
                "max_unknown_resends": max_unknown_resends,
                "unknown_delay": unknown_delay,
            },
        )
        row = await cursor.fetchone()
        assert row is not None
        given_back, unknown, held, _ = row
        ended = given_back + unknown + held < _CHUNK
        if ended:
            await connection.execute(query("end_session"), {"session": session, "reason": reason})
            await connection.execute(query("fold_counters"), key)
        return given_back, unknown, held, ended

    return await db.transaction(work)
