"""One campaign in a cluster: collect, decide, write the status once, act.

The same ``decide`` and the same keeper as on one machine; a Job is a Job and the status a subresource. Invariant:
what this object remembers only saves requests. Each look starts from the API server and the ledger, or from what was
read a short while ago and no event has contradicted since.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from fullsend.controller import jobs as make
from fullsend.controller.api import ApiError, Cluster, Object
from fullsend.controller.connections import Connections
from fullsend.controller.declarations import Declaration, Reference, read_declaration
from fullsend.controller.jobviews import is_over, is_stopping, job_view, mounted, owned_by, wants_a_closer_look
from fullsend.controller.names import CAMPAIGNS, EVENTS, JOBS, LABEL_UID, NEW_EVENTS, PODS, job_name
from fullsend.controller.notices import event_for
from fullsend.controller.pods import PodImage, sender_needs
from fullsend.controller.status import read_status, status_patch, worth_writing
from fullsend.controller.tenant_secret import TenantSecrets
from fullsend.controller.wakes import Cause
from fullsend.errors import LedgerError
from fullsend.ledger import campaigns
from fullsend.ledger.view import LedgerView, Phase
from fullsend.reconcile import actions as act
from fullsend.reconcile.conditions import is_true
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import Claimant, DatabaseProblem, JobView, Observed
from fullsend.resources.status import CampaignStatus
from fullsend.shell.keeper import LONG, Keeper, problem_of

log = logging.getLogger(__name__)

OWNER_LEASE: Final = timedelta(minutes=3)
"""How long the claim of an operator that died outlives it: longer than the longest time between two looks at a campaign
that is not over."""
REFRESH: Final = 300.0
"""Seconds for which what was read may be used again, while no event says that it changed."""
STUCK_AFTER: Final = 5.0
"""Seconds a Job may take to get its pods running before they are asked why they don't."""

CHANGES = (act.Register, act.Prove, act.Finish, act.CarryOutReopen, act.EndRows, act.AcknowledgeHalt, act.Halt)
"""Actions after which there is something new to look at, at once."""


@dataclass(frozen=True, slots=True)
class World:
    """What all campaigns of one operator share."""

    cluster: Cluster
    connections: Connections
    secrets: TenantSecrets
    image: PodImage
    cluster_id: str
    instance: str


@dataclass(frozen=True, slots=True)
class Looked:
    """``again``: when to look again at the latest; ``changed``: an action made something new to look at."""

    again: timedelta
    changed: bool


