"""What a Job, its pods and its events say to ``decide``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from controller_objects import ended, job

from fullsend.controller.jobviews import (
    has_begun,
    is_over,
    job_view,
    mounted,
    owned_by,
    same_pods,
    wants_a_closer_look,
)
from fullsend.controller.owned_jobs import slim


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "launch-send-1-0"}, "status": status}


def died(code: int, message: str, at: str) -> dict[str, Any]:
    end = {"exitCode": code, "message": message, "finishedAt": at}
    return pod(phase="Failed", containerStatuses=[{"name": "fullsend", "state": {"terminated": end}}])


def test_a_job_that_runs_is_alive_with_the_pods_it_was_asked_for() -> None:
    view = job_view(job("send", 4, status={"active": 2, "ready": 2}))
    assert (view.kind, view.wave, view.pods, view.alive) == ("send", 4, 2, True)
    assert view.started_at == datetime(2026, 6, 1, 10, tzinfo=UTC)
    assert view.exit_code is None
    assert not wants_a_closer_look(job("send", 4, status={"active": 2, "ready": 2}))


def test_a_job_that_succeeded_ended_with_zero() -> None:
    view = job_view(job(status=ended("Complete")))
    assert (view.alive, view.exit_code, view.failed) == (False, 0, False)
    assert view.ended_at == datetime(2026, 6, 1, 10, 5, tzinfo=UTC)


def test_the_last_words_of_the_pod_that_failed_last_are_the_reason() -> None:
    pods = [
        died(1, "first", "2026-06-01T10:01:00Z"),
        died(2, "starting\nsecret login has no key password\n", "2026-06-01T10:02:00Z"),
    ]
    view = job_view(job(status=ended("Failed")), pods)
    assert (view.exit_code, view.ended_reason) == (2, "secret login has no key password")


def test_without_pods_the_job_itself_says_why_it_failed() -> None:
    view = job_view(job(status=ended("Failed", reason="DeadlineExceeded", message="Job was active too long")))
    assert view.failed
    assert view.ended_reason == "DeadlineExceeded: Job was active too long"


def test_a_denial_shows_only_in_events() -> None:
    told = [
        {"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota: mail", "lastTimestamp": "2026-06-01"},
        {"type": "Normal", "reason": "SuccessfulCreate", "message": "made", "lastTimestamp": "2026-06-02"},
    ]
    assert wants_a_closer_look(job())
    assert job_view(job(), (), told).problem == "FailedCreate: exceeded quota: mail"


def test_a_denial_is_not_told_of_once_pods_are_there() -> None:
    told = [{"type": "Warning", "reason": "FailedCreate", "message": "quota", "lastTimestamp": "2026-06-01"}]
    assert job_view(job(status={"active": 1}), (), told).problem == ""


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImageNeverPull", "CreateContainerConfigError"])
def test_a_pod_that_cannot_start_says_why(reason: str) -> None:
    waits = {"name": "fullsend", "state": {"waiting": {"reason": reason, "message": "no such thing"}}}
    view = job_view(job(status={"active": 1}), [pod(phase="Pending", containerStatuses=[waits])])
    assert view.problem == f"{reason}: no such thing"


def test_a_pod_that_is_being_made_has_no_problem() -> None:
    waits = {"name": "fullsend", "state": {"waiting": {"reason": "ContainerCreating"}}}
    assert job_view(job(status={"active": 1}), [pod(phase="Pending", containerStatuses=[waits])]).problem == ""


def test_a_pod_without_a_node_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    view = job_view(job(status={"active": 1}), [pod(phase="Pending", conditions=[condition])])
    assert view.problem == "Unschedulable: 0/3 nodes"


def test_a_job_that_a_queue_holds_back_says_so() -> None:
    held = job()
    held["spec"]["suspend"] = True
    assert "suspended" in job_view(held).problem


def test_a_job_that_is_being_deleted_is_stopping_and_still_alive() -> None:
    view = job_view(job(deletionTimestamp="2026-06-01T10:01:00Z"))
    assert (view.alive, view.stopping, view.problem) == (True, True, "")


def test_a_job_is_ours_only_by_the_uid_of_its_controller() -> None:
    assert owned_by(job(), "0a1b")
    assert not owned_by(job(), "other")
    assert not owned_by(job(ownerReferences=[{"uid": "0a1b"}]), "0a1b")


def test_a_failure_that_waits_for_its_pods_to_end_is_over() -> None:
    assert is_over(job(status=ended("FailureTarget")))


def test_a_job_has_begun_once_a_pod_of_it_runs_or_ended() -> None:
    assert not has_begun(job())
    assert not has_begun(job(status={"active": 2, "ready": 0}))
    for name in ("ready", "succeeded", "failed"):
        assert has_begun(job(status={"active": 1, name: 1}))


def test_what_is_kept_of_a_job_says_as_much_as_the_whole() -> None:
    for status in ({"active": 1, "ready": 1}, ended("Complete"), ended("Failed", reason="BackoffLimitExceeded")):
        whole = job("send", 4, status=status)
        whole["metadata"]["managedFields"] = [{"fieldsV1": {"f:spec": {}}}]
        whole["spec"]["template"] = {"spec": {"containers": [{"name": "fullsend"}]}}
        kept = slim(whole)
        assert "managedFields" not in kept["metadata"]
        assert "template" not in kept["spec"]
        assert job_view(kept) == job_view(whole)
        assert wants_a_closer_look(kept) == wants_a_closer_look(whole)
        assert has_begun(kept) == has_begun(whole)
        assert same_pods(kept, whole)
        assert mounted(kept) == mounted(whole)
