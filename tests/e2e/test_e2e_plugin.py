"""``kubectl fullsend`` through a real kubelet: its streams are the API server's and containerd's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from e2e.trial import SPACE, Trial, runs

ROWS = 30_000


def pods(trial: Trial) -> list[Mapping[str, Any]]:
    found = trial.kubectl.object("get", "pods", "-n", SPACE, "-l", "app.kubernetes.io/component=kubectl")
    items: list[Mapping[str, Any]] = found["items"]
    return items


def test_it_reports_imports_and_leaves_nothing_behind(trial: Trial) -> None:
    trial.relay("asked")
    people = trial.people("asked", 30)
    trial.campaign("asked")
    trial.until_complete("asked", 30)
    report = trial.plugin("report", "asked", "-o", "json")
    assert (report.code, report.err) == (0, "")
    assert json.loads(report.out)["counts"]["accepted"] == 30
    assert f"{people[7]}: accepted" in trial.plugin("why", "asked", people[7]).out

    source = trial.clone / "readers.csv"
    source.write_text("email,name\n" + "".join(f"person{row:06d}@example.com,Person {row}\n" for row in range(ROWS)))
    with source.open("rb") as stream:
        done = trial.plugin("import", "readers", "--opt-in", "single", "-o", "json", stdin=stream)
    assert done.code == 0, done.err
    assert json.loads(done.out)["inserted"] == ROWS
    again = trial.plugin("import", "readers", str(source), "-o", "json")
    assert json.loads(again.out)["unchanged"] == ROWS

    asking = trial.plugin.start("import", "readers", stdin=subprocess.PIPE)
    trial.until("its pod runs", 60, lambda: [pod for pod in pods(trial) if runs(pod)])
    os.killpg(asking.pid, signal.SIGINT)
    asking.communicate(timeout=30)
    assert asking.returncode == 128 + signal.SIGINT
    trial.until("no pod is left", 30, lambda: not pods(trial))
