"""What a person sees while campaigns run: a bar each on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fullsend.reconcile.actions import Emit
from fullsend.resources.status import CampaignStatus

LINE_EVERY = 5.0
"""Seconds between lines where there is no terminal (CI logs, a pipe)."""

STILL_EVERY = 60.0
"""Seconds after which a line that has not changed is said again: it still runs."""


class Shown(Protocol):
    """A campaign as far as a display looks at it, wherever it runs."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> CampaignStatus: ...

    def take_events(self) -> Sequence[Emit]:
        """What happened since it was last asked."""
        ...


class Display(Protocol):
    def show(self, campaigns: Sequence[Shown]) -> None: ...

    def close(self) -> None: ...


class Silent:
    """For ``--output json``: standard output belongs to the result."""

    def show(self, campaigns: Sequence[Shown]) -> None: ...

    def close(self) -> None: ...


class Bars:
    """A live progress bar a campaign; events scroll by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, campaigns: Sequence[Shown]) -> None:
        for campaign in campaigns:
            _print_events(self._console, campaign)
            if campaign.name not in self._tasks:
                self._tasks[campaign.name] = self._progress.add_task(campaign.name, total=None, numbers="planning")
            status = campaign.status
            if status.total:
                self._progress.update(
                    self._tasks[campaign.name],
                    total=status.total,
                    completed=status.total - status.missing,
                    numbers=_numbers(campaign),
                )

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """One line a campaign every few seconds while something moves, and one an event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._said: dict[str, tuple[str, float]] = {}

    def show(self, campaigns: Sequence[Shown]) -> None:
        now = time.monotonic()
        due = now >= self._next
        for campaign in campaigns:
            _print_events(self._console, campaign)
            if due and campaign.status.total:
                self._say(campaign, now)
        if due:
            self._next = now + LINE_EVERY

    def _say(self, campaign: Shown, now: float) -> None:
        status = campaign.status
        text = f"{status.total - status.missing}/{status.total}  {_numbers(campaign)}"
        before, at = self._said.get(campaign.name, ("", 0.0))
        if text != before or now - at >= STILL_EVERY:
            self._said[campaign.name] = (text, now)
            self._console.print(f"{campaign.name}: {text}", highlight=False, soft_wrap=True)

    def close(self) -> None: ...


def display_for(console: Console, output: str) -> Display:
    if output == "json":
        return Silent()
    return Bars(console) if console.is_terminal else Lines(console)


def _print_events(console: Console, campaign: Shown) -> None:
    for event in campaign.take_events():
        style = "yellow" if event.type == "Warning" else "dim"
        text = ": ".join(filter(None, (campaign.name, event.reason, event.message)))
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _numbers(campaign: Shown) -> str:
    status = campaign.status
    parts = [f"accepted {status.accepted}", f"rejected {status.rejected}", f"missing {status.missing}"]
    waiting = status.deferred + status.unknown
    if waiting:
        parts.append(f"waiting {waiting}")
    if status.rate_per_second:
        parts.append(f"{status.rate_per_second:.0f}/s")
    if status.limited_by is not None:
        parts.append(f"limited by {status.limited_by.value}")
    return "  ".join(parts)
