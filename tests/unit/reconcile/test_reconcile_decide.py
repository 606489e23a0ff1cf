"""What follows from what: actions, preconditions and precedence, one claim a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from reconcile_worlds import (
    CONTROL,
    NOW,
    STOPPED,
    after,
    ago,
    ahead,
    job,
    kinds,
    look,
    of_kind,
    proof_of,
    registered,
    sealed,
    session,
    view,
    wish,
    world,
)

from fullsend.ledger.control import Control
from fullsend.ledger.view import BreakerState, BreakerView, Owner, Phase, PlanState, ReopenRequest
from fullsend.reconcile import breaker
from fullsend.reconcile.actions import (
    AcknowledgeHalt,
    Emit,
    EndRows,
    EnsureSenders,
    Finish,
    Halt,
    RequestReopen,
    StartPlan,
    WriteControl,
)
from fullsend.reconcile.conditions import find, is_true
from fullsend.reconcile.observed import DatabaseFault, DatabaseProblem, Reopen, Tolerance
from fullsend.reconcile.situation import Situation
from fullsend.states import DeliveryState

HALTED = BreakerView(
    state=BreakerState.HALTED, reason="SenderRefused", message="550 5.7.1", halt_id="h-1", needs_person=True, since=NOW
)
DOWN = DatabaseProblem(DatabaseFault.UNREACHABLE, "connection refused")
REOPEN = Reopen("again", (DeliveryState.REJECTED,))


# -- from nothing to a plan


def test_an_unknown_key_is_registered() -> None:
    assert kinds(look(wish(), world(None))) == ["Register"]


def test_nothing_is_registered_while_a_reference_is_missing() -> None:
    decision = look(wish(control=None, problems=("MailTransport relay is not there",)), world(None))
    assert kinds(decision) == []
    assert is_true(decision.status, "Reconciling")


def test_a_registered_campaign_is_planned_also_while_suspended() -> None:
    for desired in (wish(), wish(suspend=True), wish(start_at=ahead(days=1))):
        assert look(desired, world(registered())).actions[0] == StartPlan(attempt=1)


def test_a_plan_with_a_heart_beat_or_a_job_is_left_alone() -> None:
    running = sealed(state=PlanState.RUNNING, heartbeat_at=ago(seconds=5))
    assert kinds(look(wish(), world(registered(), jobs=(job(1, kind="plan"),)))) == []
    assert kinds(look(wish(), world(replace(registered(), plan=running)))) == []


def test_a_plan_whose_reader_died_is_begun_anew() -> None:
    dead = replace(registered(), plan=sealed(state=PlanState.RUNNING, heartbeat_at=ago(seconds=61)))
    assert look(wish(), world(dead)).actions[0] == StartPlan(attempt=2)


def test_a_plan_job_that_died_before_it_reached_the_ledger_gets_another_name() -> None:
    decision = look(wish(), world(registered(), jobs=(job(1, kind="plan", alive=False, ended_at=ago(minutes=1)),)))
    assert decision.actions[0] == StartPlan(attempt=2)


def test_a_failing_plan_is_retried_more_and_more_slowly_and_becomes_stalled() -> None:
    failed = sealed(
        state=PlanState.FAILED, heartbeat_at=NOW, reason="SourceUnreachable", message="no route", generation=2
    )
    early = look(wish(), world(replace(registered(), plan=failed)), ahead(seconds=29))
    assert kinds(early) == []
    assert is_true(early.status, "Stalled")
    assert "no route" in early.status.conditions[0].message
    assert early.status.next_attempt_time == ahead(seconds=30)
    assert kinds(look(wish(), world(replace(registered(), plan=failed)), ahead(seconds=30))) == ["StartPlan"]


# -- the ledger is not what it should be


def test_without_the_ledger_nothing_is_done_and_what_was_true_stays() -> None:
    before = look(wish(), world(view({"accepted": 5, "pending": 5}, sessions=(session(1),), wave=1)))
    decision = look(wish(), world(None, database_problem=DOWN, previous=before.status))
    assert decision.actions == ()
    assert decision.status == before.status.model_copy(update={"limited_by": "Database"})


def test_without_the_ledger_a_first_look_says_so_and_waits() -> None:
    decision = look(wish(), world(None, database_problem=DOWN))
    assert kinds(decision) == []
    ready = find(decision.status, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("Unknown", "LedgerUnreachable")
    assert decision.status.observed_generation == -1


@pytest.mark.parametrize("fault", [DatabaseFault.DISK_FULL, DatabaseFault.SCHEMA, DatabaseFault.REFUSED])
def test_a_broken_ledger_is_halted_not_a_crash_loop(fault: DatabaseFault) -> None:
    decision = look(wish(), world(None, database_problem=DatabaseProblem(fault, "no space left on device")))
    assert kinds(decision) == []
    assert is_true(decision.status, "Halted")


def test_a_finished_campaign_stays_finished_while_the_ledger_is_broken() -> None:
    done = look(wish(), world(view({"accepted": 1}, phase=Phase.COMPLETE)))
    broken = DatabaseProblem(DatabaseFault.SCHEMA, "schema 9 is newer than this program")
    decision = look(wish(), world(None, database_problem=broken, previous=done.status))
    assert is_true(decision.status, "Complete")


def test_a_ledger_that_went_back_halts_and_sends_nothing() -> None:
    previous = look(wish(), world(view(revision=50))).status
    decision = look(wish(), world(view(revision=49, wave=1), previous=previous, jobs=(job(1),)))
    assert kinds(decision) == ["Halt", "WriteControl", "StopSenders"]
    assert of_kind(decision, Halt).reason == "LedgerWentBack"
    assert decision.status.halt is not None
    assert decision.status.halt.id == "ledger-went-back-50"
    assert decision.status.revision == 50


def test_a_ledger_without_the_campaign_has_gone_back_and_is_not_registered_into() -> None:
    previous = look(wish(), world(view(revision=50))).status
    decision = look(wish(), world(None, previous=previous))
    assert decision.situation is Situation.LEDGER_WENT_BACK
    assert kinds(decision) == []
    acknowledged = look(wish(acknowledged_halt="ledger-went-back-50"), world(None, previous=previous))
    assert kinds(acknowledged) == ["Register"]


def test_an_acknowledged_loss_goes_on_from_the_older_revision_and_only_once() -> None:
    previous = look(wish(), world(view(revision=50))).status
    desired = wish(acknowledged_halt="ledger-went-back-50")
    halted = view(revision=41, breaker=replace(HALTED, reason="LedgerWentBack", halt_id="ledger-went-back-50"))
    decision = look(desired, world(halted, previous=previous))
    assert kinds(decision) == ["AcknowledgeHalt"]
    assert decision.status.revision == 41
    later = look(desired, world(view(revision=40), previous=decision.status))
    assert later.situation is Situation.LEDGER_WENT_BACK


def test_a_loss_that_a_sender_has_noticed_too_is_acknowledged_once() -> None:
    previous = look(wish(), world(view(revision=50))).status
    by_sender = replace(HALTED, reason="LedgerWentBack", halt_id="ledger-went-back-7-1068ac73")
    halted = view(revision=41, breaker=by_sender)
    shown = look(wish(), world(halted, previous=previous)).status
    assert shown.halt is not None
    assert shown.halt.id == "ledger-went-back-7-1068ac73.50"
    desired = wish(acknowledged_halt=shown.halt.id)
    decision = look(desired, world(halted, previous=shown))
    assert kinds(decision) == ["AcknowledgeHalt"]
    assert of_kind(decision, AcknowledgeHalt).halt_id == by_sender.halt_id
    going_on = view(revision=42, breaker=replace(by_sender, state=BreakerState.PROBING, halt_id=""))
    assert look(desired, world(going_on, previous=decision.status)).situation is not Situation.LEDGER_WENT_BACK
    # The same halt in a copy of the ledger that is older still: what was said was said of the first loss.
    older = view(revision=40, breaker=by_sender)
    assert look(desired, world(older, previous=decision.status)).situation is Situation.LEDGER_WENT_BACK


def test_halting_a_ledger_that_went_back_is_not_repeated() -> None:
    previous = look(wish(), world(view(revision=50))).status
    halted = view(revision=41, breaker=replace(HALTED, halt_id="ledger-went-back-50"), control=STOPPED.to_json())
    assert kinds(look(wish(), world(halted, previous=previous))) == []


def test_what_a_halt_says_ends_in_one_full_stop() -> None:
    halted = view(breaker=replace(HALTED, message="It may be waiting again."))
    ready = find(look(wish(), world(halted)).status, "Ready")
    assert ready is not None
    assert "waiting again. When this is mended" in ready.message


def test_a_key_with_other_content_is_never_sent() -> None:
    conflict = ("spec.message.subject: was 'Spring', now 'Summer'",)
    decision = look(wish(), world(view(owner=None), conflict=conflict))
    assert kinds(decision) == []
    stalled = find(decision.status, "Stalled")
    assert stalled is not None
    assert stalled.reason == "LedgerKeyHoldsDifferentCampaign"
    assert "Summer" in stalled.message


def test_editing_the_content_of_our_own_running_campaign_stops_it() -> None:
    running = view(sessions=(session(1),), wave=1)
    decision = look(wish(), world(running, conflict=("spec.message: x",), jobs=(job(1),)))
    assert kinds(decision) == ["WriteControl", "StopSenders"]
    assert of_kind(decision, WriteControl).control.stop


def test_a_live_foreign_owner_is_left_in_peace_and_an_expired_one_is_taken_over() -> None:
    theirs = Owner("cluster-2", "uid-9", ago(seconds=1), expired=False)
    live = look(wish(), world(view(owner=theirs)))
    assert kinds(live) == []
    assert "uid-9" in live.status.conditions[0].message
    assert kinds(look(wish(), world(view(owner=replace(theirs, expired=True))))) == ["Register"]


# -- stopping


@pytest.mark.parametrize(
    ("desired", "ledger"),
    [
        (wish(suspend=True), view(wave=1)),
        (wish(start_at=ahead(hours=1)), view(wave=1)),
        (wish(), view(wave=1, breaker=HALTED)),
        (wish(deadline=ago(seconds=1)), view({"claimed": 1, "armed": 1}, wave=1, sessions=(session(1),))),
        (wish(control=None, problems=("MailTransport relay is not there",)), view(wave=1)),
    ],
)
def test_whatever_stops_a_campaign_stops_it_in_the_ledger_first(desired: object, ledger: object) -> None:
    decision = look(desired, world(ledger, jobs=(job(1),)))  # type: ignore[arg-type]
    assert kinds(decision) == ["WriteControl", "StopSenders"]
    assert of_kind(decision, WriteControl).control.stop


def test_a_stopped_campaign_is_left_alone() -> None:
    stopped = view(control=STOPPED.to_json())
    assert kinds(look(wish(suspend=True), world(stopped))) == []


def test_a_resumed_campaign_gets_its_control_before_its_senders() -> None:
    decision = look(wish(), world(view(control=STOPPED.to_json())))
    assert kinds(decision) == ["WriteControl", "EnsureSenders"]
    assert not of_kind(decision, WriteControl).control.stop


def test_an_edited_rate_reaches_running_senders_without_new_ones() -> None:
    edited = CONTROL.model_copy(update={"min_sample": 7})
    decision = look(wish(control=edited), world(view(sessions=(session(1),), wave=1)))
    assert decision.actions[0] == WriteControl(edited)
    assert "EnsureSenders" not in kinds(decision)


def test_a_control_that_is_no_control_is_no_reason_to_raise() -> None:
    odd = view(control={"relay": 7})
    assert kinds(look(wish(control=None, problems=("gone",)), world(odd))) == []


# -- ending


def test_cancel_ends_rows_that_nobody_holds_and_waits_for_the_others() -> None:
    ledger = view({"pending": 3, "deferred": 2, "unknown": 1, "armed": 1}, sessions=(session(1),), wave=1)
    decision = look(wish(cancel=True), world(ledger))
    assert kinds(decision) == ["WriteControl", "EndRows"]
    control: Control = of_kind(decision, WriteControl).control
    assert (control.stop, control.cancel) == (True, True)
    ended = of_kind(decision, EndRows)
    assert ended.to_state is DeliveryState.CANCELLED
    assert set(ended.from_states) == {DeliveryState.PENDING, DeliveryState.DEFERRED, DeliveryState.UNKNOWN}


def test_cancelled_rows_are_proved_and_the_campaign_is_cancelled() -> None:
    cancelled = STOPPED.model_copy(update={"cancel": True}).to_json()
    ended = view({"cancelled": 6, "accepted": 1}, control=cancelled)
    assert kinds(look(wish(cancel=True), world(ended))) == ["Prove"]
    proved = replace(ended, proof=proof_of(ended))
    assert of_kind(look(wish(cancel=True), world(proved)), Finish) == Finish(Phase.CANCELLED)


def test_cancelling_what_is_already_delivered_completes_it() -> None:
    done = view({"accepted": 7}, control=STOPPED.model_copy(update={"cancel": True}).to_json())
    assert of_kind(look(wish(cancel=True), world(replace(done, proof=proof_of(done)))), Finish) == Finish(
        Phase.COMPLETE
    )


def test_cancelling_before_the_plan_ends_the_plan_and_the_campaign() -> None:
    running = replace(registered(), plan=sealed(state=PlanState.RUNNING, heartbeat_at=ago(seconds=1)))
    assert kinds(look(wish(cancel=True), world(running, jobs=(job(1, kind="plan"),)))) == ["StopPlan", "Prove"]
    assert kinds(look(wish(cancel=True), world(registered()))) == ["Prove"]
    proved = replace(registered(), proof=proof_of(registered(), holds=False))  # there is no seal it could agree with
    assert of_kind(look(wish(cancel=True), world(proved)), Finish) == Finish(Phase.CANCELLED)


def test_the_deadline_expires_rows_and_ends_suspended_and_halted_campaigns_too() -> None:
    for desired, ledger in (
        (wish(), view({"deferred": 2})),
        (wish(suspend=True), view({"deferred": 2})),
        (wish(), view({"deferred": 2}, breaker=HALTED)),
    ):
        decision = look(replace(desired, deadline=ago(seconds=1)), world(ledger))
        assert of_kind(decision, EndRows) == EndRows((DeliveryState.DEFERRED,), DeliveryState.EXPIRED, "DeadlinePassed")


def test_a_campaign_that_could_never_be_planned_fails_at_its_deadline() -> None:
    failed = replace(registered(), plan=sealed(state=PlanState.FAILED))
    late = wish(deadline=ago(seconds=1))
    assert kinds(look(late, world(failed))) == ["Prove"]
    assert of_kind(look(late, world(replace(failed, proof=proof_of(failed, holds=False)))), Finish) == Finish(
        Phase.FAILED
    )
    # Not yet tried: it is planned, so that whoever was missed has a name.
    assert kinds(look(late, world(registered()))) == ["StartPlan"]


def finishing(**by_state: int) -> object:
    return view(by_state, control=STOPPED.to_json())


def test_complete_needs_a_proof() -> None:
    done = view({"accepted": 5}, control=STOPPED.to_json())
    assert kinds(look(wish(), world(done))) == ["Prove"]
    assert kinds(look(wish(), world(replace(done, proof=proof_of(done))))) == ["Finish"]


def test_a_proof_older_than_the_last_settled_row_is_no_proof() -> None:
    done = view({"accepted": 5}, control=STOPPED.to_json(), last_settled_at=ago(seconds=10))
    assert kinds(look(wish(), world(replace(done, proof=proof_of(done, at=ago(seconds=11)))))) == ["Prove"]
    assert kinds(look(wish(), world(replace(done, proof=proof_of(done, at=ago(seconds=9)))))) == ["Finish"]


def test_a_finish_that_the_ledger_refused_is_proved_anew() -> None:
    done = view({"accepted": 5}, control=STOPPED.to_json())
    assert kinds(look(wish(), world(replace(done, proof=proof_of(done, at=ago(seconds=61)))))) == ["Prove"]


def test_a_proof_that_took_long_still_speaks_while_nothing_has_changed() -> None:
    done = view({"accepted": 5}, control=STOPPED.to_json())
    slow = replace(proof_of(done, at=ago(minutes=5)), revision=done.revision)
    assert kinds(look(wish(), world(replace(done, proof=slow)))) == ["Finish"]
    assert kinds(look(wish(), world(replace(done, proof=slow, revision=done.revision + 1)))) == ["Prove"]


def test_nothing_is_proved_while_a_session_is_left() -> None:
    for left in (session(1), session(1, expired=True)):
        done = view({"accepted": 5}, control=STOPPED.to_json(), sessions=(left,))
        assert "Prove" not in kinds(look(wish(), world(done)))


def test_a_ledger_that_contradicts_itself_is_halted_and_looked_at_again_later() -> None:
    done = view({"accepted": 5}, control=STOPPED.to_json())
    counted = view({"accepted": 4, "deferred": 1}).counts
    wrong = replace(proof_of(done, holds=False), counts=counted, differences=("4 rows are accepted, not 5",))
    decision = look(wish(), world(replace(done, proof=wrong)))
    assert kinds(decision) == []
    assert is_true(decision.status, "Halted")
    assert "4 rows" in decision.status.conditions[0].message
    assert not is_true(decision.status, "Complete")
    assert kinds(look(wish(), world(replace(done, proof=wrong)), ahead(minutes=16))) == ["Prove"]


def test_a_proof_spoilt_by_a_sender_that_came_late_is_only_made_again() -> None:
    done = view({"accepted": 5}, control=STOPPED.to_json(), last_settled_at=ago(seconds=9))
    spoilt = replace(proof_of(done, holds=False), differences=("1 sessions have not ended",))
    decision = look(wish(), world(replace(done, proof=spoilt)))
    assert kinds(decision) == []
    assert not is_true(decision.status, "Halted")
    assert kinds(look(wish(), world(replace(done, proof=spoilt)), ahead(seconds=9))) == ["Prove"]
    for_long = replace(done, proof=spoilt, last_settled_at=ago(minutes=11))
    assert is_true(look(wish(), world(for_long)).status, "Halted")


@pytest.mark.parametrize(
    ("by_state", "tolerance", "phase"),
    [
        ({"accepted": 5}, Tolerance(), Phase.COMPLETE),
        ({"accepted": 5, "rejected": 5}, Tolerance(), Phase.COMPLETE),
        ({"accepted": 99, "held": 1}, Tolerance(), Phase.FAILED),
        ({"accepted": 99, "held": 1}, Tolerance(((DeliveryState.HELD, 0.01),)), Phase.COMPLETE),
        ({"accepted": 98, "held": 2}, Tolerance(((DeliveryState.HELD, 0.01),)), Phase.FAILED),
        ({"accepted": 99, "expired": 1}, Tolerance(((DeliveryState.HELD, 1.0),)), Phase.FAILED),
        ({"suppressed": 5, "invalid": 1}, Tolerance(), Phase.COMPLETE),
        ({}, Tolerance(), Phase.COMPLETE),
    ],
)
def test_tolerance_decides_between_complete_and_failed(
    by_state: dict[str, int], tolerance: Tolerance, phase: Phase
) -> None:
    done = view(by_state, control=STOPPED.to_json())
    decision = look(wish(tolerance=tolerance), world(replace(done, proof=proof_of(done))))
    assert of_kind(decision, Finish) == Finish(phase)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by_state", "reason"),
    [
        ({"accepted": 5, "suppressed": 2}, "AllAccepted"),
        ({"accepted": 5, "rejected": 1}, "AcceptedWithRejections"),
        ({"rejected": 1}, "AllRejected"),
        ({"accepted": 9, "held": 1}, "UndeliveredWithinTolerance"),
        ({"suppressed": 4}, "NoEligibleRecipients"),
        ({}, "NoEligibleRecipients"),
    ],
)
def test_complete_says_how(by_state: dict[str, int], reason: str) -> None:
    complete = find(look(wish(), world(view(by_state, phase=Phase.COMPLETE))).status, "Complete")
    assert complete is not None
    assert (complete.status, complete.reason) == ("True", reason)


def test_a_tombstone_says_how_it_ended_and_never_sends() -> None:
    for by_state, situation in (
        ({"accepted": 3}, Situation.COMPLETE),
        ({"accepted": 3, "held": 1}, Situation.FAILED),
        ({"accepted": 3, "cancelled": 1}, Situation.CANCELLED),
    ):
        decision = look(wish(reopen=REOPEN), world(view(by_state, phase=Phase.PURGED)))
        assert decision.situation is situation
        assert kinds(decision) == []


# -- reopening


def test_a_reopen_is_requested_and_carried_out_once_an_id() -> None:
    failed = view({"accepted": 5, "rejected": 2}, phase=Phase.COMPLETE)
    decision = look(wish(reopen=REOPEN), world(failed))
    assert kinds(decision) == ["RequestReopen", "CarryOutReopen"]
    assert of_kind(decision, RequestReopen) == RequestReopen("again", (DeliveryState.REJECTED,))
    request = ReopenRequest("again", (DeliveryState.REJECTED,), ago(seconds=9), None, 0)
    assert kinds(look(wish(reopen=REOPEN), world(replace(failed, reopen=request)))) == ["CarryOutReopen"]
    done = replace(request, done_at=ago(seconds=1), reopened=2)
    assert kinds(look(wish(reopen=REOPEN), world(replace(failed, reopen=done)))) == []


def test_a_retry_asked_for_in_the_ledger_is_carried_out_without_the_spec() -> None:
    request = ReopenRequest("cli-1", (DeliveryState.HELD,), ago(seconds=9), None, 0)
    assert kinds(look(wish(), world(view({"held": 2}, phase=Phase.FAILED, reopen=request)))) == ["CarryOutReopen"]


def test_a_reopen_that_would_be_undone_at_once_waits() -> None:
    failed = view({"expired": 2}, phase=Phase.FAILED)
    for desired in (
        wish(reopen=REOPEN, cancel=True),
        wish(reopen=REOPEN, deadline=ago(seconds=1)),
        wish(reopen=REOPEN, control=None, problems=("gone",)),
    ):
        assert kinds(look(desired, world(failed))) == []


def test_nothing_is_finished_over_an_open_reopen_request() -> None:
    done = view({"rejected": 5}, control=STOPPED.to_json())
    request = ReopenRequest("again", (DeliveryState.REJECTED,), ago(seconds=9), None, 0)
    decision = look(wish(), world(replace(done, proof=proof_of(done), reopen=request)))
    assert "CarryOutReopen" in kinds(decision)
    assert "Finish" not in kinds(decision)


def test_an_id_that_the_ledger_may_have_had_before_keeps_nothing_from_ending() -> None:
    """The view shows the newest request only: whether ``again`` is older or new is for the ledger to say."""
    newest = ReopenRequest("newer", (DeliveryState.HELD,), ago(minutes=9), ago(minutes=9), 0)
    done = view({"rejected": 5}, control=STOPPED.to_json(), reopen=newest)
    decision = look(wish(reopen=REOPEN), world(replace(done, proof=proof_of(done))))
    assert kinds(decision) == ["RequestReopen", "CarryOutReopen", "Finish"]
    finished = look(wish(reopen=REOPEN), world(replace(done, phase=Phase.COMPLETE)))
    assert kinds(finished) == ["RequestReopen", "CarryOutReopen"]
    assert finished.look_again == timedelta(seconds=10)


def test_states_that_cannot_be_reopened_or_tolerated_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted"):
        Reopen("x", (DeliveryState.ACCEPTED,))
    with pytest.raises(ValueError, match="rejected"):
        Tolerance(((DeliveryState.REJECTED, 0.1),))


# -- the breaker and the failure policy


def test_a_halt_waits_for_its_own_acknowledgement() -> None:
    halted = view(breaker=HALTED, control=STOPPED.to_json())
    assert kinds(look(wish(acknowledged_halt="another"), world(halted))) == []
    decision = look(wish(acknowledged_halt="h-1"), world(halted))
    assert decision.actions[0] == AcknowledgeHalt("h-1")


def test_transport_trouble_is_waited_out_and_then_probed_by_one_pod() -> None:
    waiting = BreakerView(
        state=BreakerState.HALTED,
        reason="CannotConnect",
        message="refused",
        halt_id="h",
        next_probe_at=ahead(seconds=30),
    )
    ledger = view({"pending": 100_000}, breaker=waiting)
    decision = look(wish(), world(ledger))
    assert kinds(decision) == []
    assert decision.situation is Situation.TRANSPORT_TROUBLE
    assert is_true(decision.status, "Ready")
    assert decision.status.next_attempt_time == ahead(seconds=30)
    assert decision.status.halt is not None
    assert of_kind(look(wish(), world(ledger), ahead(seconds=30)), EnsureSenders).pods == 1
    now = look(wish(acknowledged_halt="h"), world(ledger))
    assert now.actions[0] == AcknowledgeHalt("h")


def test_too_many_rejected_halts_and_an_acknowledgement_holds_until_they_double() -> None:
    desired = wish(max_rejected=0.05, min_sample=200)
    few = view({"accepted": 180, "rejected": 19, "pending": 100})
    assert "Halt" not in kinds(look(desired, world(few)))
    many = view({"accepted": 189, "rejected": 11, "pending": 100})
    decision = look(desired, world(many, jobs=(job(1),)))
    assert kinds(decision) == ["Halt", "WriteControl", "StopSenders"]
    halt = of_kind(decision, Halt)
    assert halt.needs_person
    assert decision.status.halt is not None
    assert decision.status.halt.id == halt.halt_id
    stopped = replace(
        many,
        control=STOPPED.to_json(),
        breaker=breaker.halt(BreakerView(), halt.reason, halt.message, NOW, halt_id=halt.halt_id),
    )
    assert kinds(look(desired, world(stopped))) == []
    agreed = replace(desired, acknowledged_halt=halt.halt_id)
    assert kinds(look(agreed, world(stopped))) == ["AcknowledgeHalt"]
    assert "Halt" not in kinds(look(agreed, world(view({"accepted": 200, "rejected": 21, "pending": 1}))))
    assert "Halt" in kinds(look(agreed, world(view({"accepted": 200, "rejected": 22, "pending": 1}))))


def test_rejections_beyond_the_policy_with_nobody_open_only_finish() -> None:
    done = view({"accepted": 100, "rejected": 100}, control=STOPPED.to_json())
    assert kinds(look(wish(max_rejected=0.05), world(done))) == ["Prove"]


# -- events and the next look


def test_an_event_is_emitted_on_a_change_and_never_twice() -> None:
    observed = world(view(control=STOPPED.to_json()))
    first = look(wish(suspend=True), observed)
    assert [action.reason for action in first.actions if isinstance(action, Emit)] == ["Suspended"]
    second = look(wish(suspend=True), after(first, observed))
    assert second.actions == ()
    assert second.status == first.status


def test_the_next_look_is_not_later_than_the_deadline() -> None:
    decision = look(wish(deadline=ahead(seconds=4)), world(view(sessions=(session(1),), wave=1)))
    assert decision.look_again == timedelta(seconds=4)


def test_a_finished_campaign_is_looked_at_now_and_then() -> None:
    assert look(wish(), world(view({"accepted": 1}, phase=Phase.COMPLETE))).look_again == timedelta(minutes=10)
