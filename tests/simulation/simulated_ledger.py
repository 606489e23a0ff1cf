"""A ledger in memory that keeps the promises of the real one: each method is one transaction.

Every move of a row is checked against ``states.TRANSITIONS``, counters are kept apart from the rows, sessions are
fenced, control, breaker and revision behave as in ``fullsend.ledger``. A snapshot can be put back, as by a restore.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from simulated_rows import (
    CHUNK,
    OWNER_LEASE,
    SESSION_LEASE,
    UNKNOWN_DELAY,
    Attempt,
    Campaign,
    Claimed,
    Gone,
    Record,
    Reopening,
    Row,
    Session,
)

from fullsend.ledger.control import Control
from fullsend.ledger.view import (
    FINISHED,
    BreakerView,
    Counts,
    LedgerView,
    Owner,
    Phase,
    PlanState,
    PlanView,
    Proof,
    ReopenRequest,
    SessionView,
)
from fullsend.reconcile.observed import Claimant
from fullsend.states import OPEN, REOPENABLE, TRANSITIONS, CampaignId, DeliveryState, SessionId

S = DeliveryState


class Ledger:
    """``now`` is the database's clock, moved by the world. ``campaign`` is None until registered."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.campaign: Campaign | None = None
        self.sessions_opened = 0

    def snapshot(self) -> Campaign | None:
        return copy.deepcopy(self.campaign)

    def restore(self, snapshot: Campaign | None) -> None:
        self.campaign = copy.deepcopy(snapshot)

    @property
    def _known(self) -> Campaign:
        if self.campaign is None:
            raise Gone
        return self.campaign

    @property
    def max_unknown_resends(self) -> int:
        resends: int = self._known.control.get("retry", {}).get("max_unknown_resends", 1)
        return resends

    # -- the shells' side ----------------------------------------------------------------------------------------

    def register(self, owner: Claimant) -> bool:
        if self.campaign is None:
            self.campaign = Campaign(owner, self.now)
            return True
        campaign = self.campaign
        if campaign.owner != owner and self.now < campaign.owner_heartbeat_at + OWNER_LEASE:
            return False
        if campaign.owner != owner:
            campaign.revision += 1
        campaign.owner, campaign.owner_heartbeat_at = owner, self.now
        return True

    def heartbeat_owner(self, owner: Claimant) -> None:
        if self.campaign is not None and self.campaign.owner == owner:
            self.campaign.owner_heartbeat_at = self.now

    def begin_plan(self) -> int | None:
        campaign = self._known
        if campaign.phase is not Phase.REGISTERED:
            return None
        generation = campaign.plan.generation + 1 if campaign.plan is not None else 1
        campaign.plan = PlanView(generation, PlanState.RUNNING, self.now)
        campaign.revision += 1
        return generation

    def heartbeat_plan(self, generation: int) -> bool:
        return self._update_plan(generation, heartbeat_at=self.now)

    def fail_plan(self, generation: int) -> bool:
        return self._update_plan(generation, state=PlanState.FAILED, reason="SourceUnreachable", heartbeat_at=self.now)

    def seal_plan(self, generation: int, states: Sequence[DeliveryState]) -> bool:
        campaign = self._known
        if not self._update_plan(generation, state=PlanState.SEALED, sealed_at=self.now):
            return False
        campaign.rows = {seq: Row(seq, state) for seq, state in enumerate(states, 1)}
        campaign.counters = Counter(states)
        campaign.sealed_rows = len(states)
        campaign.fit = tuple(seq for seq, state in enumerate(states, 1) if state is S.PENDING)
        assert campaign.plan is not None
        campaign.plan = replace(
            campaign.plan,
            rows_read=len(states),
            inserted=len(states),
            suppressed=sum(state is S.SUPPRESSED for state in states),
            invalid=sum(state is S.INVALID for state in states),
        )
        campaign.phase = Phase.SENDING
        return True

    def _update_plan(self, generation: int, **changes: Any) -> bool:
        campaign = self._known
        plan = campaign.plan
        if campaign.phase is not Phase.REGISTERED or plan is None:
            return False
        if plan.generation != generation or plan.state is not PlanState.RUNNING:
            return False
        campaign.plan = replace(plan, **changes)
        campaign.revision += 1
        return True

    def observe(self) -> LedgerView | None:
        if self.campaign is None:
            return None
        campaign = self.campaign
        due = [row.due_at for row in campaign.rows.values() if row.due_at is not None]
        newest = max(campaign.reopens.values(), key=lambda r: (r.requested_at, r.id), default=None)
        return LedgerView(
            campaign=CampaignId(1),
            now=self.now,
            revision=campaign.revision,
            phase=campaign.phase,
            fingerprint="f",
            owner=Owner(
                campaign.owner.cluster,
                campaign.owner.uid,
                campaign.owner_heartbeat_at,
                self.now >= campaign.owner_heartbeat_at + OWNER_LEASE,
            ),
            plan=campaign.plan,
            counts=Counts(dict(campaign.counters)),
            sessions=tuple(
                SessionView(
                    SessionId(session.id),
                    session.wave,
                    f"s{session.id}",
                    session.started_at,
                    session.heartbeat_at,
                    session.fenced or self.now >= session.heartbeat_at + SESSION_LEASE,
                    2,
                )
                for session in campaign.sessions.values()
                if not session.ended
            ),
            breaker=campaign.breaker,
            wave=campaign.wave,
            control=copy.deepcopy(campaign.control),
            next_due_at=min(due, default=None),
            due_now=sum(moment <= self.now for moment in due),
            last_settled_at=campaign.last_settled_at,
            first_armed_at=campaign.first_armed_at,
            duplicates_possible=campaign.resent,
            reopen=None
            if newest is None
            else ReopenRequest(newest.id, newest.states, newest.requested_at, newest.done_at, newest.reopened),
            proof=campaign.proof,
            finished_at=campaign.finished_at,
        )

    def write_control(self, control: Control) -> None:
        campaign = self._known
        body = dict(control.to_json())
        if body != campaign.control:
            campaign.control = body
            campaign.revision += 1

    def new_wave(self) -> int:
        self._known.wave += 1
        self._known.revision += 1
        return self._known.wave

    def update_breaker(self, step: Callable[[BreakerView], BreakerView]) -> BreakerView:
        campaign = self._known
        after = step(campaign.breaker)
        if after != campaign.breaker:
            campaign.breaker = after
            campaign.revision += 1
        return after

    def end_rows(self, from_states: Iterable[DeliveryState], to_state: DeliveryState) -> bool:
        """One chunk; True when there was nothing left to end."""
        campaign = self._known
        if campaign.phase is not Phase.SENDING:
            return True
        states = set(from_states)
        found = [row for row in campaign.rows.values() if row.state in states][:CHUNK]
        for row in found:
            self.move(row, to_state)
        return len(found) < CHUNK

    def request_reopen(self, id_: str, states: tuple[DeliveryState, ...]) -> None:
        campaign = self._known
        if id_ not in campaign.reopens:
            assert set(states) <= REOPENABLE
            later = timedelta(microseconds=len(campaign.reopens))  # no two at the same instant
            campaign.reopens[id_] = Reopening(id_, states, self.now + later)
            campaign.revision += 1

    def carry_out_reopen(self) -> bool:
        """One chunk of the oldest open request; True when there is none left."""
        campaign = self._known
        waiting = [r for r in campaign.reopens.values() if r.done_at is None]
        if not waiting:
            return True
        request = min(waiting, key=lambda r: (r.requested_at, r.id))
        if campaign.phase in (Phase.REGISTERED, Phase.PURGED):
            request.done_at = self.now
            return False
        if campaign.phase in FINISHED:
            campaign.phase, campaign.finished_at = Phase.SENDING, None
        campaign.revision += 1
        found = [row for row in campaign.rows.values() if row.seq > request.after and row.state in request.states]
        for row in found[:CHUNK]:
            self.move(row, S.DEFERRED)
            row.due_at, row.charged_since, row.charges, row.pardoned = self.now, None, 0, row.unknowns
            row.reopened += 1
            request.reopened += 1
            request.after = row.seq
        if len(found) < CHUNK:
            request.done_at = self.now
        return False

    def prove(self) -> Proof:
        campaign = self._known
        rows = Counter(row.state for row in campaign.rows.values())
        agree = all(rows[state] == campaign.counters[state] for state in S)
        holds = (
            agree
            and len(campaign.rows) == campaign.sealed_rows
            and campaign.plan is not None
            and campaign.plan.state is PlanState.SEALED
            and not any(rows[state] for state in OPEN)
            and not any(not session.ended for session in campaign.sessions.values())
        )
        differences = () if holds else ("rows and books differ",)
        campaign.proof = Proof(self.now, Counts(dict(rows)), len(campaign.rows), "0", holds, differences)
        campaign.proof_revision = campaign.revision
        return campaign.proof

    def finish(self, phase: Phase, proof: Proof | None) -> bool:
        """Compare-and-set, as ``ledger.proofs.finish``."""
        campaign = self._known
        if campaign.phase in FINISHED:
            return campaign.phase is phase
        if proof is None or campaign.proof is None or proof != campaign.proof:
            return False
        if campaign.revision != campaign.proof_revision or any(campaign.counters[state] for state in OPEN):
            return False
        if any(not session.ended for session in campaign.sessions.values()):
            return False
        sealed = campaign.plan is not None and campaign.plan.state is PlanState.SEALED
        if phase is Phase.COMPLETE and not (proof.holds and sealed):
            return False
        campaign.phase, campaign.finished_at = phase, self.now
        campaign.revision += 1
        return True

    def sweep(self) -> None:
        campaign = self._known
        for session in campaign.sessions.values():
            if session.ended or not (session.fenced or self.now >= session.heartbeat_at + SESSION_LEASE):
                continue
            session.fenced = True
            for row in campaign.rows.values():
                if row.session == session.id:
                    self._orphaned(row)
            session.ended = True

    def _orphaned(self, row: Row) -> None:
        if row.state is S.ARMED:
            row.history.setdefault(row.attempts, Attempt(row.session or 0, S.UNKNOWN))
            self._nobody_knows(row, UNKNOWN_DELAY)
        else:
            self._given_back(row)

    def _nobody_knows(self, row: Row, delay: timedelta) -> None:
        row.unknowns += 1
        if row.unknowns > self.max_unknown_resends:
            self.move(row, S.HELD)
        else:
            self.move(row, S.UNKNOWN)
            row.due_at = self.now + delay

    def _given_back(self, row: Row) -> None:
        self.move(row, S.UNKNOWN if row.unknowns else S.DEFERRED)
        row.due_at = self.now

    # -- the senders' side ---------------------------------------------------------------------------------------

    def open_session(self, wave: int) -> int | None:
        campaign = self.campaign
        if campaign is None or campaign.phase is not Phase.SENDING:
            return None
        self.sessions_opened += 1
        session = Session(self.sessions_opened, wave, self.now, self.now)
        campaign.sessions[session.id] = session
        campaign.revision += 1
        return session.id

    def live(self, session: int) -> bool:
        known = self.campaign.sessions.get(session) if self.campaign is not None else None
        return known is not None and known.live

    def heartbeat(self, session: int) -> bool:
        if not self.live(session):
            return False
        self._known.sessions[session].heartbeat_at = self.now
        return True

    def claim(self, session: int, limit: int) -> list[Claimed]:
        """Due rows first, then fresh ones within the rollout's first N."""
        campaign = self._known
        control = campaign.control
        if not self.live(session) or campaign.phase is not Phase.SENDING or control.get("stop", True):
            return []
        due = sorted(
            (row for row in campaign.rows.values() if row.due_at is not None and row.due_at <= self.now),
            key=lambda row: (row.due_at, row.seq),
        )
        first = control.get("fresh_limit")
        bound = campaign.fit[first - 1] if first is not None and first <= len(campaign.fit) else len(campaign.rows)
        fresh = [row for row in campaign.rows.values() if row.state is S.PENDING and row.seq <= bound]
        claimed = []
        for row in [*due, *fresh][:limit]:
            if self._used_up(row):
                self.move(row, S.HELD)
                continue
            self.move(row, S.CLAIMED)
            row.session = session
            claimed.append(row)
        return [Claimed(row.seq, row.attempts, row.unknowns, row.charges, row.charged_since) for row in claimed]

    def _used_up(self, row: Row) -> bool:
        return row.unknowns > max(row.pardoned, self.max_unknown_resends)

    def arm(self, session: int, seq: int) -> bool:
        campaign = self._known
        row = campaign.rows.get(seq)
        if row is None or not self.live(session) or row.state is not S.CLAIMED or row.session != session:
            return False
        if campaign.phase is not Phase.SENDING or campaign.control.get("stop", True):
            return False
        self.move(row, S.ARMED)
        row.session = session
        row.attempts += 1
        campaign.resent += row.unknowns > 0
        campaign.first_armed_at = campaign.first_armed_at or self.now
        return True

    def record(self, session: int, record: Record) -> None:
        """What became of a row, by a living session; by a dead one only that a message was accepted."""
        row = self._known.rows.get(record.seq)
        if row is None:  # forgotten by a restore
            return
        live = self.live(session)
        mine = row.session == session
        in_hand = mine and row.state is S.ARMED and row.attempts == record.attempt
        before = row.history.get(record.attempt)
        unsettled = before is None or (before.state is S.UNKNOWN and before.session == session)
        if unsettled and record.attempt <= row.attempts:
            row.history[record.attempt] = Attempt(session, S.UNKNOWN if record.state is S.HELD else record.state)
        if live and in_hand:
            self._recorded(row, record)
        elif (
            record.state is S.ACCEPTED
            and row.state is not S.ACCEPTED
            and (in_hand or (before is not None and before.session == session and before.state is S.UNKNOWN))
        ):
            self.move(row, S.ACCEPTED, late=True)

    def _recorded(self, row: Row, record: Record) -> None:
        if record.charged:
            row.charges += 1
            row.charged_since = row.charged_since or self.now
        if record.state in (S.UNKNOWN, S.HELD):
            self._nobody_knows(row, record.delay)
            return
        self.move(row, record.state)
        if record.state is S.DEFERRED:
            row.due_at = self.now + record.delay

    def end_unarmed(self, session: int, seq: int, state: DeliveryState) -> None:
        """A claimed row that can't be built, or whose person has said no."""
        row = self._known.rows.get(seq)
        if row is not None and self.live(session) and row.session == session and row.state is S.CLAIMED:
            self.move(row, state)

    def give_back(self, session: int, seqs: Iterable[int]) -> None:
        for seq in seqs:
            row = self._known.rows.get(seq)
            if row is not None and self.live(session) and row.session == session and row.state is S.CLAIMED:
                self._given_back(row)

    def held(self, session: int) -> dict[int, DeliveryState]:
        return {row.seq: row.state for row in self._known.rows.values() if row.session == session}

    def close_session(self, session: int) -> None:
        """The sender ends in order; whatever it still holds is swept, not forgotten."""
        if self.live(session):
            for row in self._known.rows.values():
                if row.session == session:
                    self._orphaned(row)
            self._known.sessions[session].ended = True
            self._known.revision += 1

    # -- rows ----------------------------------------------------------------------------------------------------

    def move(self, row: Row, state: DeliveryState, *, late: bool = False) -> None:
        """The only place where a row changes its state. ``late``: the accepted of a fenced session wins over all."""
        assert late or state in TRANSITIONS[row.state], f"row {row.seq}: {row.state} -> {state} is no transition"
        campaign = self._known
        campaign.counters[row.state] -= 1
        campaign.counters[state] += 1
        row.state, row.due_at, row.session = state, None, None
        campaign.revision += 1
        if state not in OPEN:
            campaign.last_settled_at = self.now
