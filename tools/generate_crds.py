"""Writes crds/, one file a kind, from the models, and the same into the chart, which can only read its own folder.

``--check`` writes nothing and fails when a file is not what the models say (``make check`` runs it so).
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fullsend.resources.crds import GROUP, KINDS, custom_resource_definition

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "crds", ROOT / "helm/fullsend/files/crds")
MADE = "# Made by tools/generate_crds.py from operator/fullsend/resources; do not edit.\n"


def manifest(definition: dict[str, Any]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # else it sorts the keys
    yaml.width = 120
    text = io.StringIO()
    yaml.dump(definition, text)
    return MADE + text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail instead of writing")
    check = parser.parse_args().check
    wanted = {f"{GROUP}_{kind.plural}.yaml": manifest(custom_resource_definition(kind)) for kind in KINDS}
    stale = []
    for folder in FOLDERS:
        there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
        changed = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
        if check:
            stale += [str((folder / name).relative_to(ROOT)) for name in changed]
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for name in changed:
            if name in wanted:
                (folder / name).write_text(wanted[name], encoding="utf-8")
            else:
                (folder / name).unlink()
    if stale:
        sys.exit(f"{', '.join(stale)}: not what the models say; run `make docs` and commit the result")


if __name__ == "__main__":
    main()
