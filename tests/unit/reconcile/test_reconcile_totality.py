"""Whatever the world is, ``decide`` answers, says the same at a second look, and needs nothing but its arguments."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from reconcile_worlds import CONTROL, NOW, STOPPED, job, look, proof_of, sealed, session, view

from fullsend.ledger.view import Blocked, BreakerState, BreakerView, Counts, Phase, PlanState, ReopenRequest
from fullsend.reconcile import actions as act
from fullsend.reconcile.observed import Claimant, DatabaseFault, DatabaseProblem, Desired, Observed, Reopen
from fullsend.resources.status import CampaignStatus
from fullsend.states import REOPENABLE, DeliveryState

times = st.one_of(st.none(), st.integers(-100_000, 100_000).map(lambda seconds: NOW + timedelta(seconds=seconds)))
states = st.sampled_from(DeliveryState)
reopenable = st.lists(st.sampled_from(sorted(REOPENABLE)), min_size=1, max_size=3).map(tuple)
breakers = st.builds(
    BreakerView,
    state=st.sampled_from(BreakerState),
    failures=st.integers(0, 9),
    connections=st.one_of(st.none(), st.integers(0, 20)),
    reason=st.sampled_from(["", "CannotConnect", "SenderRefused"]),
    since=times,
    next_probe_at=times,
    halt_id=st.sampled_from(["", "h-1", "too-many-rejected-3"]),
    needs_person=st.booleans(),
    blocked=st.sampled_from([(), (Blocked("a.example", "a.example-rejects-1", "ProviderRejects", "no", NOW, 5, 9),)]),
)
wishes = st.builds(
    Desired,
    generation=st.integers(1, 5),
    suspend=st.booleans(),
    cancel=st.booleans(),
    start_at=times,
    deadline=times,
    rollout_first=st.one_of(st.none(), st.integers(1, 9)),
    rollout_approved=st.booleans(),
    max_pods=st.integers(1, 5),
    connections=st.integers(1, 20),
    max_rejected=st.floats(0, 1),
    min_sample=st.integers(0, 9),
    acknowledged_halt=st.sampled_from(["", "h-1", "ledger-went-back-12", "too-many-rejected-3", "too-many-rejected-x"]),
    reopen=st.one_of(st.none(), st.builds(Reopen, id=st.sampled_from(["a", "b"]), states=reopenable)),
    control=st.sampled_from([None, CONTROL]),
    problems=st.sampled_from([(), ("gone",)]),
)


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    base = view()
    ledger = replace(
        base,
        revision=draw(st.integers(0, 20)),
        phase=draw(st.sampled_from(Phase)),
        owner=draw(
            st.sampled_from([None, base.owner, replace(base.owner, uid="x"), replace(base.owner, expired=True)])
        ),
        plan=draw(st.one_of(st.none(), st.builds(_plan, st.sampled_from(PlanState), times, st.integers(1, 40)))),
        counts=Counts(draw(st.dictionaries(states, st.integers(0, 3000)))),
        sessions=tuple(session(n, wave=n % 3, expired=draw(st.booleans())) for n in range(draw(st.integers(0, 3)))),
        breaker=draw(breakers),
        wave=draw(st.integers(0, 3)),
        control=draw(st.sampled_from([{}, CONTROL.to_json(), STOPPED.to_json(), {"relay": 1}])),
        next_due_at=draw(times),
        due_now=draw(st.integers(0, 5)),
        last_settled_at=draw(times),
        first_armed_at=draw(times),
        reopen=draw(
            st.one_of(st.none(), st.builds(ReopenRequest, st.just("a"), reopenable, st.just(NOW), times, st.just(0)))
        ),
        finished_at=draw(times),
    )
    if ledger.breaker.blocked:
        ledger = replace(ledger, blocked_only=draw(st.booleans()))
    if draw(st.booleans()):
        ledger = replace(ledger, proof=proof_of(ledger, holds=draw(st.booleans()), at=draw(times)))
    jobs = tuple(
        replace(
            job(n, kind=draw(st.sampled_from(["plan", "send"])), alive=draw(st.booleans())),
            exit_code=draw(st.sampled_from([None, 0, 1, 137])),
            ended_at=draw(times),
            stopping=draw(st.booleans()),
        )
        for n in range(draw(st.integers(0, 3)))
    )
    fault = draw(st.one_of(st.none(), st.sampled_from(DatabaseFault)))
    return Observed(
        us=Claimant("cluster-1", "uid-1"),
        view=None if fault is not None or draw(st.booleans()) else ledger,
        database_problem=DatabaseProblem(fault, "x") if fault is not None else None,
        conflict=draw(st.sampled_from([(), ("spec.message: x",)])),
        jobs=jobs,
        previous=CampaignStatus(revision=draw(st.integers(0, 20))),
        seen_revision=draw(st.integers(0, 20)),
    )


def _plan(state: PlanState, heartbeat: datetime | None, generation: int) -> object:
    return sealed(state=state, heartbeat_at=heartbeat or NOW, generation=generation)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(wishes, worlds())
def test_it_answers_every_world_and_twice_the_same(desired: Desired, observed: Observed) -> None:
    decision = look(desired, observed)
    again = look(desired, observed)
    assert decision == again
    assert timedelta(seconds=1) <= decision.look_again <= timedelta(minutes=10)
    status = decision.status
    assert sum(getattr(status, state.value) for state in DeliveryState) == status.total
    settled = look(desired, replace(observed, previous=status, seen_revision=status.revision))
    assert settled.status == status
    assert not any(isinstance(action, act.Emit) for action in settled.actions)
    kinds = {type(action) for action in decision.actions}
    assert not ({act.EnsureSenders} <= kinds and kinds & {act.EndRows, act.Finish, act.Prove})
    assert not {act.Prove, act.Finish} <= kinds


def test_nothing_of_the_shells_or_the_database_is_imported() -> None:
    code = (
        "import fullsend.reconcile.decide, fullsend.reconcile.control, fullsend.reconcile.breaker, sys;"
        "loaded = {name.partition('.')[0] for name in sys.modules};"
        "print(*sorted(loaded & {'psycopg', 'kopf', 'kubernetes', 'aiosmtplib', 'yoyo'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
