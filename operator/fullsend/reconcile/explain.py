"""The words: for each situation a reason (stable, CamelCase) and a message that says what to do.

The reason is one of its row's in ``conditions.ROWS``; messages carry no moving numbers where the situation may last,
so that an unchanged campaign has an unchanged status.
"""

from __future__ import annotations

from typing import assert_never

from fullsend.ledger.view import LedgerView
from fullsend.reconcile.observed import Desired, Observed
from fullsend.reconcile.outcome import complete_reason, failed_reason
from fullsend.reconcile.senders import eligible
from fullsend.reconcile.situation import Situation, halted_for_person, too_many_rejected, went_back_id
from fullsend.resources.status import LimitedBy
from fullsend.states import UNDELIVERED, DeliveryState


def explain(situation: Situation, desired: Desired, observed: Observed) -> tuple[str, str]:
    """Reason and message."""
    view = observed.view
    match situation:
        case Situation.LEDGER_UNREACHABLE | Situation.LEDGER_BROKEN:
            problem = observed.database_problem
            return (problem.fault.value, problem.message) if problem is not None else ("LedgerUnreachable", "")
        case Situation.LEDGER_WENT_BACK:
            return "LedgerWentBack", _went_back(observed)
        case Situation.OWNED_ELSEWHERE:
            owner = observed.foreign_owner
            who = f"object {owner.uid} in cluster {owner.cluster}" if owner is not None else "somebody else"
            return (
                "LedgerKeyOwnedElsewhere",
                f"{who} is reconciling this ledger key; end it there, or use another spec.ledgerKey here",
            )
        case Situation.CONFLICT:
            return (
                "LedgerKeyHoldsDifferentCampaign",
                "the ledger has another campaign under this key, and what a key stands for never changes: "
                f"{'; '.join(observed.conflict)}. Restore the content, or use another name or spec.ledgerKey",
            )
        case Situation.UNRESOLVED | Situation.DRAINED:
            return "ReferencesNotResolved", "; ".join(desired.problems)
        case Situation.REGISTERING:
            return "Registering", "to be entered into the ledger"
        case _:
            pass
    if view is None:  # every situation below is about a campaign in the ledger
        return situation.value, ""
    return _of_campaign(situation, desired, observed, view)


def _of_campaign(situation: Situation, desired: Desired, observed: Observed, view: LedgerView) -> tuple[str, str]:
    counts = view.counts
    match situation:
        case Situation.COMPLETE:
            return complete_reason(counts), _tally(view)
        case Situation.FAILED:
            return failed_reason(view), _failed(view)
        case Situation.CANCELLED:
            return "Cancelled", _tally(view)
        case Situation.CANCELLING:
            return "Cancelling", "spec.cancel is true: senders drain, open recipients become cancelled"
        case Situation.PLANNING:
            stuck = next((job for job in observed.alive_jobs("plan") if job.problem), None)
            if stuck is not None:
                return "Planning", f"the plan cannot begin: job {stuck.name}: {stuck.problem}"
            return "Planning", "the audience is being read into the ledger; nothing is sent before it is complete"
        case Situation.PLAN_STALLED:
            why = _plan_failure(observed, view)
            return "PlanFailed", f"the audience cannot be planned and is tried again by itself: {why}"
        case Situation.NEVER_PLANNED:
            return "NeverPlanned", "schedule.deadline has passed and the audience could not be read"
        case Situation.FINISHING:
            return "Proving", "nobody is open; every row is being looked at once more"
        case Situation.UNPROVEN:
            found = "; ".join(view.proof.differences) if view.proof is not None else ""
            return "LedgerInconsistent", f"the ledger contradicts itself, so nothing is called complete: {found}"
        case Situation.EXPIRING:
            return "DeadlinePassed", "schedule.deadline has passed: senders drain, open recipients become expired"
        case Situation.HALTED:
            return _halted(desired, view)
        case Situation.SUSPENDED:
            return "Suspended", f"spec.suspend is true; {eligible(counts)} recipients are planned"
        case Situation.SCHEDULED:
            return "Scheduled", f"planned for {eligible(counts)} recipients; sending begins at schedule.startAt"
        case Situation.AWAITING_APPROVAL:
            return (
                "AwaitingApproval",
                f"the first {desired.rollout_first} recipients have been tried; set spec.rollout.approved to go on",
            )
        case Situation.WAITING:
            return "Waiting", "everybody left was asked to wait by the relay; tried again when due"
        case Situation.TRANSPORT_TROUBLE:
            return "TransportTrouble", f"{view.breaker.reason}: {view.breaker.message}; probed again by itself"
        case Situation.SENDING:
            return "Sending", ""
        case (
            Situation.LEDGER_UNREACHABLE
            | Situation.LEDGER_BROKEN
            | Situation.LEDGER_WENT_BACK
            | Situation.OWNED_ELSEWHERE
            | Situation.CONFLICT
            | Situation.UNRESOLVED
            | Situation.DRAINED
            | Situation.REGISTERING
        ):
            return situation.value, ""
        case _:
            assert_never(situation)


