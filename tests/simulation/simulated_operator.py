"""An operator as a program of small steps that may die after any of them; two of them run at once.

Its steps: read the object, read the ledger, list the jobs and decide, write the status, carry out one action (bulk
changes a chunk a step). What it has read may be stale by the time it acts, as in a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from simulated_rows import Gone
from simulated_sender import Away, Sender

from fullsend.ledger.view import LedgerView
from fullsend.reconcile import actions as act
from fullsend.reconcile import breaker
from fullsend.reconcile.observed import Claimant, DatabaseFault, DatabaseProblem, Desired, JobView, Observed
from fullsend.reconcile.situation import Situation
from fullsend.resources.status import CampaignStatus

if TYPE_CHECKING:
    from simulated_world import World

US = Claimant("cluster-1", "uid-1")


@dataclass(slots=True)
class Job:
    name: str
    kind: str
    wave: int
    started_at: datetime
    senders: list[Sender] = field(default_factory=list)
    stopping: bool = False
    ended_at: datetime | None = None
    exit_code: int | None = None
    generation: int | None = None  # of a plan job that has begun

    def view(self) -> JobView:
        return JobView(
            self.name,
            self.kind,  # type: ignore[arg-type]
            self.wave,
            self.ended_at is None,
            self.started_at,
            self.ended_at,
            self.exit_code,
            pods=max(1, sum(sender.runs for sender in self.senders)),
            stopping=self.stopping,
        )


class Operator:
    """One process of the controller: what it knows is lost when it dies."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.crash()

    def crash(self) -> None:
        self._stage = "idle"
        self._queue: list[act.Action | CampaignStatus] = []
        self._seen_revision = 0
        self._situation: Situation | None = None
        self._desired = Desired()
        self._previous = CampaignStatus()
        self._view: LedgerView | None = None
        self._problem: DatabaseProblem | None = None

    def step(self) -> None:
        world = self._world
        match self._stage:
            case "idle":
                self._desired, self._previous = world.desired, world.status
                self._stage = "read"
            case "read":
                self._look()
                self._stage = "looked"
            case "looked":
                self._decide()
                self._stage = "acting"
            case _:
                try:
                    if self._queue and self._carry_out(self._queue[0]):
                        self._queue.pop(0)
                        if not self._queue and self._situation is Situation.LEDGER_WENT_BACK and world.restored:
                            world.guarded = world.arms
                except (Away, Gone):
                    self._queue.clear()
                if not self._queue:
                    self._stage = "idle"

    def reconnect(self) -> None:
        """The database is another one: what was about to be asked of the old one fails."""
        self._queue.clear()
        self._stage = "idle"

    def turn(self) -> None:
        """From one look to the next."""
        self.step()
        while self._stage != "idle":
            self.step()

    def _look(self) -> None:
        world = self._world
        self._view, self._problem = None, None
        try:
            world.ask(lambda: world.ledger.heartbeat_owner(US))
            self._view = world.ask(world.ledger.observe)
        except Away:
            self._problem = DatabaseProblem(DatabaseFault.UNREACHABLE, "connection refused")

    def _decide(self) -> None:
        world = self._world
        observed = Observed(
            us=US,
            view=self._view,
            database_problem=self._problem,
            jobs=tuple(job.view() for job in world.jobs),
            previous=self._previous,
            seen_revision=self._seen_revision,
        )
        now = self._view.now if self._view is not None else world.now
        decision = world.decide(self._desired, observed, now)
        world.check_decision(decision, observed, self._desired, now)
        self._seen_revision = decision.status.revision
        self._situation = decision.situation
        self._queue = [decision.status, *decision.actions]

    def _carry_out(self, action: act.Action | CampaignStatus) -> bool:
        """True when it is done; bulk changes are carried out a chunk a step."""
        world, ledger = self._world, self._world.ledger
        match action:
            case CampaignStatus():
                world.status = action
            case act.Register():
                world.guarded = None
                world.ask(lambda: ledger.register(US))
            case act.StartPlan(attempt):
                world.start_job(f"plan-{attempt}", "plan", attempt, pods=0)
            case act.StopPlan():
                world.stop_jobs("plan")
            case act.WriteControl(control):
                world.ask(lambda: ledger.write_control(control))
            case act.EnsureSenders(pods, wave, new_wave):
                number = world.ask(ledger.new_wave) if new_wave else wave
                world.start_job(f"send-{number}", "send", number, pods)
            case act.StopSenders(_, waves):
                world.stop_jobs("send", waves)
            case act.Sweep():
                world.ask(ledger.sweep)
            case act.EndRows(from_states, to_state, _):
                return bool(world.ask(lambda: ledger.end_rows(from_states, to_state)))
            case act.RequestReopen(id_, states):
                world.ask(lambda: ledger.request_reopen(id_, states))
            case act.CarryOutReopen():
                return bool(world.ask(ledger.carry_out_reopen))
            case act.Prove():
                world.ask(ledger.prove)
            case act.Finish(phase):
                proof = self._view.proof if self._view is not None else None
                world.ask(lambda: ledger.finish(phase, proof))
            case act.AcknowledgeHalt(halt_id):
                world.guarded = None  # before the call: its answer may be lost
                world.ask(lambda: ledger.update_breaker(lambda view: breaker.acknowledge(view, halt_id, world.now)))
            case act.Halt(halt_id, reason, message, needs_person):
                world.ask(
                    lambda: ledger.update_breaker(
                        lambda view: breaker.halt(
                            view, reason, message, world.now, halt_id=halt_id, needs_person=needs_person
                        )
                    )
                )
            case act.Emit():
                world.seen[f"event:{action.reason}"] += 1
        return True
