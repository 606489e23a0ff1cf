"""The operator: watches, tasks, polls and probes around one ledger, until it is told to stop.

Everything here may be killed at any line. What it was doing is found again by whoever comes next.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fullsend.controller.access import Access
from fullsend.controller.api import ApiError, Cluster
from fullsend.controller.audit import EVERY, WatchAudit
from fullsend.controller.connections import Connections
from fullsend.controller.health import Health
from fullsend.controller.leadership import Leadership
from fullsend.controller.memory import give_back
from fullsend.controller.metrics import Exposition
from fullsend.controller.names import CAMPAIGNS, JOBS, NAMESPACES, PROBED, Kind
from fullsend.controller.pods import PodImage
from fullsend.controller.supervisor import Supervisor
from fullsend.controller.tenant_secret import TenantSecrets
from fullsend.controller.watching import JOB_SELECTOR, WATCHED, registry, watch
from fullsend.controller.world import World
from fullsend.errors import InvalidInput, LedgerError, Problem
from fullsend.ledger import campaigns
from fullsend.ledger.figures import Figures, figures

log = logging.getLogger(__name__)

POLL_EVERY: Final = 10.0
"""Seconds between looks for what only the ledger knows: reopen requests."""
PATIENCE: Final = 30.0
"""Seconds for such a look: a database that takes longer over it counts as away."""
STUCK: Final = 900.0
"""Seconds after which a look hangs: longer than a proof of ten million rows, or chunks of as many takes."""
SILENT: Final = 180.0
"""Seconds after which a loop of ours that hasn't turned hangs; each of its requests has a time-out far below."""
STALE: Final = 60.0
"""Seconds for which a database that answered counts as ready."""
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Settings:
    """``namespaces`` empty: all. ``namespace``: where the Lease lives. ``cluster_id`` "": the cluster's own."""

    dsn: str = field(repr=False)
    image: str
    namespaces: tuple[str, ...] = ()
    namespace: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    port: int = 8080
    cluster_id: str = ""