class ClusterCampaign:
    """Reconciles one Campaign object; a new object of the same name is another one."""

    def __init__(self, world: World, namespace: str, name: str, uid: str) -> None:
        self.owner = make.Owner(namespace, name, uid)
        self._world = world
        self._cluster = world.cluster
        self._keeper: Keeper | None = None
        self._object: Object | None = None
        self._declaration: Declaration | None = None
        self._jobs: dict[str, Object] | None = None
        self._read_at = self._jobs_read_at = 0.0
        self._written_at: float | None = None
        self._seen_revision = 0
        self._autopsies: dict[str, JobView] = {}  # failed Jobs by uid: what killed them is asked once
        self.written_version = ""  # of the object, after our own last write: an event with it is no news

    @property
    def name(self) -> str:
        return f"{self.owner.namespace}/{self.owner.name}"

    @property
    def references(self) -> frozenset[Reference]:
        """What the object named when it was last read."""
        return self._declaration.references if self._declaration is not None else frozenset()

    @property
    def ledger_key(self) -> tuple[str, str]:
        """Namespace and key, as the ledger lists campaigns; the key is "" before the first look."""
        return self.owner.namespace, self._declaration.key if self._declaration is not None else ""

    # -- one look -------------------------------------------------------------------------------------------------

    async def look(self, causes: frozenset[Cause]) -> Looked | None:
        """None once the object is gone. Raises ApiError; ledger trouble is part of what is looked at."""
        declaration = await self._declare(causes)
        if declaration is None or self._object is None:
            return None
        if declaration.deleting:
            return Looked(timedelta(minutes=1), changed=False)  # its Jobs go with it
        keeper = self._kept(declaration)
        previous = read_status(self._object)
        jobs = await self._job_views(declaration, causes)
        view, problem = await self._ledger(keeper, declaration)
        declaration = await self._thaw(declaration, view)
        observed = Observed(
            us=keeper.us,
            view=view,
            database_problem=problem,
            conflict=keeper.conflict,
            jobs=jobs,
            previous=previous,
            sample=keeper.sample,
            seen_revision=self._seen_revision,
        )
        now = view.now if view is not None else datetime.now(UTC)
        decision = decide(declaration.desired, observed, now)
        self._seen_revision = decision.status.revision
        await self._tell(previous, decision)
        changed = await self._act(keeper, declaration, decision)
        left = _time_left(declaration, decision.status, now)
        if left is not None and left <= timedelta(0):
            await self._cluster.delete(CAMPAIGNS, self.owner.namespace, self.owner.name, uid=self.owner.uid)
            return None
        return Looked(decision.look_again if left is None else min(left, decision.look_again), changed)

    async def let_go(self) -> None:
        """The object is gone: the next owner of its ledger key need not wait for our lease."""
        if self._keeper is not None:
            async with self._world.connections.quick.take() as db:
                await self._keeper.release(db)

    # -- collecting -----------------------------------------------------------------------------------------------

    async def _declare(self, causes: frozenset[Cause]) -> Declaration | None:
        fresh = time.monotonic() - self._read_at < REFRESH and not causes & {Cause.CAMPAIGN, Cause.REFERENCE}
        if fresh and self._declaration is not None:
            return self._declaration
        found = await self._cluster.find(CAMPAIGNS, self.owner.namespace, self.owner.name)
        if found is None or found["metadata"]["uid"] != self.owner.uid:
            self._declaration = None
            return None
        self._object = found
        self._declaration = await read_declaration(self._cluster, found)
        self._read_at = time.monotonic()
        return self._declaration

    def _kept(self, declaration: Declaration) -> Keeper:
        if self._keeper is None or self._keeper.key != declaration.key:
            self._keeper = Keeper(
                Claimant(self._world.cluster_id, self.owner.uid),
                tenant=self.owner.namespace,
                key=declaration.key,
                name=self.owner.name,
                lease=OWNER_LEASE,
            )
        return self._keeper

    async def _ledger(
        self, keeper: Keeper, declaration: Declaration
    ) -> tuple[LedgerView | None, DatabaseProblem | None]:
        try:
            async with self._world.connections.quick.take() as db:
                view = await keeper.look(db, declaration.declared())
                owner = view.owner if view is not None else None
                if owner is not None and not owner.expired and await self._is_gone(owner.cluster, owner.uid):
                    await keeper.evict(db, owner)
                    view = await keeper.look(db, declaration.declared())
                return view, None
        except LedgerError as error:
            return None, problem_of(error)

    async def _thaw(self, declaration: Declaration, view: LedgerView | None) -> Declaration:
        if declaration.resolved is None and view is not None and view.phase is not Phase.REGISTERED:
            with suppress(LedgerError):  # then it is as if this were not known, until the next look
                async with self._world.connections.quick.take() as db:
                    content = await campaigns.content(db, view.campaign)
                self._declaration = declaration = declaration.thawed(content, view.fingerprint)
        return declaration

    async def _is_gone(self, cluster: str, uid: str) -> bool:
        """Whether the owner is an object of this very cluster that is no longer there: nobody renews its lease."""
        if cluster != self._world.cluster_id or uid == self.owner.uid:
            return False
        there = self._cluster.list(CAMPAIGNS, self.owner.namespace, metadata_only=True)
        return all([item["metadata"]["uid"] != uid async for item in there])

    # -- jobs -----------------------------------------------------------------------------------------------------

    async def _job_views(self, declaration: Declaration, causes: frozenset[Cause]) -> tuple[JobView, ...]:
        stale = time.monotonic() - self._jobs_read_at >= REFRESH
        if self._jobs is None or stale or Cause.JOB in causes or not all(map(is_over, self._jobs.values())):
            listed = self._cluster.list(JOBS, self.owner.namespace, labels=f"{LABEL_UID}={self.owner.uid}")
            self._jobs = {job["metadata"]["name"]: job async for job in listed if owned_by(job, self.owner.uid)}
            self._jobs_read_at = time.monotonic()
        jobs = list(self._jobs.values())
        await self._replace_unfit(declaration, jobs)
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
        now = datetime.now(UTC)
        odd = []
        for job in jobs:
            old_enough = (now - job_view(job).started_at).total_seconds() >= STUCK_AFTER
            known = job["metadata"]["uid"] in self._autopsies
            if wants_a_closer_look(job) and not known and not is_stopping(job) and (is_over(job) or old_enough):
                odd.append(job)
        pods: dict[str, list[Object]] = {}
        events: dict[str, list[Object]] = {}
        if not odd:
            return pods, events
        async for pod in self._cluster.list(PODS, self.owner.namespace, labels=f"{LABEL_UID}={self.owner.uid}"):
            for reference in pod["metadata"].get("ownerReferences") or ():
                pods.setdefault(reference["uid"], []).append(pod)
        for job in odd:
            uid = job["metadata"]["uid"]
            if not is_over(job) and not pods.get(uid):
                told = self._cluster.list(EVENTS, self.owner.namespace, fields=f"involvedObject.uid={uid}")
                events[uid] = [event async for event in told]
        return pods, events

    async def _replace_unfit(self, declaration: Declaration, jobs: list[Object]) -> None:
        """Senders that lack a Secret the campaign's transport names now can't log in: others take their place."""
        if declaration.resolved is None:
            return
        wanted = sender_needs(declaration.resolved).text()
        for job in jobs:
            if job_view(job).kind == "send" and not is_over(job) and not is_stopping(job) and mounted(job) != wanted:
                await self._delete(job)

    async def _delete(self, job: Object) -> None:
        """Its pods get SIGTERM; the Job stays visible as stopping until the last of them has ended."""
        metadata = job["metadata"]
        await self._cluster.delete(
            JOBS, self.owner.namespace, metadata["name"], uid=metadata["uid"], propagation="Foreground"
        )
        metadata.setdefault("deletionTimestamp", datetime.now(UTC).isoformat())

    # -- telling --------------------------------------------------------------------------------------------------

    async def _tell(self, previous: CampaignStatus, decision: Decision) -> None:
        since = None if self._written_at is None else timedelta(seconds=time.monotonic() - self._written_at)
        if worth_writing(previous, decision.status, since):
            patch = status_patch(self.owner.uid, decision.status)
            written = await self._cluster.merge(CAMPAIGNS, self.owner.namespace, self.owner.name, patch, sub="status")
            self._written_at = time.monotonic()
            self.written_version = written["metadata"]["resourceVersion"]
            self._object = written
        for action in decision.actions:
            if isinstance(action, act.Emit):
                await self._emit(action)

    async def _emit(self, emit: act.Emit) -> None:
        try:
            event = event_for(self.owner, emit, self._world.instance)
            await self._cluster.create(NEW_EVENTS, self.owner.namespace, event)
        except ApiError as error:
            # A story that isn't told changes nothing of what happens; a namespace that is going away takes none.
            log.warning("%s: no event %s: %s", self.name, emit.reason, error)

    # -- acting ---------------------------------------------------------------------------------------------------

    async def _act(self, keeper: Keeper, declaration: Declaration, decision: Decision) -> bool:
        """True where something changed that is worth looking at at once. Nothing after a failed action is done."""
        changed = False
        for action in decision.actions:
            try:
                await self._carry_out(keeper, declaration, action)
            except LedgerError as error:
                log.warning("%s: %s: %s", self.name, type(action).__name__, error)
                return False
            changed = changed or isinstance(action, CHANGES)
        return changed

    async def _carry_out(self, keeper: Keeper, declaration: Declaration, action: act.Action) -> None:
        match action:
            case act.StartPlan(attempt):
                await self._start_plan(keeper, declaration, attempt)
            case act.StopPlan():
                await self._stop("plan", ())
            case act.EnsureSenders():
                await self._ensure_senders(keeper, declaration, action)
            case act.StopSenders(_, waves):
                await self._stop("send", waves)
            case act.Emit():
                return  # told already, after the status
            case _:
                lane = self._world.connections.slow if isinstance(action, LONG) else self._world.connections.quick
                async with lane.take() as db:
                    await keeper.carry_out(db, action)

    async def _start_plan(self, keeper: Keeper, declaration: Declaration, attempt: int) -> None:
        resolved, campaign = declaration.resolved, keeper.campaign
        assert resolved is not None, "decide plans only what is resolved"
        assert campaign is not None, "decide plans only what is registered"
        await self._make(make.plan_job(self.owner, resolved, campaign, attempt, self._world.image))

    async def _ensure_senders(self, keeper: Keeper, declaration: Declaration, action: act.EnsureSenders) -> None:
        resolved, campaign = declaration.resolved, keeper.campaign
        assert resolved is not None, "decide sends only what is resolved"
        assert campaign is not None, "decide sends only what is planned"
        wave = action.wave
        if action.new_wave:
            async with self._world.connections.quick.take() as db:
                wave = await keeper.new_wave(db)
        await self._make(make.send_job(self.owner, resolved, campaign, wave, action.pods, self._world.image))

    async def _make(self, job: Object) -> None:
        """Create the Job. One of this name that is ours and runs is what was wanted."""
        name = job["metadata"]["name"]
        await self._world.secrets.ensure(self.owner.namespace)
        try:
            made = await self._cluster.create(JOBS, self.owner.namespace, job)
        except ApiError as error:
            if not error.conflict:
                if not error.away:
                    await self._emit(act.Emit("Warning", "JobRefused", str(error)))
                raise
            made = await self._cluster.get(JOBS, self.owner.namespace, name)
            if not owned_by(made, self.owner.uid):
                # Most likely that of a campaign of the same name that was deleted a moment ago.
                log.warning("%s: Job %s is there already and not ours", self.name, name)
                return
        if self._jobs is not None:
            self._jobs[name] = made

    async def _stop(self, kind: str, waves: tuple[int, ...]) -> None:
        named = {job_name(self.owner.name, kind, wave) for wave in waves}
        for name, job in (self._jobs or {}).items():
            if job_view(job).kind != kind or is_over(job) or is_stopping(job) or (named and name not in named):
                continue
            await self._delete(job)


def _time_left(declaration: Declaration, status: CampaignStatus, now: datetime) -> timedelta | None:
    """``spec.ttlSecondsAfterFinished``: until the object goes (what the ledger knows stays); None: it stays."""
    end, ttl = status.completion_time, declaration.spec.ttl_seconds_after_finished
    if ttl is None or end is None or not is_true(status, "Finished"):
        return None
    return end + timedelta(seconds=ttl) - now
