"""One campaign on this machine: look at the ledger and the processes, decide, carry the actions out.

The same ``decide`` as in a cluster; only what an action does differs: a Job is a process, the status is a file. Nothing
is remembered that a killed run would lose but the status, whose revision guards against a ledger that went back
(invariant 10), and that is written before anything is acted on.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_never

from pydantic import ValidationError

from fullsend.errors import CampaignOwned, LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.campaigns import OwnerClaim
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import SESSION_LEASE_SECONDS
from fullsend.ledger.view import BreakerState, LedgerView, Phase, PlanState
from fullsend.local.mounts import LocalMounts
from fullsend.local.processes import ProcessJob, ProcessJobs, write_private
from fullsend.reconcile import actions as act
from fullsend.reconcile import breaker
from fullsend.reconcile.conditions import find
from fullsend.reconcile.control import desired_from
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import (
    Claimant,
    DatabaseFault,
    DatabaseProblem,
    JobView,
    Observed,
    Sample,
)
from fullsend.resources.fingerprint import differences, fingerprint, frozen_content
from fullsend.resources.resolve import ResolvedCampaign
from fullsend.resources.status import CampaignStatus
from fullsend.states import CampaignId, DeliveryState

log = logging.getLogger(__name__)

OWNER_LEASE = timedelta(seconds=15)
"""How long a killed run's claim on a ledger key outlives it. Each tick renews it."""

