"""No pod without work, no work without a pod, and no hot loop of dying senders."""

from __future__ import annotations

from datetime import datetime, timedelta

from reconcile_worlds import NOW, ago, ahead, job, kinds, look, of_kind, registered, sealed, session, view, wish, world

from fullsend.ledger.view import BreakerState, BreakerView
from fullsend.reconcile.actions import EnsureSenders, StopSenders
from fullsend.reconcile.conditions import find, is_true
from fullsend.reconcile.situation import Situation


def test_three_recipients_need_one_pod_however_many_are_allowed() -> None:
    decision = look(wish(max_pods=4), world(view({"pending": 3})))
    assert of_kind(decision, EnsureSenders) == EnsureSenders(pods=1, wave=0, new_wave=True)


def test_many_recipients_get_all_the_pods_that_are_allowed() -> None:
    assert of_kind(look(wish(max_pods=4), world(view({"pending": 100_000}))), EnsureSenders).pods == 4


def test_a_pod_is_never_started_without_a_connection_for_it() -> None:
    assert of_kind(look(wish(connections=2), world(view({"pending": 100_000}))), EnsureSenders).pods == 2
    reduced = BreakerView(state=BreakerState.REDUCED, connections=3, since=NOW)
    assert of_kind(look(wish(), world(view({"pending": 100_000}, breaker=reduced))), EnsureSenders).pods == 3


def test_senders_that_live_by_the_ledger_are_enough_without_any_job() -> None:
    decision = look(wish(), world(view({"pending": 10}, sessions=(session(1),), wave=1)))
    assert kinds(decision) == []


def test_a_job_without_a_session_yet_is_a_sender_on_its_way() -> None:
    assert kinds(look(wish(), world(view({"pending": 10}, wave=1), jobs=(job(1),)))) == []


def test_a_finished_job_makes_way_for_a_new_wave() -> None:
    decision = look(wish(), world(view({"pending": 10}, wave=1), jobs=(job(1, alive=False),)))
    assert of_kind(decision, EnsureSenders) == EnsureSenders(pods=1, wave=1, new_wave=True)


def test_a_wave_opened_before_a_crash_gets_its_job_and_no_second_number() -> None:
    decision = look(wish(), world(view({"pending": 10}, wave=7), jobs=(job(6, alive=False),)))
    assert of_kind(decision, EnsureSenders) == EnsureSenders(pods=1, wave=7, new_wave=False)


def test_only_the_missing_pods_are_started_beside_those_that_live() -> None:
    ledger = view({"pending": 100_000}, sessions=(session(1), session(2)), wave=1)
    assert of_kind(look(wish(), world(ledger)), EnsureSenders) == EnsureSenders(pods=2, wave=1, new_wave=True)


def test_an_expired_session_is_swept_and_does_not_count_as_a_sender() -> None:
    ledger = view({"pending": 10, "armed": 1}, sessions=(session(1, expired=True),), wave=1)
    assert kinds(look(wish(), world(ledger))) == ["Sweep", "EnsureSenders"]


def test_a_job_on_a_dead_node_looks_alive_and_is_replaced_all_the_same() -> None:
    zombie = job(1, started_at=ago(minutes=6))
    decision = look(wish(), world(view({"pending": 10}, wave=1), jobs=(zombie,)))
    assert decision.actions[0] == StopSenders("Lost", (1,))
    assert of_kind(decision, EnsureSenders) == EnsureSenders(pods=1, wave=1, new_wave=True)
    young = job(1, started_at=ago(minutes=4))
    assert "EnsureSenders" not in kinds(look(wish(), world(view({"pending": 10}, wave=1), jobs=(young,))))


def test_one_frozen_pod_of_a_wave_is_replaced_without_touching_the_others() -> None:
    ledger = view({"pending": 100_000}, sessions=(session(1), session(2), session(3)), wave=1)
    old = job(1, started_at=ago(minutes=6), pods=4)
    decision = look(wish(max_pods=4), world(ledger, jobs=(old,)))
    assert kinds(decision) == ["EnsureSenders"]
    assert of_kind(decision, EnsureSenders).pods == 1


def test_nobody_idles_while_everybody_was_asked_to_wait() -> None:
    decision = look(wish(), world(view({"deferred": 5, "accepted": 5}, next_due_at=ahead(minutes=20))))
    assert kinds(decision) == []
    assert decision.situation is Situation.WAITING
    assert decision.status.next_attempt_time == ahead(minutes=20)
    assert decision.status.limited_by == "Relay"
    soon = look(wish(), world(view({"deferred": 5}, next_due_at=ahead(seconds=20))))
    assert soon.look_again == timedelta(seconds=20)


def test_rows_that_are_due_are_work() -> None:
    decision = look(wish(), world(view({"deferred": 5}, due_now=5, next_due_at=ago(seconds=1))))
    assert of_kind(decision, EnsureSenders).pods == 1


def test_a_job_that_is_known_to_wait_is_believed_for_as_long_as_it_does() -> None:
    waits = job(1, started_at=ago(hours=1), problem="Unschedulable: Insufficient cpu")
    decision = look(wish(max_pods=4), world(view({"pending": 10}, wave=1), jobs=(waits,)))
    assert not {"EnsureSenders", "StopSenders"} & set(kinds(decision))


def test_the_first_n_are_sent_and_then_approval_is_awaited() -> None:
    first = wish(rollout_first=10)
    assert of_kind(look(first, world(view({"pending": 1000}))), EnsureSenders).pods == 1
    tried = view({"pending": 990, "accepted": 9, "rejected": 1})
    waiting = look(first, world(tried))
    assert waiting.situation is Situation.AWAITING_APPROVAL
    assert "EnsureSenders" not in kinds(waiting)
    assert waiting.status.limited_by == "Approval"
    assert "EnsureSenders" in kinds(look(wish(rollout_first=10, rollout_approved=True), world(tried)))


