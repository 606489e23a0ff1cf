"""The same world driven by hypothesis, which looks for trouble on its own and shrinks what it finds."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from simulated_sender import Behaviour
from simulated_walk import LEAPS, REOPENINGS
from simulated_world import CONTROL, MAX_PODS, MAX_RESENDS, World

from fullsend.states import DeliveryState

S = DeliveryState
index = st.integers(0, 7)
totals: Counter[str] = Counter()


class Machine(RuleBasedStateMachine):
    """One rule a thing that can happen; the invariants are ``World.check``'s, and it must end when faults stop."""

    world: World

    @initialize(
        states=st.lists(st.sampled_from([S.PENDING, S.PENDING, S.PENDING, S.SUPPRESSED, S.INVALID]), max_size=6),
        poison=st.frozensets(st.integers(1, 6), max_size=1),
        planned=st.booleans(),
    )
    def begin(self, states: list[DeliveryState], poison: frozenset[int], planned: bool) -> None:
        self.world = World(states, poison=poison)
        totals["worlds"] += 1
        if planned:
            self.world.begin()

    @rule(which=st.integers(0, 1))
    def operator_takes_a_step(self, which: int) -> None:
        self.world.operators[which].step()

    @rule(which=st.integers(0, 1))
    def operator_takes_a_turn(self, which: int) -> None:
        self.world.operators[which].turn()

    @rule(which=st.integers(0, 1))
    def operator_dies(self, which: int) -> None:
        self.world.operators[which].crash()

    @precondition(lambda self: self.world.senders)
    @rule(which=index, behaviour=st.sampled_from(Behaviour), pick=st.integers(0, 1), times=st.integers(1, 8))
    def sender_takes_steps(self, which: int, behaviour: Behaviour, pick: int, times: int) -> None:
        for _ in range(times):
            self.world.sender_step(which, behaviour, pick)
            self.world.check()

    @precondition(lambda self: self.world.senders)
    @rule(which=index)
    def sender_dies(self, which: int) -> None:
        self.world.kill_sender(which)

    @precondition(lambda self: self.world.senders)
    @rule(which=index, frozen=st.booleans())
    def sender_freezes_or_wakes(self, which: int, frozen: bool) -> None:
        self.world.freeze_sender(which, frozen=frozen)

    @rule(dies=st.booleans(), fails=st.booleans())
    def plan_goes_on(self, dies: bool, fails: bool) -> None:
        self.world.plan_step(dies=dies, fails=fails)

    @rule(leap=st.sampled_from(LEAPS))
    def time_passes(self, leap: timedelta) -> None:
        self.world.advance(leap)

    @rule(up=st.booleans())
    def database_goes_or_comes(self, up: bool) -> None:
        self.world.database_up = up

    @rule()
    def an_answer_is_lost(self) -> None:
        self.world.lose_next_answer = True

    @rule(suspend=st.booleans())
    def user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.edit(suspend=suspend)

    @rule(cancel=st.booleans())
    def user_cancels_or_not(self, cancel: bool) -> None:
        self.world.edit(cancel=cancel)

    @rule(minutes=st.sampled_from([None, -1, 1, 120]))
    def user_sets_a_deadline(self, minutes: int | None) -> None:
        deadline = None if minutes is None else self.world.now + timedelta(minutes=minutes)
        self.world.edit(deadline=deadline)

    @rule(first=st.sampled_from([None, 1, 2]), approved=st.booleans())
    def user_rolls_out(self, first: int | None, approved: bool) -> None:
        self.world.edit(rollout_first=first, rollout_approved=approved)

    @rule(number=st.integers(0, 3), states=st.sampled_from(REOPENINGS))
    def user_reopens(self, number: int, states: tuple[DeliveryState, ...]) -> None:
        self.world.reopen(f"r{number}", states)

    @rule()
    def user_acknowledges(self) -> None:
        self.world.acknowledge()

    @rule(pods=st.integers(1, MAX_PODS))
    def user_wants_other_pods(self, pods: int) -> None:
        self.world.edit(max_pods=pods)

    @rule(there=st.booleans())
    def transport_goes_or_comes(self, there: bool) -> None:
        self.world.edit(control=CONTROL if there else None, problems=() if there else ("relay is not there",))

    @rule(times=st.integers(0, MAX_RESENDS))
    def user_allows_other_resends(self, times: int) -> None:
        self.world.allow_resends(times)

    @rule()
    def status_is_forgotten(self) -> None:
        self.world.forget_status()

    @rule()
    def database_is_backed_up(self) -> None:
        self.world.take_snapshot()

    @rule(which=st.integers(0, 3))
    def database_is_restored(self, which: int) -> None:
        self.world.restore(which)

    @rule(seq=st.integers(1, 6))
    def somebody_says_no(self, seq: int) -> None:
        self.world.suppress(seq)

    @invariant()
    def everything_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.live_on()
            totals["steps"] += self.world.steps


@pytest.mark.parametrize("examples", [400])
def test_no_order_of_events_breaks_it(examples: int, tried: Counter[str]) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=60,
            deadline=None,
            derandomize=True,  # the same in every run; more of it: raise max_examples and take this away
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    tried["hypothesis worlds"] += totals["worlds"]
    tried["steps checked"] += totals["steps"]
