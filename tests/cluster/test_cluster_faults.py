"""What the world does to a campaign in a cluster, and what must not come of it: somebody missed, or mailed twice."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ROOT, ControlPlane, control_plane
from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.own_postgres import OwnPostgres
from support.workspace import Workspace, eventually

SLOW = {"rates": [{"messages": 20, "per": "1s"}]}
KILLS = 6


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


def test_twenty_campaigns_outlive_operators_killed_at_random_moments(world: ClusterWorld) -> None:
    """Each next one has another Lease, so that it needn't wait for that of the dead: moments come closer together."""
    names = [f"launch-{number:02d}" for number in range(20)]
    people = world.recipients(25)
    world.transport(world.place.sink().port)
    dice = random.Random()
    leases = ("default", "kube-system", "kube-public", world.namespace)
    operator = world.operator(lease=leases[-1])
    world.campaigns(names, limits={"rates": [{"messages": 2, "per": "1s"}]})
    for number in range(KILLS):
        time.sleep(dice.uniform(0.5, 6))
        operator.kill()
        operator = world.operator(lease=leases[number % len(leases)])
    for name in names:
        world.until("Complete", name=name, within=120)
    assert world.copies() == dict.fromkeys(people, len(names))


def test_a_plan_whose_image_is_missing_says_so_and_begins_with_one_that_is_there(world: ClusterWorld) -> None:
    people = world.recipients(10)
    world.transport(world.place.sink().port)
    operator = world.operator("--image", "missing.invalid/fullsend:1")
    world.campaign()
    eventually("it is told", 40, lambda: "ImagePullBackOff" in world.condition("Ready")["message"])
    operator.stop()
    world.operator()
    world.until("Complete", within=90)
    world.nobody_missed_or_twice(people)


def test_senders_whose_image_is_missing_say_so_and_begin_with_one_that_is_there(world: ClusterWorld) -> None:
    people = world.recipients(10)
    world.transport(world.place.sink().port)
    operator = world.operator()
    world.campaign(suspend=True)
    eventually("it is planned", 60, lambda: world.status().get("eligible") == 10)
    operator.stop()
    operator = world.operator("--image", "missing.invalid/fullsend:1")
    world.patch(suspend=False)
    world.until("SendersFailing", within=60)
    assert "ImagePullBackOff" in world.condition("SendersFailing")["message"]
    assert "missing.invalid/fullsend:1" in world.condition("SendersFailing")["message"]
    operator.stop()
    world.operator()
    world.until("Complete", within=90)
    world.nobody_missed_or_twice(people)


def test_pods_that_nobody_can_place_are_named_and_made_anew_as_the_campaign_then_says(world: ClusterWorld) -> None:
    people = world.recipients(10)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(senders={"pod": {"nodeSelector": {"disk": "fast"}}})
    eventually("it is told", 40, lambda: "Unschedulable" in world.condition("Ready")["message"])
    world.patch(senders={"pod": {"nodeSelector": {"disk": None}}})
    world.until("Complete", within=90)
    world.nobody_missed_or_twice(people)


def test_pods_that_pod_security_denies_are_named_and_made_once_it_lets_them(world: ClusterWorld) -> None:
    """The tests' override, a folder of the node, is not for restricted namespaces."""
    people = world.recipients(10)
    world.transport(world.place.sink().port)
    level = "pod-security.kubernetes.io/enforce"
    world.kubectl("label", "namespace", world.namespace, f"{level}=restricted")
    world.operator()
    world.campaign()
    eventually("it is told", 40, lambda: "violates PodSecurity" in world.condition("Ready")["message"])
    assert "hostPath" in world.condition("Ready")["message"]
    world.kubectl("label", "namespace", world.namespace, f"{level}-")
    world.until("Complete", within=120)
    world.nobody_missed_or_twice(people)


def test_pods_as_we_make_them_are_welcome_in_a_restricted_namespace(world: ClusterWorld) -> None:
    postgres = OwnPostgres("/var/tmp")  # such a pod has a /tmp of its own
    try:
        world.place.database = postgres.dsn
        people = world.recipients(10)
        world.transport(world.place.sink().port)
        world.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
        world.operator(overrides=False)
        world.campaign()
        world.until("Complete")
        world.nobody_missed_or_twice(people)
    finally:
        world.close()
        postgres.close()


