"""What a person asks of the ledger: the whole campaign, who is missing, and why one recipient is where they are.

Nothing that happened to a recipient is only in a log: each answer here is from rows. These read many rows, so they are
for people, never for a tick.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fullsend.ledger.campaigns import observe
from fullsend.ledger.database import Database, utc, utc_or_none
from fullsend.ledger.suppressions import Scope
from fullsend.ledger.view import LedgerView
from fullsend.states import CampaignId, DeliveryState, Seq

TOP_REPLIES: Final = 20  # a state
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many rows are in a state for a reason ("" where the state says it all)."""

    state: DeliveryState
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class ReplyCount:
    """What relays last said to rows in a state. ``code`` is None where the text is not an SMTP reply."""

    state: DeliveryState
    code: int | None
    enhanced: str
    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """``view`` carries counts, plan, proof and possible duplicates. ``messages_per_second`` is over the time between
    the first and the last acceptance; None where there is no such time."""

    view: LedgerView
    reasons: tuple[ReasonCount, ...]
    replies: tuple[ReplyCount, ...]
    first_accepted_at: datetime | None
    last_accepted_at: datetime | None
    messages_per_second: float | None


@dataclass(frozen=True, slots=True)
class MissingRow:
    """``address`` is None once erased."""

    seq: Seq
    address: str | None
    state: DeliveryState
    reason: str
    attempts: int
    next_attempt_at: datetime | None
    last_code: int | None
    last_text: str


@dataclass(frozen=True, slots=True)
class AttemptStory:
    attempt: int
    armed_at: datetime
    recorded_at: datetime
    state: DeliveryState
    reason: str
    charged: bool
    content_sent: bool
    stage: str
    code: int | None
    enhanced: str
    text: str
    relay: str
    took_ms: int


@dataclass(frozen=True, slots=True)
class SuppressionStory:
    scope: Scope
    list: str | None
    reason: str
    source: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Story:
    """All the ledger knows of one person in one campaign. ``source_status`` is the source's own word for them."""

    seq: Seq
    address: str | None
    source: str
    source_row: int
    source_status: str
    token: str | None
    generation: int
    state: DeliveryState
    reason: str
    unknowns: int
    next_attempt_at: datetime | None
    charged_since: datetime | None
    since: datetime
    attempts: tuple[AttemptStory, ...]
    suppressions: tuple[SuppressionStory, ...]


async def report(db: Database, campaign: CampaignId) -> Report:
    """The campaign as it is now, by counting its rows."""
    view = await observe(db, campaign, session_lease_seconds=60)
    states = await db.fetch("report_states", {"campaign": campaign})
    replies = await db.fetch("report_replies", {"campaign": campaign, "top": TOP_REPLIES})
    accepted = [row for row in states if row["state"] == DeliveryState.ACCEPTED]
    first = min((utc(row["first"]) for row in accepted), default=None)
    last = max((utc(row["last"]) for row in accepted), default=None)
    seconds = (last - first).total_seconds() if first and last else 0.0
    return Report(
        view=view,
        reasons=tuple(ReasonCount(DeliveryState(row["state"]), row["reason"], row["count"]) for row in states),
        replies=tuple(
            ReplyCount(DeliveryState(row["state"]), row["code"], row["enhanced"], row["text"], row["count"])
            for row in replies
        ),
        first_accepted_at=first,
        last_accepted_at=last,
        messages_per_second=sum(row["count"] for row in accepted) / seconds if seconds else None,
    )


async def missing(db: Database, campaign: CampaignId) -> AsyncIterator[MissingRow]:
    """Everybody who is not settled, in the plan's order, a page at a time."""
    after = 0
    while rows := await db.fetch("missing_page", {"campaign": campaign, "after": after, "page": _PAGE}):
        for row in rows:
            yield MissingRow(
                seq=Seq(row["seq"]),
                address=row["address"],
                state=DeliveryState(row["state"]),
                reason=row["reason"],
                attempts=row["attempts"],
                next_attempt_at=utc_or_none(row["due_at"]),
                last_code=row["code"],
                last_text=row["text"] or "",
            )
        after = rows[-1]["seq"]


async def why(db: Database, campaign: CampaignId, identity_hash: bytes) -> Story | None:
    """The story of one person, or None where the sealed plan does not have them."""
    row = await db.fetch_one("why_recipient", {"campaign": campaign, "identity": identity_hash})
    if row is None:
        return None
    attempts = await db.fetch("why_attempts", {"campaign": campaign, "seq": row["seq"]})
    suppressions = await db.fetch("why_suppressions", {"campaign": campaign, "identity": identity_hash})
    return Story(
        seq=Seq(row["seq"]),
        address=row["address"],
        source=row["source"],
        source_row=row["source_row"],
        source_status=row["source_status"],
        token=row["token"],
        generation=row["generation"],
        state=DeliveryState(row["state"]),
        reason=row["reason"],
        unknowns=row["unknowns"],
        next_attempt_at=utc_or_none(row["due_at"]),
        charged_since=utc_or_none(row["first_charged_at"]),
        since=utc(row["updated_at"]),
        attempts=tuple(
            AttemptStory(
                **{
                    **attempt,
                    "armed_at": utc(attempt["armed_at"]),
                    "recorded_at": utc(attempt["recorded_at"]),
                    "state": DeliveryState(attempt["state"]),
                }
            )
            for attempt in attempts
        ),
        suppressions=tuple(
            SuppressionStory(Scope(s["scope"]), s["list"], s["reason"], s["source"], utc(s["created_at"]))
            for s in suppressions
        ),
    )
