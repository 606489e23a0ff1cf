"""What a tick looks at: the wish and the world, as plain values.

A shell (the cluster's or this machine's) fills these in; ``decide`` reads nothing else. Times are the database's
clock, in UTC, except ``JobView``'s, which come from whoever runs the jobs and only ever lengthen a delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from fullsend.ledger.control import Control
from fullsend.ledger.view import LedgerView, Owner
from fullsend.resources.status import CampaignStatus
from fullsend.states import REOPENABLE, UNDELIVERED, DeliveryState

JobKind = Literal["plan", "send", "probe"]


@dataclass(frozen=True, slots=True)
class Reopen:
    """``spec.reopen``: these ended rows are to be tried again, once per ``id``."""

    id: str
    states: tuple[DeliveryState, ...]

    def __post_init__(self) -> None:
        wrong = sorted(set(self.states) - REOPENABLE)
        if wrong:
            raise ValueError(f"rows in {', '.join(wrong)} cannot be reopened")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``spec.completion.tolerate``: what may stay undelivered in a Complete campaign.

    ``limits`` has an entry per tolerated state: at most this share (0..1) of the eligible recipients. A state without
    an entry tolerates nobody.
    """

    limits: tuple[tuple[DeliveryState, float], ...] = ()

    def __post_init__(self) -> None:
        wrong = sorted({state for state, _ in self.limits} - UNDELIVERED)
        if wrong:
            raise ValueError(f"{', '.join(wrong)} is not an undelivered state")


@dataclass(frozen=True, slots=True)
class Desired:
    """What the user declares, as far as it can be edited while a campaign runs.

    ``control`` is what a sender that may send is to obey (stop and cancel false, fresh_limit None); None while
    references are unresolved, and then ``problems`` says which. ``suspend`` is true for ``spec.suspend`` and for the
    emergency annotation alike. ``connections`` is the transport's allowance for the whole campaign.
    """

    generation: int = 1
    suspend: bool = False
    cancel: bool = False
    start_at: datetime | None = None
    deadline: datetime | None = None
    rollout_first: int | None = None
    rollout_approved: bool = False
    max_pods: int = 1
    connections: int = 8
    max_rejected: float = 1.0
    min_sample: int = 200
    tolerance: Tolerance = Tolerance()
    acknowledged_halt: str = ""
    reopen: Reopen | None = None
    control: Control | None = None
    problems: tuple[str, ...] = ()

    @property
    def fresh_limit(self) -> int | None:
        """How many eligible recipients may be tried for the first time; None: all of them."""
        return None if self.rollout_approved else self.rollout_first


@dataclass(frozen=True, slots=True)
class JobView:
    """A job of ours (owner uid checked by the shell). A hint: whether a sender lives is the ledger's to say.

    ``wave`` is the sender wave, for a plan job the attempt, for a probe the number of its question. ``pods`` is how
    many pods it was asked to run. ``stopping``: asked to end. ``problem`` says why its pods don't start, where that is
    known (quota, image).
    """

    name: str
    kind: JobKind
    wave: int
    alive: bool
    started_at: datetime
    ended_at: datetime | None = None
    exit_code: int | None = None
    ended_reason: str = ""
    pods: int = 1
    stopping: bool = False
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Ended, and not because its work was done or it was asked to."""
        return not self.alive and not self.stopping and self.exit_code != 0


class DatabaseFault(StrEnum):
    """Why the ledger can't be used. All but the first need a person; none needs a restart once mended."""

    UNREACHABLE = "LedgerUnreachable"
    DISK_FULL = "LedgerDiskFull"
    SCHEMA = "LedgerSchemaMismatch"
    REFUSED = "LedgerRefused"


@dataclass(frozen=True, slots=True)
class DatabaseProblem:
    fault: DatabaseFault
    message: str


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who is reconciling: the cluster and the object's uid, as in ``ledger.view.Owner``."""

    cluster: str
    uid: str


@dataclass(frozen=True, slots=True)
class Sample:
    """How many recipients had been accepted at an earlier look (ten seconds or more ago), for the rate."""

    at: datetime
    accepted: int


@dataclass(frozen=True, slots=True)
class Observed:
    """The world at one look.

    ``view`` is None when the ledger can't be read (``database_problem`` says why) or has no campaign of this key.
    ``conflict`` lists the differences when the key holds other content. ``previous`` is the status last written: its
    revision and its conditions are all that is taken from it. It must have been read before ``view``: the ledger's
    revision only grows, so an older status never makes a healthy ledger look as if it had gone back.
    ``seen_revision`` is that of this process's last decision (0 after a start): a status is written at most every few
    seconds, and a failover may lose less than that.
    """

    us: Claimant
    view: LedgerView | None = None
    database_problem: DatabaseProblem | None = None
    conflict: tuple[str, ...] = ()
    jobs: tuple[JobView, ...] = ()
    previous: CampaignStatus = field(default_factory=CampaignStatus)
    sample: Sample | None = None
    seen_revision: int = 0

    @property
    def remembered_revision(self) -> int:
        return max(self.previous.revision, self.seen_revision)

    @property
    def ours(self) -> bool:
        owner = self.view.owner if self.view is not None else None
        return owner is not None and (owner.cluster, owner.uid) == (self.us.cluster, self.us.uid)

    @property
    def foreign_owner(self) -> Owner | None:
        """Whoever else reconciles this ledger key and is alive."""
        owner = self.view.owner if self.view is not None else None
        return owner if owner is not None and not owner.expired and not self.ours else None

    def alive_jobs(self, kind: JobKind) -> tuple[JobView, ...]:
        return tuple(job for job in self.jobs if job.kind == kind and job.alive and not job.stopping)
