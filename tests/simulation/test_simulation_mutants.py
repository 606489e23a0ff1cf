"""The simulation is worth something: each of these mistakes, made on purpose, is found by it.

Every mutant is a mistake that a real program of this kind has made, or that one line less would make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from simulated_ledger import Ledger
from simulated_rows import Campaign, Claimed, Record, Row
from simulated_sender import Behaviour, Sender
from simulated_walk import walk
from simulated_world import Broken, World

from fullsend.ledger.view import Phase, Proof
from fullsend.reconcile import actions as act
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import Desired, Observed
from fullsend.states import DeliveryState

S = DeliveryState
SEEDS = range(400)


def found(**broken: Any) -> str:
    """What the first walk that notices says; fails if none does."""
    for seed in SEEDS:
        try:
            walk(seed, 300, **broken)
        except Broken as claim:
            return str(claim)
        except AssertionError as claim:  # a forbidden move of a row
            return str(claim)
    pytest.fail("no walk noticed")


# -- ledgers that break a promise


class FinishesUnproved(Ledger):
    """ "Nothing is pending" is taken for "everybody is done" (an empty batch means finished)."""

    def finish(self, phase: Phase, proof: Proof | None) -> bool:
        self._known.phase, self._known.finished_at = phase, self.now
        return True


class IgnoresLateAccepted(Ledger):
    """A fenced sender's accepted is noted, but does not win."""

    def move(self, row: Row, state: DeliveryState, *, late: bool = False) -> None:
        if not late:
            super().move(row, state)


class ForgetsUnknown(Ledger):
    """A dead sender's armed rows are given back as if nothing had been on the wire."""

    def _orphaned(self, row: Row) -> None:
        self.move(row, S.DEFERRED)
        row.due_at = self.now


class ResendsAsItOnceMight(Ledger):
    """Whoever is unknown is sent again, though its user has lowered how often that may be."""

    def _used_up(self, row: Row) -> bool:
        return False


class ResendsForEver(ResendsAsItOnceMight):
    """Unknown rows are sent again without a bound."""

    def _nobody_knows(self, row: Row, delay: timedelta) -> None:
        row.unknowns += 1
        self.move(row, S.UNKNOWN)
        row.due_at = self.now + delay


class ArmsForTheDead(Ledger):
    """Arming does not look whether the session still lives and the row is still its own."""

    def arm(self, session: int, seq: int) -> bool:
        row = self._known.rows.get(seq)
        if row is None or row.state not in (S.CLAIMED, S.ARMED) or self._known.control.get("stop", True):
            return False
        if row.state is S.CLAIMED:
            self.move(row, S.ARMED)
            row.session = session
            row.attempts += 1
        return True


class TrustsItself(Sender):
    """A sender that wakes goes on where it was, whatever its lease and its heart-beat say."""

    @property
    def _may_send(self) -> bool:
        return not (self._stop or self.terminated)


class RecordsForTheDead(Ledger):
    """A fenced sender's refusal is recorded over what others have done since."""

    def record(self, session: int, record: Record) -> None:
        row = self._known.rows.get(record.seq)
        if row is not None and row.state in (S.ARMED, S.UNKNOWN) and record.state is not S.ACCEPTED:
            self.move(row, S.DEFERRED if row.state is S.ARMED else S.CLAIMED)
            return
        super().record(session, record)


class LosesRows(Ledger):
    """What is given back is forgotten by the counters."""

    def _given_back(self, row: Row) -> None:
        super()._given_back(row)
        self._known.counters[row.state] -= 1


class NeverSweeps(Ledger):
    """Dead sessions keep their rows."""

    def sweep(self) -> None:
        pass


class SkipsWhatIsGivenBack(Ledger):
    """A cursor that only goes forward: what comes back behind it is never seen again."""

    def claim(self, session: int, limit: int) -> list[Claimed]:
        campaign = self._known
        due = {row.seq: row.due_at for row in campaign.rows.values() if row.due_at is not None}
        for seq in due:
            campaign.rows[seq].due_at = None
        claimed = super().claim(session, limit)
        for seq, moment in due.items():
            if campaign.rows[seq].due_at is None and campaign.rows[seq].state in (S.DEFERRED, S.UNKNOWN):
                campaign.rows[seq].due_at = moment
        return claimed


class FinishesOverSenders(Ledger):
    """Finishing does not look for live sessions or for what changed since the proof."""

    def finish(self, phase: Phase, proof: Proof | None) -> bool:
        campaign: Campaign = self._known
        if proof is not None and proof.holds:
            campaign.phase, campaign.finished_at = phase, self.now
        return True


@pytest.mark.parametrize(
    "ledger",
    [
        IgnoresLateAccepted,
        ForgetsUnknown,
        ResendsForEver,
        ResendsAsItOnceMight,
        RecordsForTheDead,
        LosesRows,
        NeverSweeps,
        SkipsWhatIsGivenBack,
        FinishesOverSenders,
    ],
)
def test_a_ledger_that_breaks_a_promise_is_found(ledger: type[Ledger]) -> None:
    assert found(ledger=ledger)


