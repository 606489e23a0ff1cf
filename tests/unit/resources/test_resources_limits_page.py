"""The examples of docs/limits.md are limits that a transport can have."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ruamel.yaml import YAML

from fullsend.resources.transport import TransportLimits

PAGE = Path(__file__).resolve().parents[3] / "docs" / "limits.md"


def test_every_example_of_the_page_is_valid() -> None:
    blocks: list[list[str]] = [[]]
    for line in PAGE.read_text().splitlines():
        if line.startswith("    "):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    documents = [YAML(typ="safe", pure=True).load(textwrap.dedent("\n".join(block))) for block in blocks if block]
    limits = [document.get("spec", document)["limits"] for document in documents]
    assert len(limits) == 4
    for given in limits:
        assert TransportLimits.model_validate(given).connections == given["connections"]
