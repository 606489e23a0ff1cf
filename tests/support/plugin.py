"""``kubectl fullsend`` as a user runs it: kubectl finds the plugin on the PATH, and the plugin finds kubectl there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from support.cluster_world import Kubectl


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Plugin:
    """One user's, in one namespace."""

    kubectl: Kubectl
    kubeconfig: Path
    namespace: str

    @property
    def environment(self) -> dict[str, str]:
        folders = (Path(self.kubectl.program).parent, Path(sys.executable).parent)
        path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    def start(self, *arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["kubectl", "fullsend", *arguments, "-n", self.namespace],
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, stdin: Any = subprocess.DEVNULL, within: float = 90) -> Answer:
        process = self.start(*arguments, stdin=stdin)
        out, err = process.communicate(timeout=within)
        return Answer(process.returncode, out.decode(), err.decode())
