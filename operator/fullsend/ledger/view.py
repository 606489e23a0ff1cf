"""What the ledger says, as plain values: the face that ``reconcile``, the shells and the reports look at.

Nothing here touches a database, so the pure core may import it. All times are the database's clock, in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from fullsend.states import MISSING, OPEN, UNDELIVERED, CampaignId, DeliveryState, SessionId


class Phase(StrEnum):
    """How far the ledger's campaign is. Forward only, but for a reopen: COMPLETE/FAILED/CANCELLED -> SENDING."""

    REGISTERED = "registered"  # known by key and fingerprint; no sealed plan yet
    SENDING = "sending"  # a plan is sealed; rows may be claimed
    COMPLETE = "complete"  # proved
    FAILED = "failed"  # ended with people undelivered
    CANCELLED = "cancelled"  # ended by the user for good
    PURGED = "purged"  # a tombstone: key, fingerprint, counts, proof; never sends


FINISHED = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED, Phase.PURGED})


class PlanState(StrEnum):
    """One attempt to read the audience. An unsealed one is discarded, never continued."""

    RUNNING = "running"
    SEALED = "sealed"
    FAILED = "failed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class PlanView:
    """The newest plan generation. ``rows_read == inserted + duplicates`` and ``inserted`` includes invalid rows.

    ``digest`` is order-independent: the sum of the first 8 bytes (signed, big-endian) of every inserted row's
    identity hash, as a decimal string. ``reason``/``message`` say why a plan failed. ``render_failed`` of
    ``render_checked`` sampled recipients could not be rendered.
    """

    generation: int
    state: PlanState
    heartbeat_at: datetime
    rows_read: int = 0
    inserted: int = 0
    duplicates: int = 0
    invalid: int = 0
    suppressed: int = 0
    digest: str = "0"
    render_checked: int = 0
    render_failed: int = 0
    sealed_at: datetime | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Recipients by state; summed from the per-session counters, never by scanning rows."""

    by_state: Mapping[DeliveryState, int] = field(default_factory=dict)

    def __getitem__(self, state: DeliveryState) -> int:
        return self.by_state.get(state, 0)

    @property
    def total(self) -> int:
        return sum(self.by_state.values())

    @property
    def open(self) -> int:
        return sum(self[state] for state in OPEN)

    @property
    def undelivered(self) -> int:
        return sum(self[state] for state in UNDELIVERED)

    @property
    def missing(self) -> int:
        return sum(self[state] for state in MISSING)


@dataclass(frozen=True, slots=True)
class SessionView:
    """A sender's identity that has not ended. ``expired``: its heart-beat is older than the lease, by the
    database's clock, and it may be fenced by anyone."""

    id: SessionId
    wave: int
    holder: str
    started_at: datetime
    heartbeat_at: datetime
    expired: bool
    connections: int
    starved_at: datetime | None = None  # when it last asked for more messages than the rates allowed
    reply_ms: int = 0  # how long the relay takes over a message, of late


class BreakerState(StrEnum):
    CLOSED = "closed"  # all is well
    REDUCED = "reduced"  # fewer connections, halved at each trouble
    PROBING = "probing"  # one connection, one message at a time
    HALTED = "halted"  # nothing is armed until the probe time, or until a person acknowledges


@dataclass(frozen=True, slots=True)
class Blocked:
    """A receiving provider whose recipients wait until a person acknowledges ``id``."""

    provider: str
    id: str
    reason: str
    message: str
    since: datetime
    rejected: int  # of the recent recipients, by which it was judged
    settled: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A halt for rejections, or a block of a provider, that a person has said "go on" to; ``rejected`` by that
    provider when it was blocked."""

    id: str
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class BreakerView:
    """The campaign's circuit breaker.

    ``failures`` counts transport troubles since the last success. ``needs_person`` halts end only by
    ``acknowledgedHalt`` equal to ``halt_id``; others end by themselves at ``next_probe_at``. ``connections`` caps
    the whole campaign (None: no cap). ``blocked`` providers are apart from the state: others are sent to.
    ``acknowledged`` outlives the spec's one field: what a person agreed to is not asked again.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    connections: int | None = None
    reason: str = ""
    message: str = ""
    since: datetime | None = None
    next_probe_at: datetime | None = None
    halt_id: str = ""
    needs_person: bool = False
    blocked: tuple[Blocked, ...] = ()
    acknowledged: tuple[Acknowledged, ...] = ()


