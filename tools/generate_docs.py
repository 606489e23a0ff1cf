"""Writes the pages of docs/ that come from the code: the resources' fields, the campaign's conditions, the metrics,
the scenarios.

``--check`` writes nothing and fails when a page is not what the code says (``make check`` runs it so).
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from fullsend.controller.metrics import TABLE
from fullsend.reconcile.conditions import condition_table
from fullsend.reconcile.probes import probe_table
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.campaign import CampaignSpec
from fullsend.resources.schema import structural_schema
from fullsend.resources.status import AudienceStatus, CampaignStatus, MailTemplateStatus, MailTransportStatus
from fullsend.resources.template import MailTemplateSpec
from fullsend.resources.transport import MailTransportSpec
from fullsend.states import OPEN, SETTLED, TRANSITIONS, DeliveryState

DOCS = Path(__file__).parents[1] / "docs"
CHART = Path(__file__).parents[1] / "helm" / "fullsend"
SCENARIOS = Path(__file__).parents[1] / "tests" / "scenarios"
MADE = "<!-- Made by tools/generate_docs.py from the code; do not edit. -->"

KINDS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("Campaign", CampaignSpec, "spec"),
    ("Audience", AudienceSpec, "spec"),
    ("MailTemplate", MailTemplateSpec, "spec"),
    ("MailTransport", MailTransportSpec, "spec"),
    ("Campaign", CampaignStatus, "status"),
    ("Audience", AudienceStatus, "status"),
    ("MailTemplate", MailTemplateStatus, "status"),
    ("MailTransport", MailTransportStatus, "status"),
)


def resources() -> Iterator[str]:
    yield MADE
    yield "# Resources"
    yield ""
    yield "Everything in `fullsend.dev/v1alpha1`. Required fields are **bold**. Durations are such as `90s`, `15m` or"
    yield "`7d`; shares are such as `5%` or `0.3%`."
    for kind, model, part in KINDS:
        schema = structural_schema(model)
        yield ""
        yield f"## {kind}: `{part}`"
        yield ""
        yield " ".join(schema.get("description", "").split())
        yield ""
        yield "| field | type | what it is |"
        yield "|---|---|---|"
        yield from _rows(schema, "")


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        shown = f"**`{path}`**" if name in required else f"`{path}`"
        text = " ".join(field.get("description", "").split()).replace("|", "\\|")
        yield f"| {shown} | {_type(field)} | {text} |"
        inner = field.get("items", field) if field.get("type") == "array" else field
        if isinstance(inner, dict) and "properties" in inner:
            yield from _rows(inner, f"{path}[]." if field.get("type") == "array" else f"{path}.")


def _type(field: dict[str, Any]) -> str:
    match field.get("type"):
        case "array":
            return f"list of {_type(field['items'])}"
        case "object" if "additionalProperties" in field:
            return "map"
        case "string" if "enum" in field:
            return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
        case "string" if field.get("format") == "date-time":
            return "time"
        case None:
            return "any"
        case kind:
            return str(kind)


def conditions() -> Iterator[str]:
    yield MADE
    yield "# Conditions"
    yield ""
    yield "## Conditions of a campaign"
    yield ""
    yield "A campaign is in one situation at a time; its conditions follow from it. `kstatus` is what Flux and"
    yield "`helm --wait` make of them. `Finished` is true on either end, so that"
    yield "`kubectl wait --for=condition=Finished` returns."
    yield ""
    yield from _table(condition_table())
    yield ""
    yield "## Conditions of an Audience, a MailTemplate, a MailTransport"
    yield ""
    yield "Each is probed by a Job in its namespace after an edit, and while it is not ready again at growing intervals"
    yield "(10 seconds to 10 minutes). A good answer is renewed: a transport's after an hour, an audience's after a"
    yield "day, a template's after a day where ConfigMaps hold attachments. A changed Secret is noticed by the next"
    yield "probe: the operator itself reads none."
    yield ""
    yield from _table(probe_table())
    yield ""
    yield "## States of a recipient, and what may follow"
    yield ""
    yield "| state | counts as | may become |"
    yield "|---|---|---|"
    for state in DeliveryState:
        group = "open" if state in OPEN else "settled" if state in SETTLED else "undelivered"
        after = ", ".join(f"`{s.value}`" for s in DeliveryState if s in TRANSITIONS[state]) or "nothing: this is final"
        yield f"| `{state.value}` | {group} | {after} |"


def _table(lines: Iterator[tuple[str, ...]]) -> Iterator[str]:
    header, *rows = lines
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def metrics() -> Iterator[str]:
    yield MADE
    yield "# Metrics"
    yield ""
    yield "The operator serves these on `/metrics`, in Prometheus' text format. Those of campaigns and transports come"
    yield "from the ledger, by the replica that leads: they survive the Jobs that did the work, and a scrape reads"
    yield "counters, never recipients. A campaign is told while somebody looks after it and for a day after its end; at"
    yield "most the thousand newest are."
    yield ""
    yield "A campaign's speed, in recipients a second:"
    yield '`sum by (namespace, campaign) (rate(fullsend_campaign_attempts_total{outcome="accepted"}[1m]))`.'
    yield ""
    yield "| metric | type | labels | what it is |"
    yield "|---|---|---|---|"
    for each in TABLE.values():
        shown = ", ".join(f"`{label}`" for label in each.labels)
        yield f"| `{each.name}` | {each.kind} | {shown} | {each.help} |"


@dataclass(frozen=True)
class Scenario:
    """What a test of ``tests/scenarios`` says of itself in its docstring."""

    file: str
    test: str
    letter: str  # "" unless it is one of those by which Listmonk was seen to lose people
    what: str
    listmonk: str
    fullsend: str


_SCENARIO = re.compile(
    r"(?:(?P<letter>[A-K])\. )?(?P<what>.+?)(?: Listmonk 3\.0\.0: (?P<listmonk>.+?))? Fullsend: (?P<fullsend>.+)"
)


def scenarios_in(folder: Path) -> list[Scenario]:
    """In the order of the files. A scenario that does not say what Fullsend does ends the program."""
    found = []
    for file in sorted(folder.glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                said = _SCENARIO.fullmatch(" ".join((ast.get_docstring(node) or "").split()))
                if said is None:
                    sys.exit(f"{file.name}: {node.name}: the docstring needs a first line and a line `Fullsend: ...`")
                groups = {name: text or "" for name, text in said.groupdict().items()}
                found.append(Scenario(file.name, node.name, **groups))
    return found


def scenarios() -> Iterator[str]:
    found = scenarios_in(SCENARIOS)
    yield "| | what befalls | what Listmonk 3.0.0 did | what Fullsend does | test |"
    yield "|---|---|---|---|---|"
    for each in sorted((each for each in found if each.listmonk), key=lambda each: each.letter or "~"):
        yield f"| {each.letter} | {each.what} | {_capital(each.listmonk)} | {_capital(each.fullsend)} | {_test(each)} |"
    yield ""
    yield "| what befalls | what Fullsend does | test |"
    yield "|---|---|---|"
    for each in found:
        if not each.listmonk:
            yield f"| {each.what} | {_capital(each.fullsend)} | {_test(each)} |"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _test(scenario: Scenario) -> str:
    return f"[`{scenario.test}`](../tests/scenarios/{scenario.file})"


def configuration() -> Iterator[str]:
    yield MADE
    yield "# Values of the chart"
    yield ""
    yield "What `helm install fullsend helm/fullsend --set NAME=VALUE` may set; a name or a kind of value that isn't"
    yield "here is refused."
    yield ""
    yield "| value | default | what it is |"
    yield "|---|---|---|"
    values = YAML(typ="rt").load(CHART / "values.yaml")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    yield from _values(values, schema, "", (CHART / "values.yaml").read_text(encoding="utf-8").splitlines())


def _values(values: Any, schema: dict[str, Any], prefix: str, lines: Sequence[str]) -> Iterator[str]:
    """A row for each value that is one: of those with fixed parts, the parts."""
    for name, value in values.items():
        path, line = f"{prefix}{name}", values.lc.data[name][0]
        part = schema["properties"][name]
        text = _comment(lines, line)
        if part.get("additionalProperties") is False and value and "$ref" not in part:
            if text:
                yield f"| `{path}` | | {text} |"
            yield from _values(value, part, f"{path}.", lines)
            continue
        shown = json.dumps(value, default=dict) if value not in ("", None) else ""
        choices = ", ".join(f"`{choice}`" for choice in part.get("enum", ()))
        text = text or (f"One of {choices}." if choices else "As in Kubernetes.")
        yield f"| `{path}` | {f'`{shown}`' if shown else ''} | {text} |"


def _comment(lines: Sequence[str], line: int) -> str:
    """What stands right above a line."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip(" #"))
    return " ".join(found).replace("|", "\\|")


