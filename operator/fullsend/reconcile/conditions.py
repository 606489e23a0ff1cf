"""Conditions: what ``kubectl wait``, Flux, Argo CD and a person read off a campaign.

``ROWS`` is the table, one row a situation; ``conditions`` applies it and ``condition_table`` prints it for the docs, so
the two cannot differ. On top of the table a chain of small policies adds what can be true in several situations
(suspended by wish, senders dying, no progress). Invariant: once sending has started Ready leaves True only for what a
person must act on, and Reconciling and Stalled exist only while they are True (kstatus).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fullsend.reconcile.situation import OVER, Situation
from fullsend.resources.status import CampaignStatus, Condition, ConditionStatus

Status = Literal["True", "False", "Unknown"]
MESSAGE_LIMIT = 1024
"""Characters of a message in a condition; the whole story is in the ledger (``fullsend report``, ``why``)."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one situation looks like from outside. ``reasons``: the reasons Ready may carry in it.

    ``event``: what is emitted on entering it; "" for what comes and goes by itself.
    """

    state: str
    ready: Status
    reasons: tuple[str, ...]
    meaning: str
    complete: Status = "Unknown"
    finished: bool = False
    failed: bool = False
    reconciling: bool = False
    stalled: bool = False
    halted: bool = False
    event: Literal["", "Normal", "Warning"] = "Normal"

    @property
    def kstatus(self) -> str:
        """What Flux and ``helm --wait`` make of it."""
        if self.stalled:
            return "Failed"
        return "Current" if self.ready == "True" and not self.reconciling else "InProgress"


_S = Situation
ROWS: Mapping[Situation, Row] = {
    _S.LEDGER_UNREACHABLE: Row(
        "", "Unknown", ("LedgerUnreachable",), "the database can't be reached; what was true before stays so", event=""
    ),
    _S.LEDGER_BROKEN: Row(
        "Halted",
        "False",
        ("LedgerDiskFull", "LedgerSchemaMismatch", "LedgerRefused"),
        "the database must be mended by a person; goes on by itself after that",
        stalled=True,
        halted=True,
        event="Warning",
    ),
    _S.LEDGER_WENT_BACK: Row(
        "Halted",
        "False",
        ("LedgerWentBack",),
        "the ledger is older than the status remembers; sending would send again",
        stalled=True,
        halted=True,
        event="Warning",
    ),
    _S.OWNED_ELSEWHERE: Row(
        "Stalled",
        "False",
        ("LedgerKeyOwnedElsewhere",),
        "another live owner reconciles this ledger key",
        stalled=True,
        event="Warning",
    ),
    _S.CONFLICT: Row(
        "Stalled",
        "False",
        ("LedgerKeyHoldsDifferentCampaign",),
        "the ledger key belongs to a campaign with other content; nothing is sent",
        stalled=True,
        event="Warning",
    ),
    _S.COMPLETE: Row(
        "Complete",
        "True",
        (
            "AllAccepted",
            "AcceptedWithRejections",
            "AllRejected",
            "UndeliveredWithinTolerance",
            "NoEligibleRecipients",
        ),
        "proved: nobody is missing, or no more than completion.tolerate allows",
        complete="True",
        finished=True,
    ),
    _S.FAILED: Row(
        "Failed",
        "False",
        ("DeadlinePassed", "RecipientsUndelivered", "NeverPlanned"),
        "ended with people undelivered; each is named in the ledger",
        complete="False",
        finished=True,
        failed=True,
        stalled=True,
        event="Warning",
    ),
    _S.CANCELLED: Row(
        "Cancelled", "True", ("Cancelled",), "ended by its user for good", complete="False", finished=True
    ),
    _S.UNRESOLVED: Row(
        "Pending",
        "False",
        ("ReferencesNotResolved",),
        "something the campaign names is not there or can't be used; nothing has been sent yet",
        reconciling=True,
        event="Warning",
    ),
    _S.REGISTERING: Row(
        "Pending", "Unknown", ("Registering",), "about to be entered into the ledger", reconciling=True, event=""
    ),
    _S.CANCELLING: Row("Cancelling", "True", ("Cancelling",), "senders drain; open rows become cancelled"),
    _S.PLANNING: Row("Planning", "Unknown", ("Planning",), "the audience is being read", reconciling=True),
    _S.PLAN_STALLED: Row(
        "Planning",
        "False",
        ("PlanFailed",),
        "the audience can't be read; tried again at growing intervals",
        stalled=True,
        event="Warning",
    ),
    _S.NEVER_PLANNED: Row(
        "Failing",
        "False",
        ("NeverPlanned",),
        "the deadline passed and the audience could not be read",
        stalled=True,
        event="Warning",
    ),
    _S.FINISHING: Row("Finishing", "True", ("Proving",), "nothing is open; being proved row by row", event=""),
    _S.UNPROVEN: Row(
        "Halted",
        "False",
        ("LedgerInconsistent",),
        "the ledger contradicts itself; nothing is called complete",
        stalled=True,
        halted=True,
        event="Warning",
    ),
    _S.DRAINED: Row(
        "Stalled",
        "False",
        ("ReferencesNotResolved",),
        "a running campaign's transport is gone; senders are stopped until it is back",
        stalled=True,
        event="Warning",
    ),
    _S.EXPIRING: Row(
        "Expiring", "True", ("DeadlinePassed",), "senders drain; open rows become expired", event="Warning"
    ),
    _S.HALTED: Row(
        "Halted",
        "False",
        (
            *("SenderRefused", "MessageRefused", "EveryoneRefused", "NoReplyAfterContent", "TooManyRejected"),
            *("ProviderRejects", "ProviderRefusesSender"),
        ),
        "stopped until a person sets spec.acknowledgedHalt",
        stalled=True,
        halted=True,
        event="Warning",
    ),
    _S.SUSPENDED: Row("Suspended", "True", ("Suspended",), "stopped by its user; nothing is lost"),
    _S.SCHEDULED: Row("Scheduled", "True", ("Scheduled",), "planned; waits for schedule.startAt"),
    _S.AWAITING_APPROVAL: Row(
        "Waiting", "True", ("AwaitingApproval",), "rollout.first is out; waits for rollout.approved"
    ),
    _S.WAITING: Row(
        "Waiting", "True", ("Waiting",), "everybody left was asked to wait by the relay; goes on when due", event=""
    ),
    _S.TRANSPORT_TROUBLE: Row(
        "Waiting",
        "True",
        ("TransportTrouble",),
        "the relay is in trouble; probed again by itself",
        event="Warning",
    ),
    _S.SENDING: Row("Sending", "True", ("Sending",), "senders are at work or about to be"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """What the policies judge by. ``reason`` is one of the situation's; the others are "" when all is well."""

    situation: Situation
    reason: str
    message: str
    suspend: bool
    senders_failing: str
    no_progress: str
    reduced: tuple[str, str]  # reason and message
    blocked: tuple[str, str]  # the same
    generation: int
    previous: CampaignStatus
    now: datetime