SAMPLE_EVERY = timedelta(seconds=5)


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
        self._us = Claimant(cluster="local", uid=str(uuid.uuid4()))
        self._content = frozen_content(resolved)
        self._fingerprint = fingerprint(self._content)
        self._agreed = False  # the ledger key is known to hold what is declared here
        self._first_look = True
        self._conflict: tuple[str, ...] = ()
        self._plans_before: int | None = None  # plan generations that earlier runs came to
        self._samples: deque[Sample] = deque(maxlen=4)
        self.excluded: tuple[LocalCampaign, ...] = ()  # of this run, and planned before this one
        self.ended = False  # for this run, whatever came of it
        self.campaign: CampaignId | None = None
        self.view: LedgerView | None = None
        self.status = self._stored_status()
        self._events: list[act.Emit] = []
        self._desired = desired_from(resolved)
        assert self._desired.control is not None, "a resolved campaign has a control"
        self._retry = self._desired.control.retry

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
            await campaigns.release_owner(self.db, self.campaign, self._claim)

    def take_events(self) -> list[act.Emit]:
        """What has happened since the last call, for a person to read."""
        events, self._events = self._events, []
        return events

    @property
    def quiet(self) -> bool:
        """Nobody sends for this campaign any more."""
        return not (any(job.alive for job in self.jobs.all) or (self.view is not None and self.view.sessions))

    @property
    def planned(self) -> bool:
        """It has a sealed plan, or has ended without."""
        return self.view is not None and self.view.phase is not Phase.REGISTERED

    @property
    def ready_message(self) -> str:
        """What the Ready condition says, for a person."""
        ready = find(self.status, "Ready")
        return ready.message if ready is not None else ""

    @property
    def _claim(self) -> OwnerClaim:
        return OwnerClaim(self._us.cluster, self._us.uid, OWNER_LEASE.total_seconds())

    # -- looking --------------------------------------------------------------------------------------------------

    async def _observe(self) -> Observed:
        view: LedgerView | None = None
        problem: DatabaseProblem | None = None
        try:
            view = await self._look()
        except LedgerUnavailable as error:
            problem = DatabaseProblem(DatabaseFault.UNREACHABLE, str(error))
            await self._reconnect()
        except SchemaMismatch as error:
            problem = DatabaseProblem(DatabaseFault.SCHEMA, str(error))
        except LedgerError as error:
            problem = DatabaseProblem(DatabaseFault.REFUSED, str(error))
        return Observed(
            us=self._us,
            view=self._afresh(view),
            database_problem=problem,
            conflict=self._conflict,
            jobs=tuple(_job_view(job) for job in self.jobs.all),
            previous=self.status,
            sample=self._samples[0] if self._samples else None,
        )

    async def _look(self) -> LedgerView | None:
        if self.campaign is None:
            self.campaign = await campaigns.find(self.db, self.resolved.namespace, self.resolved.ledger_key)
            if self.campaign is None:
                return None
        if not self._agreed:
            await self._compare(self.campaign)
        if self._agreed:
            # Of an owner that lives the view tells more than a refusal to take the key from it.
            with contextlib.suppress(CampaignOwned):
                await campaigns.heartbeat_owner(self.db, self.campaign, self._claim)
        view = await campaigns.observe(self.db, self.campaign, session_lease_seconds=SESSION_LEASE_SECONDS)
        if await self._fence_dead(view):
            view = await campaigns.observe(self.db, self.campaign, session_lease_seconds=SESSION_LEASE_SECONDS)
        if self._agreed and await self._ask_the_relay_again(view):
            view = await campaigns.observe(self.db, self.campaign, session_lease_seconds=SESSION_LEASE_SECONDS)
        accepted = view.counts.by_state.get(DeliveryState.ACCEPTED, 0)
        if not self._samples or view.now - self._samples[-1].at >= SAMPLE_EVERY:
            self._samples.append(Sample(view.now, accepted))
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

    async def _compare(self, campaign: CampaignId) -> None:
        """Whether the ledger key holds this campaign, or another one of the same name. What was never planned is
        replaced by what is declared now: nobody can have been sent it."""
        view = await campaigns.observe(self.db, campaign, session_lease_seconds=SESSION_LEASE_SECONDS)
        self._agreed = view.fingerprint == self._fingerprint
        if not self._agreed and view.phase is Phase.REGISTERED:
            await self._register()
            return
        if not self._agreed:
            held = await campaigns.content(self.db, campaign)
            self._conflict = tuple(differences(held, self._content)) if held else ("what it held was purged",)

    async def _reconnect(self) -> None:
        try:
            await self.db.reconnect()
        except LedgerError:
            return  # the next tick says what is wrong

    # -- acting ---------------------------------------------------------------------------------------------------

    async def _carry_out(self, action: act.Action) -> None:
        if isinstance(action, act.Register):
            await self._register()
            return
        campaign = self.campaign
        assert campaign is not None, "decide acts on a campaign only once it is registered"
        match action:
            case act.StartPlan(attempt):
                await self._start_plan(attempt)
            case act.StopPlan():
                self.jobs.terminate("plan")
            case act.WriteControl(control):
                await campaigns.write_control(self.db, campaign, control.to_json())
            case act.EnsureSenders():
                await self._ensure_senders(action)
            case act.StopSenders():
                self.jobs.terminate("send")
            case act.Sweep():
                await self._sweep()
            case act.EndRows(from_states, to_state, reason):
                await campaigns.end_rows(self.db, campaign, from_states, to_state, reason)
            case act.RequestReopen(id, states):
                await campaigns.request_reopen(self.db, campaign, id=id, states=states)
            case act.CarryOutReopen():
                await campaigns.carry_out_reopen(self.db, campaign)
            case act.Prove():
                await campaigns.prove(self.db, campaign)
            case act.Finish(phase):
                proof = self.view.proof if self.view is not None else None
                assert proof is not None, "decide finishes on a proof"
                await campaigns.finish(self.db, campaign, phase, proof)
            case act.AcknowledgeHalt(halt_id):
                now = datetime.now(UTC)
                await campaigns.update_breaker(self.db, campaign, lambda view: breaker.acknowledge(view, halt_id, now))
            case act.Halt(halt_id, reason, message, needs_person):
                now = datetime.now(UTC)
                await campaigns.update_breaker(
                    self.db,
                    campaign,
                    lambda view: breaker.halt(view, reason, message, now, halt_id=halt_id, needs_person=needs_person),
                )
            case act.Emit():
                self._events.append(action)
            case _:
                assert_never(action)

    async def _register(self) -> None:
        with contextlib.suppress(CampaignOwned):  # seen at the next look, as a foreign owner
            registered = await campaigns.register(
                self.db,
                tenant=self.resolved.namespace,
                key=self.resolved.ledger_key,
                name=self.resolved.name,
                owner=self._claim,
                content=self._content,
                fingerprint=self._fingerprint,
            )
            self.campaign = registered.campaign
            self._agreed = registered.fingerprint == self._fingerprint
            self._conflict = () if self._agreed else tuple(differences(registered.content, self._content))

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
        assert self.campaign is not None
        wave = await campaigns.new_wave(self.db, self.campaign) if action.new_wave else action.wave
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

    async def _sweep(self) -> None:
        assert self.campaign is not None
        retry = self._retry
        await sessions.sweep(
            self.db,
            self.campaign,
            lease_seconds=SESSION_LEASE_SECONDS,
            max_unknown_resends=retry.max_unknown_resends,
            unknown_delay=retry.min_backoff,
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
