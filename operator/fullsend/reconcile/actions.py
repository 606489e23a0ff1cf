"""What a tick may ask of a shell. Every action is idempotent: carried out twice it changes nothing the second time,
and a process may die between any two of them.

A shell carries them out in order and stops at the first that fails; the next tick looks at what is. In particular
nothing after a failed ``WriteControl`` is carried out: senders are never started under a control they may not obey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fullsend.ledger.control import Control
from fullsend.ledger.view import Phase
from fullsend.states import DeliveryState


@dataclass(frozen=True, slots=True)
class Register:
    """Enter the campaign into the ledger, or take over a ledger key whose owner is gone (same fingerprint only)."""


@dataclass(frozen=True, slots=True)
class StartPlan:
    """Start a plan job. ``attempt`` makes its name; a job of that name that exists already is success."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StopPlan:
    """End the plan job: nobody will send what it plans."""

    reason: str


@dataclass(frozen=True, slots=True)
class WriteControl:
    """What senders obey from their next heart-beat on."""

    control: Control


@dataclass(frozen=True, slots=True)
class EnsureSenders:
    """See that this wave's job exists with ``pods`` pods (more are never taken away).

    ``new_wave``: ``wave`` is over and a new one is to be opened in the ledger first. Two shells that do so at once
    make two small waves; grants and connections are shared by live sessions, so nothing is exceeded.
    """

    pods: int
    wave: int
    new_wave: bool


@dataclass(frozen=True, slots=True)
class StopSenders:
    """Ask the sender jobs of these waves to end (none named: all): replies in flight are read, the rest given back."""

    reason: str
    waves: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """Fence the sessions whose lease has run out and settle what they held."""


@dataclass(frozen=True, slots=True)
class EndRows:
    """End rows nobody works on by name, in chunks."""

    from_states: tuple[DeliveryState, ...]
    to_state: DeliveryState
    reason: str


@dataclass(frozen=True, slots=True)
class RequestReopen:
    """Note the wish to retry rows that have ended; the ledger knows each ``id`` once."""

    id: str
    states: tuple[DeliveryState, ...]


@dataclass(frozen=True, slots=True)
class CarryOutReopen:
    """Do what the newest open reopen request asks; the campaign is sending again."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Look at every row in one snapshot and store whether rows, counters and seal agree and nothing is open."""


@dataclass(frozen=True, slots=True)
class Finish:
    """End the campaign, as a compare-and-set: only if the stored proof still fits and no session is live."""

    phase: Literal[Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED]


@dataclass(frozen=True, slots=True)
class AcknowledgeHalt:
    """A person has said "go on" to exactly this halt (``breaker.acknowledge``)."""

    halt_id: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop the campaign in the ledger, for all senders (``breaker.halt``)."""

    halt_id: str
    reason: str
    message: str
    needs_person: bool


@dataclass(frozen=True, slots=True)
class Emit:
    """A Kubernetes event or a line for the terminal; on transitions only, after the status was written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = (
    Register
    | StartPlan
    | StopPlan
    | WriteControl
    | EnsureSenders
    | StopSenders
    | Sweep
    | EndRows
    | RequestReopen
    | CarryOutReopen
    | Prove
    | Finish
    | AcknowledgeHalt
    | Halt
    | Emit
)