@dataclass(frozen=True, slots=True)
class Judgement:
    type: str
    status: Status
    reason: str
    message: str


Policy = Callable[[Look, Row], Judgement | None]


def _ready(look: Look, row: Row) -> Judgement:
    return Judgement("Ready", row.ready, look.reason, look.message)


def _complete(look: Look, row: Row) -> Judgement:
    reason = look.reason if row.finished else "NotFinished"
    return Judgement("Complete", row.complete, reason, look.message if row.finished else "")


def _finished(look: Look, row: Row) -> Judgement:
    if row.finished:
        return Judgement("Finished", "True", look.reason, look.message)
    return Judgement("Finished", "False", "NotFinished", "")


def _failed(look: Look, row: Row) -> Judgement | None:
    return Judgement("Failed", "True", look.reason, look.message) if row.failed else None


def _reconciling(look: Look, row: Row) -> Judgement | None:
    return Judgement("Reconciling", "True", look.reason, look.message) if row.reconciling else None


def _stalled(look: Look, row: Row) -> Judgement | None:
    return Judgement("Stalled", "True", look.reason, look.message) if row.stalled else None


def _suspended(look: Look, row: Row) -> Judgement | None:
    """By wish, whatever else is the matter; kept as False afterwards, so that one can see when it went on."""
    if look.suspend and not row.finished:
        return Judgement("Suspended", "True", "Suspended", "spec.suspend is true; nothing is sent")
    if _known(look, "Suspended"):
        return Judgement("Suspended", "False", "NotSuspended", "")
    return None


