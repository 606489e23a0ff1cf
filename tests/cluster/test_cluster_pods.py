"""Pods of a control plane without a kubelet: the Job controller sees what it would see of real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, Object, Refused
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from cluster.pod_runner import may_mount
from support.workspace import eventually

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _pods_are_processes(plane: ControlPlane) -> None:
    """A cluster of somebody's own has a kubelet, and images to find."""


def job(script: str, *, name: str = "job", spec: Object | None = None, **container: Any) -> Object:
    """A Job of one container that runs this shell script."""
    one = {"name": "main", "image": "fullsend", "command": ["sh", "-c", script], **container}
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [one], **(spec or {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


async def until(api: Api, path: str, holds: Callable[[Object], bool], **params: str) -> Object:
    end = time.monotonic() + PATIENCE
    while True:
        found = await api.get(path, **params)
        if holds(found):
            return found
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)


async def pod_of(api: Api, namespace: str, holds: Callable[[Object], bool] = bool, name: str = "job") -> Object:
    """The one pod of the Job, once it is there and as wanted."""
    pods = await until(
        api,
        f"/api/v1/namespaces/{namespace}/pods",
        lambda found: len(found["items"]) == 1 and holds(found["items"][0]),
        labelSelector=f"job-name={name}",
    )
    return pods["items"][0]


def state(pod: Object) -> Object:
    statuses = pod["status"].get("containerStatuses")
    found: Object = statuses[0]["state"] if statuses else {}
    return found


def running(pod: Object) -> bool:
    return "running" in state(pod)


def waits_for(reason: str) -> Callable[[Object], bool]:
    return lambda pod: state(pod).get("waiting", {}).get("reason") == reason


async def test_a_job_completes_with_the_env_and_the_mounts_of_its_pod(
    kubectl: Kubectl, api: Api, namespace: str
) -> None:
    kubectl("create", "secret", "generic", "ledger", "-n", namespace, "--from-literal=dsn=postgresql://there")
    kubectl("create", "configmap", "settings", "-n", namespace, "--from-literal=colour=green")
    kubectl(
        "apply",
        "-n",
        namespace,
        "-f",
        "-",
        given=job(
            "cat /var/run/fullsend/ledger/dsn; echo; cat /var/run/fullsend/settings/hue; echo; echo $COLOUR $(POD) $0;"
            " cat /etc/podinfo/labels | grep ^job-name; echo x > /scratch/x && ls /scratch; cd /scratch && pwd;"
            " touch /var/run/fullsend/ledger/new || echo read-only",
            spec={
                "volumes": [
                    {"name": "ledger", "secret": {"secretName": "ledger"}},
                    {
                        "name": "settings",
                        "configMap": {"name": "settings", "items": [{"key": "colour", "path": "hue"}]},
                    },
                    {"name": "scratch", "emptyDir": {}},
                    {
                        "name": "info",
                        "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]},
                    },
                ]
            },
            env=[
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            ],
            volumeMounts=[
                {"name": "ledger", "mountPath": "/var/run/fullsend/ledger", "readOnly": True},
                {"name": "settings", "mountPath": "/var/run/fullsend/settings"},
                {"name": "scratch", "mountPath": "/scratch"},
                {"name": "info", "mountPath": "/etc/podinfo"},
            ],
        ),
    )
    kubectl("wait", "-n", namespace, "--for=condition=Complete", "job/job", "--timeout=30s")
    pod = await pod_of(api, namespace)
    name = pod["metadata"]["name"]
    lines = kubectl("logs", "-n", namespace, name).splitlines()
    assert lines[:5] == ["postgresql://there", "green", f"green {name} sh", 'job-name="job"', "x"]
    if may_mount():  # else paths are replaced, and nothing is read-only
        assert lines[5] == "/scratch"
        assert lines[-1] == "read-only"
    assert pod["status"]["phase"] == "Succeeded"
    assert state(pod)["terminated"]["exitCode"] == 0
    assert not Path("/scratch").exists()  # it was there for the container alone


async def test_a_read_only_root_is_one(kubectl: Kubectl, api: Api, namespace: str) -> None:
    """What a restricted pod may not write it cannot write here either, but for its volumes."""
    if not may_mount():
        pytest.skip("takes the right to mount")
    script = "for at in / /root /etc /var/tmp /tmp; do touch $at/it-was-here 2>/dev/null && echo $at; done; pwd"
    one = job(
        script,
        spec={"volumes": [{"name": "scratch", "emptyDir": {}}]},
        securityContext={"readOnlyRootFilesystem": True},
        volumeMounts=[{"name": "scratch", "mountPath": "/tmp"}],
        workingDir="/tmp",
    )
    kubectl("apply", "-n", namespace, "-f", "-", given=one)
    kubectl("wait", "-n", namespace, "--for=condition=Complete", "job/job", "--timeout=30s")
    assert kubectl("logs", "-n", namespace, "job/job").split() == ["/tmp", "/tmp"]


async def test_a_failure_reaches_the_job_with_its_exit_code_and_last_words(
    kubectl: Kubectl, api: Api, namespace: str
) -> None:
    script = job("echo no such relay >&2; exit 7", terminationMessagePolicy="FallbackToLogsOnError")
    script["spec"]["podFailurePolicy"] = {
        "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [7]}}]
    }
    kubectl("apply", "-n", namespace, "-f", "-", given=script)
    kubectl("wait", "-n", namespace, "--for=condition=Failed", "job/job", "--timeout=30s")
    told = kubectl.object("get", "job", "job", "-n", namespace)["status"]["conditions"]
    assert {one["reason"] for one in told} == {"PodFailurePolicy"}
    terminated = state(await pod_of(api, namespace))["terminated"]
    assert (terminated["exitCode"], terminated["reason"], terminated["message"]) == (7, "Error", "no such relay")


async def test_a_deleted_pod_is_asked_to_end_and_may_finish(kubectl: Kubectl, api: Api, namespace: str) -> None:
    """SIGTERM, time to read the replies in flight, an exit of its own: the sender relies on it."""
    script = "trap 'sleep 1; echo finished; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    kubectl("apply", "-n", namespace, "-f", "-", given=job(script, spec={"terminationGracePeriodSeconds": 20}))
    pod = await pod_of(api, namespace, running)
    await log_says(kubectl, pod, "up")
    follow = asyncio.create_task(
        asyncio.to_thread(kubectl, "logs", "-n", namespace, pod["metadata"]["name"], "--follow")
    )
    await asyncio.sleep(0.2)
    kubectl("delete", "job", "job", "-n", namespace)  # waits until its pods are gone too
    assert (await follow).splitlines() == ["up", "finished"]


def ignores_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    [ignored] = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)