@dataclass(frozen=True, slots=True)
class OutletView:
    """What is known of the campaign's transport (or pool) over all campaigns that use it.

    ``learned``: how many connections the relay said it takes, at ``learned_at`` in the words of ``message``; None: it
    never complained, or has taken all that it is allowed since. One more is tried at ``try_more_at``. ``connections``
    are open now, over all campaigns.
    """

    connections: int = 0
    learned: int | None = None
    learned_at: datetime | None = None
    try_more_at: datetime | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """What completion rests on: one query over all rows of the campaign, in one snapshot.

    ``holds`` is true when rows, counters and seal agree and nothing is open; ``differences`` names what does not.
    ``revision`` is the ledger's when the snapshot was taken: while it is still that, nothing has changed since.
    """

    at: datetime
    counts: Counts
    rows: int
    digest: str
    holds: bool
    differences: tuple[str, ...] = ()
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who reconciles a ledger key. ``expired``: the heart-beat is older than the owner's lease."""

    cluster: str
    uid: str
    heartbeat_at: datetime
    expired: bool


@dataclass(frozen=True, slots=True)
class ReopenRequest:
    """A person's wish to retry rows that have ended; ``done_at`` is set once it was carried out, with the count."""

    id: str
    states: tuple[DeliveryState, ...]
    requested_at: datetime
    done_at: datetime | None
    reopened: int


@dataclass(frozen=True, slots=True)
class LedgerView:
    """All that a tick needs to know of one campaign; costs the same at ten recipients and at ten million."""

    campaign: CampaignId
    now: datetime  # the database's clock
    revision: int  # only ever grows; a smaller one than remembered means the ledger went back
    phase: Phase
    fingerprint: str
    owner: Owner | None
    plan: PlanView | None
    counts: Counts
    sessions: tuple[SessionView, ...]
    breaker: BreakerView
    wave: int  # number of the newest sender wave
    control: Mapping[str, Any]  # as last written by the shell
    next_due_at: datetime | None  # earliest due time of deferred and unknown rows
    due_now: int  # deferred and unknown rows due now, counted up to 10,000
    last_settled_at: datetime | None  # when a row last reached a settled or undelivered state
    first_armed_at: datetime | None
    duplicates_possible: int  # rows resent after an unknown
    reopen: ReopenRequest | None  # the newest
    proof: Proof | None
    finished_at: datetime | None
    outlet: OutletView = OutletView()
    blocked_only: bool = False  # every deferred or unknown row waits for a provider that is blocked now


@dataclass(frozen=True, slots=True)
class ProbeView:
    """What was asked last about an Audience, a MailTemplate or a MailTransport, and what was answered last.

    ``number`` counts the questions of one object; ``failures`` how many in a row before this one had no good answer.
    ``result`` is what a probe of the tenant's wrote: to be read with care.
    """

    id: int
    number: int
    generation: int  # of the spec that was asked about
    failures: int
    asked_at: datetime
    answered_number: int = 0
    answered_generation: int = 0
    answered_at: datetime | None = None
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """The last question is answered."""
        return self.answered_number == self.number


@dataclass(frozen=True, slots=True)
class TransportUse:
    """One campaign that sends through a transport now: its breaker, and the connections its live senders may have.
    ``learned`` is the transport's (or pool's), as in OutletView."""

    campaign: str
    breaker: BreakerView
    connections: int
    learned: int | None = None