def _halted(look: Look, row: Row) -> Judgement | None:
    if row.halted:
        return Judgement("Halted", "True", look.reason, look.message)
    if _known(look, "Halted"):
        return Judgement("Halted", "False", "NotHalted", "")
    return None


def _senders_failing(look: Look, row: Row) -> Judgement | None:
    if look.senders_failing and not row.finished:
        return Judgement("SendersFailing", "True", "NoProgressBeforeExit", look.senders_failing)
    return None


def _no_progress(look: Look, row: Row) -> Judgement | None:
    if look.no_progress and not row.finished:
        return Judgement("NoProgress", "True", "NothingSettled", look.no_progress)
    return None


def _connections_reduced(look: Look, row: Row) -> Judgement | None:
    reason, message = look.reduced
    if reason and not row.finished:
        return Judgement("ConnectionsReduced", "True", reason, message)
    return None


def _providers_blocked(look: Look, row: Row) -> Judgement | None:
    reason, message = look.blocked
    if reason and not row.finished:
        return Judgement("ProvidersBlocked", "True", reason, message)
    return None


POLICIES: tuple[Policy, ...] = (
    _ready,
    _complete,
    _finished,
    _failed,
    _reconciling,
    _stalled,
    _suspended,
    _halted,
    _senders_failing,
    _no_progress,
    _connections_reduced,
    _providers_blocked,
)


def conditions(look: Look) -> tuple[Condition, ...]:
    """The whole list, in a fixed order; transition times are kept where the status of a type did not change."""
    row = ROWS[look.situation]
    judged = (policy(look, row) for policy in POLICIES)
    return tuple(_condition(judgement, look) for judgement in judged if judgement is not None)


def find(status: CampaignStatus, type_: str) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == type_), None)


def is_true(status: CampaignStatus, type_: str) -> bool:
    condition = find(status, type_)
    return condition is not None and condition.status is ConditionStatus.TRUE


def _known(look: Look, type_: str) -> bool:
    return find(look.previous, type_) is not None


def _condition(judgement: Judgement, look: Look) -> Condition:
    before = find(look.previous, judgement.type)
    kept = before is not None and before.status.value == judgement.status
    return Condition(
        type=judgement.type,
        status=ConditionStatus(judgement.status),
        reason=judgement.reason,
        message=trimmed(judgement.message),
        last_transition_time=before.last_transition_time if before is not None and kept else look.now,
        observed_generation=look.generation,
    )


def trimmed(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def condition_table() -> Iterator[tuple[str, ...]]:
    """The table for the docs: a header, then a row a situation, as (situation, meaning, conditions, kstatus)."""
    yield ("Situation", "Meaning", "Conditions", "kstatus")
    for situation, row in ROWS.items():
        shown = [f"Ready={row.ready} ({', '.join(row.reasons)})", f"Complete={row.complete}"]
        for name, holds in (
            ("Finished", row.finished),
            ("Failed", row.failed),
            ("Reconciling", row.reconciling),
            ("Stalled", row.stalled),
            ("Halted", row.halted),
            ("Suspended", situation is Situation.SUSPENDED),
        ):
            if holds:
                shown.append(f"{name}=True")
        yield (situation.value, row.meaning, ", ".join(shown), row.kstatus)


assert all(ROWS[situation].finished for situation in OVER)
assert ROWS.keys() == set(Situation)
