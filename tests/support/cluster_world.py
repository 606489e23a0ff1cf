"""A namespace with an operator, a mail sink and a ledger: what a user of a cluster has, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg

from support.workspace import Workspace, eventually


class Kubectl(Protocol):
    program: str
    kubeconfig: Path

    def __call__(self, *arguments: str | Path, given: Any = None) -> str: ...

    def object(self, *arguments: str | Path) -> Mapping[str, Any]: ...


@dataclass
class OperatorProcess:
    """``fullsend operator`` as a process; ``url`` is where its probes answer."""

    process: subprocess.Popen[bytes]
    log: Path
    began: int

    @property
    def words(self) -> str:
        return self.log.read_bytes()[self.began :].decode(errors="replace")

    @property
    def url(self) -> str:
        port = eventually("the operator serves probes", 30, lambda: re.search(r"metrics on port (\d+)", self.words))
        return f"http://127.0.0.1:{port[1]}"

    def probe(self, path: str) -> int:
        """The status of what it answers there."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def leads(self) -> bool:
        return re.search(r"\S+ leads\b", self.words) is not None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise


@dataclass
class ClusterWorld:
    """``place`` has the sinks and the ledger's database; everything else is in the cluster's ``namespace``."""

    kubectl: Kubectl
    namespace: str
    place: Workspace
    operators: list[OperatorProcess] = field(default_factory=list)
    log: str = "operator"

    def operator(
        self,
        *options: str,
        kubeconfig: Path | None = None,
        lease: str = "",
        everywhere: bool = False,
        overrides: bool = True,
    ) -> OperatorProcess:
        number = len(self.operators)
        log = self.place.folder / f"{self.log}-{number}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fullsend.cli", "operator", "--database", self.place.database),
                    *("--image", "fullsend:test", "--port", "0"),
                    *(() if everywhere else ("--namespaces", self.namespace)),
                    *("--lease-namespace", lease or self.namespace),
                    *(("--pod-overrides", str(self._overrides())) if overrides else ()),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "KUBECONFIG": str(kubeconfig or self.kubectl.kubeconfig)},
            )
        started = OperatorProcess(process, log, 0)
        self.operators.append(started)
        return started

    def _overrides(self) -> Path:
        """The tests' PostgreSQL listens on a socket below /tmp, where a pod would have a folder of its own."""
        path = self.place.folder / "overrides.yaml"
        spec = {"volumes": [{"name": "tmp", "emptyDir": None, "hostPath": {"path": "/tmp"}}]}
        path.write_text(json.dumps({"spec": spec}))
        return path

    def close(self) -> None:
        for operator in self.operators:
            operator.stop()

    # -- what a user writes ---------------------------------------------------------------------------------------

    def apply(self, *objects: Mapping[str, Any], manager: str = "") -> None:
        """``manager``: as one who applies on the server's side, and takes what is his by force."""
        items = [{"apiVersion": "fullsend.dev/v1alpha1", **each} for each in objects]
        how = ("--server-side", "--force-conflicts", f"--field-manager={manager}") if manager else ()
        given = {"apiVersion": "v1", "kind": "List", "items": items}
        self.kubectl("apply", *how, "-n", self.namespace, "-f", "-", given=given)

    def recipients(self, count: int, name: str = "people") -> list[str]:
        addresses = [f"{name}{number:05d}@example.com" for number in range(count)]
        lines = ["email,name", *(f"{address},Person" for address in addresses)]
        data = {"people.csv": "\n".join(lines)}
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
        source = {"csv": {"configMapKeyRef": {"name": name, "key": "people.csv"}}}
        self.apply({"kind": "Audience", "metadata": {"name": name}, "spec": source})
        return addresses

    def transport(self, port: int, *, smtp: Mapping[str, Any] | None = None, **limits: Any) -> None:
        relay = {"host": "127.0.0.1", "port": port, "tls": "Disabled", **(smtp or {})}
        spec = {"smtp": relay, "limits": {"connections": 8, **limits}}
        self.apply({"kind": "MailTransport", "metadata": {"name": "relay"}, "spec": spec})

    def campaign(
        self, name: str = "launch", *, subject: str = "Hello {{ name }}", manager: str = "", **spec: Any
    ) -> None:
        self.apply(_campaign(name, subject, spec), manager=manager)

    def campaigns(self, names: Sequence[str], **spec: Any) -> None:
        """All at once, each with its name as its subject."""
        self.apply(*(_campaign(name, name, spec) for name in names))

    def patch(self, name: str = "launch", **spec: Any) -> None:
        self.kubectl(
            *("patch", "campaign", name, "-n", self.namespace, "--type=merge", "-p", json.dumps({"spec": spec}))
        )

    def delete(self, kind: str, name: str) -> None:
        self.kubectl("delete", kind, name, "-n", self.namespace, "--wait=true", "--timeout=60s")

    # -- what a user sees -----------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Mapping[str, Any]:
        return self.kubectl.object("get", kind, name, "-n", self.namespace)

    def items(self, kind: str) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.kubectl.object("get", kind, "-n", self.namespace)["items"]
        return found

    def status(self, name: str = "launch") -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.get("campaign", name).get("status", {})
        return found

    def condition(self, type_: str, name: str = "launch") -> Mapping[str, Any]:
        conditions = self.status(name).get("conditions", ())
        return next((each for each in conditions if each["type"] == type_), {"status": "", "reason": "", "message": ""})

    def until(
        self, type_: str, status: str = "True", *, reason: str = "", name: str = "launch", within: float = 60
    ) -> Any:
        """The condition once it is so; fails with the whole status otherwise."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            found = self.condition(type_, name)
            if found["status"] == status and reason in ("", found["reason"]):
                return found
            time.sleep(0.2)
        logs = "\n".join(operator.words[-2000:] for operator in self.operators)
        raise AssertionError(f"{type_} is not {status} {reason}: {json.dumps(self.status(name), indent=1)}\n{logs}")

    def copies(self) -> Counter[str]:
        return self.place.sinks[0].copies()

    def nobody_missed_or_twice(self, people: Sequence[str]) -> None:
        """What reached the relay; a second copy only of a recipient whom the ledger names unknown."""
        copies = self.copies()
        with psycopg.connect(self.place.database) as connection:
            told = connection.execute(
                "SELECT r.address, sum(d.unknowns) FROM fullsend.delivery AS d JOIN fullsend.recipient AS r"
                " USING (campaign_id, seq) WHERE d.unknowns > 0 GROUP BY r.address"
            ).fetchall()
        unknowns = {address: int(times) for address, times in told}
        assert copies.keys() == set(people), "somebody was missed, or is not of the list"
        extra = {address: count for address, count in copies.items() if count > 1 + unknowns.get(address, 0)}
        assert not extra, "mailed again without an unknown in the ledger"

    def accepted(self) -> int:
        """What the sink has taken so far."""
        return len(self.place.sinks[0].entries())

    def events(self, name: str = "launch") -> list[tuple[str, str]]:
        found = self.items("events.v1.events.k8s.io")
        return [(each["reason"], each.get("note", "")) for each in found if each["regarding"].get("name") == name]


def _campaign(name: str, subject: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "kind": "Campaign",
        "metadata": {"name": name},
        "spec": {
            "class": "Transactional",
            "audiences": [{"name": "people"}],
            "transportRef": {"name": "relay"},
            "message": {
                "from": {"address": "news@sender.example"},
                "subject": subject,
                "text": "Hi {{ name }}",
            },
            "retry": {"minBackoff": "1s", "maxBackoff": "2s"},
            **spec,
        },
    }
