"""The Jobs of one object: listed by label and owner, looked at closely where they have trouble, made and deleted.

Invariants: a Job counts only if this very object controls it; what killed a failed Job is asked once; making one whose
name is there already is success where it is ours. What is remembered only saves requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fullsend.controller.api import ApiError, Cluster, Object
from fullsend.controller.jobs import Owner
from fullsend.controller.jobviews import is_over, is_stopping, job_view, owned_by, wants_a_closer_look
from fullsend.controller.names import EVENTS, JOBS, LABEL_UID, PODS
from fullsend.controller.notices import tell
from fullsend.controller.tenant_secret import TenantSecrets
from fullsend.reconcile.actions import Emit
from fullsend.reconcile.observed import JobView

log = logging.getLogger(__name__)

STUCK_AFTER: Final = 5.0
"""Seconds a Job may take to get its pods running before they are asked why they don't."""


class OwnedJobs:
    """``by_name`` is what was listed last, with what was made since; None before the first list."""

    def __init__(self, cluster: Cluster, secrets: TenantSecrets, owner: Owner, instance: str) -> None:
        self._cluster = cluster
        self._secrets = secrets
        self._owner = owner
        self._instance = instance
        self._read_at = 0.0
        self._autopsies: dict[str, JobView] = {}  # failed Jobs by uid: what killed them is asked once
        self.by_name: dict[str, Object] | None = None

    def outdated(self, after: float) -> bool:
        """Whether a list would tell something new: ``after`` so many seconds, or while a Job is under way."""
        jobs = self.by_name
        return jobs is None or time.monotonic() - self._read_at >= after or not all(map(is_over, jobs.values()))

    async def read(self) -> None:
        namespace, uid = self._owner.namespace, self._owner.uid
        listed = self._cluster.list(JOBS, namespace, labels=f"{LABEL_UID}={uid}")
        self.by_name = {job["metadata"]["name"]: slim(job) async for job in listed if owned_by(job, uid)}
        self._read_at = time.monotonic()

    async def views(self) -> tuple[JobView, ...]:
        """Of those listed last."""
        jobs = list((self.by_name or {}).values())
        pods, events = await self._closer_look(jobs)
        views = []
        for job in jobs:
            uid = job["metadata"]["uid"]
            view = self._autopsies.get(uid) or job_view(job, pods.get(uid, ()), events.get(uid, ()))
            if not view.alive:
                self._autopsies[uid] = view
            views.append(view)
        here = {job["metadata"]["uid"] for job in jobs}
        self._autopsies = {uid: view for uid, view in self._autopsies.items() if uid in here}
        return tuple(views)

    async def _closer_look(self, jobs: list[Object]) -> tuple[dict[str, list[Object]], dict[str, list[Object]]]:
        """The pods and events of Jobs that have trouble, by the Job's uid."""
        odd = []
        for job in jobs:
            known = job["metadata"]["uid"] in self._autopsies
            if wants_a_closer_look(job) and not known and not is_stopping(job) and (is_over(job) or is_old_enough(job)):
                odd.append(job)
        pods: dict[str, list[Object]] = {}
        events: dict[str, list[Object]] = {}
        if not odd:
            return pods, events
        async for pod in self._cluster.list(PODS, self._owner.namespace, labels=f"{LABEL_UID}={self._owner.uid}"):
            for reference in pod["metadata"].get("ownerReferences") or ():
                pods.setdefault(reference["uid"], []).append(pod)
        for job in odd:
            uid = job["metadata"]["uid"]
            if not is_over(job) and not pods.get(uid):
                told = self._cluster.list(EVENTS, self._owner.namespace, fields=f"involvedObject.uid={uid}")
                events[uid] = [event async for event in told]
        return pods, events

    async def make(self, job: Mapping[str, Any]) -> None:
        """Create the Job. One of this name that is ours and runs is what was wanted."""
        name, namespace = job["metadata"]["name"], self._owner.namespace
        await self._secrets.ensure(namespace)
        try:
            made = await self._cluster.create(JOBS, namespace, job)
        except ApiError as error:
            if not error.conflict:
                if not error.away:
                    await tell(self._cluster, self._owner, Emit("Warning", "JobRefused", str(error)), self._instance)
                raise
            made = await self._cluster.get(JOBS, namespace, name)
            if not owned_by(made, self._owner.uid):
                # Most likely that of an object of the same name that was deleted a moment ago.
                log.warning("%s/%s: Job %s is there already and not ours", namespace, self._owner.name, name)
                return
        if self.by_name is not None:
            self.by_name[name] = slim(made)

    async def delete(self, job: Object) -> None:
        """Its pods get SIGTERM; the Job stays visible as stopping until the last of them has ended."""
        metadata = job["metadata"]
        await self._cluster.delete(
            JOBS, self._owner.namespace, metadata["name"], uid=metadata["uid"], propagation="Foreground"
        )
        metadata.setdefault("deletionTimestamp", datetime.now(UTC).isoformat())


def slim(job: Object) -> Object:
    """What is kept of a Job: its pods' template and who set which field are most of it, and nobody asks for them
    again. An operator keeps two Jobs or more of each campaign of the last hour."""
    metadata = {name: value for name, value in job["metadata"].items() if name != "managedFields"}
    spec = {name: value for name, value in job["spec"].items() if name != "template"}
    return {"metadata": metadata, "spec": spec, "status": job.get("status") or {}}


def is_old_enough(job: Object) -> bool:
    """Its pods might run by now."""
    return (datetime.now(UTC) - job_view(job).started_at).total_seconds() >= STUCK_AFTER
