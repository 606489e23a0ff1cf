"""One campaign in a cluster: collect, decide, write the status once, act.

The same ``decide`` and the same keeper as on one machine; a Job is a Job and the status a subresource. Invariant:
what this object remembers only saves requests. Each look starts from the API server and the ledger, or from what was
read a short while ago and no event has contradicted since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from fullsend.controller import jobs as make
from fullsend.controller.api import Object
from fullsend.controller.declarations import Declaration, read_declaration
from fullsend.controller.jobviews import has_begun, is_over, is_stopping, job_view, mounted, same_pods
from fullsend.controller.names import CAMPAIGNS, job_name
from fullsend.controller.notices import tell
from fullsend.controller.owned_jobs import OwnedJobs, is_old_enough
from fullsend.controller.pods import sender_needs
from fullsend.controller.status import read_status, status_patch, worth_writing
from fullsend.controller.wakes import Cause
from fullsend.controller.world import REFRESH, Looked, Reference, World
from fullsend.errors import LedgerError
from fullsend.ledger import campaigns
from fullsend.ledger.view import LedgerView, Phase
from fullsend.reconcile import actions as act
from fullsend.reconcile.conditions import is_true
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import Claimant, DatabaseProblem, JobKind, JobView, Observed
from fullsend.resources.resolve import ResolvedCampaign
from fullsend.resources.status import CampaignStatus
from fullsend.shell.keeper import LONG, Keeper, problem_of
from fullsend.states import CampaignId

log = logging.getLogger(__name__)

OWNER_LEASE: Final = timedelta(minutes=3)
"""How long the claim of an operator that died outlives it: longer than the longest time between two looks at a campaign
that is not over."""
CHANGES = (act.Register, act.Prove, act.Finish, act.CarryOutReopen, act.EndRows, act.AcknowledgeHalt, act.Halt)
"""Actions after which there is something new to look at, at once."""


class ClusterCampaign:
    """Reconciles one Campaign object; a new object of the same name is another one."""

    def __init__(self, world: World, owner: make.Owner) -> None:
        self.owner = owner
        self._world = world
        self._cluster = world.cluster
        self._keeper: Keeper | None = None
        self._object: Object | None = None
        self._declaration: Declaration | None = None
        self._jobs = OwnedJobs(world.cluster, world.secrets, self.owner, world.instance)
        self._read_at = 0.0
        self._written_at: float | None = None
        self._seen_revision = 0
        self.mood = ("", "")  # state and halt, as last decided: what a transport's status wants to know
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

    @property
    def conditions(self) -> Mapping[str, str]:
        """The types that are True, with their reasons, as they were last written."""
        status = (self._object or {}).get("status") or {}
        return {each["type"]: each["reason"] for each in status.get("conditions") or () if each["status"] == "True"}

    # -- one look -------------------------------------------------------------------------------------------------

    async def look(self, causes: frozenset[Cause]) -> Looked | None:
        """None once the object is gone. Raises ApiError; ledger trouble is part of what is looked at."""
        declaration = await self._declare(causes)
        if declaration is None or self._object is None:
            return None
        if declaration.deleting:
            return Looked(timedelta(minutes=1), changed=False)  # its Jobs go with it
        keeper = self._kept(declaration)
        previous = read_status(CampaignStatus, self._object)
        jobs = await self._job_views(keeper, declaration, causes)
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
        self.mood = (decision.status.state, decision.status.halt.id if decision.status.halt is not None else "")
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
        fresh = time.monotonic() - self._read_at < REFRESH and not causes & {Cause.OBJECT, Cause.REFERENCE}
        if fresh and self._declaration is not None:
            return self._declaration
        found = await self._cluster.find(CAMPAIGNS, self.owner.namespace, self.owner.name)
        if found is None or found["metadata"]["uid"] != self.owner.uid:
            self._declaration = None
            return None
        self._declaration = await read_declaration(self._cluster, found)
        self._object = _slim(found)
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

    async def _job_views(
        self, keeper: Keeper, declaration: Declaration, causes: frozenset[Cause]
    ) -> tuple[JobView, ...]:
        if Cause.JOB in causes or self._jobs.outdated(REFRESH):
            await self._jobs.read()
        await self._replace_unfit(keeper, declaration)
        return await self._jobs.views()

    async def _replace_unfit(self, keeper: Keeper, declaration: Declaration) -> None:
        """Senders that lack a Secret the campaign's transport names now can't log in, and pods that can't start don't
        start by waiting once the image, the pod settings or the overrides are others: new Jobs take their place."""
        resolved = declaration.resolved
        if resolved is None:
            return
        wanted = sender_needs(resolved).text()
        for job in (self._jobs.by_name or {}).values():
            if is_over(job) or is_stopping(job):
                continue
            view = job_view(job)
            unfit = view.kind == "send" and mounted(job) != wanted
            if not unfit and keeper.campaign is not None and is_old_enough(job) and not has_begun(job):
                anew = self._job(view.kind, resolved, keeper.campaign, view.wave, view.pods)
                unfit = not same_pods(job, anew)
            if unfit:
                await self._jobs.delete(job)

    def _job(
        self, kind: JobKind, resolved: ResolvedCampaign, campaign: CampaignId, number: int, pods: int = 1
    ) -> Object:
        if kind == "plan":
            return make.plan_job(self.owner, resolved, campaign, number, self._world.image)
        return make.send_job(self.owner, resolved, campaign, number, pods, self._world.image)

    # -- telling --------------------------------------------------------------------------------------------------

    async def _tell(self, previous: CampaignStatus, decision: Decision) -> None:
        since = None if self._written_at is None else timedelta(seconds=time.monotonic() - self._written_at)
        if worth_writing(previous, decision.status, since):
            patch = status_patch(self.owner.uid, decision.status)
            written = await self._cluster.merge(CAMPAIGNS, self.owner.namespace, self.owner.name, patch, sub="status")
            self._written_at = time.monotonic()
            self.written_version = written["metadata"]["resourceVersion"]
            self._object = _slim(written)
        for action in decision.actions:
            if isinstance(action, act.Emit):
                await tell(self._cluster, self.owner, action, self._world.instance)

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
        await self._jobs.make(self._job("plan", resolved, campaign, attempt))

    async def _ensure_senders(self, keeper: Keeper, declaration: Declaration, action: act.EnsureSenders) -> None:
        resolved, campaign = declaration.resolved, keeper.campaign
        assert resolved is not None, "decide sends only what is resolved"
        assert campaign is not None, "decide sends only what is planned"
        wave = action.wave
        if action.new_wave:
            async with self._world.connections.quick.take() as db:
                wave = await keeper.new_wave(db)
        await self._jobs.make(self._job("send", resolved, campaign, wave, action.pods))

    async def _stop(self, kind: str, waves: tuple[int, ...]) -> None:
        named = {job_name(self.owner.name, kind, wave) for wave in waves}
        for name, job in (self._jobs.by_name or {}).items():
            if job_view(job).kind != kind or is_over(job) or is_stopping(job) or (named and name not in named):
                continue
            await self._jobs.delete(job)


def _slim(campaign: Object) -> Object:
    """What is kept of the object: the declaration has the rest."""
    return {"status": campaign.get("status") or {}}


def _time_left(declaration: Declaration, status: CampaignStatus, now: datetime) -> timedelta | None:
    """``spec.ttlSecondsAfterFinished``: until the object goes (what the ledger knows stays); None: it stays."""
    end, ttl = status.completion_time, declaration.spec.ttl_seconds_after_finished
    if ttl is None or end is None or not is_true(status, "Finished"):
        return None
    return end + timedelta(seconds=ttl) - now
