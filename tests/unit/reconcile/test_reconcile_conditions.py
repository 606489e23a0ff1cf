"""Conditions read as Flux, Argo CD and ``kubectl wait`` read them, and the printed table is the one that is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from reconcile_worlds import (
    NOW,
    STOPPED,
    after,
    ago,
    ahead,
    counts,
    look,
    proof_of,
    registered,
    sealed,
    session,
    view,
    wish,
    world,
)

from fullsend.ledger.view import BreakerState, BreakerView, LedgerView, OutletView, Phase, SessionView
from fullsend.reconcile.actions import Emit
from fullsend.reconcile.conditions import ROWS, condition_table, find
from fullsend.reconcile.observed import DatabaseFault, DatabaseProblem, Desired, Observed, Sample
from fullsend.reconcile.situation import Situation
from fullsend.resources.status import CampaignStatus

HALTED = BreakerView(
    state=BreakerState.HALTED, reason="SenderRefused", message="5.7.1", halt_id="h", needs_person=True, since=NOW
)
WAITS = BreakerView(
    state=BreakerState.HALTED, reason="CannotConnect", message="refused", halt_id="h", next_probe_at=ahead(minutes=1)
)
GONE = ("MailTransport relay is not there",)


def remembering(revision: int, ledger: LedgerView | None) -> Observed:
    return world(ledger, previous=CampaignStatus(revision=revision))


def failed_plan() -> LedgerView:
    from fullsend.ledger.view import PlanState

    return replace(registered(), plan=sealed(state=PlanState.FAILED, generation=3, message="no route"))


def unproven() -> LedgerView:
    done = view({"accepted": 5})
    return replace(done, proof=replace(proof_of(done, holds=False), counts=counts(accepted=4)))


def foreign() -> LedgerView:
    owner = view().owner
    assert owner is not None
    return view(owner=replace(owner, uid="another"))


EXAMPLES: Mapping[Situation, tuple[Desired, Observed]] = {
    Situation.LEDGER_UNREACHABLE: (
        wish(),
        world(None, database_problem=DatabaseProblem(DatabaseFault.UNREACHABLE, "refused")),
    ),
    Situation.LEDGER_BROKEN: (wish(), world(None, database_problem=DatabaseProblem(DatabaseFault.SCHEMA, "newer"))),
    Situation.LEDGER_WENT_BACK: (wish(), remembering(99, view())),
    Situation.OWNED_ELSEWHERE: (wish(), world(foreign())),
    Situation.CONFLICT: (wish(), world(view(), conflict=("spec.message: x",))),
    Situation.COMPLETE: (wish(), world(view({"accepted": 5}, phase=Phase.COMPLETE))),
    Situation.FAILED: (wish(), world(view({"expired": 5}, phase=Phase.FAILED))),
    Situation.CANCELLED: (wish(), world(view({"cancelled": 5}, phase=Phase.CANCELLED))),
    Situation.UNRESOLVED: (wish(control=None, problems=GONE), world(None)),
    Situation.REGISTERING: (wish(), world(None)),
    Situation.CANCELLING: (wish(cancel=True), world(view())),
    Situation.PLANNING: (wish(), world(registered())),
    Situation.PLAN_STALLED: (wish(), world(failed_plan())),
    Situation.NEVER_PLANNED: (wish(deadline=ago(minutes=1)), world(failed_plan())),
    Situation.FINISHING: (wish(), world(view({"accepted": 5}))),
    Situation.UNPROVEN: (wish(), world(unproven())),
    Situation.DRAINED: (wish(control=None, problems=GONE), world(view())),
    Situation.EXPIRING: (wish(deadline=ago(minutes=1)), world(view())),
    Situation.HALTED: (wish(), world(view(breaker=HALTED))),
    Situation.SUSPENDED: (wish(suspend=True), world(view())),
    Situation.SCHEDULED: (wish(start_at=ahead(hours=1)), world(view())),
    Situation.AWAITING_APPROVAL: (wish(rollout_first=5), world(view({"pending": 95, "accepted": 5}))),
    Situation.WAITING: (wish(), world(view({"deferred": 5}, next_due_at=ahead(minutes=9)))),
    Situation.TRANSPORT_TROUBLE: (wish(), world(view(breaker=WAITS))),
    Situation.SENDING: (wish(), world(view())),
}


def kstatus(status: CampaignStatus, generation: int) -> str:
    """As sigs.k8s.io/cli-utils computes it for a custom resource."""
    if status.observed_generation != generation:
        return "InProgress"
    by_type = {condition.type: condition.status for condition in status.conditions}
    if by_type.get("Reconciling") == "True":
        return "InProgress"
    if by_type.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if by_type.get("Ready") in ("False", "Unknown") else "Current"


@pytest.mark.parametrize("situation", Situation)
def test_every_situation_looks_as_its_row_says(situation: Situation) -> None:
    desired, observed = EXAMPLES[situation]
    decision = look(desired, observed)
    row = ROWS[situation]
    assert decision.situation is situation
    ready = find(decision.status, "Ready")
    assert ready is not None
    assert ready.status == row.ready
    assert ready.reason in row.reasons
    truths = {condition.type for condition in decision.status.conditions if condition.status == "True"}
    for type_, holds in (
        ("Finished", row.finished),
        ("Failed", row.failed),
        ("Reconciling", row.reconciling),
        ("Stalled", row.stalled),
        ("Halted", row.halted),
        ("Complete", row.complete == "True"),
    ):
        assert (type_ in truths) is holds, type_
    if situation is not Situation.LEDGER_UNREACHABLE:  # not looked at yet: observedGeneration stays behind
        assert kstatus(decision.status, 1) == row.kstatus
    assert all(
        condition.message or condition.status != "True" or situation is Situation.SENDING
        for condition in decision.status.conditions
        if condition.type in ("Stalled", "Halted", "Failed")
    )


@pytest.mark.parametrize("situation", Situation)
def test_an_unchanged_world_leaves_the_status_as_it_is(situation: Situation) -> None:
    desired, observed = EXAMPLES[situation]
    first = look(desired, observed)
    second = look(desired, after(first, observed), NOW)
    assert second.status == first.status
    later = look(desired, after(first, observed), NOW + timedelta(seconds=30))
    times = {condition.type: condition.last_transition_time for condition in later.status.conditions}
    assert set(times.values()) == {NOW}


@pytest.mark.parametrize("situation", sorted(set(Situation) - {Situation.LEDGER_UNREACHABLE, Situation.LEDGER_BROKEN}))
def test_once_sending_only_what_a_person_must_mend_takes_ready_away(situation: Situation) -> None:
    _, observed = EXAMPLES[situation]
    if observed.view is None or observed.view.phase is Phase.REGISTERED:
        return
    row = ROWS[situation]
    assert row.ready == "True" or row.stalled


def test_the_printed_table_has_a_row_for_every_situation() -> None:
    header, *rows = condition_table()
    assert header == ("Situation", "Meaning", "Conditions", "kstatus")
    assert [row[0] for row in rows] == [situation.value for situation in ROWS]
    halted = next(row for row in rows if row[0] == "Halted")
    assert "Stalled=True" in halted[2]
    assert "SenderRefused" in halted[2]
    assert halted[3] == "Failed"


def test_a_transition_time_changes_with_the_status_and_not_with_the_reason() -> None:
    planning = look(wish(), world(registered()), ago(minutes=9))
    sending = look(wish(), after(planning, world(view())), ago(minutes=5))
    waiting = look(wish(), after(sending, world(view({"deferred": 1}, next_due_at=ahead(minutes=9)))), NOW)
    ready = [find(decision.status, "Ready") for decision in (planning, sending, waiting)]
    assert [condition.last_transition_time for condition in ready if condition] == [
        ago(minutes=9),
        ago(minutes=5),
        ago(minutes=5),
    ]
    assert [condition.reason for condition in ready if condition] == ["Planning", "Sending", "Waiting"]


def test_suspended_and_halted_are_false_afterwards_and_absent_before() -> None:
    observed = world(view(control=STOPPED.to_json()))
    assert find(look(wish(), observed).status, "Suspended") is None
    suspended = look(wish(suspend=True), observed)
    resumed = look(wish(), after(suspended, observed), ahead(minutes=5))
    condition = find(resumed.status, "Suspended")
    assert condition is not None
    assert (condition.status, condition.last_transition_time) == ("False", ahead(minutes=5))


def test_a_halted_and_suspended_campaign_shows_both() -> None:
    status = look(wish(suspend=True), world(view(breaker=HALTED))).status
    assert {c.type for c in status.conditions if c.status == "True"} == {"Stalled", "Suspended", "Halted"}


def test_conditions_carry_the_generation_they_were_judged_on() -> None:
    status = look(wish(generation=7), world(view())).status
    assert status.observed_generation == 7
    assert {condition.observed_generation for condition in status.conditions} == {7}


def test_a_status_survives_the_way_to_the_api_server_and_back() -> None:
    status = look(wish(), world(view({"accepted": 3, "rejected": 1}, phase=Phase.COMPLETE, finished_at=NOW))).status
    assert CampaignStatus.model_validate_json(status.model_dump_json(by_alias=True, exclude_none=True)) == status


def test_the_rate_is_what_was_gained_since_the_sample() -> None:
    observed = world(view({"pending": 1000, "accepted": 200}), sample=Sample(ago(seconds=10), 105))
    assert look(wish(), observed).status.rate_per_second == 9.5


def test_what_limits_a_campaign_that_is_being_sent_is_told_before_anybody_asks() -> None:
    def told(sender: SessionView, **changes: Any) -> tuple[str | None, str]:
        status = look(wish(), world(view(sessions=(sender,), **changes))).status
        ready = find(status, "Ready")
        assert ready is not None
        assert ready.reason == "Sending"
        return status.limited_by, ready.message

    assert told(session(1)) == (None, "")
    by, why = told(replace(session(1), starved_at=ago(seconds=3)))
    assert by == "Rate"
    assert "limits.rates" in why
    assert told(replace(session(1), starved_at=ago(seconds=30)))[0] is None
    by, why = told(replace(session(1), reply_ms=5000))
    assert by == "Relay"
    assert "limits.connections" in why
    by, why = told(session(1), outlet=OutletView(4, 4, ago(seconds=5), ago(seconds=-55), "421 too many connections"))
    assert by == "Relay"
    assert "421 too many connections" in why
    assert "over 4 connections" in why
    by, why = told(session(1), breaker=BreakerView(BreakerState.REDUCED, 3, 4, "RelayRefuses", "421 later"))
    assert by == "Breaker"
    assert "421 later" in why


def test_fewer_connections_are_a_condition_and_an_event_and_end_by_themselves() -> None:
    few = view(breaker=BreakerView(BreakerState.REDUCED, 3, 4, "RelayRefuses", "421 later", ago(seconds=1)))
    decision = look(wish(), world(few))
    reduced = find(decision.status, "ConnectionsReduced")
    assert reduced is not None
    assert (reduced.status, reduced.reason) == ("True", "TransportTrouble")
    assert [one for one in decision.actions if isinstance(one, Emit) and one.reason == "ConnectionsReduced"]
    again = look(wish(), world(few, previous=decision.status))
    assert not [one for one in again.actions if isinstance(one, Emit)]
    learned = view(outlet=OutletView(4, 4, ago(seconds=5), ago(seconds=-55), "421 too many connections"))
    after = look(wish(), world(learned, previous=decision.status)).status
    reduced = find(after, "ConnectionsReduced")
    assert reduced is not None
    assert (reduced.reason, after.learned_connections) == ("TooManyConnections", 4)
    assert find(look(wish(), world(view(), previous=after)).status, "ConnectionsReduced") is None
