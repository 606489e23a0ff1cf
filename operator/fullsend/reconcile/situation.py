"""Which of its situations a campaign is in: one word per tick, from which actions and conditions follow.

The order of the questions in ``classify`` is the precedence, and the only place where it is written as code:

 1. the ledger can't be used              nothing is known, so nothing is done
 2. the ledger went back                  beats everything: rows that say "pending" may have been sent
 3. another live owner                    theirs to reconcile
 4. the key holds other content           never sent as if it were this content
 5. finished (or a tombstone)             only a reopen leads out of it
 6. not registered, or owner gone         needs all references resolved
 7. cancel                                beats halted, suspended, deadline, schedule: ending is always safe
 8. planning                              goes on while suspended, scheduled or past the deadline, so that those
                                          who would be missed have names
 9. nothing open                          finishing sends nothing, so it doesn't wait for anybody
10. unresolved references                 a running campaign drains: its limits can't be read any more
11. deadline                              beats halted and suspended: "never after" is absolute, and a reopen undoes it
12. halted for a person                   beats suspended: it needs an acknowledgement whatever ``suspend`` says; so do
                                          blocked providers, once only their recipients are left
13. suspended                             beats schedule and approval: nothing starts by itself
14. schedule
15. approval, waiting, transport trouble  while there is nothing that may be sent now
16. sending
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from fullsend.ledger.view import FINISHED, BreakerState, LedgerView, Phase, PlanState, Proof
from fullsend.reconcile import breaker, rejections
from fullsend.reconcile.observed import DatabaseFault, Desired, Observed
from fullsend.reconcile.senders import planning_stalled, sendable
from fullsend.states import DeliveryState


class Situation(StrEnum):
    LEDGER_UNREACHABLE = "LedgerUnreachable"
    LEDGER_BROKEN = "LedgerBroken"
    LEDGER_WENT_BACK = "LedgerWentBack"
    OWNED_ELSEWHERE = "OwnedElsewhere"
    CONFLICT = "Conflict"
    COMPLETE = "Complete"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    UNRESOLVED = "Unresolved"
    REGISTERING = "Registering"
    CANCELLING = "Cancelling"
    PLANNING = "Planning"
    PLAN_STALLED = "PlanStalled"
    NEVER_PLANNED = "NeverPlanned"
    FINISHING = "Finishing"
    UNPROVEN = "Unproven"
    DRAINED = "Drained"
    EXPIRING = "Expiring"
    HALTED = "Halted"
    SUSPENDED = "Suspended"
    SCHEDULED = "Scheduled"
    AWAITING_APPROVAL = "AwaitingApproval"
    WAITING = "Waiting"
    TRANSPORT_TROUBLE = "TransportTrouble"
    SENDING = "Sending"


MAY_SEND = frozenset({Situation.AWAITING_APPROVAL, Situation.WAITING, Situation.TRANSPORT_TROUBLE, Situation.SENDING})
"""Where senders may arm; in every other situation the control says stop."""
OVER = frozenset({Situation.COMPLETE, Situation.FAILED, Situation.CANCELLED})


DOUBT = timedelta(minutes=10)
"""Longer than a sender that came late, or one that waits for its last reply, can keep proofs from holding."""


def classify(desired: Desired, observed: Observed, now: datetime) -> Situation:
    """The first of the module's list that holds."""
    view = observed.view
    if observed.database_problem is not None:
        if observed.database_problem.fault is DatabaseFault.UNREACHABLE:
            return Situation.LEDGER_UNREACHABLE
        return Situation.LEDGER_BROKEN
    if went_back(desired, observed):
        return Situation.LEDGER_WENT_BACK
    if observed.foreign_owner is not None:
        return Situation.OWNED_ELSEWHERE
    if observed.conflict:
        return Situation.CONFLICT
    if view is not None and view.phase in FINISHED:
        return _over(view)
    if view is None or not observed.ours:
        return Situation.UNRESOLVED if desired.problems else Situation.REGISTERING
    if desired.cancel and not (view.phase is Phase.SENDING and view.counts.missing == 0):
        return Situation.CANCELLING
    if view.phase is Phase.REGISTERED:
        return _before_sending(desired, observed, view, now)
    return _sending(desired, view, now)


def _over(view: LedgerView) -> Situation:
    match view.phase:
        case Phase.COMPLETE:
            return Situation.COMPLETE
        case Phase.CANCELLED:
            return Situation.CANCELLED
        case Phase.PURGED:  # a tombstone keeps the counts; what they say is all that is known of how it ended
            if view.counts[DeliveryState.CANCELLED]:
                return Situation.CANCELLED
            return Situation.FAILED if view.counts.missing else Situation.COMPLETE
        case _:
            return Situation.FAILED


def _before_sending(desired: Desired, observed: Observed, view: LedgerView, now: datetime) -> Situation:
    failed = view.plan is not None and view.plan.state is PlanState.FAILED
    if deadline_passed(desired, now) and (failed or desired.problems):
        return Situation.NEVER_PLANNED
    if desired.problems:
        return Situation.UNRESOLVED
    return Situation.PLAN_STALLED if planning_stalled(observed, view) else Situation.PLANNING


