"""One task an object of ours, alive as long as the object is, and nothing else that decides.

Invariants: an object is looked at by one task at a time; a task never ends by an error, it waits longer and looks
again; finished campaigns keep their task, so that an edit or a reopen is answered; looks at what campaigns name never
keep campaigns waiting. Only a leader's supervisor has tasks (correctness doesn't depend on it: two operators at once do
no harm).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fullsend import logs
from fullsend.controller.api import ApiError
from fullsend.controller.campaign import ClusterCampaign
from fullsend.controller.jobs import Owner
from fullsend.controller.metrics import IS_LEADER, RECONCILE_QUEUE, RECONCILE_SECONDS, RECONCILED
from fullsend.controller.names import CAMPAIGNS, LABEL_UID, Kind, kind_name
from fullsend.controller.probed import ProbedObject
from fullsend.controller.wakes import Bell, Cause, retry_after, spread
from fullsend.controller.world import Looked, Subject, World
from fullsend.errors import LedgerError

log = logging.getLogger(__name__)

PARALLEL: Final = 16
"""Looks at once at campaigns: more would only wait for the ledger's few connections."""
ASIDE: Final = 2
"""Looks at once at what campaigns name."""
AT_ONCE: Final = 5
"""Looks in a row that may follow one another without a pause, because the one before changed something."""
_LOGGED: Final = {
    "Campaign": "campaign",
    "Audience": "audience",
    "MailTemplate": "template",
    "MailTransport": "transport",
}
"""What a log calls an object of a kind."""
BREATH: Final = 0.1
"""Seconds between two looks at least, in which further events become one wake."""


@dataclass(slots=True)
class Entry:
    """One object and its task. ``busy_since`` (monotonic) is set while it is looked at; ``generation`` is that of the
    spec last seen."""

    kind: Kind
    subject: Subject
    bell: Bell = field(default_factory=Bell)
    task: asyncio.Task[None] | None = None
    busy_since: float | None = None
    generation: int = -1


class Supervisor:
    """Owns the tasks. ``start`` and ``stop`` follow the leadership; events come at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries: dict[str, Entry] = {}
        self._turns = asyncio.Semaphore(PARALLEL)
        self._turns_aside = asyncio.Semaphore(ASIDE)
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

    def conditions(self) -> Iterator[tuple[str, str, Mapping[str, str]]]:
        """Namespace, name and what is True of each campaign."""
        for entry in self._entries.values():
            if isinstance(entry.subject, ClusterCampaign):
                yield entry.subject.owner.namespace, entry.subject.owner.name, entry.subject.conditions

    def __len__(self) -> int:
        return len(self._entries)

    # -- events ---------------------------------------------------------------------------------------------------

    def object_seen(self, kind: Kind, metadata: Mapping[str, Any], *, gone: bool = False) -> None:
        """The object is there, was changed, or has gone."""
        if not self.leading:
            return
        uid = metadata["uid"]
        entry = self._entries.get(uid)
        owner = Owner(metadata["namespace"], metadata["name"], uid, kind_name(kind))
        ours = entry is not None and metadata.get("resourceVersion") == entry.subject.written_version
        if entry is None:
            if not gone:
                entry = Entry(kind, self._subject(kind, owner))
                self._entries[uid] = entry
                entry.task = asyncio.create_task(self._keep_looking(uid, entry), name=f"{owner.kind} {owner.name}")
        elif not ours:
            entry.bell.ring(Cause.OBJECT)
        self._tell_users(entry, metadata, owner, gone)

    def _subject(self, kind: Kind, owner: Owner) -> Subject:
        return ClusterCampaign(self._world, owner) if kind == CAMPAIGNS else ProbedObject(self._world, kind, owner)

    def _tell_users(self, entry: Entry | None, metadata: Mapping[str, Any], owner: Owner, gone: bool) -> None:
        """The campaigns that name an object are looked at when its spec has changed; its status is nothing to them."""
        if entry is None or entry.kind == CAMPAIGNS:
            return
        generation = int(metadata.get("generation") or 0)
        if generation == entry.generation and not gone:
            return
        entry.generation = generation
        for other in self._entries.values():
            subject = other.subject
            if subject.owner.namespace == owner.namespace and (owner.kind, owner.name) in subject.references:
                other.bell.ring(Cause.REFERENCE)

    def job_seen(self, metadata: Mapping[str, Any]) -> None:
        entry = self._entries.get((metadata.get("labels") or {}).get(LABEL_UID, ""))
        if entry is not None:
            entry.bell.ring(Cause.JOB)

    def reopen_waits(self, keys: Iterable[tuple[str, str]]) -> None:
        """The ledger holds open requests for these campaigns, by namespace and ledger key."""
        wanted = set(keys)
        if not wanted:
            return
        for entry in self._entries.values():
            if entry.subject.ledger_key in wanted:
                entry.bell.ring(Cause.LEDGER)

    def only_these(self, kind: Kind, uids: Collection[str]) -> None:
        """What the API server has of a kind; the objects of other tasks have gone without an event."""
        for uid, entry in self._entries.items():
            if entry.kind == kind and uid not in uids:
                entry.bell.ring(Cause.OBJECT)

    def _mood_changed(self, entry: Entry) -> None:
        """What became of a campaign concerns the transport that it names."""
        for other in self._entries.values():
            owner = other.subject.owner
            if owner.kind != "MailTransport" or owner.namespace != entry.subject.owner.namespace:
                continue
            if (owner.kind, owner.name) in entry.subject.references:
                other.bell.ring(Cause.LEDGER)

    # -- tasks ----------------------------------------------------------------------------------------------------

    async def _keep_looking(self, uid: str, entry: Entry) -> None:
        owner = entry.subject.owner
        logs.about(**{_LOGGED[owner.kind]: f"{owner.namespace}/{owner.name}"})
        causes = frozenset({Cause.OBJECT, Cause.JOB})
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
            await entry.subject.let_go()
        except LedgerError as error:
            log.info("%s: what the ledger keeps of it runs out by itself: %s", entry.subject.name, error)

    async def _look(self, entry: Entry, causes: frozenset[Cause]) -> Looked | None:
        turns = self._turns if entry.kind == CAMPAIGNS else self._turns_aside
        with RECONCILE_QUEUE.track_inprogress():
            await turns.acquire()
        entry.busy_since = time.monotonic()
        mood = entry.subject.mood
        try:
            with RECONCILE_SECONDS.time():
                return await entry.subject.look(causes)
        finally:
            entry.busy_since = None
            turns.release()
            if entry.subject.mood != mood:
                self._mood_changed(entry)


def _report(entry: Entry, error: Exception, failures: int) -> None:
    if isinstance(error, ApiError | LedgerError):
        if failures == 1:  # the same for every campaign while a server is away
            log.warning("%s: %s", entry.subject.name, error)
    else:
        log.error("%s: looked and failed", entry.subject.name, exc_info=error)