PAGES = {
    "resources.md": resources,
    "configuration.md": configuration,
    "conditions.md": conditions,
    "metrics.md": metrics,
}
SECTIONS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {"reliability.md": {"scenarios": scenarios}}
"""Parts of pages that are written by hand, between ``<!-- made: NAME -->`` and ``<!-- end: NAME -->``."""


def with_sections(text: str, sections: dict[str, Callable[[], Iterator[str]]]) -> str:
    """The page with its made parts made anew. Raises ValueError where a mark is missing."""
    for name, make in sections.items():
        before, begin, rest = text.partition(f"<!-- made: {name} -->\n")
        _, end, after = rest.partition(f"<!-- end: {name} -->\n")
        if not (begin and end):
            raise ValueError(f"the marks of `{name}` are missing")
        text = before + begin + "\n".join(make()) + "\n" + end + after
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail instead of writing")
    check = parser.parse_args().check
    stale = []
    texts = {name: "\n".join(make()) + "\n" for name, make in PAGES.items()}
    for name, sections in SECTIONS.items():
        texts[name] = with_sections((DOCS / name).read_text(encoding="utf-8"), sections)
    for name, text in texts.items():
        page = DOCS / name
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        if check:
            stale.append(name)
        else:
            page.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"docs/{', docs/'.join(stale)}: not what the code says; run `make docs` and commit the result")


if __name__ == "__main__":
    main()
