"""The CustomResourceDefinitions by themselves; what an API server makes of them is in tests/cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fullsend.resources.cel import FROZEN, RULES
from fullsend.resources.crds import KINDS, Kind, custom_resource_definition
from fullsend.resources.status import share_done

ROOT = Path(__file__).resolve().parents[3]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def schema(kind: Kind) -> dict[str, Any]:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    whole: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return whole


def validations(part: Any) -> Iterator[dict[str, str]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "x-kubernetes-validations":
                yield from value
            else:
                yield from validations(value)


def test_the_files_are_what_the_models_say() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_crds.py", "--check"], check=True)


@kinds
def test_a_definition_fits_the_annotation_that_kubectl_keeps(kind: Kind) -> None:
    assert len(json.dumps(custom_resource_definition(kind))) < 262_144


@kinds
def test_a_rule_of_a_whole_object_is_a_transition_rule(kind: Kind) -> None:
    """Any other, tightened later, would block its status writes and the removal of its finalizers."""
    for rule in schema(kind).get("x-kubernetes-validations", ()):
        assert "oldSelf" in rule["rule"]


@kinds
def test_a_new_object_has_a_status_and_nothing_else_in_it(kind: Kind) -> None:
    status = schema(kind)["properties"]["status"]
    assert status.pop("default") == {"observedGeneration": -1}
    assert status["properties"]["observedGeneration"]["format"] == "int64"
    assert '"default"' not in json.dumps(status)


def test_every_rule_is_in_a_definition() -> None:
    there = {rule["rule"] for kind in KINDS for rule in validations(schema(kind))}
    for model, rules in RULES.items():
        for rule in rules:
            assert rule.rule in there, model.__name__


def test_what_is_frozen_is_a_field() -> None:
    (campaign,) = (kind for kind in KINDS if kind.name == "Campaign")
    assert set(FROZEN) <= schema(campaign)["properties"]["spec"]["properties"].keys()


def test_progress_says_all_only_when_nobody_is_missing() -> None:
    assert share_done(0, 0) == ""
    assert share_done(1_000_000, 1) == "99%"
    assert share_done(1_000_000, 0) == "100%"
