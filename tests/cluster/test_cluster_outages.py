"""What a campaign does while the servers around it are away.

They stay away as long as FULLSEND_TEST_OUTAGE says (seconds; 60 is the whole length). By default it is shorter where
that changes nothing but the waiting; each test says why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from cluster.outages import outage
from support.cluster_world import ClusterWorld
from support.own_postgres import OwnPostgres
from support.workspace import Workspace, eventually

SLOW = {"rates": [{"messages": 20, "per": "1s"}]}


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


def test_a_database_that_is_not_there_is_not_ready_and_alive(world: ClusterWorld) -> None:
    world.place.database = "host=127.0.0.1 port=1 dbname=none"
    operator = world.operator()
    world.campaign()
    reached = world.until("Ready", "Unknown", reason="LedgerUnreachable", within=30)
    assert "port 1" in reached["message"]
    assert operator.probe("/readyz") == 503
    assert operator.probe("/healthz") == 200


def revision(plane: ControlPlane) -> int:
    """Of etcd, by its JSON gateway."""
    return int(plane.etcd("maintenance/status", {})["header"]["revision"])


def test_watches_that_expired_are_begun_anew(world: ClusterWorld, plane: ControlPlane) -> None:
    """The API server restarts while etcd's past is compacted away: every watch's version is too old (410)."""
    people = world.recipients(300)
    world.transport(world.place.sink().port)
    operator = world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 20)
    campaigns = f"/apis/fullsend.dev/v1alpha1/namespaces/{world.namespace}/campaigns"
    seen = json.loads(world.kubectl("get", "--raw", campaigns))["metadata"]["resourceVersion"]
    plane.stop_component("kube-apiserver")
    try:
        for number in range(10):
            plane.etcd("kv/put", {"key": "eA==", "value": f"{number:04d}"})  # the past is older than that
        plane.etcd("kv/compaction", {"revision": str(revision(plane)), "physical": True})
    finally:
        plane.start_component("kube-apiserver")
    stale = f"{campaigns}?watch=1&resourceVersion={seen}&timeoutSeconds=2"
    assert '"code":410' in world.kubectl("get", "--raw", stale)
    world.patch(suspend=True)
    world.until("Suspended", within=30)
    world.patch(suspend=False)
    world.until("Complete", within=90)
    assert operator.process.poll() is None
    world.nobody_missed_or_twice(people)


def test_a_database_that_goes_away_for_a_minute_is_waited_for(world: ClusterWorld) -> None:
    """Not shortened: after 60 s the sessions' leases have run out, and that is another path."""
    postgres = OwnPostgres()
    try:
        world.place.database = postgres.dsn
        people = world.recipients(400)
        world.transport(world.place.sink().port)
        operator = world.operator()
        world.campaign(limits=SLOW)
        eventually("some are sent", 60, lambda: world.accepted() >= 40)
        postgres.crash()
        eventually("it is told", 30, lambda: world.status().get("limitedBy") == "Database")
        time.sleep(60)
        assert operator.probe("/readyz") == 503
        assert operator.probe("/healthz") == 200
        assert operator.process.poll() is None
        postgres.back()
        world.until("Complete", within=150)
        assert operator.probe("/readyz") == 200
        world.nobody_missed_or_twice(people)
    finally:
        world.close()
        postgres.close()


def test_without_an_api_server_senders_go_on_and_the_operator_waits(world: ClusterWorld, plane: ControlPlane) -> None:
    """By default 20 s: longer than the leader's Lease lasts, than the senders' heart-beats and than kopf's longest
    pause, and nothing else counts the time."""
    people = world.recipients(400)
    world.transport(world.place.sink().port)
    operator = world.operator()
    world.campaign(limits={"rates": [{"messages": 10, "per": "1s"}]})
    eventually("some are sent", 60, lambda: world.accepted() >= 20)
    plane.stop_component("kube-apiserver")
    try:
        seen = world.accepted()
        time.sleep(outage(20))
        assert world.accepted() > seen + 100
        assert operator.probe("/healthz") == 200
    finally:
        plane.start_component("kube-apiserver")
    world.until("Complete", within=120)
    assert operator.process.poll() is None
    world.nobody_missed_or_twice(people)
