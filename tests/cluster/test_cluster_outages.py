"""What a campaign does while the servers around it are away."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld, OperatorProcess
from support.workspace import Workspace, eventually

SLOW = {"rates": [{"messages": 10, "per": "1s"}]}


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


def probe(operator: OperatorProcess, path: str) -> int:
    try:
        with urllib.request.urlopen(f"{operator.url}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_without_an_api_server_senders_go_on_and_the_operator_waits(world: ClusterWorld, plane: ControlPlane) -> None:
    people = world.recipients(400)
    world.transport(world.place.sink().port)
    operator = world.operator()
    world.campaign(limits=SLOW)
    eventually("some are sent", 60, lambda: world.accepted() >= 20)
    plane.stop_component("kube-apiserver")
    try:
        seen = world.accepted()
        time.sleep(60)
        assert world.accepted() > seen + 100
        assert probe(operator, "/healthz") == 200
    finally:
        plane.start_component("kube-apiserver")
    world.until("Complete", within=120)
    assert operator.process.poll() is None
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_database_that_is_not_there_is_not_ready_and_alive(world: ClusterWorld) -> None:
    world.place.database = "host=127.0.0.1 port=1 dbname=none"
    operator = world.operator()
    world.campaign()
    reached = world.until("Ready", "Unknown", reason="LedgerUnreachable", within=30)
    assert "port 1" in reached["message"]
    assert probe(operator, "/readyz") == 503
    assert probe(operator, "/healthz") == 200
