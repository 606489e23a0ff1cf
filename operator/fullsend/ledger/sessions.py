"""A sender's session: its identity in the ledger, the rows in its hands, and the grants it works within.

Invariants: every write of a session first locks the session's row and finds it live, in the same transaction, in a
ledger that is no older than what the session was told; fencing takes the same lock first, so whatever a fence ended
stays ended. A claim is given back, armed or settled: no row is
left in the hands of a session that has ended. Claims never skip a row for good: a fresh row that was locked at the
moment is found again from a lower mark, a row given back becomes due.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from psycopg.rows import TupleRow

from fullsend.errors import LedgerWentBack, SessionFenced
from fullsend.ledger.database import Database, utc, utc_or_none
from fullsend.ledger.flush import Arm, Flushed, Record, flush, in_session, still_meant
from fullsend.ledger.mapping import breaker_of, counts_of
from fullsend.ledger.sweeps import SweepResult, close_session, fence, sweep
from fullsend.ledger.view import BreakerView, Counts, Phase
from fullsend.states import CampaignId, DeliveryState, Seq, SessionId

__all__ = [
    "SESSION_LEASE_SECONDS",
    "Arm",
    "Claimed",
    "Flushed",
    "Granted",
    "Heartbeat",
    "OpenedSession",
    "Record",
    "SweepResult",
    "Told",
    "claim_due",
    "claim_fresh",
    "close_session",
    "fence",
    "flush",
    "give_back",
    "grant",
    "heartbeat",
    "held",
    "learn_connections",
    "open_session",
    "return_tokens",
    "still_meant",
    "sweep",
]

SESSION_LEASE_SECONDS: Final = 60.0
"""How long a silent session keeps its rows. Longer than a lost connection takes to be noticed and opened again (25 s,
see ``database``), short enough that the rows of a dead sender wait little."""

SILENT: Final = 5.0
"""Seconds without a heart-beat, of which there is one a second, after which a session has no share in what a breaker
leaves of the connections. Where that is one, a killed or frozen sender would keep it from the others for its lease."""

_NO_BOUND: Final = 2**62


@dataclass(slots=True)
class Told:
    """What the ledger told a session: the highest revision of the session's own counters, with every unit, and of the
    whole campaign, with every heart-beat (what other senders did is known a beat later).

    Only what was answered counts, so a commit in doubt proves nothing. A ledger that knows less is another, older one
    (a failover to a replica that lagged, a restored backup): ``went_back`` then says so, for good.
    """

    revision: int = 0
    campaign_revision: int = 0
    went_back: str = ""

    def hear(self, rows: Sequence[TupleRow]) -> None:
        """What a statement that moves rows answered: each ends with the counters' revision after it."""
        for row in rows[:1]:
            self.revision = max(self.revision, row[-1])

    def hear_of_campaign(self, revision: int) -> None:
        """Raises LedgerWentBack where it is behind what was heard before."""
        if revision < self.campaign_revision:
            self.went_back = (
                f"The ledger is older than it was: the campaign is at revision {revision} here, and this sender was "
                f"told {self.campaign_revision} before."
            )
            self.check()
        self.campaign_revision = revision

    def check(self) -> None:
        if self.went_back:
            raise LedgerWentBack(self.went_back)


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """``started_at`` tells it from the session that an older ledger may open under the same number."""

    id: SessionId
    started_at: datetime
    campaign: CampaignId
    tenant: int
    lease_seconds: float
    told: Told = field(default_factory=Told, compare=False)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a sender obeys until its next heart-beat. ``live`` False: the session was fenced. ``connections``: how many
    it may hold, of those of its transport. ``rank`` is its place, from 0, by age, among the campaign's sessions that
    are ``beating``, not silent: what the campaign alone is left with is shared by it."""

    live: bool
    phase: Phase
    control: Mapping[str, Any]
    control_revision: int
    breaker: BreakerView
    now: datetime
    counts: Counts
    connections: int
    beating: int
    rank: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row in this session's hands. ``attempts`` counts arms, ``charges`` the failures that were the recipient's own,
    the first of which was at ``charged_since``."""

    seq: Seq
    address: str
    identity_hash: bytes
    variables: str
    token: str
    domain: str
    attempts: int
    unknowns: int
    charges: int
    charged_since: datetime | None


@dataclass(frozen=True, slots=True)
class Granted:
    """``messages`` may be armed; where it is fewer than wanted, ask again after ``retry_after`` seconds."""

    messages: int
    retry_after: float


async def open_session(
    db: Database, campaign: CampaignId, *, wave: int, holder: str, connections: int
) -> OpenedSession | None:
    """A new session; None where the campaign is not sending."""
    row = await db.fetch_one(
        "open_session", {"campaign": campaign, "wave": wave, "holder": holder, "connections": connections}
    )
    if row is None:
        return None
    return OpenedSession(SessionId(row["id"]), row["started_at"], campaign, row["tenant_id"], SESSION_LEASE_SECONDS)


