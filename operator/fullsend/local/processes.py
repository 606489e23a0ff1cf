"""Processes as Jobs: what the Job controller does in a cluster, for one machine.

A job is a process with a job file; its output goes to a log beside it. As in a cluster, whether a sender is alive is
the ledger's to say; what this module knows is a hint that lets the ledger be told sooner.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

JobKind = Literal["plan", "send"]

_MODULES: Mapping[JobKind, str] = {"plan": "fullsend.audience", "send": "fullsend.sender"}


@dataclass(slots=True)
class ProcessJob:
    """One process. ``exit_code`` is None while it runs; negative for a signal, as in ``subprocess``."""

    name: str
    kind: JobKind
    wave: int
    started_at: datetime
    log: Path
    process: asyncio.subprocess.Process
    ended_at: datetime | None = None
    stopping: bool = False

    @property
    def exit_code(self) -> int | None:
        return self.process.returncode

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The last line of the job's log, for a person who asks why it ended."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""


class ProcessJobs:
    """Starts and ends the jobs of one campaign; their files live in ``folder``. ``ended`` is set when one has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: list[ProcessJob] = []
        self._reapers: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def all(self) -> tuple[ProcessJob, ...]:
        return tuple(self._jobs)

    async def start(self, name: str, kind: JobKind, wave: int, job: Mapping[str, Any]) -> ProcessJob:
        job_file = self._folder / f"{name}.json"
        write_private(job_file, json.dumps(job, default=str).encode())
        log = self._folder / f"{name}.log"
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _MODULES[kind],
                "--job",
                str(job_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C is for us; we drain the senders in our own time.
                start_new_session=True,
            )
        started = ProcessJob(name, kind, wave, datetime.now(UTC), log, process)
        self._jobs.append(started)
        reaper = asyncio.create_task(self._reap(started))
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)
        return started

    async def _reap(self, job: ProcessJob) -> None:
        await job.process.wait()
        job.ended_at = datetime.now(UTC)
        self.ended.set()

    def terminate(self, kind: JobKind | None = None, waves: Collection[int] = ()) -> None:
        """Ask jobs to end, all or those of some waves: senders read the replies in flight and give the rest back."""
        for job in self._jobs:
            if job.alive and not job.stopping and kind in (None, job.kind) and (not waves or job.wave in waves):
                job.stopping = True
                job.process.send_signal(signal.SIGTERM)

    async def wait(self, seconds: float) -> bool:
        """Wait for all jobs to end; False when some still run after ``seconds``."""
        if self._reapers:
            await asyncio.wait(self._reapers, timeout=seconds)
        return not any(job.alive for job in self._jobs)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
