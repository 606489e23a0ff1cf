"""What somebody does on the first day: the image, the chart, a campaign, on a node with containers."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.helm import CHART, Helm
from cluster.kubectl import Kubectl
from e2e.node_cluster import NodeCluster

HOME = "fullsend"
PEOPLE = 300
TRIAL = {"postgresql": {"embedded": True}, "mailSink": {"enabled": True}}


class Trial:
    """The release, and what can be seen of it."""

    def __init__(self, kubectl: Kubectl, helm: Helm) -> None:
        self.kubectl = kubectl
        self.helm = helm

    def install(self) -> None:
        self.helm(
            *("install", "fullsend", CHART, "-n", HOME, "--create-namespace", "--wait", "--timeout", "3m"), values=TRIAL
        )

    def condition(self, campaign: str, type_: str) -> str:
        path = f"jsonpath={{.status.conditions[?(@.type=='{type_}')].status}}"
        return self.kubectl("get", "campaign", campaign, "-n", "default", "-o", path)

    def until_finished(self, campaign: str, within: float = 240) -> None:
        end = time.monotonic() + within
        while self.condition(campaign, "Finished") != "True":
            if time.monotonic() > end:
                raise AssertionError(f"not finished after {within:.0f} s:\n{self.everything()}")
            time.sleep(1)

    def everything(self) -> str:
        """For a person who has to find out why."""
        parts = [
            self.kubectl.run("get", "all,campaigns", "-A", "-o", "wide").stdout,
            self.kubectl.run("get", "campaigns", "-A", "-o", "yaml").stdout[-4000:],
            self.kubectl.run("get", "events", "-A", "--sort-by=.lastTimestamp").stdout[-6000:],
            self.kubectl.run("logs", "-n", HOME, "deployment/fullsend-operator", "--tail=50").stdout,
        ]
        return "\n".join(parts)

    def taken(self) -> Counter[str]:
        """Recipients of the mail that the sink took, by its log."""
        log = self.kubectl("logs", "-n", HOME, "deployment/fullsend-mail-sink", "--tail=-1")
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return Counter(to for line in lines for to in line["recipients"])


@pytest.fixture(scope="module")
def trial(node: NodeCluster, helm: Helm) -> Trial:
    kubectl = node.as_admin()
    # No provisioner here: a volume lies ready for the database.
    data = node.folder / "volume"
    data.mkdir()
    os.chown(data, 65532, 65532)
    kubectl("apply", "-f", "-", given=volume(data))
    kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
    made = Trial(kubectl, helm)
    try:
        made.install()
    except AssertionError as failure:
        raise AssertionError(f"{failure}\n{made.everything()}") from failure
    return made


def volume(folder: Path) -> dict[str, Any]:
    spec = {"capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(folder)}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "ledger"}, "spec": spec}


def campaign() -> list[dict[str, Any]]:
    lines = ["email,name", *(f"person{number:04d}@example.com,Person {number}" for number in range(PEOPLE))]
    relay = {"host": f"fullsend-mail-sink.{HOME}.svc", "port": 25, "tls": "Disabled"}
    ours = {"apiVersion": "fullsend.dev/v1alpha1"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "people"},
            "data": {"people.csv": "\n".join(lines)},
        },
        {
            **ours,
            "kind": "Audience",
            "metadata": {"name": "people"},
            "spec": {"csv": {"configMapKeyRef": {"name": "people", "key": "people.csv"}}},
        },
        {**ours, "kind": "MailTransport", "metadata": {"name": "relay"}, "spec": {"smtp": relay}},
        {
            **ours,
            "kind": "Campaign",
            "metadata": {"name": "launch"},
            "spec": {
                "class": "Transactional",
                "audiences": [{"name": "people"}],
                "transportRef": {"name": "relay"},
                "message": {
                    "from": {"address": "news@sender.example"},
                    "subject": "Hello {{ name }}",
                    "text": "Hi {{ name }}",
                },
            },
        },
    ]


def test_a_campaign_reaches_everybody_once_and_is_proved(trial: Trial) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": campaign()}
    trial.kubectl("apply", "-n", "default", "-f", "-", given=items)
    trial.until_finished("launch")
    assert trial.condition("launch", "Complete") == "True", trial.everything()
    status = trial.kubectl.object("get", "campaign", "launch", "-n", "default")["status"]
    assert (status["accepted"], status["missing"], status["proof"]["holds"]) == (PEOPLE, 0, True)
    assert trial.taken() == {f"person{number:04d}@example.com": 1 for number in range(PEOPLE)}


def test_only_the_release_and_its_campaigns_are_running_and_none_was_restarted(trial: Trial) -> None:
    pods = trial.kubectl.object("get", "pods", "-n", HOME)["items"]
    components = Counter(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods)
    assert components == {"operator": 2, "postgresql": 1, "mail-sink": 1}
    for pod in pods:
        statuses = pod["status"]["containerStatuses"]
        assert [status["restartCount"] for status in statuses] == [0] * len(statuses), pod["metadata"]["name"]
