"""The world around ``decide``: operators, jobs, users and a clock, and what must hold whatever happens in it.

``check`` is called after every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from simulated_ledger import Ledger
from simulated_operator import Job, Operator
from simulated_rows import Campaign, Gone
from simulated_sender import Away, Behaviour, Relay, Sender

from fullsend.ledger.control import Control, RelayControl, RetryControl
from fullsend.ledger.view import FINISHED, Phase
from fullsend.reconcile import actions as act
from fullsend.reconcile.conditions import is_true
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import (
    Desired,
    Observed,
    Reopen,
)
from fullsend.reconcile.situation import Situation
from fullsend.resources.status import CampaignStatus
from fullsend.states import OPEN, SETTLED, DeliveryState

S = DeliveryState
START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MAX_RESENDS = 1
MAX_PODS = 3
CONTROL = Control(
    relay=RelayControl(name="relay", host="relay.example", port=25, connections=8),
    retry=RetryControl(max_unknown_resends=MAX_RESENDS),
)

Decide = Callable[[Desired, Observed, datetime], Decision]


class Broken(AssertionError):
    """An invariant does not hold."""


def must(holds: bool, claim: str) -> None:
    if not holds:
        raise Broken(claim)


class World:
    """``states``: the rows the plan will seal. ``decide_with``, ``ledger`` and ``sender`` let a test put a
    broken one in."""

    def __init__(
        self,
        states: list[DeliveryState],
        *,
        poison: frozenset[int] = frozenset(),
        decide_with: Decide = decide,
        ledger: Callable[..., Ledger] = Ledger,
        sender: Callable[..., Sender] = Sender,
    ) -> None:
        self.states = states
        self.now = START
        self.ledger = ledger(START)
        self.relay = Relay(poison=poison)
        self.decide = decide_with
        self._sender = sender
        self.desired = Desired(control=CONTROL, max_pods=2, connections=8, min_sample=5, max_rejected=0.9)
        self.status = CampaignStatus()
        self.jobs: list[Job] = []
        self.operators = [Operator(self), Operator(self)]
        self.database_up = True
        self.lose_next_answer = False
        self.snapshots: list[Campaign | None] = []
        self.excused: Counter[int] = Counter()  # copies sent before a restore forgot them
        self.claims: set[tuple[int, int | None]] = set()  # who is in whose hands
        self.told: set[int] = set()  # whose accepted the ledger has committed
        self.guarded: int | None = None  # arms when the ledger was stopped after a loss
        self.restored = False
        self.seen: Counter[str] = Counter()
        self.steps = 0
        self.weather = [Behaviour.ACCEPT]

    # -- what happens ----------------------------------------------------------------------------------------------

    @property
    def arms(self) -> int:
        rows = self.ledger.campaign.rows.values() if self.ledger.campaign is not None else ()
        return sum(row.attempts for row in rows)

    @property
    def senders(self) -> list[Sender]:
        return [sender for job in self.jobs for sender in job.senders if sender.runs]

    def begin(self) -> None:
        """Registered, planned and about to send: straight to where it gets interesting."""
        for _ in range(4):
            self.operators[0].turn()
            self.plan_step()

    def ask(self, call: Callable[[], Any]) -> Any:
        """One transaction: not reached, done, or done with its answer lost."""
        if not self.database_up:
            raise Away
        result = call()
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise Away
        return result

    def advance(self, delta: timedelta) -> None:
        self.now += delta
        self.ledger.now = self.now

    def start_job(self, name: str, kind: str, wave: int, pods: int) -> None:
        if any(job.name == name for job in self.jobs):
            return
        job = Job(name, kind, wave, self.now)
        job.senders = [self._sender(f"{name}-{number}", wave, self.ledger, self.relay) for number in range(pods)]
        self.jobs.append(job)

    def stop_jobs(self, kind: str, waves: tuple[int, ...] = ()) -> None:
        for job in self.jobs:
            if job.kind == kind and job.ended_at is None and (not waves or job.wave in waves):
                job.stopping = True
                for sender in job.senders:
                    sender.terminated = True

    def sender_step(self, index: int, behaviour: Behaviour, pick: int = 0) -> None:
        senders = self.senders
        if senders:
            senders[index % len(senders)].step(behaviour, self.ask, pick)
            self._reap()

    def _reap(self) -> None:
        for job in self.jobs:
            if job.kind == "send" and job.ended_at is None and not any(sender.runs for sender in job.senders):
                job.ended_at = self.now
                job.exit_code = max((sender.exit_code or 0 for sender in job.senders), default=0)

    def kill_sender(self, index: int) -> None:
        if self.senders:
            self.senders[index % len(self.senders)].kill()
            self._reap()

    def freeze_sender(self, index: int, *, frozen: bool) -> None:
        if self.senders:
            self.senders[index % len(self.senders)].frozen = frozen

    def plan_step(self, *, dies: bool = False, fails: bool = False) -> None:
        for job in self.jobs:
            if job.kind != "plan" or job.ended_at is not None:
                continue
            try:
                if dies or job.stopping:
                    job.ended_at, job.exit_code = self.now, 137
                elif job.generation is None:
                    job.generation = self.ask(self.ledger.begin_plan)
                    if job.generation is None:
                        job.ended_at, job.exit_code = self.now, 0
                else:
                    generation = job.generation
                    if fails:
                        self.ask(lambda generation=generation: self.ledger.fail_plan(generation))
                    else:
                        self.ask(lambda generation=generation: self.ledger.seal_plan(generation, self.states))
                    job.ended_at, job.exit_code = self.now, int(fails)
            except (Away, Gone):
                job.ended_at, job.exit_code = self.now, 1
            return

    def suppress(self, seq: int) -> None:
        """Somebody says no while waiting or in a sender's hands; the ledger sees it when arming."""
        campaign = self.ledger.campaign
        row = campaign.rows.get(seq) if campaign is not None else None
        if row is not None and row.state is S.CLAIMED and row.session is not None:
            self.ledger.end_unarmed(row.session, seq, S.SUPPRESSED)

    def claimed(self) -> set[tuple[int, int | None]]:
        rows = self.ledger.campaign.rows.values() if self.ledger.campaign is not None else ()
        return {(row.seq, row.session) for row in rows if row.state is S.CLAIMED}

    def take_snapshot(self) -> None:
        self.snapshots.append(self.ledger.snapshot())
        del self.snapshots[:-4]

    def restore(self, index: int) -> bool:
        """Put an older database back, where the status remembers a later revision: who has forgotten can't know."""
        if not self.snapshots or not self.database_up or self.restored:
            return False
        snapshot = self.snapshots[index % len(self.snapshots)]
        revision = snapshot.revision if snapshot is not None else 0
        if self.status.revision <= revision:
            return False
        self.ledger.restore(snapshot)
        self.excused = Counter(self.relay.accepted)
        for sender in self.senders:  # what is past its arming can't be called back
            self.excused.update(slot.row.seq for slot in sender.slots if slot.stage in ("armed", "writing"))
        rows = self.ledger.campaign.rows if self.ledger.campaign is not None else {}
        self.told = {seq for seq, row in rows.items() if row.state is S.ACCEPTED}
        self.claims = self.claimed()
        for operator in self.operators:
            operator.reconnect()
        self.restored = True
        self.guarded = None
        self.seen["restore"] += 1
        return True

    def edit(self, **changes: Any) -> None:
        self.desired = replace(self.desired, generation=self.desired.generation + 1, **changes)

    def acknowledge(self) -> None:
        """A person says "go on" to the halt the status shows."""
        if self.status.halt is not None and self.status.halt.id:
            self.edit(acknowledged_halt=self.status.halt.id)
            if self.status.halt.reason == "LedgerWentBack":
                self.restored = False

    def forget_status(self) -> None:
        """Deleted and applied again. Not between a loss and its acknowledgement: then nobody could know."""
        if not self.restored:
            self.status = CampaignStatus()

    def reopen(self, id_: str, states: tuple[DeliveryState, ...]) -> None:
        self.edit(reopen=Reopen(id_, states))

    def heal_references(self) -> None:
        self.edit(control=CONTROL, problems=())

    def allow_resends(self, times: int) -> None:
        if self.desired.control is not None:
            self.edit(control=CONTROL.model_copy(update={"retry": RetryControl(max_unknown_resends=times)}))

    # -- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.steps += 1
        campaign = self.ledger.campaign
        if campaign is None:
            return
        rows = Counter(row.state for row in campaign.rows.values())
        must(all(rows[state] == campaign.counters[state] for state in S), "the counters say what the rows say")
        for row in campaign.rows.values():
            copies = self.relay.accepted[row.seq] - self.excused[row.seq]
            must(copies <= 1 + row.unknowns, f"recipient {row.seq}: {copies} copies for {row.unknowns} unknowns")
            must(row.unknowns <= 1 + MAX_RESENDS + row.reopened, f"recipient {row.seq} is resent without bound")
            if row.state is S.ACCEPTED:
                self.told.add(row.seq)
            if any(attempt.state is S.ACCEPTED for attempt in row.history.values()):
                must(row.state is S.ACCEPTED, f"recipient {row.seq} was accepted and is {row.state}")
        claims = self.claimed()
        for seq, _ in claims - self.claims:
            row = campaign.rows[seq]
            allowed = max(row.pardoned, self.ledger.max_unknown_resends)
            must(row.unknowns <= allowed, f"recipient {seq} is resent though that is no longer allowed")
        self.claims = claims
        must(all(campaign.rows[seq].state is S.ACCEPTED for seq in self.told), "accepted is for ever")
        if self.guarded is not None:
            must(self.arms == self.guarded, "armed after a loss that nobody has acknowledged")
        about = sum(sender.session is None or self.ledger.live(sender.session) for sender in self.senders)
        must(about <= 3 * MAX_PODS, f"{about} senders where two operators want {MAX_PODS}")
        if campaign.phase in FINISHED:
            self._check_finished(campaign, rows)

    def _check_finished(self, campaign: Campaign, rows: Counter[DeliveryState]) -> None:
        must(not any(rows[state] for state in OPEN), f"{campaign.phase} with open rows")
        must(not any(session.live for session in campaign.sessions.values()), f"{campaign.phase} with a live session")
        if campaign.phase is Phase.COMPLETE:
            must(sum(rows.values()) == len(self.states), "complete means that everybody has a row")
            # Cancelled, held or expired people in a complete campaign can only come from a late accepted, never stay.
            must(all(rows[state] == 0 for state in S if state not in SETTLED), "complete with people undelivered")

    def check_decision(self, decision: Decision, observed: Observed, desired: Desired, now: datetime) -> None:
        status, view = decision.status, observed.view
        self.seen[f"situation:{decision.situation}"] += 1
        for action in decision.actions:
            self.seen[type(action).__name__] += 1
        must(sum(getattr(status, state.value) for state in S) == status.total, "the status sums up")
        must(decision.look_again >= timedelta(seconds=1), "there is a next look")
        kinds = {type(action) for action in decision.actions}
        must(not ({act.EnsureSenders} <= kinds and kinds & {act.EndRows, act.Finish}), "sending and ending at once")
        if observed.database_problem is not None:
            must(decision.actions == (), "nothing is done without the ledger")
        if act.EnsureSenders in kinds:
            must(view is not None and view.phase is Phase.SENDING, "senders only for a sealed plan")
            must(not desired.suspend and not desired.cancel, "senders for a suspended or cancelled campaign")
            must(view.revision >= observed.remembered_revision or bool(desired.acknowledged_halt), "sent from a loss")
        if is_true(status, "Complete") and view is not None:
            must(view.phase in (Phase.COMPLETE, Phase.PURGED), "Complete is the ledger's to say")
        if decision.situation is Situation.LEDGER_WENT_BACK:
            must(
                not kinds & {act.Register, act.StartPlan, act.EndRows, act.Finish, act.CarryOutReopen}, "acts on a loss"
            )
        again = self.decide(desired, replace(observed, previous=status, seen_revision=status.revision), now)
        must(again.status == status, "looking twice at the same world changes the status")
        must(not any(isinstance(action, act.Emit) for action in again.actions), "an event is emitted twice")
        must(
            tuple(a for a in again.actions) == tuple(a for a in decision.actions if not isinstance(a, act.Emit)),
            "the same world asks for other actions at the second look",
        )

    # -- once faults stop ------------------------------------------------------------------------------------------

    def heal(self, *, wake: bool) -> None:
        """Faults stop: the database and the relay are back, nothing is suspended any more. Frozen processes wake, or
        are on a node that never comes back, and nobody says so."""
        self.database_up, self.lose_next_answer = True, False
        self.edit(suspend=False, control=CONTROL, problems=(), rollout_approved=True)
        for sender in self.senders:
            sender.frozen = sender.frozen and not wake

    def rest(self) -> None:
        """Suspended, and everybody has heard it: from then on nothing is armed."""
        self.database_up, self.lose_next_answer = True, False
        self.edit(suspend=True)
        for _ in range(3):
            self._everybody()
            self.advance(timedelta(seconds=6))
        campaign, arms = self.ledger.campaign, self.arms
        if campaign is not None and campaign.phase is Phase.SENDING:
            must(bool(campaign.control.get("stop", True)), "suspended, and the senders are not told")
        for _ in range(3):
            self._everybody()
            self.advance(timedelta(minutes=2))
        must(self.arms == arms, "armed while suspended")

    def _everybody(self) -> None:
        for operator in self.operators:
            operator.turn()
            self.check()
        self.plan_step()
        for _ in range(6):
            for index in range(len(self.senders)):
                self.sender_step(index, Behaviour.ACCEPT)
                self.check()

    def ended(self) -> bool:
        """Finished, as the status says too, with no reopening left that may be carried out."""
        campaign = self.ledger.campaign
        if campaign is None or campaign.phase not in FINISHED or not is_true(self.status, "Finished"):
            return False
        barred = self.desired.cancel or (self.desired.deadline is not None and self.now >= self.desired.deadline)
        return barred or campaign.phase is Phase.PURGED or all(r.done_at is not None for r in campaign.reopens.values())

    def live_on(self, rounds: int = 400, *, wake: bool = True) -> int:
        """Everybody takes turns, and a person acknowledges what they are shown. Returns the rounds it took to end."""
        self.heal(wake=wake)
        for number in range(rounds):
            self._everybody()
            if self.ended():
                return number
            if is_true(self.status, "Halted"):
                self.acknowledge()
            self.advance(timedelta(seconds=5) if number < 100 else timedelta(minutes=2))
        raise Broken(f"it never ends: {self.describe()}")

    def describe(self) -> str:
        campaign = self.ledger.campaign
        ready = [f"{c.type}={c.status} {c.reason} {c.message}" for c in self.status.conditions]
        if campaign is None:
            return f"no campaign; {ready}"
        rows = {state.value: count for state, count in campaign.counters.items() if count}
        return (
            f"{campaign.phase}, rows {rows}, plan {campaign.plan}, breaker {campaign.breaker}, "
            f"{len(self.senders)} senders, stop {campaign.control.get('stop')}, {ready}"
        )
