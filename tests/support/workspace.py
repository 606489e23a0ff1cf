"""A folder with manifests, a mail sink as a process, and the ``fullsend`` command: what a user has, for tests."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TEXT = "Dear {{ name }},\n\nhello.\n\nTo leave: {{ unsubscribe_url }}\n"
HTML = '<p>Dear {{ name }},</p><p>hello.</p><p><a href="{{ unsubscribe_url }}">leave</a></p>'


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def result(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


@dataclass
class Sink:
    """A mail sink that runs as a process of its own; ``copies`` is what it has taken, by recipient."""

    process: subprocess.Popen[str]
    port: int
    journal: Path

    def entries(self) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]

    def copies(self) -> Counter[str]:
        time.sleep(0.3)  # the journal is flushed every 0.2 s
        counted: Counter[str] = Counter()
        for entry in self.entries():
            counted.update(entry["recipients"])
        return counted

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass
class Workspace:
    """``folder`` holds manifests and state; ``database`` is the ledger's DSN."""

    folder: Path
    database: str
    sinks: list[Sink] = field(default_factory=list)

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    # -- the relay ------------------------------------------------------------------------------------------------

    def sink(self, faults: Mapping[str, Any] | str = "none", *options: str, port: int = 0) -> Sink:
        number = len(self.sinks)
        journal = self.folder / f"mail-{number}.jsonl"
        if isinstance(faults, str):
            source = faults
        else:
            path = self.folder / f"faults-{number}.yaml"
            with path.open("w", encoding="utf-8") as file:
                YAML(typ="safe").dump(dict(faults), file)
            source = str(path)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fullsend.local.mailsink", "--port", str(port)),
                *("--journal", str(journal), "--faults", source, *options),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 20)
        line = process.stdout.readline() if ready else ""
        assert ":" in line, f"the sink did not start: {line!r}"
        sink = Sink(process, int(line.rsplit(":", 1)[1]), journal)
        self.sinks.append(sink)
        return sink

    # -- what a user writes ---------------------------------------------------------------------------------------

    def recipients(self, count: int, *, domain: str = "example.com", file: str = "people.csv") -> list[str]:
        addresses = [f"user{number:06d}@{domain}" for number in range(1, count + 1)]
        self.csv([(address, f"Person {number}") for number, address in enumerate(addresses, 1)], file=file)
        return addresses

    def csv(self, rows: Sequence[tuple[str, ...]], *, header: str = "email,name", file: str = "people.csv") -> None:
        self.manifests.mkdir(parents=True, exist_ok=True)
        lines = [header, *(",".join(row) for row in rows)]
        (self.manifests / file).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def write(self, *documents: Mapping[str, Any], file: str = "campaign.yaml") -> Path:
        self.manifests.mkdir(parents=True, exist_ok=True)
        path = self.manifests / file
        with path.open("w", encoding="utf-8") as out:
            YAML(typ="safe").dump_all([dict(document) for document in documents], out)
        return path

    def campaign(
        self,
        port: int,
        *,
        name: str = "launch",
        spec: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        smtp: Mapping[str, Any] | None = None,
        transport: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        extra: Sequence[Mapping[str, Any]] = (),
    ) -> Path:
        """A whole small campaign, each part of which can be changed."""
        return self.write(
            declared("Audience", "people", source or {"csv": {"file": "people.csv"}}),
            declared(
                "MailTransport",
                "relay",
                {
                    "smtp": {"host": "127.0.0.1", "port": port, "tls": "Disabled", **(smtp or {})},
                    "limits": {"connections": 16},
                    **(transport or {}),
                },
            ),
            declared(
                "Campaign",
                name,
                {
                    "class": "Marketing",
                    "audiences": [{"name": "people"}],
                    "transportRef": {"name": "relay"},
                    "message": {
                        "from": {"name": "News", "address": "news@sender.example"},
                        "subject": "Hello {{ name }}",
                        "text": TEXT,
                        "html": HTML,
                        **(message or {}),
                    },
                    "unsubscribe": {
                        "url": "https://sender.example/u?t={{ token }}",
                        "oneClick": True,
                        "listId": "news.sender.example",
                    },
                    "retry": {"minBackoff": "1s", "maxBackoff": "2s"},
                    **(spec or {}),
                },
            ),
            *extra,
        )

    # -- what a user runs -----------------------------------------------------------------------------------------

    @property
    def _ledger(self) -> list[str]:
        return ["--database", self.database, "--state", str(self.state)]

    def fullsend(self, *arguments: str, ledger: bool = True, timeout: float = 120, stdin: str = "") -> Finished:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "fullsend.cli", *arguments, *(self._ledger if ledger else [])],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
        )
        return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def run(self, *, timeout: float = 120) -> Finished:
        """``fullsend run`` of the manifests, with the result as JSON."""
        return self.fullsend("run", str(self.manifests), "--output", "json", timeout=timeout)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """``fullsend run`` in the background; killed at the end if it still runs, with what it started."""
        log = (self.folder / "run.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-m", "fullsend.cli", "run", str(self.manifests), *self._ledger],
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
            log.close()

    def said(self) -> str:
        """What the runs in the background have said so far."""
        return (self.folder / "run.log").read_text(encoding="utf-8")

    def senders(self) -> list[int]:
        """The pids of the sender processes of this workspace that run now."""
        return self.processes("fullsend.sender")

    def processes(self, module: str) -> list[int]:
        """The pids of this workspace's jobs of one kind that run now."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if module.encode() in command and any(str(self.state).encode() in part for part in command):
                found.append(int(entry.name))
        return sorted(found)

    def close(self) -> None:
        for sink in self.sinks:
            sink.stop()
        for pid in (*self.processes("fullsend.audience"), *self.senders()):
            os.kill(pid, signal.SIGKILL)


def declared(kind: str, name: str, spec: Mapping[str, Any], *, namespace: str = "default") -> dict[str, Any]:
    """One Fullsend object."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "fullsend.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def secret(name: str, type_: str, values: Mapping[str, str], *, namespace: str = "default") -> dict[str, Any]:
    """A Secret of one of the types that Fullsend reads."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": type_, "stringData": dict(values)}


def eventually(what: str, seconds: float, look: Any, every: float = 0.05) -> Any:
    """Look until something true is seen; fails with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(every)
    raise AssertionError(f"not seen within {seconds} s: {what}")
