"""Helm, as a test runs it: this clone's chart, rendered or installed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "fullsend"
HOME = "fullsend-system"

Values = Mapping[str, Any]
Object = Mapping[str, Any]


@dataclass(frozen=True)
class Helm:
    """``kubeconfig``: the cluster to install into; none is needed to render."""

    program: str
    kubeconfig: Path | None = None

    def run(self, *arguments: str | Path, values: Values | None = None) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(prefix="fullsend-helm-") as folder:
            given = []
            if values is not None:
                (Path(folder) / "values.json").write_text(json.dumps(values))
                given = ["--values", str(Path(folder) / "values.json")]
            places = {f"HELM_{name}_HOME": folder for name in ("CACHE", "CONFIG", "DATA")}
            cluster = {} if self.kubeconfig is None else {"KUBECONFIG": str(self.kubeconfig)}
            return subprocess.run(
                [self.program, *map(str, arguments), *given],
                capture_output=True,
                text=True,
                timeout=600,
                env={**os.environ, **places, **cluster},
            )

    def __call__(self, *arguments: str | Path, values: Values | None = None) -> str:
        done = self.run(*arguments, values=values)
        assert done.returncode == 0, f"helm {' '.join(map(str, arguments))}: {done.stderr}{done.stdout}"
        return done.stdout

    def render(self, values: Values, *, release: str = "fullsend", namespace: str = HOME) -> list[Object]:
        """The objects of a release."""
        return objects(self("template", release, CHART, "--namespace", namespace, values=values))

    def refusal(self, values: Values) -> str:
        """Why a release can't have these values."""
        done = self.run("template", "fullsend", CHART, values=values)
        assert done.returncode != 0, "they are fine"
        return done.stderr


def objects(text: str) -> list[Object]:
    return [each for each in YAML(typ="safe", pure=True).load_all(text) if each]


def the(found: Sequence[Object], kind: str, name: str = "", namespace: str = "") -> Any:
    """The one object that is called so."""
    (one,) = [
        each
        for each in found
        if each["kind"] == kind
        and name in ("", each["metadata"]["name"])
        and namespace in ("", each["metadata"].get("namespace"))
    ]
    return one
