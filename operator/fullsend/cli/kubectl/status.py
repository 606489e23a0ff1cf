"""``kubectl fullsend status``: how campaigns go, why, and what to do, from their status alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from fullsend.cli.display import display_for
from fullsend.cli.kubectl.access import Access, KubectlFailed, Object, access_options, invalid, output_option, where
from fullsend.cli.kubectl.advice import advice
from fullsend.reconcile.actions import Emit
from fullsend.resources.status import CampaignStatus, Condition, ConditionStatus
from fullsend.states import DeliveryState

WATCH_EVERY: Final = 2.0
"""Seconds; the operator writes progress every ten at most."""
AWAY: Final = 60.0
"""Seconds for which a watch bears with an API server that doesn't answer."""
UNSEEN: Final = "nobody has looked at it; is the operator running?"
COLUMNS: Final = ("name", "state", "progress", "accepted", "rejected", "missing", "rate", "why")


@click.command(short_help="How it goes, why, and what to do.")
@click.argument("campaign", required=False)
@click.option("--all-namespaces", "-A", is_flag=True, help="Without a name: the campaigns of all namespaces.")
@click.option("--watch", "-w", is_flag=True, help="Draw the progress until the campaign has ended.")
@access_options
@output_option
def status(campaign: str | None, all_namespaces: bool, watch: bool, access: Access, output: str) -> None:
    """How a campaign goes, why, and what to do; without a name, a table of all of them.

    With --watch it ends with the campaign: 0 complete, 4 failed or cancelled.
    """
    console = Console()
    if campaign is None:
        if watch:
            raise invalid("--watch", "needs the name of a campaign")
        _all(console, access, all_namespaces, output)
    elif watch:
        sys.exit(_watch(console, access, campaign, output))
    else:
        _one(console, access.campaign(campaign), output)


def _all(console: Console, access: Access, everywhere: bool, output: str) -> None:
    found = access.get("campaigns.fullsend.dev", *(("--all-namespaces",) if everywhere else ()))["items"]
    if output == "json":
        click.echo(json.dumps([_as_json(item) for item in found], indent=2))
        return
    if not found:
        click.echo("there are no campaigns" + ("" if everywhere else " in this namespace; -A looks in all"), err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("namespace", *COLUMNS) if everywhere else COLUMNS:
        table.add_column(column, justify="right" if column in COLUMNS[2:7] else "left", overflow="fold")
    for item in found:
        seen = _status(item)
        row = (
            item["metadata"]["name"],
            seen.state or "New",
            seen.progress,
            *(str(count) for count in (seen.accepted, seen.rejected, seen.missing)),
            f"{seen.rate_per_second:.0f}/s" if seen.rate_per_second else "",
            _reason(seen),
        )
        table.add_row(*((item["metadata"]["namespace"], *row) if everywhere else row))
    console.print(table)


def _one(console: Console, found: Object, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(_as_json(found), indent=2))
        return
    for line in explained(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def explained(found: Object) -> Iterator[str]:
    """The whole story of one campaign, a line each."""
    seen = _status(found)
    yield f"{where(found)}: {seen.state or 'New'} ({_reason(seen) or UNSEEN})"
    if seen.total:
        done = f"{seen.total - seen.missing} of {seen.total} done ({seen.progress})"
        yield f"  {done}: " + ", ".join(f"{count} {state}" for state, count in _counts(seen))
    if seen.rate_per_second or seen.limited_by:
        limited = f", limited by {seen.limited_by.value}" if seen.limited_by else ""
        yield f"  {seen.rate_per_second:.0f} messages/s{limited}"
    if (plan := seen.plan) is not None:
        told = f"{plan.rows_read} rows read, {plan.duplicates} duplicates, {plan.invalid} invalid"
        checked = f"{plan.render_checked} renderings tried, {plan.render_failed} failed"
        yield f"  plan {plan.state}: {told}, {plan.suppressed} suppressed; {seen.eligible} get the message; {checked}"
    for what, moment in (
        ("next attempt", seen.next_attempt_time),
        ("began", seen.start_time),
        ("ended", seen.completion_time),
    ):
        if moment is not None:
            yield f"  {what} {_time(moment)}"
    if (halt := seen.halt) is not None:
        probe = f"; tried again at {_time(halt.next_probe_time)}" if halt.next_probe_time else ""
        yield f"  halted ({halt.id}): {halt.reason}: {halt.message}{probe}"
    if (proof := seen.proof) is not None:
        yield f"  proof of {_time(proof.time)}: {proof.rows} rows, digest {proof.digest}: " + (
            "holds" if proof.holds else "does NOT hold"
        )
    said: set[str] = set()
    for condition in seen.conditions:
        message = "" if condition.message in said else condition.message
        said.add(condition.message)
        yield f"  {condition.type}={condition.status.value} ({condition.reason}) {message}".rstrip()
    if seen.observed_generation not in (-1, found["metadata"].get("generation")):
        yield "  the last edit has not been looked at yet"
    if to_do := advice(_reason(seen), found["metadata"]["name"]):
        yield f"what to do: {to_do}"


@dataclass
class Followed:
    """A campaign as the display wants it."""

    name: str
    status: CampaignStatus = field(default_factory=CampaignStatus)
    _events: list[Emit] = field(default_factory=list)

    def look(self, found: Object) -> None:
        before, self.status = _reason(self.status), _status(found)
        ready = _condition(self.status, "Ready")
        if ready is not None and ready.reason != before:
            told = "; ".join(filter(None, (ready.message, advice(ready.reason, self.name))))
            bad = ready.status is ConditionStatus.FALSE
            self._events.append(Emit("Warning" if bad else "Normal", ready.reason, told))

    def take_events(self) -> Sequence[Emit]:
        events, self._events = self._events, []
        return events


def _watch(console: Console, access: Access, name: str, output: str) -> int:
    found = access.campaign(name)
    followed = Followed(name)
    display = display_for(console, output)
    answered = time.monotonic()
    try:
        while True:
            followed.look(found)
            display.show([followed])
            finished = _condition(followed.status, "Finished")
            if finished is not None and finished.status is ConditionStatus.TRUE:
                break
            time.sleep(WATCH_EVERY)
            try:
                found = access.campaign(name)
                answered = time.monotonic()
            except KubectlFailed as error:
                if error.reason or time.monotonic() - answered > AWAY:
                    raise
    finally:
        display.close()
    _one(console, found, output)
    return 0 if _is_true(followed.status, "Complete") else 4


def _as_json(found: Object) -> dict[str, Any]:
    metadata = found["metadata"]
    told = advice(_reason(_status(found)), metadata["name"])
    return {
        "namespace": metadata["namespace"],
        "campaign": metadata["name"],
        "status": found.get("status") or {},
        "whatToDo": told,
    }


def _status(found: Object) -> CampaignStatus:
    return CampaignStatus.model_validate(found.get("status") or {})


def _counts(seen: CampaignStatus) -> list[tuple[str, int]]:
    counts = [(state.value, int(getattr(seen, state.value))) for state in DeliveryState]
    return [(state, count) for state, count in counts if count or state in ("accepted", "rejected")] + [
        ("missing", seen.missing)
    ]


def _condition(seen: CampaignStatus, type_: str) -> Condition | None:
    return next((condition for condition in seen.conditions if condition.type == type_), None)


def _is_true(seen: CampaignStatus, type_: str) -> bool:
    condition = _condition(seen, type_)
    return condition is not None and condition.status is ConditionStatus.TRUE


def _reason(seen: CampaignStatus) -> str:
    ready = _condition(seen, "Ready")
    return ready.reason if ready is not None else ""


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
