"""What ``kubectl fullsend`` says: advice for every trouble, kubectl's errors with a way out, and who owns a field."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from click.testing import CliRunner

from fullsend.cli.kubectl import COMMANDS, SHORT, group, wishes
from fullsend.cli.kubectl.access import failure
from fullsend.cli.kubectl.advice import ADVICE, advice
from fullsend.cli.kubectl.git import git_tool, warnings
from fullsend.cli.kubectl.pod import ended_because, tool_pod, why_waiting
from fullsend.cli.kubectl.status import explained
from fullsend.controller.names import SUSPEND
from fullsend.controller.pods import Needs, PodImage
from fullsend.reconcile.conditions import ROWS
from fullsend.resources.campaign import ReopenState
from fullsend.resources.pods import PodSettings


def test_every_campaign_that_needs_a_person_is_told_what_to_do() -> None:
    needy = [reason for row in ROWS.values() if row.stalled or row.halted or row.failed for reason in row.reasons]
    assert {reason for reason in needy if not advice(reason, "launch")} == set()


def test_advice_is_given_for_reasons_that_exist_and_names_commands_that_exist() -> None:
    reasons = {reason for row in ROWS.values() for reason in row.reasons}
    assert ADVICE.keys() <= reasons
    named = {command for text in ADVICE.values() for command in re.findall(r"kubectl fullsend ([a-z-]+)", text)}
    assert named <= COMMANDS.keys()


def test_what_is_known_twice_is_the_same() -> None:
    """The plugin repeats some words of heavy modules, so that a wish is written at once."""
    assert wishes.SUSPEND == SUSPEND
    assert set(wishes.STATES) == {state.value for state in ReopenState}
    assert SHORT.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    said = CliRunner().invoke(group, [command, "--help"])
    assert said.exit_code == 0
    assert "--context" in said.output
    assert "--namespace" in said.output


def test_help_and_wishes_load_nothing_heavy() -> None:
    """What takes time to import is for commands that wait for a pod anyway."""
    look = (
        "import sys; from click.testing import CliRunner; from fullsend.cli.kubectl import group;"
        "CliRunner().invoke(group, ['suspend', '--help']);"
        "print([name for name in ('pydantic', 'psycopg', 'aiohttp', 'rich', 'kopf', 'uvloop') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize(
    ("said", "reason", "told"),
    [
        (
            'error: the server doesn\'t have a resource type "campaigns"',
            "",
            "Fullsend is not installed in this cluster",
        ),
        (
            'Error from server (NotFound): campaigns.fullsend.dev "x" not found',
            "NotFound",
            "`kubectl fullsend status` lists",
        ),
        (
            'Error from server (Forbidden): campaigns.fullsend.dev "x" is forbidden: User "u" cannot patch resource '
            '"campaigns" in API group "fullsend.dev" in the namespace "n"',
            "Forbidden",
            "ClusterRole fullsend-campaign-writer",
        ),
        (
            'Error from server (Forbidden): campaigns.fullsend.dev "x" is forbidden: User "u" cannot get resource '
            '"campaigns" in API group "fullsend.dev" in the namespace "n"',
            "Forbidden",
            "ClusterRole fullsend-viewer",
        ),
        (
            'Error from server (Forbidden): pods "p" is forbidden: User "u" cannot create resource "pods/exec" in API '
            'group "" in the namespace "n"',
            "Forbidden",
            "ClusterRole fullsend-ledger-user",
        ),
        (
            'Error from server (Forbidden): error when creating "STDIN": pods "p" is forbidden: exceeded quota: none, '
            "requested: pods=1, used: pods=0, limited: pods=0",
            "Forbidden",
            "`kubectl describe quota` shows it",
        ),
        (
            'Error from server (Forbidden): pods "p" is forbidden: violates PodSecurity "restricted:latest": hostPath',
            "Forbidden",
            "--pod-overrides",
        ),
        ("The connection to the server localhost:8080 was refused - did you specify the right host?", "", "refused"),
    ],
)
def test_what_kubectl_says_is_kept_and_a_way_out_added(said: str, reason: str, told: str) -> None:
    error = failure(said)
    assert error.reason == reason
    assert told in str(error)
    assert said.split(": ", 1)[-1][:40] in str(error)


def campaign(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "launch", **metadata}, "spec": {}, "status": {}}


@pytest.mark.parametrize(
    ("metadata", "tool", "stays"),
    [
        ({}, "", None),
        ({"managedFields": [{"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:cancel": {}}}}]}, "", None),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "mail"}}, "Flux", True),
        ({"managedFields": [{"manager": "helm-controller", "fieldsV1": {"f:spec": {"f:cancel": {}}}}]}, "Flux", False),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "mail:..."}}, "Argo CD", True),
        (
            {
                "annotations": {
                    "argocd.argoproj.io/tracking-id": "mail:...",
                    "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"cancel": False}}),
                }
            },
            "Argo CD",
            False,
        ),
    ],
)
def test_git_is_named_where_it_manages_an_object_and_what_it_will_do(
    metadata: dict[str, Any], tool: str, stays: bool | None
) -> None:
    found = campaign(**metadata)
    assert git_tool(found) == tool
    told = warnings(found, ["spec.cancel"])
    assert [text.startswith(tool) for text in told] == ([] if stays is None else [True])
    if stays is not None:
        assert ("so this change stays" in told[0]) is stays
        assert ("it will put it back" in told[0]) is not stays


def test_the_pod_is_a_senders_pod_with_an_end() -> None:
    wishes = PodSettings.model_validate({"labels": {"team": "mail"}, "imagePullSecrets": [{"name": "pull"}]})
    image = PodImage("registry.example/fullsend:1", {"spec": {"runtimeClassName": "gvisor"}})
    pod = tool_pod("report", campaign(), image, Needs(secrets={"login": ("password",)}), wishes, deadline=600)
    spec, metadata = pod["spec"], pod["metadata"]
    assert spec["activeDeadlineSeconds"] == 600
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert metadata["labels"]["team"] == "mail"
    [container] = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["args"] == ["--hold", "--mounts", "/fullsend"]
    mounted = {volume["name"]: volume for volume in spec["volumes"]}
    assert mounted["secret-0"]["secret"]["items"] == [{"key": "password", "path": "password"}]


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    status = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}
    return {"metadata": {}, "status": status}


def test_a_pod_that_will_not_start_is_told_from_one_that_takes_its_time() -> None:
    assert why_waiting({"metadata": {}, "status": {"phase": "Pending"}}) == ("", False)
    assert why_waiting(waiting("ContainerCreating")) == ("", False)
    assert why_waiting(waiting("ErrImagePull", "not found")) == ("ErrImagePull: not found", False)
    assert why_waiting(waiting("ImagePullBackOff", "x")) == ("ImagePullBackOff: x", True)
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    pending = {"metadata": {}, "status": {"phase": "Pending", "conditions": [unschedulable]}}
    assert why_waiting(pending) == ("Unschedulable: 0/3 nodes", False)
    evicted = {"metadata": {}, "status": {"phase": "Failed", "reason": "Evicted", "message": "disk"}}
    assert why_waiting(evicted) == ("Evicted: disk", True)


def test_a_pod_that_was_killed_says_by_what() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    assert ended_because({"metadata": {}, "status": {"containerStatuses": [{"state": killed}]}}) == (
        "OOMKilled (exit code 137)"
    )
    assert ended_because({"metadata": {"deletionTimestamp": "now"}, "status": {}}) == "somebody deleted it"


def test_a_campaign_nobody_has_looked_at_says_so() -> None:
    assert next(iter(explained(campaign(generation=1)))) == (
        "shop/launch: New (nobody has looked at it; is the operator running?)"
    )


def test_a_halted_campaign_is_explained_with_its_halt_its_counts_and_the_way_out() -> None:
    found = campaign(generation=2)
    found["status"] = {
        "observedGeneration": 1,
        "state": "Halted",
        "total": 10,
        "missing": 4,
        "accepted": 5,
        "rejected": 1,
        "pending": 4,
        "progress": "60%",
        "halt": {"id": "h1", "reason": "SenderRefused", "message": "550 5.7.26 no"},
        "conditions": [
            {
                "type": type_,
                "status": status,
                "reason": "SenderRefused",
                "message": "550 5.7.26 no",
                "lastTransitionTime": "2030-01-01T00:00:00Z",
            }
            for type_, status in (("Ready", "False"), ("Halted", "True"))
        ],
    }
    assert list(explained(found)) == [
        "shop/launch: Halted (SenderRefused)",
        "  6 of 10 done (60%): 4 pending, 5 accepted, 1 rejected, 4 missing",
        "  halted (h1): SenderRefused: 550 5.7.26 no",
        "  Ready=False (SenderRefused) 550 5.7.26 no",
        "  Halted=True (SenderRefused)",
        "  the last edit has not been looked at yet",
        "what to do: mend what the relay refuses (authentication, reputation, a block list), then `kubectl fullsend "
        "resume launch`",
    ]


def test_help_answers_at_once() -> None:
    """0.03 s on the machine of the day; the limit leaves room for one that is busy."""
    quickest = min(_seconds() for _ in range(3))
    assert quickest < 0.3


def _seconds() -> float:
    began = time.monotonic()
    command = "from fullsend.cli.kubectl import main; main()"
    subprocess.run([sys.executable, "-c", command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
