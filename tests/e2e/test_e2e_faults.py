"""What befalls pods on a node, in the middle of a campaign; judged by what the relay took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from e2e.trial import DATABASE, HOME, SPACE, Trial, container, runs

# Many that are small, so that the sender is the largest when the kernel looks for one to kill.
_HUNGRY = """
import os, time
open('/proc/1/oom_score_adj', 'w').write('1000')
while True:
    if os.fork() == 0:
        held = bytearray(os.urandom(1 << 20) * 12)
        time.sleep(60)
        os._exit(0)
    time.sleep(0.02)
"""
CONNECTIONS = 6
ARMED = 2
"""At most so many rows of a connection can be unknown (docs/semantics.md)."""


def ended(trial: Trial, pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the pod's container has ended; empty while it runs."""
    found = trial.kubectl.object("get", "pod", pod["metadata"]["name"], "-n", SPACE)
    [one] = found["status"]["containerStatuses"]
    how: Mapping[str, Any] = one["state"].get("terminated", {})
    return how


def test_senders_are_killed_starved_of_memory_and_deleted(trial: Trial) -> None:
    sink = trial.relay("hunted")
    people = trial.people("hunted", 3000)
    limits = {"resources": {"limits": {"memory": "512Mi"}}}
    trial.campaign("hunted", limits={"rates": [{"messages": 30, "per": "1s"}]}, senders={"maxPods": 3, "pod": limits})
    trial.until("three senders work", 90, lambda: len(trial.senders("hunted")) == 3 and len(sink.entries()) > 60)
    killed, starved, deleted = trial.senders("hunted")

    trial.node.ctr("tasks", "kill", "--signal", "SIGKILL", container(killed))
    assert trial.until("it is dead", 30, lambda: ended(trial, killed))["exitCode"] == 137

    trial.kubectl.run("exec", "-n", SPACE, starved["metadata"]["name"], "--", "python", "-c", _HUNGRY)
    assert trial.until("it is out of memory", 30, lambda: ended(trial, starved))["reason"] == "OOMKilled"

    trial.kubectl("delete", "pod", "-n", SPACE, deleted["metadata"]["name"], "--wait=false")
    trial.until("it is gone", 60, lambda: deleted["metadata"]["name"] not in trial.kubectl("get", "pods", "-n", SPACE))
    assert len(sink.entries()) < 3000, "all of it was in the middle of the campaign"
    trial.hurry("hunted")
    trial.until_complete("hunted", 3000)
    assert trial.nobody_missed_or_twice(sink, people, "hunted") <= 2 * CONNECTIONS * ARMED


def test_the_operator_is_evicted_and_the_database_restarted(trial: Trial) -> None:
    sink = trial.relay("orphaned")
    people = trial.people("orphaned", 1500)
    trial.campaign("orphaned", limits={"rates": [{"messages": 10, "per": "1s"}]})
    trial.until("it is sent", 90, lambda: len(sink.entries()) > 20)

    leader = trial.leader()
    [pod] = [one for one in trial.component("operator") if leader.startswith(one["metadata"]["name"])]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    path = f"/api/v1/namespaces/{HOME}/pods/{pod['metadata']['name']}/eviction"
    trial.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))
    trial.until("the other one leads", 30, lambda: trial.leader() not in ("", leader))
    assert not any(pod["metadata"]["name"] == one["metadata"]["name"] for one in trial.component("operator"))

    before = trial.kubectl.object("get", "pod", "-n", HOME, DATABASE)["metadata"]["uid"]
    trial.kubectl("delete", "pod", "-n", HOME, DATABASE, "--timeout=60s")
    sent = len(sink.entries())
    trial.until("the senders are back", 90, lambda: len(sink.entries()) > sent + 20)
    assert sent < 1500, "all of it was in the middle of the campaign"
    trial.hurry("orphaned")
    trial.until_complete("orphaned", 1500)
    assert trial.kubectl.object("get", "pod", "-n", HOME, DATABASE)["metadata"]["uid"] != before
    assert trial.nobody_missed_or_twice(sink, people, "orphaned") <= CONNECTIONS * ARMED
    assert len([one for one in trial.component("operator") if runs(one)]) == 2