async def heartbeat(
    db: Database, session: OpenedSession, *, connections: int = 0, opening: int = 0, reply_ms: int | None = None
) -> Heartbeat:
    """Extends the lease and tells what to obey. ``connections``: how many the session has open; ``opening``: how many
    more it is connecting; ``reply_ms``: how long the relay takes to answer, of late. Raises LedgerWentBack."""
    _, (_, [(allowed,)], seen) = await in_session(
        db,
        session,
        ("heartbeat_session", {"session": session.id, "connections": connections, "reply_ms": reply_ms}),
        ("share_connections", {"session": session.id, "open": connections + opening}),
        ("session_sees", {"session": session.id, "silent": SILENT}),
    )
    live, phase, control, control_revision, breaker, now, beating, rank, counts, revision = seen[0]
    session.told.hear_of_campaign(revision)
    return Heartbeat(
        live=live,
        phase=Phase(phase),
        control=control,
        control_revision=control_revision,
        breaker=breaker_of(breaker),
        now=utc(now),
        counts=counts_of(counts),
        connections=allowed,
        beating=beating,
        rank=rank,
    )


async def claim_fresh(
    db: Database, session: OpenedSession, *, after: Seq, limit: int, fresh_limit: int | None
) -> list[Claimed]:
    """The next pending rows beyond ``after``, in order; rows that others have locked are skipped.

    ``fresh_limit`` bounds them to the first N eligible recipients of the sealed plans. Empty does not mean done.
    Raises SessionFenced.
    """
    bound = _NO_BOUND if fresh_limit is None else await _fresh_bound(db, session.campaign, fresh_limit)
    return await _claim(db, "claim_fresh", session, {"after": after, "limit": limit, "bound": bound})


async def claim_due(db: Database, session: OpenedSession, *, limit: int) -> list[Claimed]:
    """Deferred and unknown rows whose time has come, oldest first; of these, whose resends are used up are held and not
    among them. Raises SessionFenced."""
    return await _claim(db, "claim_due", session, {"limit": limit})


async def _claim(db: Database, name: str, session: OpenedSession, params: Mapping[str, Any]) -> list[Claimed]:
    key = {"session": session.id, "campaign": session.campaign, "tenant": session.tenant}
    live, (_, rows) = await in_session(db, session, ("walk_in_order", {}), (name, {**key, **params}))
    if not live:
        raise SessionFenced(f"Session {session.id} was fenced: nothing more may be claimed or armed under it.")
    session.told.hear(rows)
    return [_claimed(row) for *row, is_held, _ in rows if not is_held]


def _claimed(row: Sequence[Any]) -> Claimed:
    seq, address, identity_hash, variables, token, domain, attempts, unknowns, charges, charged_since = row
    return Claimed(
        seq, address, identity_hash, variables, token, domain, attempts, unknowns, charges, utc_or_none(charged_since)
    )


async def _fresh_bound(db: Database, campaign: CampaignId, first: int) -> int:
    """The seq of the ``first``-th eligible recipient. Sealed rows never change, so it is looked up once; where there
    are not that many, a later plan may still add them."""
    if first <= 0:
        return 0
    known = db.fresh_bounds.get((campaign, first))
    if known is not None:
        return known
    [[(sealed_seq,)]] = await db.unit(("sealed_seq", {"campaign": campaign}))
    row = await db.fetch_one("fresh_bound", {"campaign": campaign, "sealed_seq": sealed_seq, "skip": first - 1})
    if row is None:
        return int(sealed_seq)
    db.fresh_bounds[(campaign, first)] = row["seq"]
    return int(row["seq"])


async def give_back(db: Database, session: OpenedSession, seqs: Sequence[Seq]) -> int:
    """Claimed rows that will not be armed after all: due now, uncharged. Rows that are not in this session's hands are
    left alone. Returns how many were given back. Raises SessionFenced."""
    key = {"session": session.id, "campaign": session.campaign, "tenant": session.tenant}
    live, (rows,) = await in_session(db, session, ("give_back", {**key, "seqs": list(seqs)}))
    if not live:
        raise SessionFenced(f"Session {session.id} was fenced: others have its rows.")
    given_back = int(rows[0][0])
    if given_back:
        session.told.hear(rows)
    return given_back


async def held(db: Database, session: OpenedSession) -> list[tuple[Seq, DeliveryState]]:
    """What the session holds as the ledger has it: after a lost connection, whether a commit happened. Waits for a
    server process that may still be at work on it. Raises SessionFenced."""
    live, (rows,) = await in_session(db, session, ("held_rows", {"session": session.id}))
    if not live:
        raise SessionFenced(f"Session {session.id} was fenced: what it held is no longer its own.")
    return [(Seq(seq), DeliveryState(state)) for seq, state, _ in rows]


async def grant(db: Database, session: OpenedSession, want: int) -> Granted:
    """Up to ``want`` more messages within the campaign's, the transport's and the pool's rates. They belong to the
    session and are spent when it arms. Raises SessionFenced."""
    live, ([(_, granted, retry_after)],) = await in_session(
        db, session, ("grant_tokens", {"session": session.id, "want": want})
    )
    if not live:
        raise SessionFenced(f"Session {session.id} was fenced: nothing more is granted to it.")
    return Granted(granted, retry_after)


async def return_tokens(db: Database, session: OpenedSession) -> None:
    """Gives back what was granted and not spent. A session that is dead keeps it: what it spent is not known."""
    await db.unit(("return_tokens", {"session": session.id}))


async def learn_connections(db: Database, session: OpenedSession, *, open_: int, message: str) -> int:
    """The relay has refused a connection because there are too many. Returns how many are open over all senders, which
    is what it takes from now on; 0: none, so it is not ours that are too many."""
    [[(total,)]] = await db.unit(("learn_connections", {"session": session.id, "open": open_, "message": message}))
    return int(total)