def why_no_faster(limited: LimitedBy | None, view: LedgerView | None) -> str:
    """What a campaign that is being sent waits for, and what a person can do about it. "": for nothing."""
    if view is None:
        return ""
    match limited:
        case LimitedBy.RATE:
            return (
                "as fast as the rates allow: limits.rates here, or those of the transport, which its campaigns share; "
                "raise them if the relay takes more"
            )
        case LimitedBy.BREAKER:
            return (
                f"with fewer connections, after trouble with the relay: {view.breaker.reason}: {view.breaker.message}; "
                "they come back by themselves once it works"
            )
        case LimitedBy.RELAY if view.outlet.learned is not None:
            return (
                f"over {view.outlet.learned} connections, because the relay said that it takes no more (one more is "
                f"tried now and then): {view.outlet.message}. Ask the relay's operator for more, or lower "
                "limits.connections of the transport"
            )
        case LimitedBy.RELAY:
            return (
                "the relay takes a second or more over a message: more limits.connections help if it takes them, "
                "else look at the relay"
            )
        case _:
            return ""


def _plan_failure(observed: Observed, view: LedgerView) -> str:
    """What the plan said of itself, or its job of a plan that could not."""
    if view.plan is not None and view.plan.message:
        return view.plan.message
    said = [job for job in observed.jobs if job.kind == "plan" and job.ended_reason]
    if not said:
        return "the plan job ended before it could say why"
    return max(said, key=lambda job: job.wave).ended_reason


def _went_back(observed: Observed) -> str:
    what = (
        f"its revision is {observed.view.revision}"
        if observed.view is not None
        else "it has no campaign under this key"
    )
    return (
        f"this campaign has been at ledger revision {observed.remembered_revision}, now {what}: the database was "
        "restored, failed over to a copy that lagged, or is another one. Recipients it shows as open may have been "
        f'sent to. If sending may go on from here, set spec.acknowledgedHalt to "{went_back_id(observed)}"'
    )


def _halted(desired: Desired, view: LedgerView) -> tuple[str, str]:
    if not halted_for_person(view):
        if (said := too_many_rejected(desired, view)) != "":
            return "TooManyRejected", said
        newest = view.breaker.blocked[-1]
        return newest.reason, (
            f"everybody else has been sent to. {newest.message}. To send to those at {newest.provider} who are left, "
            f'set spec.acknowledgedHalt to "{newest.id}"; else schedule.deadline expires them, or spec.cancel ends them'
        )
    what = view.breaker.message.rstrip(".")
    return view.breaker.reason or "Halted", (
        f'{what}. When this is mended, set spec.acknowledgedHalt to "{view.breaker.halt_id}"'
    )


def _failed(view: LedgerView) -> str:
    if view.counts.total == 0:
        return "the deadline passed before the audience could be read; nobody was sent to"
    left = ", ".join(
        f"{view.counts[state]} {state}" for state in DeliveryState if state in UNDELIVERED and view.counts[state]
    )
    return f"{_tally(view)}; undelivered: {left}. spec.reopen retries them by state"


def _tally(view: LedgerView) -> str:
    counts = view.counts
    return (
        f"{counts[DeliveryState.ACCEPTED]} of {eligible(counts)} eligible recipients accepted by the relay, "
        f"{counts[DeliveryState.REJECTED]} rejected, {counts.undelivered} undelivered"
    )
