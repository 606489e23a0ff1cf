"""What the simulated ledger keeps: rows, sessions, attempts and the campaign's own record, as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fullsend.ledger.view import BreakerView, Phase, PlanView, Proof
from fullsend.reconcile.observed import Claimant
from fullsend.states import DeliveryState

SESSION_LEASE = timedelta(seconds=60)
OWNER_LEASE = timedelta(seconds=60)
UNKNOWN_DELAY = timedelta(seconds=30)
CHUNK = 3
"""Rows a bulk change takes at a time: small, so that dying in the middle of one is common."""


class Gone(Exception):
    """There is no such campaign: the database was put back to before it was registered."""


@dataclass(slots=True)
class Attempt:
    session: int
    state: DeliveryState


@dataclass(slots=True)
class Row:
    seq: int
    state: DeliveryState
    session: int | None = None
    attempts: int = 0
    unknowns: int = 0
    pardoned: int = 0
    charges: int = 0
    due_at: datetime | None = None
    charged_since: datetime | None = None
    reason: str = ""
    reopened: int = 0
    history: dict[int, Attempt] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    id: int
    wave: int
    started_at: datetime
    heartbeat_at: datetime
    fenced: bool = False
    ended: bool = False

    @property
    def live(self) -> bool:
        return not self.fenced and not self.ended


@dataclass(slots=True)
class Reopening:
    id: str
    states: tuple[DeliveryState, ...]
    requested_at: datetime
    after: int = 0
    reopened: int = 0
    done_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    seq: int
    attempts: int
    unknowns: int
    charges: int
    charged_since: datetime | None


@dataclass(frozen=True, slots=True)
class Record:
    seq: int
    attempt: int
    state: DeliveryState
    charged: bool = False
    delay: timedelta = timedelta(0)


@dataclass(slots=True)
class Campaign:
    owner: Claimant
    owner_heartbeat_at: datetime
    phase: Phase = Phase.REGISTERED
    plan: PlanView | None = None
    rows: dict[int, Row] = field(default_factory=dict)
    counters: Counter[DeliveryState] = field(default_factory=Counter)
    sealed_rows: int = 0
    fit: tuple[int, ...] = ()
    sessions: dict[int, Session] = field(default_factory=dict)
    breaker: BreakerView = field(default_factory=BreakerView)
    wave: int = 0
    control: dict[str, Any] = field(default_factory=dict)
    last_settled_at: datetime | None = None
    first_armed_at: datetime | None = None
    resent: int = 0
    reopens: dict[str, Reopening] = field(default_factory=dict)
    proof: Proof | None = None
    proof_revision: int = -1
    finished_at: datetime | None = None
    revision: int = 1
    next_session: int = 1
