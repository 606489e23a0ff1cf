"""What to do next: the wish, the world and the time in; actions, the whole next status and the next look out.

Pure and deterministic. ``situation.classify`` finds the one situation the campaign is in (its docstring states the
precedence); this table says what may happen in it. Actions are listed in the order in which they are given out;
"drain" is WriteControl(stop) and StopSenders, each only if not done yet; Sweep comes first where it is allowed.

    situation                    Sweep  what may happen                      when
    LedgerUnreachable, -Broken   no     nothing
    LedgerWentBack               no     Halt, drain                          no row is touched before an acknowledgement
    OwnedElsewhere               no     StopSenders                          our own jobs
    Conflict                     no     drain                                the key is ours; else nothing
    Complete, Failed, Cancelled  yes    StopSenders; reopen                  not a tombstone; see reopen
    Unresolved                   yes    nothing
    Registering                  no     Register                             no such key, or its owner is gone
    Cancelling                   yes    drain, StopPlan, EndRows, conclude   rows become cancelled
    Planning, PlanStalled        yes    StartPlan                            no plan job or heart-beat, delay over
    NeverPlanned                 yes    StopPlan, conclude
    Finishing, Unproven          yes    drain, conclude
    Expiring                     yes    drain, EndRows                       rows become expired
    Halted                       yes    AcknowledgeHalt; or Halt, reopen,    the id that the person was shown
                                        drain
    Drained, Suspended,          yes    reopen, drain
    Scheduled
    AwaitingApproval, Waiting    yes    reopen, WriteControl                 senders without work end by themselves
    TransportTrouble, Sending    yes    reopen, WriteControl, StopSenders    lost waves (no live session)
                                        EnsureSenders                        something may be sent now, delay over

    conclude  Prove, and at a later look Finish. Prove: nothing open, no session (live or not), no plan running.
              Finish: a proof of these very counts, not older than the last settled row or PROOF_FRESH, that holds
              (a cancelled or never planned campaign may end without agreement; it is not called complete).
    reopen    RequestReopen (once an id), CarryOutReopen: not cancelled, deadline ahead, references resolved.
    EndRows   only rows that no session holds; the others are given back, recorded or swept first.

Never in one decision: what starts senders with what ends rows; Prove with Finish.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from pydantic import ValidationError

from fullsend.ledger.control import Control
from fullsend.ledger.view import BreakerState, LedgerView, Phase
from fullsend.reconcile import breaker, progress, senders
from fullsend.reconcile.actions import (
    AcknowledgeHalt,
    Action,
    CarryOutReopen,
    Emit,
    EndRows,
    Finish,
    Halt,
    Prove,
    Register,
    RequestReopen,
    StopPlan,
    StopSenders,
    Sweep,
    WriteControl,
)
from fullsend.reconcile.conditions import ROWS, find, is_true
from fullsend.reconcile.explain import explain, why_no_faster
from fullsend.reconcile.observed import Desired, Observed
from fullsend.reconcile.outcome import finish_phase
from fullsend.reconcile.situation import (
    MAY_SEND,
    Situation,
    classify,
    disproved,
    halted_by_a_loss,
    halted_for_person,
    may_reopen,
    outdated,
    proves,
    reopen_waits,
    too_many_rejected,
    went_back_id,
)
from fullsend.resources.status import CampaignStatus
from fullsend.states import DeliveryState

PROOF_FRESH = timedelta(seconds=60)
"""A Finish that was refused (something changed since the proof) is proved anew after this, at the price of a scan."""
PROVE_AGAIN = timedelta(seconds=10)
REPROVE = timedelta(minutes=15)
"""How soon a proof that did not hold is tried again: at first, and once it is a person's matter."""
RESTING = frozenset({DeliveryState.PENDING, DeliveryState.DEFERRED, DeliveryState.UNKNOWN})
"""Open rows that no session holds; the others are given back, recorded or swept first."""

SOON = timedelta(seconds=1)
BUSY = timedelta(seconds=10)  # progress is written at most this often
IDLE = timedelta(minutes=1)
REST = timedelta(minutes=10)  # a reopen in the ledger is noticed within this


@dataclass(frozen=True, slots=True)
class Decision:
    """``look_again``: look after this at the latest, sooner when something wakes the shell."""

    actions: tuple[Action, ...]
    status: CampaignStatus
    look_again: timedelta
    situation: Situation


def decide(desired: Desired, observed: Observed, now: datetime) -> Decision:
    """``now``: the ledger's clock (``view.now``) where there is a view, else the shell's. Raises nothing."""
    situation = classify(desired, observed, now)
    reason, message = explain(situation, desired, observed)
    if situation is Situation.SENDING:
        message = why_no_faster(progress.limited_by(situation, observed, now), observed.view)
    status = progress.build(situation, reason, message, desired, observed, now)
    actions = tuple(_actions(situation, desired, observed, now))
    return Decision(
        actions=(*actions, *_events(observed.previous, status, situation)),
        status=status,
        look_again=_look_again(situation, actions, desired, observed, status, now),
        situation=situation,
    )