async def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace(
    kubectl: Kubectl, api: Api, namespace: str, plane: ControlPlane
) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", given=job("trap '' TERM; sleep 600 & wait; sleep 600; sleep 600"))
    pod = await pod_of(api, namespace, running)
    pid = process_of(plane, pod)
    eventually("the shell has set its trap", 20, lambda: ignores_sigterm(pid))
    begun = time.monotonic()
    kubectl("delete", "pod", "-n", namespace, pod["metadata"]["name"], "--grace-period=2")
    assert 1.5 < time.monotonic() - begun < 10
    assert not Path(f"/proc/{pid}").exists()


async def test_a_killed_process_is_a_failed_pod_and_the_job_makes_another(
    kubectl: Kubectl, api: Api, namespace: str, plane: ControlPlane
) -> None:
    one = job("sleep 600")
    one["spec"]["backoffLimit"] = 3
    kubectl("apply", "-n", namespace, "-f", "-", given=one)
    pod = await pod_of(api, namespace, running)
    os.kill(process_of(plane, pod), signal.SIGKILL)
    at = f"/api/v1/namespaces/{namespace}/pods"
    ended = await until(api, f"{at}/{pod['metadata']['name']}", lambda found: found["status"]["phase"] == "Failed")
    assert state(ended)["terminated"]["exitCode"] == 137
    await until(api, at, lambda found: any(running(other) for other in found["items"]))


async def test_an_image_that_is_missing_keeps_its_pod_waiting(kubectl: Kubectl, api: Api, namespace: str) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", given=job("true", image="missing.invalid/fullsend:1"))
    pod = await pod_of(api, namespace, waits_for("ImagePullBackOff"))
    assert pod["status"]["phase"] == "Pending"
    kubectl("delete", "job", "job", "-n", namespace, "--timeout=20s")


async def test_a_pod_waits_for_its_secret(kubectl: Kubectl, api: Api, namespace: str) -> None:
    spec = {"volumes": [{"name": "late", "secret": {"secretName": "late"}}]}
    mounts = [{"name": "late", "mountPath": "/late"}]
    kubectl("apply", "-n", namespace, "-f", "-", given=job("cat /late/key", spec=spec, volumeMounts=mounts))
    await pod_of(api, namespace, waits_for("ContainerCreating"))
    events = kubectl("get", "events", "-n", namespace, "--field-selector=reason=FailedMount")
    assert 'MountVolume.SetUp failed for volume "late": secret "late" not found' in events
    kubectl("create", "secret", "generic", "late", "-n", namespace, "--from-literal=key=here")
    kubectl("wait", "-n", namespace, "--for=condition=Complete", "job/job", "--timeout=30s")


async def test_a_pod_that_nobody_can_place_says_so(kubectl: Kubectl, api: Api, namespace: str) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", given=job("true", spec={"nodeSelector": {"disk": "fast"}}))
    pod = await pod_of(api, namespace, lambda found: bool(found["status"].get("conditions")))
    (condition,) = pod["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("PodScheduled", "Unschedulable")


async def test_containers_end_with_the_node(kubectl: Kubectl, api: Api, namespace: str, plane: ControlPlane) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", given=job("sleep 600"))
    pod = await pod_of(api, namespace, running)
    pid = process_of(plane, pod)
    plane.stop_component("pod-runner")
    try:
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            await asyncio.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()
    finally:
        plane.start_component("pod-runner")
    at = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
    await until(api, at, lambda found: found["status"]["phase"] == "Failed")


async def test_the_api_server_may_go_away_and_come_back(
    kubectl: Kubectl, api: Api, namespace: str, plane: ControlPlane
) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", given=job("sleep 3"))
    await pod_of(api, namespace, running)
    plane.stop_component("kube-apiserver")
    with pytest.raises((OSError, Refused)):  # aiohttp's is an OSError
        await api.get("/readyz")
    await asyncio.sleep(3.5)  # the pod ends meanwhile
    plane.start_component("kube-apiserver")
    kubectl("wait", "-n", namespace, "--for=condition=Complete", "job/job", "--timeout=60s")


def process_of(plane: ControlPlane, pod: Object) -> int:
    """The process of the pod's container."""
    metadata = pod["metadata"]
    return int((plane.pods_folder / metadata["namespace"] / metadata["name"] / "main.pid").read_text())


async def log_says(kubectl: Kubectl, pod: Object, word: str) -> None:
    end = time.monotonic() + PATIENCE
    metadata = pod["metadata"]
    while word not in kubectl("logs", "-n", metadata["namespace"], metadata["name"]):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
