"""kubectl, as a test runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.control_plane import ControlPlane


@dataclass(frozen=True)
class Kubectl:
    """kubectl as one user; ``plane`` is None where the cluster is somebody's own."""

    program: str
    kubeconfig: Path
    plane: ControlPlane | None = None

    def run(self, *arguments: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [self.program, f"--kubeconfig={self.kubeconfig}", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, input=given, timeout=120)

    def __call__(self, *arguments: str | Path, given: Any = None) -> str:
        """What it prints. ``given``: what ``-f -`` reads, text or an object. Fails the test where kubectl fails."""
        text = given if given is None or isinstance(given, str) else json.dumps(given)
        done = self.run(*arguments, given=text)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}{done.stdout}"
        return done.stdout

    def object(self, *arguments: str | Path) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self(*arguments, "-o", "json"))
        return found
