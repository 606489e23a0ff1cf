"""One campaign on this machine: look at the ledger and the processes, decide, carry the actions out.

The same ``decide`` as in a cluster; only what an action does differs: a Job is a process, the status is a file. Nothing
is remembered that a killed run would lose but the status, whose revision guards against a ledger that went back
(invariant 10), and that is written before anything is acted on.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from fullsend.errors import LedgerError, LedgerUnavailable
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.view import BreakerState, LedgerView, Phase, PlanState
from fullsend.local.mounts import LocalMounts
from fullsend.local.processes import ProcessJob, ProcessJobs, write_private
from fullsend.reconcile import actions as act
from fullsend.reconcile import breaker
from fullsend.reconcile.conditions import find
from fullsend.reconcile.control import desired_from
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import Claimant, DatabaseProblem, JobView, Observed
from fullsend.resources.resolve import ResolvedCampaign
from fullsend.resources.status import CampaignStatus
from fullsend.shell.keeper import Declared, Keeper, problem_of
from fullsend.states import CampaignId

log = logging.getLogger(__name__)

OWNER_LEASE = timedelta(seconds=15)
"""How long a killed run's claim on a ledger key outlives it."""


class LocalCampaign:
    """Reconciles one campaign; ``tick`` is one turn of the loop. ``drain`` makes it only let go."""

    def __init__(
        self, db: Database, resolved: ResolvedCampaign, *, state: Path, dsn_file: Path, mounts: LocalMounts
    ) -> None:
        self.db = db
        self.resolved = resolved
        self.name = f"{resolved.namespace}/{resolved.name}"
        self._dsn_file = dsn_file
        self._mounts = mounts
        self._status_file = state / "status" / resolved.namespace / f"{resolved.name}.json"
        self.jobs = ProcessJobs(state / "jobs" / resolved.namespace / resolved.ledger_key)
        self._keeper = Keeper(
            Claimant(cluster="local", uid=str(uuid.uuid4())),
            tenant=resolved.namespace,
            key=resolved.ledger_key,
            name=resolved.name,
            lease=OWNER_LEASE,
        )
        self._first_look = True
        self._plans_before: int | None = None  # plan generations that earlier runs came to
        self.excluded: tuple[LocalCampaign, ...] = ()  # of this run, and planned before this one
        self.ended = False  # for this run, whatever came of it
        self.view: LedgerView | None = None
        self.status = self._stored_status()
        self._events: list[act.Emit] = []
        self._desired = desired_from(resolved)
        assert self._desired.control is not None, "a resolved campaign has a control"
        self._retry = self._desired.control.retry
        self._declared = Declared.of(resolved, self._retry)

    # -- one turn -------------------------------------------------------------------------------------------------

    async def tick(self) -> Decision:
        """Look, decide, store the status, act. Ledger trouble is part of what is looked at, not an error."""
        observed = await self._observe()
        self.view = observed.view
        now = observed.view.now if observed.view is not None else datetime.now(UTC)
        decision = decide(self._desired, observed, now)
        self._store_status(decision.status)
        for action in decision.actions:
            try:
                await self._carry_out(action)
            except LedgerError as error:
                # The next tick looks at what is; nothing after a failed action may be carried out.
                log.warning("%s: %s: %s", self.name, type(action).__name__, error)
                break
        return decision

    async def settle(self) -> None:
        """Once the processes have ended: settle what they left, and let go of the ledger key, so that the next run
        need not wait for the lease."""
        if self.campaign is not None:
            self.view = await self._look()
            await self._keeper.release(self.db)

    def take_events(self) -> list[act.Emit]:
        """What has happened since the last call, for a person to read."""
        events, self._events = self._events, []
        return events

    @property
    def quiet(self) -> bool:
        """Nobody sends for this campaign any more. (A session past its lease may stay in the ledger: nobody sweeps one
        that went back.)"""
        alive = self.view is not None and any(not session.expired for session in self.view.sessions)
        return not (alive or any(job.alive for job in self.jobs.all))

    @property
    def planned(self) -> bool:
        """It has a sealed plan, or has ended without."""
        return self.view is not None and self.view.phase is not Phase.REGISTERED

    def said(self, condition: str) -> str:
        """What a condition says for a person; "" where the campaign does not have it."""
        found = find(self.status, condition)
        return found.message if found is not None else ""

    @property
    def campaign(self) -> CampaignId | None:
        """Its number in the ledger, once it has one."""
        return self._keeper.campaign

    # -- looking --------------------------------------------------------------------------------------------------

    async def _observe(self) -> Observed:
        view: LedgerView | None = None
        problem: DatabaseProblem | None = None
        try:
            view = await self._look()
        except LedgerError as error:
            problem = problem_of(error)
            if isinstance(error, LedgerUnavailable):
                await self._reconnect()
        return Observed(
            us=self._keeper.us,
            view=self._afresh(view),
            database_problem=problem,
            conflict=self._keeper.conflict,
            jobs=tuple(_job_view(job) for job in self.jobs.all),
            previous=self.status,
            sample=self._keeper.sample,
        )

    async def _look(self) -> LedgerView | None:
        view = await self._keeper.look(self.db, self._declared)
        if view is not None and await self._fence_dead(view):
            view = await self._keeper.look(self.db, self._declared)
        if view is not None and not self._keeper.conflict and await self._ask_the_relay_again(view):
            view = await self._keeper.look(self.db, self._declared)
        return view

    def _afresh(self, view: LedgerView | None) -> LedgerView | None:
        """A run asks for a plan anew: what earlier runs failed at, or died of, neither delays it nor speaks for it. (A
        planner of theirs that still lives is fenced when ours begins.) Of ours it is known at once when it died."""
        if view is None or view.phase is not Phase.REGISTERED:
            return view
        plan = view.plan
        newest = plan.generation if plan is not None else 0
        if self._plans_before is None:
            self._plans_before = newest
        ours = newest - self._plans_before
        if plan is None or ours <= 0:
            return replace(view, plan=None)
        died = plan.state is PlanState.RUNNING and not any(job.kind == "plan" and job.alive for job in self.jobs.all)
        return replace(view, plan=replace(plan, generation=ours, state=PlanState.DISCARDED if died else plan.state))

    async def _ask_the_relay_again(self, view: LedgerView) -> bool:
        """Whoever runs a campaign again has mended its relay, or wants to know: no need to wait for the time at which
        an earlier run would have probed it. A halt that needs a person's word is not one of those."""
        first, self._first_look = self._first_look, False
        halted = view.breaker.state is BreakerState.HALTED and not view.breaker.needs_person
        if not first or not halted:
            return False
        await campaigns.update_breaker(
            self.db, view.campaign, lambda now: breaker.acknowledge(now, view.breaker.halt_id, view.now)
        )
        return True

    async def _fence_dead(self, view: LedgerView) -> bool:
        """A process that has ended without ending its session will not come back: no need to wait for its lease."""
        ended = {job.name for job in self.jobs.all if not job.alive}
        dead = [session for session in view.sessions if session.holder in ended]
        retry = self._retry
        for session in dead:
            await sessions.fence(
                self.db,
                session.id,
                retry.max_unknown_resends,
                unknown_delay=retry.min_backoff,
            )
        return bool(dead)

    async def _reconnect(self) -> None:
        try:
            await self.db.reconnect()
        except LedgerError:
            return  # the next tick says what is wrong

    # -- acting ---------------------------------------------------------------------------------------------------

    async def _carry_out(self, action: act.Action) -> None:
        match action:
            case act.StartPlan(attempt):
                await self._start_plan(attempt)
            case act.StopPlan():
                self.jobs.terminate("plan")
            case act.EnsureSenders():
                await self._ensure_senders(action)
            case act.StopSenders(_, waves):
                self.jobs.terminate("send", waves)
            case act.Emit():
                self._events.append(action)
            case _:
                await self._keeper.carry_out(self.db, action)

    async def _start_plan(self, attempt: int) -> None:
        name = f"plan-{attempt}"
        if any(job.name == name and job.alive for job in self.jobs.all):
            return
        if any(not other.ended and not other.planned for other in self.excluded):
            return  # asked again at the next look, by when there may be a plan to exclude
        await self.jobs.start(
            name,
            "plan",
            attempt,
            {
                "dsn_file": self._dsn_file,
                "tenant": self.resolved.namespace,
                "campaign": self.campaign,
                "secrets_dir": self._mounts.secrets_dir,
                "config_dir": self._mounts.config_dir,
                "base_dir": self.resolved.base_dir,
            },
        )

    async def _ensure_senders(self, action: act.EnsureSenders) -> None:
        wave = await self._keeper.new_wave(self.db) if action.new_wave else action.wave
        for number in range(action.pods):
            name = f"send-{wave}-{number}"
            if any(job.name == name for job in self.jobs.all):
                continue
            await self.jobs.start(
                name,
                "send",
                wave,
                {
                    "dsn_file": self._dsn_file,
                    "campaign": self.campaign,
                    "wave": wave,
                    "holder": name,
                    "secrets_dir": self._mounts.secrets_dir,
                },
            )

    # -- the status, as a file ------------------------------------------------------------------------------------

    def _stored_status(self) -> CampaignStatus:
        try:
            return CampaignStatus.model_validate_json(self._status_file.read_bytes())
        except (OSError, ValidationError):
            return CampaignStatus()

    def _store_status(self, status: CampaignStatus) -> None:
        if status != self.status:
            write_private(self._status_file, status.model_dump_json(by_alias=True, indent=1).encode())
        self.status = status


def _job_view(job: ProcessJob) -> JobView:
    return JobView(
        name=job.name,
        kind=job.kind,
        wave=job.wave,
        alive=job.alive,
        started_at=job.started_at,
        ended_at=job.ended_at,
        exit_code=job.exit_code,
        ended_reason=f"{job.last_words()} (log: {job.log})" if job.exit_code else "",
        stopping=job.stopping,
    )
