"""A node without a kubelet: the pods that the scheduler gives it are carried out as processes of this machine.

What the Job controller and an operator see is what a kubelet would tell them: phases, conditions, why a container
waits, exit codes, graceful deletion. What is true of a pod here: command, args and env (with ``$(NAME)``, Secrets,
ConfigMaps and fields), volumes (Secret, ConfigMap, emptyDir, downward API, service account token, claim, hostPath),
init containers, SIGTERM, grace and SIGKILL, a read-only root, ``kubectl logs`` and ``exec``. What is not: images (all
but those named missing are this machine itself), users, limits, networks, probes, hooks, ``kubectl attach``, and
restarts (``restartPolicy: Never`` is assumed).

A container has a root of its own, with the volumes where it wants them (``enter.sh``); without the right to mount,
each ``mountPath`` in command, args and env is replaced by the folder itself. Invariant: when this process ends, its
containers end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster.api import STRATEGIC, Api, Expired, Object, Refused  # noqa: E402  # run as a script, too
from cluster.kubelet_server import serve_kubelet  # noqa: E402
from cluster.pod_inputs import NODE  # noqa: E402
from cluster.pod_life import RETRY, Container, Life, Machine, Pod, now, patiently  # noqa: E402

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
LEASE_SECONDS = 40
CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "100Gi"}
ROOM = 1000
"""Pods at a time."""


class Runner:
    """``carry_out`` never returns by itself; ``close`` leaves nothing of a pod behind."""

    def __init__(self, api: Api, folder: Path, machine: Machine, room: int = ROOM) -> None:
        self._api = api
        self._capacity = {**CAPACITY, "pods": str(room)}
        self._folder = folder
        self._machine = machine
        self._pods: dict[str, tuple[Pod, Life, asyncio.Task[None]]] = {}

    async def carry_out(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        async with serve_kubelet(self._folder) as port, asyncio.TaskGroup() as tasks:
            await patiently(lambda: self._register(port))
            tasks.create_task(self._heartbeat())
            tasks.create_task(self._follow())

    async def close(self) -> None:
        tasks = [task for _, _, task in self._pods.values()]
        for uid in list(self._pods):
            self._forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _register(self, port: int) -> None:
        labels = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}
        with contextlib.suppress(Refused):  # it is there already
            await self._api.post("/api/v1/nodes", {"metadata": {"name": NODE, "labels": labels}})
        ready = {"type": "Ready", "status": "True", "reason": "PodRunnerReady", "lastTransitionTime": now()}
        status = {
            "capacity": self._capacity,
            "allocatable": self._capacity,
            "conditions": [{**ready, "lastHeartbeatTime": now()}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NODE}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],  # else exec comes as SPDY
        }
        await self._api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status}, STRATEGIC)

    async def _heartbeat(self) -> None:
        spec = {"holderIdentity": NODE, "leaseDurationSeconds": LEASE_SECONDS}
        while True:
            lease = {"metadata": {"name": NODE}, "spec": {**spec, "renewTime": f"{now()[:-1]}.000000Z"}}
            try:
                await self._api.patch(f"{LEASES}/{NODE}", lease)
            except Refused:
                with contextlib.suppress(Refused, aiohttp.ClientError, TimeoutError):
                    await self._api.post(LEASES, lease)
            except (aiohttp.ClientError, TimeoutError):
                pass  # the API server is away; the node is not
            await asyncio.sleep(LEASE_SECONDS / 4)

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(Refused, Expired, aiohttp.ClientError, TimeoutError):
                await self._watch()
            await asyncio.sleep(RETRY)

    async def _watch(self) -> None:
        mine = {"fieldSelector": f"spec.nodeName={NODE}"}
        listed = await self._api.get("/api/v1/pods", **mine)
        there = {pod["metadata"]["uid"] for pod in listed["items"]}
        for uid in self._pods.keys() - there:
            self._forget(uid)
        for pod in listed["items"]:
            self._look(pod)
        async for kind, pod in self._api.watch("/api/v1/pods", listed["metadata"]["resourceVersion"], **mine):
            if kind == "DELETED":
                self._forget(pod["metadata"]["uid"])
            else:
                self._look(pod)

    def _look(self, latest: Object) -> None:
        metadata, spec = latest["metadata"], latest["spec"]
        if metadata["uid"] not in self._pods:
            pod = Pod(
                latest,
                self._folder / metadata["namespace"] / metadata["name"],
                [Container(item) for item in spec["containers"]],
                [Container(item) for item in spec.get("initContainers", ())],
            )
            life = Life(self._api, pod, self._machine, self._folder / "claims")
            self._pods[pod.uid] = pod, life, asyncio.create_task(life.carry_out())
        pod, _, _ = self._pods[metadata["uid"]]
        pod.latest = latest
        if "deletionTimestamp" in metadata:
            pod.gone.set()

    def _forget(self, uid: str) -> None:
        """The object is gone, by force or because we said so: nothing of it may go on."""
        if known := self._pods.pop(uid, None):
            _, life, task = known
            life.kill()
            task.cancel()


def may_mount() -> bool:
    """Root alone is not enough: a container's may not."""
    mounting = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "fullsend", "/mnt"]
    return subprocess.run(mounting, capture_output=True).returncode == 0


async def _main(arguments: argparse.Namespace) -> None:
    commands = Path(sys.executable).parent
    async with Api(arguments.kubeconfig) as api:
        machine = Machine(
            entrypoint=[str(commands / "fullsend")],
            path=f"{commands}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            missing=arguments.missing_image,
            binds=may_mount(),
        )
        runner = Runner(api, arguments.folder, machine, arguments.room)
        work = asyncio.create_task(runner.carry_out())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await work
        finally:
            await runner.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Carries out a cluster's pods as processes of this machine.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--missing-image", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--room", type=int, default=ROOM, help="pods at a time; others wait for the scheduler")
    asyncio.run(_main(parser.parse_args()))
