"""What is counted of campaigns and transports for those who watch them from outside (``/metrics``).

Everything comes from counters that the ledger keeps while it changes rows, so what a sender that has ended did is not
lost, and asking costs the same at ten recipients and at ten million. Invariant: the numbers of attempts only grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fullsend.ledger.database import Database, utc, utc_or_none
from fullsend.ledger.mapping import breaker_of, counts_of
from fullsend.ledger.view import BreakerView, Counts, Phase

FINISHED_FOR: Final = 86400.0
"""Seconds for which a campaign that has ended is still told: long enough for a scrape, and for whoever comes back
in the morning."""
OWNED_FOR: Final = 3600.0
"""Seconds after its owner's last heart-beat for which an unfinished campaign is told: one whose object was deleted
stays unfinished for ever."""
MOST: Final = 1000
"""Campaigns told at most; each is some thirty series."""
OUTCOMES: Final = ("accepted", "rejected", "deferred", "unknown")
"""Of an attempt. ``deferred``: to be tried again, or tried long enough; ``unknown``: no final reply came (one that
turns out to have been accepted is counted there as well)."""


@dataclass(frozen=True, slots=True)
class CampaignFigures:
    """``attempts`` by OUTCOMES. ``open_since``: when the plan was sealed, as long as anybody is open."""

    tenant: str
    name: str
    ledger_key: str
    transport: str
    phase: Phase
    stopped: bool
    counts: Counts
    attempts: Mapping[str, int]
    duplicates_possible: int
    senders: int
    breaker: BreakerView
    now: datetime
    open_since: datetime | None
    last_settled_at: datetime | None
    deadline: datetime | None
    proof_holds: bool | None


@dataclass(frozen=True, slots=True)
class TransportFigures:
    """``took``: attempts that were answered, by duration as in ``flush.TOOK_UP_TO``; ``allowed``: connections of a
    campaign that is under way, None where there is none; ``learned``: what the relay has said that it takes."""

    tenant: str
    transport: str
    connections: int
    allowed: int | None
    learned: int | None
    took_ms: int
    took: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    campaigns: tuple[CampaignFigures, ...]
    transports: tuple[TransportFigures, ...]
    phases: Mapping[Phase, int]


async def figures(db: Database) -> Figures:
    """Of all tenants. Raises LedgerError."""
    bounds = {"finished_for": FINISHED_FOR, "owned_for": OWNED_FOR, "limit": MOST}
    return Figures(
        campaigns=tuple([_campaign(row) for row in await db.fetch("figures_of_campaigns", bounds)]),
        transports=tuple(
            TransportFigures(
                tenant=row["tenant"],
                transport=row["transport"],
                connections=row["in_use"],
                allowed=row["allowed"],
                learned=row["learned"],
                took_ms=row["took_ms"],
                took=tuple(row["took"]),
            )
            for row in await db.fetch("figures_of_transports")
        ),
        phases={Phase(row["phase"]): row["count"] for row in await db.fetch("campaigns_by_phase")},
    )


def _campaign(row: Mapping[str, Any]) -> CampaignFigures:
    counts = counts_of(row["counts"])
    return CampaignFigures(
        tenant=row["tenant"],
        name=row["name"],
        ledger_key=row["ledger_key"],
        transport=row["transport"] or "",
        phase=Phase(row["phase"]),
        stopped=row["stopped"],
        counts=counts,
        attempts={outcome: row[f"tried_{outcome}"] for outcome in OUTCOMES},
        duplicates_possible=row["resent"],
        senders=row["sessions"],
        breaker=breaker_of(row["breaker"]),
        now=utc(row["now"]),
        open_since=utc_or_none(row["sealed_at"]) if counts.open else None,
        last_settled_at=utc_or_none(row["last_settled_at"]),
        deadline=utc_or_none(row["deadline"]),
        proof_holds=row["proof_holds"],
    )