def test_one_ledger_key_in_two_clusters_is_sent_by_one_and_taken_over_by_the_other(
    world: ClusterWorld, plane: ControlPlane
) -> None:
    port = world.place.sink().port
    with control_plane() as second_plane:
        second = ClusterWorld(Kubectl(str(second_plane.kubectl), second_plane.admin), world.namespace, world.place)
        second.log = "second"
        second.kubectl("apply", "--server-side", "-f", ROOT / "crds")
        second.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", ROOT / "crds")
        second.kubectl("create", "namespace", second.namespace)
        try:
            for one in (world, second):
                people = one.recipients(400)
                one.transport(port)
                one.operator()
            world.campaign(limits=SLOW)
            eventually("some are sent", 60, lambda: world.accepted() >= 20)
            second.campaign(limits=SLOW)
            told = second.until("Stalled", reason="LedgerKeyOwnedElsewhere", within=20)
            assert world.get("campaign", "launch")["metadata"]["uid"] in told["message"]
            assert not second.items("jobs")
            world.delete("campaign", "launch")
            assert world.accepted() < 400
            second.until("Complete", within=150)
        finally:
            second.close()
    world.nobody_missed_or_twice(people)


def test_git_takes_back_what_it_sets_and_leaves_what_it_does_not(world: ClusterWorld) -> None:
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    world.operator()

    def git() -> None:
        world.campaign(limits=SLOW, manager="git")

    git()
    eventually("some are sent", 60, lambda: world.accepted() >= 20)
    world.patch(suspend=True, limits={"rates": [{"messages": 1, "per": "1s"}]})
    world.until("Suspended", within=10)
    git()
    spec = world.get("campaign", "launch")["spec"]
    assert spec["limits"] == SLOW
    assert spec["suspend"] is True
    time.sleep(3)
    seen = world.accepted()
    time.sleep(2)
    assert world.accepted() == seen < 300
    world.patch(suspend=False)
    git()
    world.until("Complete")
    world.nobody_missed_or_twice(people)


def test_a_status_made_up_or_cleared_in_the_middle_is_put_right_and_ends_nothing(world: ClusterWorld) -> None:
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 20)
    made_up = {
        "state": "Complete",
        "accepted": 300,
        "missing": 0,
        "conditions": [
            {
                "type": "Complete",
                "status": "True",
                "reason": "AllAccepted",
                "message": "so they say",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 1,
            }
        ],
    }
    for lie in (made_up, None):
        world.kubectl(
            *("patch", "campaign", "launch", "-n", world.namespace, "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": lie})),
        )
        world.until("Complete", "Unknown", within=15)
        assert world.status()["state"] == "Sending"
    world.until("Complete")
    assert world.status()["accepted"] == 300
    world.nobody_missed_or_twice(people)


def test_a_namespace_that_is_deleted_takes_all_with_it_and_made_again_it_goes_on(world: ClusterWorld) -> None:
    people = world.recipients(300)
    port = world.place.sink().port
    world.transport(port)
    operator = world.operator("--lease-namespace", "default")
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 40)
    world.kubectl("delete", "namespace", world.namespace, "--timeout=60s")
    sent = world.accepted()
    assert sent < 300
    assert operator.process.poll() is None
    world.kubectl("create", "namespace", world.namespace)
    world.recipients(300)
    world.transport(port)
    world.campaign(limits=SLOW)
    world.until("Complete", within=90)
    world.nobody_missed_or_twice(people)


def test_without_an_operator_a_namespace_can_still_be_deleted(world: ClusterWorld) -> None:
    people = world.recipients(200)
    world.transport(world.place.sink().port)
    operator = world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 20)
    operator.kill()
    world.kubectl("delete", "namespace", world.namespace, "--timeout=60s")
    sent = world.copies()
    assert set(sent) < set(people)
    assert set(sent.values()) == {1}
    time.sleep(2)
    assert world.copies() == sent
    world.kubectl("create", "namespace", world.namespace)
