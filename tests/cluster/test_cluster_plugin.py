"""``kubectl fullsend`` on a real API server: what a person asks and wishes, with their own rights and no database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.plugin import Plugin
from support.workspace import Workspace, eventually


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


@pytest.fixture
def plugin(world: ClusterWorld) -> Plugin:
    return Plugin(world.kubectl, world.kubectl.kubeconfig, world.namespace)


def test_what_the_ledger_knows_is_told_from_a_pod_that_is_gone_afterwards(world: ClusterWorld, plugin: Plugin) -> None:
    people = world.recipients(20)
    world.transport(world.place.sink({"rules": [{"fault": "UnknownMailbox", "match": people[0]}]}).port)
    world.operator()
    world.campaign(failurePolicy={"minSample": 1000})
    world.until("Complete")
    report = plugin("report", "launch", "-o", "json")
    assert (report.code, report.err) == (0, "")
    assert json.loads(report.out)["counts"]["accepted"] == 19
    assert "launch: complete" in plugin("report", "launch").out
    why = plugin("why", "launch", people[0])
    assert why.code == 0
    assert f"{people[0]}: rejected" in why.out
    assert "550" in why.out
    missing = plugin("missing", "launch")
    assert (missing.code, missing.out) == (0, "address,state,reason,attempts,next_attempt,last_code,last_text\r\n")
    eventually("its pods are gone", 20, lambda: not _pods(world))


def _pods(world: ClusterWorld) -> list[str]:
    found = world.items("pods")
    return [
        pod["metadata"]["name"]
        for pod in found
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "kubectl"
    ]
