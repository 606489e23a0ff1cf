"""Alerts and dashboard ask for metrics that there are, by labels that they have, and a person finds what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from fullsend.controller.metrics import TABLE
from fullsend.reconcile.conditions import ROWS

ROOT = Path(__file__).parents[3]
FILES = ROOT / "helm" / "fullsend" / "files"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def alerts() -> list[dict[str, Any]]:
    document = YAML(typ="safe", pure=True).load(FILES / "alerts.yaml")
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def selectors(expression: Any) -> Iterator[Any]:
    """Every vector selector in it."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
        inner = getattr(expression, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None and not isinstance(each, str):
                yield from selectors(each)


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_query_is_promql_about_metrics_of_ours(where: str, query: str) -> None:
    found = list(selectors(promql_parser.parse(query)))
    assert found, f"{where} asks for nothing"
    for selector in found:
        name = re.sub("_(bucket|sum|count)$", "", selector.name)
        assert name in TABLE, f"{where}: there is no metric {selector.name}"
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= {*TABLE[name].labels, "le"}, f"{where}: {name} has no such label"


def test_every_panel_says_what_it_shows() -> None:
    assert all(panel["description"] for panel in panels() if panel["type"] != "row")


def entries() -> set[str]:
    return set(re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE))


def test_there_is_an_entry_for_every_alert_and_every_reason_that_stops_a_campaign() -> None:
    stopping = {reason for row in ROWS.values() if row.stalled or row.halted for reason in row.reasons}
    assert entries() == stopping | {alert["alert"] for alert in alerts()}


def test_links_within_the_docs_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", RUNBOOK):
        assert not target or (ROOT / "docs" / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]*)\)", RUNBOOK):
        assert anchor in {entry.lower() for entry in entries()}, anchor


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not on the PATH")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    for file in (FILES / "alerts.yaml", Path(__file__).with_name("alerts_promtool.yaml")):
        shutil.copy(file, tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "alerts_promtool.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