def _actions(situation: Situation, desired: Desired, observed: Observed, now: datetime) -> Iterator[Action]:
    view = observed.view
    match situation:
        case Situation.LEDGER_UNREACHABLE | Situation.LEDGER_BROKEN:
            return
        case Situation.LEDGER_WENT_BACK:
            if view is not None and not halted_for_person(view):
                _, message = explain(situation, desired, observed)
                yield Halt(went_back_id(observed), breaker.Reason.LEDGER_WENT_BACK, message, needs_person=True)
            if view is not None and observed.foreign_owner is None:
                yield from _write_control(situation, desired, view)
            yield from _stop_senders(observed, situation)
            return
        case Situation.OWNED_ELSEWHERE:
            yield from _stop_senders(observed, situation)
            return
        case Situation.REGISTERING:
            yield Register()
            return
        case _:
            pass
    if view is None:
        return
    if situation is Situation.CONFLICT:
        if observed.ours and view.phase is Phase.SENDING:
            yield from _drain(situation, desired, observed, view)
        return
    if any(session.expired for session in view.sessions):
        yield Sweep()
    yield from _with_ledger(situation, desired, observed, view, now)


def _with_ledger(
    situation: Situation, desired: Desired, observed: Observed, view: LedgerView, now: datetime
) -> Iterator[Action]:
    match situation:
        case (
            Situation.LEDGER_UNREACHABLE
            | Situation.LEDGER_BROKEN
            | Situation.LEDGER_WENT_BACK
            | Situation.OWNED_ELSEWHERE
            | Situation.REGISTERING
            | Situation.CONFLICT
            | Situation.UNRESOLVED
        ):
            return
        case Situation.COMPLETE | Situation.FAILED | Situation.CANCELLED:
            yield from _stop_senders(observed, situation)
            reopening = tuple(_reopen(desired, view, now))
            if reopening and not observed.ours:
                yield Register()
            yield from reopening
        case Situation.PLANNING | Situation.PLAN_STALLED:
            plan = senders.start_plan(observed, view, now)
            if plan is not None:
                yield plan
        case Situation.NEVER_PLANNED | Situation.CANCELLING:
            yield from _stop_plan(observed, view, situation)
            if view.phase is Phase.SENDING:
                yield from _drain(situation, desired, observed, view)
            yield from _end_rows(view, DeliveryState.CANCELLED, "Cancelled")
            yield from _conclude(desired, view, now)
        case Situation.EXPIRING:
            yield from _drain(situation, desired, observed, view)
            yield from _end_rows(view, DeliveryState.EXPIRED, "DeadlinePassed")
        case Situation.FINISHING | Situation.UNPROVEN:
            yield from _reopen(desired, view, now)  # what it opens makes the Finish below fail, as it should
            yield from _drain(situation, desired, observed, view)
            yield from _conclude(desired, view, now)
        case Situation.HALTED:
            if _acknowledged(desired, view):
                yield AcknowledgeHalt(view.breaker.halt_id)
                return
            yield from _unblocked(desired, view)
            if not halted_for_person(view) and too_many_rejected(desired, view):
                id_ = breaker.rejection_halt_id(view.counts[DeliveryState.REJECTED])
                _, message = explain(situation, desired, observed)
                yield Halt(id_, breaker.Reason.TOO_MANY_REJECTED, message, needs_person=True)
            yield from _reopen(desired, view, now)
            yield from _drain(situation, desired, observed, view)
        case Situation.DRAINED | Situation.SUSPENDED | Situation.SCHEDULED:
            yield from _unblocked(desired, view)
            yield from _reopen(desired, view, now)
            yield from _drain(situation, desired, observed, view)
        case Situation.AWAITING_APPROVAL | Situation.WAITING | Situation.TRANSPORT_TROUBLE | Situation.SENDING:
            if _acknowledged(desired, view):
                yield AcknowledgeHalt(view.breaker.halt_id)  # "try it now": the relay is mended before its probe time
            yield from _unblocked(desired, view)
            yield from _reopen(desired, view, now)
            yield from _write_control(situation, desired, view)
            ensure = senders.ensure_senders(desired, observed, view, now)
            if ensure is not None and situation in (Situation.SENDING, Situation.TRANSPORT_TROUBLE):
                lost = senders.lost_waves(observed, view, now)
                if lost:
                    yield StopSenders("Lost", lost)
                yield ensure
        case _:
            assert_never(situation)


def _unblocked(desired: Desired, view: LedgerView) -> Iterator[Action]:
    """A provider that a person wants to be sent to all the same."""
    if any(one.id == desired.acknowledged_halt for one in view.breaker.blocked):
        yield AcknowledgeHalt(desired.acknowledged_halt)


def _acknowledged(desired: Desired, view: LedgerView) -> bool:
    id_, said = view.breaker.halt_id, desired.acknowledged_halt
    if view.breaker.state is not BreakerState.HALTED or not id_:
        return False
    return said == id_ or (halted_by_a_loss(view) and said.startswith(f"{id_}."))


