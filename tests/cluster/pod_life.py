"""A pod's life on a node without a kubelet: how it starts, what is told of it, how it ends.

Invariant: every way out leaves a status that tells what happened, and no process behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from cluster.api import STRATEGIC, Api, Object, Refused
from cluster.pod_inputs import NODE, Inputs, Mount, Waiting, expanded, moved

RETRY = 0.5
"""Seconds between looks at what a pod waits for, such as a Secret; a kubelet takes its time, a test should not."""
GRACE = 30
ENTER = Path(__file__).with_name("enter.sh")
CLONE = Path(__file__).resolve().parents[2]
UNSHARE = shutil.which("unshare") or "unshare"  # not by the container's PATH
LEASH = [found, "--pdeathsig", "KILL", "--"] if (found := shutil.which("setpriv")) else []
"""The kernel ends a container with this process, also when it is killed."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Container:
    """One container of a pod and what became of it."""

    spec: Object
    process: asyncio.subprocess.Process | None = None
    started: str = ""
    exit_code: int | None = None
    finished: str = ""
    message: str = ""
    waiting: tuple[str, str] = ("ContainerCreating", "")

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    def status(self) -> Object:
        state: Object
        if self.exit_code is not None:
            state = {
                "terminated": {
                    "exitCode": self.exit_code,
                    "reason": "Completed" if self.exit_code == 0 else "Error",
                    "message": self.message,
                    "startedAt": self.started or self.finished,
                    "finishedAt": self.finished,
                    "containerID": f"process://{self.name}",
                }
            }
        elif self.process is not None:
            state = {"running": {"startedAt": self.started}}
        else:
            reason, message = self.waiting
            state = {"waiting": {"reason": reason, "message": message}}
        running = "running" in state
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "containerID": f"process://{self.name}",
            "ready": running,
            "started": running,
            "restartCount": 0,
            "state": state,
        }