class Operator:
    """Runs until SIGTERM or SIGINT, or until something ends that must not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._audits: dict[Kind, WatchAudit] = {kind: WatchAudit() for kind in WATCHED}
        self._beats: dict[str, float] = {}
        self._database_at = 0.0
        self._database_wrong = "the database has not been asked yet"
        self._supervisor: Supervisor | None = None
        self._leadership: Leadership | None = None

    async def run(self) -> None:
        """Raises InvalidInput where it can't begin."""
        access = Access()
        cluster = Cluster(access)
        connections = Connections(self._settings.dsn)
        exposition = Exposition(lambda: _figures(connections), self._conditions, leads=self._leads)
        health = Health(alive=self._not_alive, ready=self._not_ready, scrape=exposition.body)
        instance = f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
        try:
            await health.serve(self._settings.port)
            log.info("probes and metrics on port %d", health.port)
            image = PodImage(self._settings.image, self._settings.overrides)
            world = World(
                cluster=cluster,
                connections=connections,
                secrets=TenantSecrets(cluster, self._settings.dsn, image),
                image=image,
                cluster_id=self._settings.cluster_id or await self._identify(cluster),
                instance=instance,
            )
            await self._wait_for_kinds(cluster)
            supervisor = self._supervisor = Supervisor(world)
            leadership = self._leadership = Leadership(
                cluster, self._home(), instance, gained=lambda: self._gained(cluster), lost=supervisor.stop
            )
            await self._until_told(
                watch(registry(self._seen, access), self._settings.namespaces),
                leadership.run(),
                self._poll(connections),
                self._audit(cluster),
            )
            await supervisor.stop()
            await leadership.release()
        finally:
            await health.close()
            await connections.close()
            await cluster.close()

    async def _until_told(self, watching: Any, *loops: Any) -> None:
        """Whichever ends first ends the others; only the watch ends without an error, when the process is told to."""
        tasks = [asyncio.create_task(each) for each in (watching, *loops)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError, Exception):
                    await task

    # -- beginning ------------------------------------------------------------------------------------------------

    def _home(self) -> str:
        if self._settings.namespace:
            return self._settings.namespace
        with suppress(OSError):
            return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        return (self._settings.namespaces or ("default",))[0]

    async def _identify(self, cluster: Cluster) -> str:
        """The cluster's id, as the owner of ledger keys: the uid of a namespace that every cluster has once."""
        while True:
            try:
                found = await cluster.get(NAMESPACES, "", "kube-system")
            except ApiError as error:
                if not error.away:
                    fix = "allow it, or give --cluster-id, a word that no other cluster on this database has"
                    raise InvalidInput([Problem("cluster id", f"kube-system can't be read: {error}", fix)]) from error
                log.warning("waiting for the API server: %s", error)
                await asyncio.sleep(2)
            else:
                return str(found["metadata"]["uid"])

    async def _wait_for_kinds(self, cluster: Cluster) -> None:
        """kopf watches what it finds at its start, so the kinds must be there."""
        for kind in WATCHED:
            while True:
                try:
                    async for _ in cluster.list(kind, self._scopes()[0], labels=_selector(kind), metadata_only=True):
                        break
                    break
                except ApiError as error:
                    if not (error.away or error.missing):
                        raise InvalidInput(
                            [Problem(kind.plural, str(error), "see docs/security.md for its rights")]
                        ) from error
                    log.warning("waiting for %s: %s", kind.plural, error)
                    await asyncio.sleep(2)

    def _scopes(self) -> Sequence[str]:
        return self._settings.namespaces or ("",)

    # -- events ---------------------------------------------------------------------------------------------------

    def _seen(self, kind: Kind, metadata: Mapping[str, Any], gone: bool) -> None:
        self._audits[kind].brought(metadata, gone=gone)
        self._wake(kind, metadata, gone=gone)

    def _wake(self, kind: Kind, metadata: Mapping[str, Any], *, gone: bool = False) -> None:
        supervisor = self._supervisor
        assert supervisor is not None, "watches begin after the supervisor is there"
        if kind == JOBS:
            supervisor.job_seen(metadata)
        else:
            supervisor.object_seen(kind, metadata, gone=gone)

    async def _gained(self, cluster: Cluster) -> None:
        assert self._supervisor is not None
        self._supervisor.start()
        with suppress(ApiError):  # the audit tries again
            for kind in (CAMPAIGNS, *PROBED):
                for metadata in await self._list(cluster, kind):
                    self._supervisor.object_seen(kind, metadata)

    # -- loops ----------------------------------------------------------------------------------------------------

    async def _poll(self, connections: Connections) -> None:
        while True:
            self._beats["poll"] = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE), connections.quick.take() as db:
                    known = await campaigns.list_campaigns(db, None)
                self._database_at, self._database_wrong = time.monotonic(), ""
                if self._supervisor is not None:
                    self._supervisor.reopen_waits((each.tenant, each.key) for each in known if each.reopen_waits)
            except (LedgerError, TimeoutError) as error:
                self._database_wrong = str(error) or f"the database has not answered for {PATIENCE:.0f} s"
                log.warning("the ledger: %s", self._database_wrong)
            await asyncio.sleep(POLL_EVERY)

    async def _audit(self, cluster: Cluster) -> None:
        while True:
            self._beats["audit"] = time.monotonic()
            give_back()
            await asyncio.sleep(EVERY)
            for kind, audit in self._audits.items():
                try:
                    found = await self._list(cluster, kind)
                except ApiError as error:
                    log.warning("%s can't be listed: %s", kind.plural, error)
                    continue
                for metadata in audit.listed(found, time.monotonic()):
                    self._wake(kind, metadata)
                if kind != JOBS and self._supervisor is not None:
                    self._supervisor.only_these(kind, {metadata["uid"] for metadata in found})

    async def _list(self, cluster: Cluster, kind: Kind) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for namespace in self._scopes():
            listed = cluster.list(kind, namespace, labels=_selector(kind), metadata_only=True)
            found += [item["metadata"] async for item in listed]
        return found

    # -- probes ---------------------------------------------------------------------------------------------------

    def _leads(self) -> bool:
        return self._supervisor is not None and self._supervisor.leading

    def _conditions(self) -> Iterable[tuple[str, str, Mapping[str, str]]]:
        return self._supervisor.conditions() if self._supervisor is not None else ()

    def _not_alive(self) -> str:
        now = time.monotonic()
        for name, beat in self._beats.items():
            if now - beat > SILENT:
                return f"the {name} loop has not turned for {now - beat:.0f} s"
        for kind, audit in self._audits.items():
            if audit.overdue(now):
                return f"the watch of {kind.plural} has not brought changes that a list shows"
        if self._leadership is not None and now - self._leadership.turned_at > SILENT:
            return f"the leader's loop has not turned for {now - self._leadership.turned_at:.0f} s"
        if self._database_wrong:
            return ""  # looks hang for as long as the database does
        slowest = self._supervisor.longest_look() if self._supervisor is not None else 0.0
        return f"a look at an object has taken {slowest:.0f} s" if slowest > STUCK else ""

    def _not_ready(self) -> str:
        if self._database_wrong:
            return self._database_wrong
        return "" if time.monotonic() - self._database_at < STALE else "the database has not answered for a while"


async def _figures(connections: Connections) -> Figures:
    async with connections.quick.take() as db:
        return await figures(db)


def _selector(kind: Kind) -> str:
    return JOB_SELECTOR if kind == JOBS else ""
