"""What an Audience, a MailTemplate and a MailTransport say of themselves: good, bad, mended, by a Job of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.workspace import Workspace, eventually

TRANSPORT = "mailtransport/relay"


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


def until(world: ClusterWorld, what: str, reason: str, within: float = 60) -> Mapping[str, Any]:
    """The object's status once Ready has this reason for the newest spec."""
    seen: dict[str, Any] = {}

    def so() -> bool:
        item = world.get(*what.split("/"))
        seen.update(item.get("status", {}))
        ready = next((each for each in seen.get("conditions", ()) if each["type"] == "Ready"), None)
        return (
            ready is not None
            and ready["reason"] == reason
            and ready["observedGeneration"] == item["metadata"]["generation"]
        )

    try:
        eventually(f"{what} is {reason}", within, so)
    except AssertionError as error:
        logs = "\n".join(operator.words[-3000:] for operator in world.operators)
        raise AssertionError(f"{error}: {json.dumps(seen, indent=1)}\n{logs}") from None
    return world.get(*what.split("/"))["status"]  # type: ignore[no-any-return]


def ready(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(each for each in status["conditions"] if each["type"] == "Ready")


def types(status: Mapping[str, Any]) -> set[str]:
    """The conditions that are true."""
    return {each["type"] for each in status["conditions"] if each["status"] == "True"}


def wait(world: ClusterWorld, what: str) -> None:
    world.kubectl("wait", "--for=condition=Ready", what, "--timeout=60s", "-n", world.namespace)


def test_a_relay_that_answers_is_ready_and_says_what_it_offers(world: ClusterWorld) -> None:
    sink = world.place.sink()
    world.transport(sink.port)
    world.operator()
    wait(world, TRANSPORT)
    status = world.get("mailtransport", "relay")["status"]
    assert ready(status)["reason"] == "Reachable"
    assert status["relay"] == f"127.0.0.1[127.0.0.1]:{sink.port}"
    assert status["pipelining"] == "Overlap"
    assert "PIPELINING" in status["capabilities"]
    assert not status["authenticated"]
    assert status["lastProbeTime"]
    assert sink.entries() == [], "a probe never sends mail"
    assert [reason for reason, _ in world.events("relay")] == ["Reachable"]
    eventually("its Job goes once it is read", 30, lambda: not world.items("jobs"))
