"""One task a campaign, alive as long as its object is, and nothing else that decides.

Invariants: a campaign is looked at by one task at a time; a task never ends by an error, it waits longer and looks
again; finished campaigns keep their task, so that an edit or a reopen is answered. Only a leader's supervisor has tasks
(correctness doesn't depend on it: two operators at once do no harm).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fullsend import logs
from fullsend.controller.api import ApiError
from fullsend.controller.campaign import ClusterCampaign, Looked, World
from fullsend.controller.declarations import Reference
from fullsend.controller.metrics import IS_LEADER, RECONCILE_QUEUE, RECONCILE_SECONDS, RECONCILED
from fullsend.controller.names import LABEL_UID
from fullsend.controller.wakes import Bell, Cause, retry_after, spread
from fullsend.errors import LedgerError

log = logging.getLogger(__name__)

PARALLEL: Final = 16
"""Looks at once: more would only wait for the ledger's few connections."""
AT_ONCE: Final = 5
"""Looks in a row that may follow one another without a pause, because the one before changed something."""
BREATH: Final = 0.1
"""Seconds between two looks at least, in which further events become one wake."""


@dataclass(slots=True)
class Entry:
    """One campaign object and its task. ``busy_since`` (monotonic) is set while it is looked at."""

    campaign: ClusterCampaign
    bell: Bell = field(default_factory=Bell)
    task: asyncio.Task[None] | None = None
    busy_since: float | None = None


class Supervisor:
    """Owns the tasks. ``start`` and ``stop`` follow the leadership; events come at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries: dict[str, Entry] = {}
        self._turns = asyncio.Semaphore(PARALLEL)
        self.leading = False

    # -- leadership -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.leading = True
        IS_LEADER.set(1)

    async def stop(self) -> None:
        """End all tasks where they are; whatever they were doing is safe to be left undone."""
        self.leading = False
        IS_LEADER.set(0)
        entries, self._entries = list(self._entries.values()), {}
        tasks = [entry.task for entry in entries if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def longest_look(self) -> float:
        """Seconds that the slowest look under way has taken so far."""
        now = time.monotonic()
        return max((now - entry.busy_since for entry in self._entries.values() if entry.busy_since), default=0.0)

    def __len__(self) -> int:
        return len(self._entries)

    # -- events ---------------------------------------------------------------------------------------------------

    def campaign_seen(self, metadata: Mapping[str, Any], *, gone: bool = False) -> None:
        """The object is there, was changed, or has gone."""
        if not self.leading:
            return
        uid = metadata["uid"]
        entry = self._entries.get(uid)
        if entry is None:
            if not gone:
                entry = Entry(ClusterCampaign(self._world, metadata["namespace"], metadata["name"], uid))
                self._entries[uid] = entry
                entry.task = asyncio.create_task(self._keep_looking(uid, entry), name=f"campaign {metadata['name']}")
        elif metadata.get("resourceVersion") != entry.campaign.written_version:
            entry.bell.ring(Cause.CAMPAIGN)

    def job_seen(self, metadata: Mapping[str, Any]) -> None:
        entry = self._entries.get((metadata.get("labels") or {}).get(LABEL_UID, ""))
        if entry is not None:
            entry.bell.ring(Cause.JOB)

    def reference_seen(self, namespace: str, reference: Reference) -> None:
        for entry in self._entries.values():
            if entry.campaign.owner.namespace == namespace and reference in entry.campaign.references:
                entry.bell.ring(Cause.REFERENCE)

    def reopen_waits(self, keys: Iterable[tuple[str, str]]) -> None:
        """The ledger holds open requests for these campaigns, by namespace and ledger key."""
        wanted = set(keys)
        if not wanted:
            return
        for entry in self._entries.values():
            if entry.campaign.ledger_key in wanted:
                entry.bell.ring(Cause.LEDGER)

    def only_these(self, uids: Iterable[str]) -> None:
        """What the API server has; the objects of other tasks have gone without an event."""
        here = set(uids)
        for uid, entry in self._entries.items():
            if uid not in here:
                entry.bell.ring(Cause.CAMPAIGN)

    # -- tasks ----------------------------------------------------------------------------------------------------

    async def _keep_looking(self, uid: str, entry: Entry) -> None:
        logs.about(campaign=entry.campaign.name)
        causes = frozenset({Cause.CAMPAIGN, Cause.JOB})
        failures = in_a_row = 0
        while True:
            try:
                looked = await self._look(entry, causes)
                RECONCILED.labels("changed" if looked is None or looked.changed else "unchanged").inc()
                failures, causes = 0, frozenset()
            except Exception as error:
                failures += 1
                RECONCILED.labels("failed").inc()
                _report(entry, error, failures)
                causes |= await entry.bell.wait(retry_after(failures))
                continue
            if looked is None:
                break
            in_a_row = in_a_row + 1 if looked.changed else 0
            at_once = looked.changed and in_a_row < AT_ONCE
            await asyncio.sleep(BREATH)
            causes = await entry.bell.wait(0 if at_once else spread(looked.again))
        self._entries.pop(uid, None)
        try:
            await entry.campaign.let_go()
        except LedgerError as error:
            log.info("%s: its claim on the ledger key runs out by itself: %s", entry.campaign.name, error)

    async def _look(self, entry: Entry, causes: frozenset[Cause]) -> Looked | None:
        with RECONCILE_QUEUE.track_inprogress():
            await self._turns.acquire()
        entry.busy_since = time.monotonic()
        try:
            with RECONCILE_SECONDS.time():
                return await entry.campaign.look(causes)
        finally:
            entry.busy_since = None
            self._turns.release()


def _report(entry: Entry, error: Exception, failures: int) -> None:
    if isinstance(error, ApiError | LedgerError):
        if failures == 1:  # the same for every campaign while a server is away
            log.warning("%s: %s", entry.campaign.name, error)
    else:
        log.error("%s: looked and failed", entry.campaign.name, exc_info=error)
