"""A campaign on a real API server: from ``kubectl apply`` to its proof, through what people and machines do to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.workspace import Workspace, eventually

SLOW = {"rates": [{"messages": 40, "per": "1s"}]}
"""Slow enough for something to be done to a campaign of some hundred in the middle."""


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


def test_an_applied_campaign_completes_and_everybody_has_it_once(world: ClusterWorld) -> None:
    people = world.recipients(50)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign()
    world.until("Complete")
    world.kubectl("wait", "--for=condition=Complete", "--timeout=5s", "campaign/launch", "-n", world.namespace)
    status = world.status()
    assert (status["state"], status["accepted"], status["missing"]) == ("Complete", 50, 0)
    assert status["proof"]["holds"]
    assert world.copies() == dict.fromkeys(people, 1)
    assert [reason for reason, _ in world.events() if reason == "AllAccepted"] == ["AllAccepted"]


def test_deleted_and_applied_again_it_sends_nothing_and_with_another_message_it_is_refused(world: ClusterWorld) -> None:
    world.recipients(20)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign()
    world.until("Complete")
    before = world.copies()
    world.delete("campaign", "launch")
    world.campaign()
    world.until("Complete", within=15)
    world.delete("campaign", "launch")
    world.campaign(subject="Something else")
    refused = world.until("Stalled", reason="LedgerKeyHoldsDifferentCampaign", within=15)
    assert "Something else" in refused["message"]
    assert world.copies() == before


def test_deleted_in_the_middle_and_applied_again_it_goes_on(world: ClusterWorld) -> None:
    people = world.recipients(200)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.delete("campaign", "launch")
    # The garbage collector looks for new kinds of objects every 30 s; this control plane's may be younger than that.
    eventually("its Jobs are gone with it", 90, lambda: not world.items("jobs"))
    world.campaign(limits=SLOW)
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_an_operator_that_is_killed_in_the_middle_is_taken_up_by_the_next(world: ClusterWorld) -> None:
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    first = world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 60)
    first.kill()
    world.operator()
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_second_operator_takes_over_in_less_than_20_seconds(world: ClusterWorld) -> None:
    first = world.operator()
    eventually("the first leads", 30, first.leads)
    second = world.operator()
    time.sleep(4)
    assert not second.leads()
    first.kill()
    died = time.monotonic()
    eventually("the second leads", 30, second.leads)
    assert time.monotonic() - died < 20


def test_a_leader_that_is_told_to_stop_lets_go_at_once(world: ClusterWorld) -> None:
    first = world.operator()
    eventually("the first leads", 30, first.leads)
    second = world.operator()
    eventually("the second is up", 30, lambda: second.url)
    first.stop()
    left = time.monotonic()
    eventually("the second leads", 30, second.leads)
    assert time.monotonic() - left < 8


def test_two_operators_that_both_lead_do_no_harm(world: ClusterWorld) -> None:
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    one, two = world.operator(), world.operator(lease="default")
    eventually("both lead", 30, lambda: one.leads() and two.leads())
    world.campaign(limits=SLOW)
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_suspended_it_stops_within_seconds_and_resumed_it_ends(world: ClusterWorld) -> None:
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.patch(suspend=True)
    world.until("Suspended", within=10)
    time.sleep(3)
    seen = world.accepted()
    time.sleep(2)
    assert world.accepted() == seen < 300
    world.patch(suspend=False)
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_the_annotation_stops_what_the_spec_says_is_to_go_on(world: ClusterWorld) -> None:
    world.recipients(10)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(suspend=True)
    world.until("Suspended")
    eventually("it is planned all the same", 30, lambda: world.status().get("eligible") == 10)
    world.kubectl("annotate", "campaign", "launch", "fullsend.dev/suspend=true", "-n", world.namespace)
    world.patch(suspend=False)
    time.sleep(4)
    assert world.condition("Suspended")["status"] == "True"
    assert world.accepted() == 0
    world.kubectl("annotate", "campaign", "launch", "fullsend.dev/suspend-", "-n", world.namespace)
    world.until("Complete")


def test_a_small_send_first_goes_on_when_it_is_approved(world: ClusterWorld) -> None:
    people = world.recipients(60)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(rollout={"first": 10})
    world.until("Ready", reason="AwaitingApproval")
    assert sum(world.copies().values()) == 10
    world.patch(rollout={"first": 10, "approved": True})
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_cancelled_campaign_ends_for_good(world: ClusterWorld) -> None:
    world.recipients(300)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.patch(cancel=True)
    world.until("Finished", reason="Cancelled")
    status = world.status()
    assert status["accepted"] + status["cancelled"] == 300
    assert status["cancelled"] > 0


def test_a_finished_campaign_answers_a_reopen(world: ClusterWorld) -> None:
    people = world.recipients(20)
    refused = {"rules": [{"fault": "UnknownMailbox", "match": people[0], "times": 1}]}
    world.transport(world.place.sink(refused).port)
    world.operator()
    world.campaign(failurePolicy={"minSample": 1000})
    world.until("Complete", reason="AcceptedWithRejections")
    world.patch(reopen={"id": "again", "states": ["rejected"]})
    world.until("Complete", reason="AllAccepted")
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_job_deleted_by_hand_is_replaced(world: ClusterWorld) -> None:
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.kubectl("delete", "jobs", "-n", world.namespace, "-l", "fullsend.dev/job-kind=send", "--wait=false")
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_pod_that_is_killed_is_replaced(world: ClusterWorld) -> None:
    people = world.recipients(200)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.kubectl("delete", "pods", "-n", world.namespace, "-l", "fullsend.dev/job-kind=send", "--wait=false")
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_an_audience_that_is_deleted_is_not_missed_once_it_is_planned(world: ClusterWorld) -> None:
    people = world.recipients(200)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.delete("audience", "people")
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_transport_that_is_deleted_stops_it_and_goes_on_when_it_is_back(world: ClusterWorld) -> None:
    people = world.recipients(200)
    port = world.place.sink().port
    world.transport(port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.delete("mailtransport", "relay")
    world.until("Stalled", reason="ReferencesNotResolved", within=15)
    world.transport(port)
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)


def test_what_is_missing_is_named_and_it_begins_once_it_is_there(world: ClusterWorld) -> None:
    world.operator()
    world.campaign()
    missing = world.until("Ready", "False", reason="ReferencesNotResolved", within=15)
    assert "no Audience people" in missing["message"]
    world.recipients(5)
    world.transport(world.place.sink().port)
    world.until("Complete")


def test_a_status_that_somebody_cleared_is_written_again(world: ClusterWorld) -> None:
    world.recipients(5)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign()
    world.until("Complete")
    world.kubectl(
        *("patch", "campaign", "launch", "-n", world.namespace, "--subresource=status", "--type=merge"),
        *("-p", '{"status": {"conditions": null, "accepted": 0, "state": "Lost"}}'),
    )
    world.until("Complete", within=15)
    assert world.status()["accepted"] == 5


def test_a_quota_that_denies_pods_is_shown_and_once_it_is_lifted_it_goes_on(world: ClusterWorld) -> None:
    world.recipients(5)
    world.transport(world.place.sink().port)
    world.kubectl("create", "quota", "none", "--hard=pods=0", "-n", world.namespace)
    world.operator()
    world.campaign()

    def told() -> bool:
        return "exceeded quota" in world.condition("Ready")["message"]

    eventually("the quota is named", 40, told)
    world.delete("quota", "none")
    world.until("Complete", within=120)


def test_a_secret_that_is_missing_is_named_and_used_once_it_is_there(world: ClusterWorld) -> None:
    people = world.recipients(5)
    login = world.place.folder / "login"
    login.write_text("user:password\n")
    port = world.place.sink("none", "--auth-file", str(login)).port
    world.transport(port, smtp={"credentialsSecretRef": {"name": "login"}})
    world.operator()
    world.campaign()
    trouble = world.until("Ready", reason="TransportTrouble")
    assert "login" in trouble["message"]
    assert world.accepted() == 0
    world.kubectl(
        *("create", "secret", "generic", "login", "--type=fullsend.dev/smtp-credentials", "-n", world.namespace),
        *("--from-literal=username=user", "--from-literal=password=password"),
    )
    world.until("Complete", within=150)
    assert world.copies() == dict.fromkeys(people, 1)


def test_an_object_goes_when_its_time_after_the_end_is_over(world: ClusterWorld) -> None:
    world.recipients(5)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(ttlSecondsAfterFinished=5)
    eventually("it is gone", 60, lambda: not world.items("campaigns"))
    assert len(world.copies()) == 5


def test_without_an_operator_everything_can_still_be_deleted(world: ClusterWorld) -> None:
    world.recipients(100)
    world.transport(world.place.sink().port)
    operator = world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 10)
    operator.kill()
    for kind, name in (("campaign", "launch"), ("audience", "people"), ("mailtransport", "relay")):
        world.delete(kind, name)
    eventually("its pods are gone", 60, lambda: not world.items("pods"))