def control_wanted(situation: Situation, desired: Desired, view: LedgerView) -> Control | None:
    """What senders are to obey now. While references are unresolved the ledger's own control is told to stop."""
    base = desired.control
    if base is None:
        try:
            base = Control.from_json(view.control)
        except ValidationError:  # none was ever written, or it is not ours to understand: there is nothing to stop
            return None
    return base.model_copy(
        update={
            "stop": situation not in MAY_SEND,
            "cancel": desired.cancel,
            "fresh_limit": desired.fresh_limit,
        }
    )


def _write_control(situation: Situation, desired: Desired, view: LedgerView) -> Iterator[Action]:
    control = control_wanted(situation, desired, view)
    if control is not None and control.to_json() != dict(view.control):
        yield WriteControl(control)


def _drain(situation: Situation, desired: Desired, observed: Observed, view: LedgerView) -> Iterator[Action]:
    """Tell senders to stop in the ledger, where it reaches all of them, then end their jobs."""
    yield from _write_control(situation, desired, view)
    yield from _stop_senders(observed, situation)


def _stop_senders(observed: Observed, situation: Situation) -> Iterator[Action]:
    if observed.alive_jobs("send"):
        yield StopSenders(situation.value)


def _stop_plan(observed: Observed, view: LedgerView, situation: Situation) -> Iterator[Action]:
    if view.phase is Phase.REGISTERED and observed.alive_jobs("plan"):
        yield StopPlan(situation.value)


def _end_rows(view: LedgerView, to_state: DeliveryState, reason: str) -> Iterator[Action]:
    states = tuple(state for state in DeliveryState if state in RESTING and view.counts[state])
    if states:
        yield EndRows(states, to_state, reason)


def _reopen(desired: Desired, view: LedgerView, now: datetime) -> Iterator[Action]:
    """The view shows the newest request only. A wish with another id is given to the ledger at each look: it knows
    every id it ever had, and does nothing for one of those. So such a wish must not keep anything from ending."""
    wish, newest = desired.reopen, view.reopen
    unseen = wish is not None and (newest is None or newest.id != wish.id)
    if not may_reopen(desired, view, now):
        return
    if wish is not None and unseen:
        yield RequestReopen(wish.id, wish.states)
    if unseen or reopen_waits(desired, view, now):
        yield CarryOutReopen()


def _conclude(desired: Desired, view: LedgerView, now: datetime) -> Iterator[Action]:
    """Prove, then (at the next look) Finish. A reopen in between changes the counts and is proved anew."""
    if view.counts.open or view.sessions or (view.phase is Phase.SENDING and senders.planning_runs(view, now)):
        return
    phase = finish_phase(desired, view)
    # A cancelled campaign, or one that was never planned, claims nothing that a contradiction could make untrue.
    must_hold = phase is not Phase.CANCELLED and view.phase is Phase.SENDING
    proof = view.proof
    if proof is not None and not outdated(proof, view):
        age = now - proof.at
        # A proof of very many rows is old when it is made: what counts is that nothing has changed since it began.
        fresh = age <= (REPROVE if proof.revision == view.revision else PROOF_FRESH)
        if (proof.holds or not must_hold) and proves(proof, view) and fresh:
            yield Finish(phase)
            return
        if age < (REPROVE if disproved(view, now) else PROVE_AGAIN):
            return
    yield Prove()


def _events(previous: CampaignStatus, status: CampaignStatus, situation: Situation) -> Iterator[Emit]:
    """An event when Ready's reason changes (routine waits apart), and when senders begin to fail, connections become
    fewer, or progress stops."""
    row = ROWS[situation]
    before, after = find(previous, "Ready"), find(status, "Ready")
    if row.event and after is not None and (before is None or before.reason != after.reason):
        routine = situation is Situation.SENDING and before is not None and before.reason in ("Waiting", "Proving")
        if not routine:
            yield Emit(row.event, after.reason, after.message)
    for type_ in ("SendersFailing", "NoProgress", "ConnectionsReduced", "ProvidersBlocked"):
        condition = find(status, type_)
        if condition is not None and not is_true(previous, type_):
            yield Emit("Warning", type_, condition.message)


def _look_again(
    situation: Situation,
    actions: tuple[Action, ...],
    desired: Desired,
    observed: Observed,
    status: CampaignStatus,
    now: datetime,
) -> timedelta:
    if any(not isinstance(action, (RequestReopen, CarryOutReopen)) for action in actions):
        return SOON
    match situation:
        case Situation.COMPLETE | Situation.FAILED | Situation.CANCELLED:
            latest = BUSY if actions else REST
        case Situation.LEDGER_BROKEN | Situation.LEDGER_WENT_BACK | Situation.OWNED_ELSEWHERE | Situation.CONFLICT:
            latest = IDLE
        case _:
            idle = observed.view is not None and not observed.view.sessions and not any(j.alive for j in observed.jobs)
            latest = IDLE if idle else BUSY
    if situation is Situation.LEDGER_UNREACHABLE:
        latest = BUSY
    moments = [status.next_attempt_time, desired.deadline, desired.start_at]
    ahead = [moment - now for moment in moments if moment is not None and moment > now]
    return max(SOON, min([latest, *ahead]))