@dataclass
class Pod:
    """A pod in hand: the latest object, its folder and its containers."""

    latest: Object
    folder: Path
    containers: list[Container]
    init: list[Container]
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the pod is to end."""

    @property
    def namespace(self) -> str:
        return str(self.latest["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.latest["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.latest["metadata"]["uid"])

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    @property
    def grace(self) -> int:
        return int(self.latest["metadata"].get("deletionGracePeriodSeconds", GRACE))


@dataclass(frozen=True)
class Machine:
    """What stands in for images: ``entrypoint`` is what one runs, ``path`` its PATH, ``missing`` patterns of those
    that cannot be pulled. ``binds``: volumes are mounted, else paths are replaced."""

    entrypoint: Sequence[str]
    path: str
    missing: Sequence[str]
    binds: bool


class Life:
    """Of one pod. ``carry_out`` ends when the pod is deleted; ``kill`` leaves nothing running, at any time."""

    def __init__(self, api: Api, pod: Pod, machine: Machine, claims: Path) -> None:
        self._api = api
        self._pod = pod
        self._machine = machine
        self._inputs = Inputs(api, pod.latest, pod.folder, claims, machine.path)

    def kill(self) -> None:
        for container in (*self._pod.init, *self._pod.containers):
            _kill(container)

    async def carry_out(self) -> None:
        """A pod's life. Every way out of it leaves a status that tells what happened."""
        phase = self._pod.latest.get("status", {}).get("phase", "Pending")
        if phase == "Pending" and not self._pod.gone.is_set():
            shutil.rmtree(self._pod.folder, ignore_errors=True)
            self._pod.folder.mkdir(parents=True)
            phase = await self._live()
        elif phase == "Running":  # by an earlier runner, whose containers ended with it
            for container in self._pod.containers:
                container.exit_code, container.finished = 137, now()
                container.message = "the node went away"
            phase = "Failed"
            await self._report(phase)
        await self._pod.gone.wait()
        if phase == "Pending":
            await self._report("Failed")
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._pod.uid}}
        await patiently(lambda: self._api.delete(self._pod.path, **options))

    async def _live(self) -> str:
        """From the first start to the last exit; the phase it ended in, Pending where it never began."""
        for container in self._pod.init:
            if not await self._start(container, "Pending"):
                return "Pending"
            await self._until_ended([container])
            if container.exit_code != 0:
                await self._report("Failed")
                return "Failed"
        for container in self._pod.containers:
            if not await self._start(container, "Pending"):
                return "Pending"
        await self._report("Running")
        await self._until_ended(self._pod.containers)
        phase = "Succeeded" if all(container.exit_code == 0 for container in self._pod.containers) else "Failed"
        await self._report(phase)
        return phase

    async def _start(self, container: Container, phase: str) -> bool:
        """Start it as soon as what it needs is there. False where the pod is to end before that."""
        told = None
        while not self._pod.gone.is_set():
            try:
                await self._spawn(container)
                return True
            except Waiting as waiting:
                container.waiting = (waiting.reason, waiting.message)
                if container.waiting != told:
                    told = container.waiting
                    await self._report(phase)
                    await self._event(waiting)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._pod.gone.wait(), RETRY)
        return False

    async def _spawn(self, container: Container) -> None:
        spec = container.spec
        image = spec["image"]
        if any(fnmatch.fnmatch(image, pattern) for pattern in self._machine.missing):
            raise Waiting("ImagePullBackOff", f'Back-off pulling image "{image}": not found')
        mounts = await self._inputs.mounts(spec)
        env = await self._inputs.env(spec)
        command = [expanded(word, env) for word in spec.get("command") or self._machine.entrypoint]
        command += [expanded(word, env) for word in spec.get("args", ())]
        if self._machine.binds:
            command = self._bound(container.name, command, mounts, spec)
        else:
            command = [moved(word, mounts) for word in command]
            told = [[str(source), target] for source, target, _ in mounts]
            (self._pod.folder / f"{container.name}.moved.json").write_text(json.dumps(told))  # for exec
            env = {name: moved(value, mounts) for name, value in env.items()}
        (self._pod.folder / f"{container.name}.env.json").write_text(json.dumps(env))  # for exec
        (self._pod.folder / "logs").mkdir(exist_ok=True)
        with (self._pod.folder / "logs" / container.name).open("ab") as log:
            try:
                container.process = await asyncio.create_subprocess_exec(
                    *LEASH,
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    cwd="/" if self._machine.binds else moved(spec.get("workingDir", "/"), mounts),
                    start_new_session=True,
                )
            except OSError as error:
                raise Waiting("RunContainerError", str(error)) from None
        container.started = now()
        (self._pod.folder / f"{container.name}.pid").write_text(f"{container.process.pid}\n")

    async def _until_ended(self, containers: Sequence[Container]) -> None:
        """Until each has exited by itself, or, once the pod is to end, SIGTERM, grace, SIGKILL."""
        ends = [asyncio.create_task(self._ended(container)) for container in containers]
        asked = asyncio.create_task(self._pod.gone.wait())
        try:
            pending: set[asyncio.Task[Any]] = set(ends)
            while pending and not asked.done():
                _, waiting = await asyncio.wait({*pending, asked}, return_when=asyncio.FIRST_COMPLETED)
                pending = waiting - {asked}
            if pending:
                for container in containers:
                    _signal(container, signal.SIGTERM)
                await self._grace(pending)
                for container in containers:
                    _kill(container)
            await asyncio.gather(*ends)
        finally:
            for task in (asked, *ends):
                task.cancel()

    async def _grace(self, pending: set[asyncio.Task[Any]]) -> None:
        """As long as the latest deletion allows: a second one may shorten it."""
        begun = asyncio.get_running_loop().time()
        while (left := begun + self._pod.grace - asyncio.get_running_loop().time()) > 0 and pending:
            _, pending = await asyncio.wait(pending, timeout=min(left, RETRY))

    async def _ended(self, container: Container) -> None:
        assert container.process is not None
        code = await container.process.wait()
        _kill(container)  # whatever it left behind
        container.exit_code = code if code >= 0 else 128 - code
        container.finished = now()
        if container.exit_code and container.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            log = (self._pod.folder / "logs" / container.name).read_bytes()[-2048:]
            container.message = "\n".join(log.decode(errors="replace").splitlines()[-80:])

    async def _report(self, phase: str) -> None:
        ready = phase == "Running"
        why = {} if ready else {"reason": "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"}
        conditions = [
            {
                "type": name,
                "status": "True" if holds else "False",
                "lastTransitionTime": now(),
                **({} if holds else why),
            }
            for name, holds in (
                ("Initialized", all(container.exit_code == 0 for container in self._pod.init)),
                ("ContainersReady", ready),
                ("Ready", ready),
            )
        ]
        status = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "startTime": self._pod.latest.get("status", {}).get("startTime") or now(),
            "conditions": conditions,
            "containerStatuses": [container.status() for container in self._pod.containers],
            "initContainerStatuses": [container.status() for container in self._pod.init],
        }
        body = {"metadata": {"uid": self._pod.uid}, "status": status}
        await patiently(lambda: self._api.patch(f"{self._pod.path}/status", body, STRATEGIC))

    async def _event(self, waiting: Waiting) -> None:
        event = {
            "metadata": {"generateName": f"{self._pod.name}."},
            "type": "Warning",
            "reason": "FailedMount" if waiting.reason == "ContainerCreating" else "Failed",
            "message": waiting.message,
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": self._pod.namespace,
                "name": self._pod.name,
                "uid": self._pod.uid,
            },
            "source": {"component": "kubelet", "host": NODE},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        with contextlib.suppress(Refused, aiohttp.ClientError, TimeoutError):
            await self._api.post(f"/api/v1/namespaces/{self._pod.namespace}/events", event)

    def _bound(self, name: str, command: Sequence[str], mounts: Sequence[Mount], spec: Object) -> list[str]:
        """The command under a root of its own, where each volume is where the pod says."""
        root = self._pod.folder / "roots" / name
        root.mkdir(parents=True, exist_ok=True)
        access = "ro" if spec.get("securityContext", {}).get("readOnlyRootFilesystem") else "rw"
        words: list[str | Path] = [ENTER, root, access, spec.get("workingDir", "/")]
        for source, target, read_only in mounts:
            place = Path(os.path.realpath(target))
            words += [source, place, "ro" if read_only else "rw"]
            if place in CLONE.parents:  # a /tmp of its own must not hide the program, which is this clone
                words += [CLONE, CLONE, "ro"]
        return [UNSHARE, "--mount", "--propagation", "private", *map(str, words), "--", *command]


def _signal(container: Container, number: signal.Signals) -> None:
    """To the first process alone, as in a container."""
    if container.process is not None and container.process.returncode is None:
        container.process.send_signal(number)


def _kill(container: Container) -> None:
    """The first process and all that came of it: they share its session."""
    if container.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.process.pid, signal.SIGKILL)


async def patiently(act: Callable[[], Awaitable[Object]] | Callable[[], Awaitable[None]]) -> None:
    """Until it is done, or the API server says why not: it may be away for a while."""
    while True:
        try:
            await act()
            return
        except Refused as refused:
            if refused.status not in (429, 500, 503, 504):
                return  # the pod is gone, or another one has its name
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(RETRY)