def _sending(desired: Desired, view: LedgerView, now: datetime) -> Situation:
    if view.counts.open == 0 and not reopen_waits(desired, view, now):
        return Situation.UNPROVEN if disproved(view, now) else Situation.FINISHING
    if deadline_passed(desired, now):
        return Situation.EXPIRING
    if desired.problems:
        return Situation.DRAINED
    if halted_for_person(view) or too_many_rejected(desired, view) or only_blocked_left(view):
        return Situation.HALTED
    if desired.suspend:
        return Situation.SUSPENDED
    if desired.start_at is not None and now < desired.start_at:
        return Situation.SCHEDULED
    busy = view.counts[DeliveryState.CLAIMED] + view.counts[DeliveryState.ARMED] > 0
    if sendable(desired, view) == 0 and not busy:
        return Situation.AWAITING_APPROVAL if view.counts[DeliveryState.PENDING] else Situation.WAITING
    if breaker.effective_state(view.breaker, now) in (BreakerState.HALTED, BreakerState.PROBING):
        return Situation.TRANSPORT_TROUBLE
    return Situation.SENDING


def went_back_id(observed: Observed) -> str:
    """The halt's id names the revision that was lost, so an acknowledgement covers this loss and no later one.

    Where a sender has noticed it too and halted the campaign, it names that halt as well: a person is asked once.
    """
    view, lost = observed.view, str(observed.remembered_revision)
    if view is None or not halted_by_a_loss(view) or view.breaker.halt_id.endswith(f"-{lost}"):
        return f"ledger-went-back-{lost}"
    return f"{view.breaker.halt_id}.{lost}"


def halted_by_a_loss(view: LedgerView) -> bool:
    breaker_ = view.breaker
    return breaker_.state is BreakerState.HALTED and breaker_.reason == breaker.Reason.LEDGER_WENT_BACK


def went_back(desired: Desired, observed: Observed) -> bool:
    """The ledger knows less than the status remembers, and nobody has said that this is all right.

    A ledger without the campaign has gone back as well: registering again would send again.
    """
    revision = observed.view.revision if observed.view is not None else 0
    return revision < observed.remembered_revision and desired.acknowledged_halt != went_back_id(observed)


def deadline_passed(desired: Desired, now: datetime) -> bool:
    return desired.deadline is not None and now >= desired.deadline


def halted_for_person(view: LedgerView) -> bool:
    return view.breaker.state is BreakerState.HALTED and view.breaker.needs_person


def too_many_rejected(desired: Desired, view: LedgerView) -> str:
    """``spec.failurePolicy``: the share of refused mailboxes is beyond what was declared, and nobody accepted it: in
    words. "" otherwise."""
    return rejections.whole_beyond(
        view.counts,
        view.breaker,
        max_rejected=desired.max_rejected,
        min_sample=desired.min_sample,
        acknowledged=desired.acknowledged_halt,
    )


def only_blocked_left(view: LedgerView) -> bool:
    """Everybody else has been sent to: who is left waits for a provider that only a person can let go on."""
    others = (DeliveryState.PENDING, DeliveryState.CLAIMED, DeliveryState.ARMED)
    return view.blocked_only and view.counts.open > 0 and not any(view.counts[state] for state in others)


def may_reopen(desired: Desired, view: LedgerView, now: datetime) -> bool:
    """A reopen would not be undone at once by a cancel or a passed deadline, and there is somebody to send to."""
    if desired.cancel or desired.problems or deadline_passed(desired, now):
        return False
    return view.phase not in (Phase.REGISTERED, Phase.PURGED) and view.counts.total > 0


def reopen_waits(desired: Desired, view: LedgerView, now: datetime) -> bool:
    """The ledger holds a request that is to be carried out before anything may end."""
    return view.reopen is not None and view.reopen.done_at is None and may_reopen(desired, view, now)


def outdated(proof: Proof, view: LedgerView) -> bool:
    """Something happened at or after the proof that it can't speak of."""
    reopened = view.reopen.done_at if view.reopen is not None else None
    return any(moment is not None and moment >= proof.at for moment in (view.last_settled_at, reopened))


def proves(proof: Proof, view: LedgerView) -> bool:
    """Whether a proof speaks of these counts, whatever zeros either of them leaves out."""
    return all(proof.counts[state] == view.counts[state] for state in DeliveryState)


def disproved(view: LedgerView, now: datetime) -> bool:
    """The ledger contradicts itself: rows and counters differ, or for a long time no proof has held.

    A proof that agrees with all that is seen and yet does not hold met a sender that came late; the next one will.
    """
    proof = view.proof
    if proof is None or proof.holds or outdated(proof, view):
        return False
    if proof.rows != view.counts.total or not proves(proof, view):
        return True
    quiet_since = view.last_settled_at or (view.plan.sealed_at if view.plan is not None else None)
    return quiet_since is None or now - quiet_since >= DOUBT
