"""Writes manifests/base, manifests/cluster-wide and manifests/namespaces/rights from the chart, so that there is one
source for both ways to install. ``tests/cluster`` holds what ``kubectl kustomize`` makes of them against the chart.

    python tools/generate_manifests.py HELM        (make manifests: with the Helm that the tests use)
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MANIFESTS = ROOT / "manifests"
MADE = "# Made by tools/generate_manifests.py from helm/fullsend; do not edit: lay a kustomization over it.\n"
HOME = "fullsend-system"
ONE = "one-namespace"  # stands for any: a kustomization says which
# What says that Helm looks after an object.
HELMS = re.compile(r"^\s*(helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: Helm|# Source: .*)\n", re.MULTILINE)


def render(helm: str, *settings: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of each object of a release."""
    common = ["--namespace", HOME, "--set", "database.existingSecret=fullsend-database,crds.install=false"]
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [helm, "template", "fullsend", str(ROOT / "helm/fullsend"), *common, *sets]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for document in re.split(r"^---\n", HELMS.sub("", text), flags=re.MULTILINE):
        kind = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
        if kind:
            yield kind[1], re.sub(r"\n{2,}", "\n", document).strip() + "\n"


def files(helm: str) -> dict[str, list[str]]:
    made: dict[str, list[str]] = defaultdict(list)
    for kind, text in render(helm):
        if kind.startswith("ValidatingAdmission"):
            name = "base/admission-policy.yaml"
        elif kind.startswith("ClusterRole"):
            name = "base/user-roles.yaml" if "component: user-role" in text else "cluster-wide/rights.yaml"
        elif kind in ("ServiceAccount", "Role", "RoleBinding"):
            name = "base/account.yaml"
        else:
            name = "base/operator.yaml"
        made[name].append(text)
    for _, text in render(helm, f"namespaces={{{ONE}}}", "clusterId=any"):
        if f"\n  namespace: {ONE}\n" in text:
            made["namespaces/rights/rights.yaml"].append(text.replace(f"\n  namespace: {ONE}\n", "\n"))
    return made


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, texts in files(sys.argv[1]).items():
        path = MANIFESTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MADE + "---\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