def test_the_first_n_are_those_that_were_eligible_when_the_plan_was_sealed() -> None:
    plan = sealed(suppressed=100, invalid=7)
    ledger = view({"pending": 990, "accepted": 5, "suppressed": 100, "invalid": 7}, plan=plan)
    assert of_kind(look(wish(rollout_first=10), world(ledger)), EnsureSenders).pods == 1
    # Five of the first ten said no meanwhile: the ledger hands out no eleventh, so no sender is started for one.
    said_no = view({"pending": 990, "accepted": 5, "suppressed": 105, "invalid": 7}, plan=plan)
    assert look(wish(rollout_first=10), world(said_no)).situation is Situation.AWAITING_APPROVAL


def crashed(count: int, *, last: datetime) -> tuple[object, ...]:
    return tuple(
        job(wave, alive=False, ended_at=last - timedelta(seconds=count - wave), exit_code=1, ended_reason="OOMKilled")
        for wave in range(1, count + 1)
    )


def test_senders_that_die_without_progress_are_restarted_ever_more_slowly() -> None:
    for deaths, delay in ((1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (40, 300)):
        ledger = view({"pending": 10}, wave=deaths)
        jobs = crashed(deaths, last=NOW)
        early = look(wish(), world(ledger, jobs=jobs), ahead(seconds=delay - 1))
        late = look(wish(), world(ledger, jobs=jobs), ahead(seconds=delay))
        assert "EnsureSenders" not in kinds(early), deaths
        assert early.status.next_attempt_time == ahead(seconds=delay)
        assert "EnsureSenders" in kinds(late), deaths


def test_a_crash_loop_is_said_with_its_last_reason() -> None:
    decision = look(wish(), world(view({"pending": 10}, wave=3), jobs=crashed(3, last=NOW)))
    failing = find(decision.status, "SendersFailing")
    assert failing is not None
    assert "OOMKilled" in failing.message
    assert not is_true(look(wish(), world(view(), jobs=crashed(2, last=NOW))).status, "SendersFailing")


def test_progress_forgives_earlier_deaths() -> None:
    ledger = view({"pending": 10}, wave=6, last_settled_at=ahead(seconds=1))
    decision = look(wish(), world(ledger, jobs=crashed(6, last=NOW)), ahead(seconds=2))
    assert "EnsureSenders" in kinds(decision)
    assert find(decision.status, "SendersFailing") is None


def test_waves_that_end_in_order_do_not_spin_either() -> None:
    jobs = tuple(job(wave, alive=False, ended_at=NOW) for wave in range(1, 8))
    assert "EnsureSenders" not in kinds(look(wish(), world(view({"pending": 10}, wave=7), jobs=jobs), ahead(seconds=1)))
    assert "EnsureSenders" in kinds(look(wish(), world(view({"pending": 10}, wave=7), jobs=jobs), ahead(minutes=5)))


def test_a_job_runner_whose_clock_is_ahead_holds_nothing_up() -> None:
    ahead_of_time = (job(1, alive=False, ended_at=ahead(hours=9), exit_code=1),)
    decision = look(wish(), world(view({"pending": 10}, wave=1), jobs=ahead_of_time), ahead(seconds=10))
    assert decision.status.next_attempt_time == ahead(seconds=15)


def test_pods_that_do_not_start_are_said_with_what_is_known() -> None:
    stuck = job(1, started_at=ago(minutes=3), problem="exceeded quota: pods")
    failing = find(look(wish(), world(view({"pending": 10}, wave=1), jobs=(stuck,))).status, "SendersFailing")
    assert failing is not None
    assert "exceeded quota" in failing.message


def test_why_pods_do_not_start_is_said_soon_where_it_is_known_and_late_where_it_is_not() -> None:
    ledger = view({"pending": 10}, wave=1)
    known, unknown = job(1, started_at=ago(seconds=15), problem="no image"), job(1, started_at=ago(seconds=15))
    assert find(look(wish(), world(ledger, jobs=(known,))).status, "SendersFailing") is not None
    assert find(look(wish(), world(ledger, jobs=(unknown,))).status, "SendersFailing") is None


def test_a_plan_that_cannot_begin_says_why() -> None:
    stuck = job(1, kind="plan", problem="exceeded quota: pods")
    ready = find(look(wish(), world(registered(), jobs=(stuck,))).status, "Ready")
    assert ready is not None
    assert "exceeded quota" in ready.message


def test_no_progress_is_found_only_with_senders_and_without_a_reason() -> None:
    old = session(1)
    old = type(old)(old.id, 1, "pod", ago(minutes=15), ago(seconds=1), False, 8)
    stuck = view({"pending": 10}, sessions=(old,), wave=1, last_settled_at=ago(minutes=11))
    assert is_true(look(wish(), world(stuck)).status, "NoProgress")
    assert not is_true(look(wish(suspend=True), world(stuck)).status, "NoProgress")
    moving = view({"pending": 10}, sessions=(old,), wave=1, last_settled_at=ago(minutes=9))
    assert not is_true(look(wish(), world(moving)).status, "NoProgress")
    fresh = view({"pending": 10}, sessions=(session(1),), wave=1, last_settled_at=ago(hours=4))
    assert not is_true(look(wish(), world(fresh)).status, "NoProgress")


def test_rows_in_nobodys_hands_are_no_silent_wait() -> None:
    orphaned = view({"claimed": 3, "accepted": 5}, wave=1, last_settled_at=ago(minutes=11))
    assert is_true(look(wish(), world(orphaned)).status, "NoProgress")
    assert not is_true(look(wish(), world(orphaned), ago(minutes=2)).status, "NoProgress")