def woken_late(ledger: type[Ledger], sender: type[Sender]) -> World:
    """A sender freezes with a row in its hands, is fenced, and wakes while another has the same row armed."""
    world = World([S.PENDING], ledger=ledger, sender=sender)
    world.begin()
    frozen = world.senders[0]
    while not frozen.slots:
        world.sender_step(0, Behaviour.ACCEPT)
    frozen.frozen = True
    world.advance(timedelta(seconds=61))
    world.operators[0].turn()  # sweeps
    world.start_job("send-9", "send", 9, pods=1)
    other = world.senders[1]
    while not (other.slots and other.slots[0].stage == "armed"):
        world.sender_step(1, Behaviour.ACCEPT)
    frozen.frozen = False
    for _ in range(8):
        for index in range(len(world.senders)):
            world.sender_step(index, Behaviour.ACCEPT)
            world.check()
    return world


@pytest.mark.parametrize(("ledger", "sender"), [(Ledger, Sender), (Ledger, TrustsItself), (ArmsForTheDead, Sender)])
def test_the_fence_and_the_sender_that_minds_its_lease_each_hold_alone(
    ledger: type[Ledger], sender: type[Sender]
) -> None:
    assert woken_late(ledger, sender).relay.accepted[1] == 1


def test_without_the_fence_and_the_lease_two_copies_are_found() -> None:
    with pytest.raises(Broken, match="2 copies for 0 unknowns"):
        woken_late(ArmsForTheDead, TrustsItself)


# -- decisions that break one

Mutate = Callable[[Decision, Desired, Observed], tuple[act.Action, ...]]


def deciding(mutate: Mutate) -> Callable[[Desired, Observed, datetime], Decision]:
    def broken(desired: Desired, observed: Observed, now: datetime) -> Decision:
        decision = decide(desired, observed, now)
        return replace(decision, actions=mutate(decision, desired, observed))

    return broken


def without(kind: type) -> Mutate:
    return lambda decision, desired, observed: tuple(a for a in decision.actions if not isinstance(a, kind))


def prove_skipped(decision: Decision, desired: Desired, observed: Observed) -> tuple[act.Action, ...]:
    """Done when nobody is pending, without a look at the rows."""
    view = observed.view
    if view is not None and view.phase is Phase.SENDING and view.counts[S.PENDING] == 0:
        return (act.Finish(Phase.COMPLETE),)
    return decision.actions


def sends_while_suspended(decision: Decision, desired: Desired, observed: Observed) -> tuple[act.Action, ...]:
    view = observed.view
    if desired.suspend and view is not None and view.phase is Phase.SENDING and not view.sessions:
        return (act.EnsureSenders(1, view.wave, new_wave=True),)
    return decision.actions


def forgets_to_tell(decision: Decision, desired: Desired, observed: Observed) -> tuple[act.Action, ...]:
    """Suspension stops the jobs, but nobody tells the ledger."""
    return tuple(a for a in decision.actions if not (isinstance(a, act.WriteControl) and a.control.stop))


def starts_a_wave_each_time(decision: Decision, desired: Desired, observed: Observed) -> tuple[act.Action, ...]:
    view = observed.view
    if (
        view is not None
        and view.phase is Phase.SENDING
        and view.counts.open
        and not desired.suspend
        and not desired.cancel
    ):
        return (*decision.actions, act.EnsureSenders(2, view.wave, new_wave=True))
    return decision.actions


@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(without(act.Prove), id="never proves"),
        pytest.param(without(act.Sweep), id="never sweeps"),
        pytest.param(without(act.StartPlan), id="never plans"),
        pytest.param(without(act.CarryOutReopen), id="never reopens"),
        pytest.param(without(act.EndRows), id="never ends rows"),
        pytest.param(without(act.AcknowledgeHalt), id="never acknowledges"),
        pytest.param(sends_while_suspended, id="sends while suspended"),
        pytest.param(forgets_to_tell, id="suspends without telling the senders"),
        pytest.param(starts_a_wave_each_time, id="a wave at every look"),
    ],
)
def test_a_decision_that_breaks_one_is_found(mutate: Mutate) -> None:
    assert found(decide_with=deciding(mutate))


def test_a_campaign_called_complete_without_a_proof_is_found() -> None:
    claim = found(decide_with=deciding(prove_skipped), ledger=FinishesUnproved)
    assert "open rows" in claim or "undelivered" in claim


def test_a_ledger_that_went_back_and_is_believed_is_found() -> None:
    def believes(desired: Desired, observed: Observed, now: datetime) -> Decision:
        previous = observed.previous.model_copy(update={"revision": 0})
        return decide(desired, replace(observed, previous=previous, seen_revision=0), now)

    assert found(decide_with=believes)


def test_an_event_at_every_look_is_found() -> None:
    def chatty(decision: Decision, desired: Desired, observed: Observed) -> tuple[act.Action, ...]:
        if observed.view is None:
            return decision.actions
        return (*decision.actions, act.Emit("Normal", "Looked", ""))

    assert "event" in found(decide_with=deciding(chatty))
