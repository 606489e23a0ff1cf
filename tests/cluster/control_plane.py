"""A Kubernetes control plane of one's own on this machine: etcd, API server, controller manager, scheduler, and one
node whose pods are local processes (``pod_runner``).

Everything listens on free loopback ports and lives in one folder; nothing survives its owner. Invariant: a program is
ended by the process that was started here, never by name.

    python tests/cluster/control_plane.py start|stop|run [--folder .fullsend/cluster]

``start`` leaves one running in the background with this clone's CRDs in it; ``run`` keeps it in the foreground.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from cluster import binaries  # noqa: E402  # run as a script, too

READY_WITHIN = 90.0
"""Seconds. It takes 9 on two idle cores; a machine that builds something else beside it needs more."""
SERVICE_RANGE = "10.96.0.0/16"


class ClusterFailed(Exception):
    """The text names the program and the end of its log."""


@dataclass
class Component:
    """One program, its log, and its process while it runs."""

    name: str
    command: Sequence[str | Path]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # The kernel ends it with us, also when we are killed: tests are.
        leash = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*leash, *map(str, self.command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C is for the owner, who ends them in order
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.running:
            self.process.send_signal(number)

    def stop(self, patience: float = 5.0) -> None:
        """SIGTERM, and SIGKILL to one that takes too long (an API server waits for its watchers)."""
        if self.process is None:
            return
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def must_run(self) -> None:
        if not self.running:
            raise ClusterFailed(f"{self.name} has ended:\n{self.log.read_text(errors='replace')[-3000:]}")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. All are held at once, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class ControlPlane:
    """``start`` returns when pods can be made; ``admin`` is the kubeconfig of a user who may do everything."""

    USERS: Mapping[str, tuple[str, str]] = {
        "admin": ("admin", "system:masters"),
        "controller-manager": ("system:kube-controller-manager", ""),
        "scheduler": ("system:kube-scheduler", ""),
    }
    """Each with a token of its own: its name, and its group."""
    ADDRESS = "127.0.0.1"
    """Where the API server listens."""

    def __init__(
        self,
        folder: Path,
        *,
        pods: bool = True,
        room: int = 1000,
        missing_images: Sequence[str] = ("missing.invalid/*",),
    ) -> None:
        self.folder = folder
        self.programs = binaries.folder()
        self.kubectl = self.programs / "kubectl"
        self.admin = folder / "admin.kubeconfig"
        self.pods_folder = folder / "pods"
        self._missing_images = tuple(missing_images)
        self._with_pods = pods
        self._room = room
        self._tokens = {user: secrets.token_hex(16) for user in self.USERS}
        self.components: dict[str, Component] = {}

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_credentials()
        self._lay_out()
        try:
            for name in self.components:
                self.components[name].start()
                if name == "kube-apiserver":
                    self._until("the API server is ready", lambda: self.get("/readyz") == 200)
            self._until("the controllers work", self._has_default_account)
            if self._with_pods:
                self._until("the node is ready", self._node_is_ready)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for name in ("pod-runner", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            if name in self.components:
                self.components[name].stop(patience=10.0 if name == "pod-runner" else 3.0)

    def stop_component(self, name: str) -> None:
        """Take one program away, as if its machine had died."""
        self.components[name].kill()

    def start_component(self, name: str) -> None:
        """Bring it back on the same port with the same data."""
        self.components[name].start()
        if name in ("etcd", "kube-apiserver"):
            self._until("the API server is ready", lambda: self.get("/readyz") == 200)

    def etcd(self, call: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """One call of etcd's JSON gateway, such as ``kv/compaction``."""
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=10)
        try:
            connection.request("POST", f"/v3/{call}", json.dumps(question))
            answer = (response := connection.getresponse()).read()
            if response.status != 200:
                raise ClusterFailed(f"etcd: {call}: {answer.decode(errors='replace')}")
            found: Mapping[str, Any] = json.loads(answer)
            return found
        finally:
            connection.close()

    def kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        """A kubeconfig for whoever holds this token."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "it",
                    "clusters": [
                        {
                            "name": "it",
                            "cluster": {
                                "server": self.server,
                                "certificate-authority-data": base64.b64encode(self._ca_pem).decode(),
                            },
                        }
                    ],
                    "users": [{"name": "it", "user": {"token": token}}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
                },
                indent=1,
            )
        )
        path.chmod(0o600)
        return path

    @property
    def server(self) -> str:
        return f"https://{self.ADDRESS}:{self._api_port}"

    def get(self, path: str) -> int:
        """The status of a GET by the administrator; 0 where nobody answers."""
        context = ssl.create_default_context(cadata=self._ca_pem.decode())
        connection = http.client.HTTPSConnection(self.ADDRESS, self._api_port, timeout=5, context=context)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._tokens['admin']}"})
            self._answer = (response := connection.getresponse()).read()
            return response.status
        except OSError:
            return 0
        finally:
            connection.close()

    def _has_default_account(self) -> bool:
        return self.get("/api/v1/namespaces/default/serviceaccounts/default") == 200

    def _node_is_ready(self) -> bool:
        if self.get("/api/v1/nodes/local") != 200:
            return False
        node = json.loads(self._answer)
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", ()))
        return ready and not node["spec"].get("taints")

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + READY_WITHIN
        while not holds():
            for component in self.components.values():
                if component.process is not None:
                    component.must_run()
            if time.monotonic() > end:
                raise ClusterFailed(f"not so after {READY_WITHIN:.0f} s: {what}; logs are in {self.folder}")
            time.sleep(0.1)

    def _write_credentials(self) -> None:
        authority = self.authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._ca_pem = authority.cert_pem.bytes()
        names = (self.ADDRESS, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1")
        serving = authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA)
        serving.private_key_and_cert_chain_pem.write_to_path(self.folder / "serving.pem")
        authority.cert_pem.write_to_path(self.folder / "ca.pem")
        accounts = authority.issue_cert("accounts.invalid", key_type=trustme.KeyType.ECDSA)
        accounts.private_key_pem.write_to_path(self.folder / "accounts.pem")  # signs service account tokens
        lines = [f'{self._tokens[key]},{user},{key},"{group}"\n' for key, (user, group) in self.USERS.items()]
        (self.folder / "tokens.csv").write_text("".join(lines))
        self._etcd_port, self._peer_port, self._api_port = free_ports(3)
        self.kubeconfig(self.admin, self._tokens["admin"])
        for user in ("controller-manager", "scheduler"):
            self.kubeconfig(self.folder / f"{user}.kubeconfig", self._tokens[user])

    def _lay_out(self) -> None:
        at, programs = self.folder, self.programs
        etcd, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        commands: dict[str, list[str | Path]] = {
            "etcd": [
                programs / "etcd",
                f"--data-dir={at / 'etcd'}",
                "--unsafe-no-fsync",  # nothing here is to survive a crash of the machine
                "--name=it",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=it={peer}",
                "--log-level=warn",
            ],
            "kube-apiserver": [
                programs / "kube-apiserver",
                f"--etcd-servers={etcd}",
                f"--bind-address={self.ADDRESS}",
                f"--secure-port={self._api_port}",
                f"--cert-dir={at / 'certificates'}",
                f"--tls-cert-file={at / 'serving.pem'}",
                f"--tls-private-key-file={at / 'serving.pem'}",
                "--authorization-mode=Node,RBAC",
                f"--token-auth-file={at / 'tokens.csv'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={at / 'accounts.pem'}",
                f"--service-account-key-file={at / 'accounts.pem'}",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
                "--endpoint-reconciler-type=none",  # a loopback address is no endpoint
                "--kubelet-preferred-address-types=InternalIP",
                "--allow-privileged=true",
                "--profiling=false",
            ],
            "kube-controller-manager": [
                programs / "kube-controller-manager",
                f"--kubeconfig={at / 'controller-manager.kubeconfig'}",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={at / 'accounts.pem'}",
                f"--root-ca-file={at / 'ca.pem'}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            "kube-scheduler": [
                programs / "kube-scheduler",
                f"--kubeconfig={at / 'scheduler.kubeconfig'}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
        }
        if self._with_pods:
            missing = [f"--missing-image={image}" for image in self._missing_images]
            runner: list[str | Path] = [
                sys.executable,
                HERE / "pod_runner.py",
                f"--kubeconfig={self.admin}",
                f"--folder={self.pods_folder}",
                f"--room={self._room}",
            ]
            commands["pod-runner"] = [*runner, *missing]
        self.components = {name: Component(name, command, at / f"{name}.log") for name, command in commands.items()}


@contextlib.contextmanager
def control_plane(**options: bool | int | Sequence[str]) -> Iterator[ControlPlane]:
    """A control plane for the time of a with block, in a folder that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="fullsend-cluster-"))
    plane = ControlPlane(folder, **options)  # type: ignore[arg-type]
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path) -> int:
    """Keep one running until somebody says to stop."""
    shutil.rmtree(folder, ignore_errors=True)
    plane = ControlPlane(folder)
    plane.programs = binaries.build()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        plane.start()
        subprocess.run(
            [plane.kubectl, f"--kubeconfig={plane.admin}", "apply", "--server-side", "-f", ROOT / "crds"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (folder / "ready").touch()
        _tell(folder)
        while True:
            time.sleep(1)
            for component in plane.components.values():
                component.must_run()
    except KeyboardInterrupt:
        return 0
    finally:
        (folder / "ready").unlink(missing_ok=True)
        plane.stop()


def _tell(folder: Path) -> None:
    print(f"a control plane is running; logs and pods are in {folder}")
    print(f"export KUBECONFIG={folder / 'admin.kubeconfig'}")
    print(f"export PATH={binaries.folder()}:$PATH  # kubectl", flush=True)


def _owner(folder: Path) -> int | None:
    """The process that keeps the control plane of this folder, if it lives and is one."""
    try:
        pid = int((folder.parent / f"{folder.name}.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"control_plane.py" in command else None


def start(folder: Path) -> int:
    if _owner(folder) is not None and (folder / "ready").exists():
        _tell(folder)
        return 0
    binaries.build()
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder / "ready").unlink(missing_ok=True)
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as out:
        owner = subprocess.Popen(
            [sys.executable, __file__, "run", "--folder", folder],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    (folder.parent / f"{folder.name}.pid").write_text(f"{owner.pid}\n")
    while not (folder / "ready").exists():
        if owner.poll() is not None:
            print(log.read_text(errors="replace"), file=sys.stderr)
            return 1
        time.sleep(0.1)
    _tell(folder)
    print("make cluster-stop ends it")
    return 0


def stop(folder: Path) -> int:
    pid = _owner(folder)
    if pid is None:
        print("no control plane is running here")
        return 0
    os.kill(pid, signal.SIGTERM)
    while _owner(folder) is not None:
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / f"{folder.name}.pid").unlink(missing_ok=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="A Kubernetes control plane on this machine.")
    parser.add_argument("what", choices=("start", "stop", "run"))
    parser.add_argument("--folder", type=Path, default=ROOT / ".fullsend" / "cluster")
    arguments = parser.parse_args()
    carry_out = {"start": start, "stop": stop, "run": run}[arguments.what]
    try:
        return carry_out(arguments.folder.resolve())
    except (ClusterFailed, binaries.CannotBuild) as failure:
        print(failure, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
