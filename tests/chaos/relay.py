"""The relay of a run of chaos: our mail sink as a process, in the worst of moods, and able to be restarted."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

DOT_TIMEOUT = 3.0
"""Seconds the campaign waits for an answer to the dot; the relay's silence is longer."""


def weather(seed: int) -> dict[str, Any]:
    """Every trouble that passes, and two that do not (refusals of single mailboxes)."""
    return {
        "seed": seed,
        "maxConnections": 40,
        "messagesPerConnection": 400,
        "rules": [
            {"fault": "UnknownMailbox", "share": "1%"},
            {"fault": "Reply", "share": "0.3%", "stage": "Dot", "reply": "550 5.2.1 mailbox disabled"},
            {"fault": "Greylist", "share": "4%", "times": 2},
            {"fault": "MailboxFull", "share": "0.5%", "times": 2},
            {"fault": "LocalError", "share": "1%", "times": 1},
            {"fault": "QuotaExceeded", "share": "0.1%", "times": 1},
            {"fault": "Reply", "share": "0.3%", "stage": "Dot", "reply": "451 4.2.0 try again later", "times": 1},
            {"fault": "Reply", "share": "0.1%", "stage": "Data", "reply": "451 4.3.0 not now", "times": 1},
            {"fault": "Reply", "share": "0.2%", "stage": "Rcpt", "reply": "421 4.3.2 shutting down", "times": 1},
            {"fault": "DropAtRcpt", "share": "0.2%", "times": 1},
            {"fault": "DropAtData", "share": "0.2%", "times": 1},
            {"fault": "DropInContent", "share": "0.2%", "times": 1},
            {"fault": "DropAfterDot", "share": "0.2%", "times": 1},
            {"fault": "SilentAfterDot", "share": "0.05%", "times": 1},
            {"fault": "Slow", "share": "1%", "delay": 1.0, "times": 1},
        ],
    }


class Relay:
    """``journal`` and ``log`` outlive a restart; what was greylisted before it is greylisted again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.journal, self.log = folder / "mail.jsonl", folder / "relay.jsonl"
        self._faults = folder / "weather.yaml"
        with self._faults.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(weather(seed), file)
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._read = 0
        self._lines = 0

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fullsend.local.mailsink", "--port", str(self.port)),
                *("--journal", str(self.journal), "--log", str(self.log), "--faults", str(self._faults)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 30)
        line = self._process.stdout.readline() if ready else ""
        assert ":" in line, f"the relay did not start: {line!r}"
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self) -> None:
        """In order: what it took is in the journal, and everybody is dropped."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def taken(self) -> int:
        """How many messages the journal has by now."""
        if self.journal.exists():
            with self.journal.open("rb") as file:
                file.seek(self._read)
                while data := file.read(1 << 20):
                    self._lines += data.count(b"\n")
                    self._read += len(data)
        return self._lines
