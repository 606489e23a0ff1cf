"""Writes crds/, one file a kind, from the models.

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

CRDS = Path(__file__).parents[1] / "crds"
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
    there = {path.name: path.read_text(encoding="utf-8") for path in CRDS.glob("*.yaml")}
    if check:
        stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
        if stale:
            sys.exit(f"crds/{', crds/'.join(stale)}: not what the models say; run `make docs` and commit the result")
        return
    CRDS.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (CRDS / name).unlink()
    for name, text in wanted.items():
        (CRDS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
