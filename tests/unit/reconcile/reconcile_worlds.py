"""Small worlds for the unit tests of ``reconcile``: a view, a wish, and short ways to change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fullsend.ledger.control import Control, RelayControl
from fullsend.ledger.view import (
    BreakerView,
    Counts,
    LedgerView,
    Owner,
    Phase,
    PlanState,
    PlanView,
    Proof,
    SessionView,
)
from fullsend.reconcile.decide import Decision, decide
from fullsend.reconcile.observed import Claimant, Desired, JobView, Observed
from fullsend.states import CampaignId, DeliveryState, SessionId

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
US = Claimant("cluster-1", "uid-1")
CONTROL = Control(relay=RelayControl(name="relay", host="relay.example", port=587))
STOPPED = CONTROL.model_copy(update={"stop": True})
S = DeliveryState


def ago(**delta: float) -> datetime:
    return NOW - timedelta(**delta)


def ahead(**delta: float) -> datetime:
    return NOW + timedelta(**delta)


def wish(**changes: Any) -> Desired:
    return replace(Desired(control=CONTROL, max_pods=4, connections=8), **changes)


def counts(**by_state: int) -> Counts:
    return Counts({DeliveryState(name): count for name, count in by_state.items()})


def sealed(**changes: Any) -> PlanView:
    plan = PlanView(generation=1, state=PlanState.SEALED, heartbeat_at=ago(hours=1), sealed_at=ago(hours=1))
    return replace(plan, **changes)


def view(by_state: Mapping[str, int] | None = None, **changes: Any) -> LedgerView:
    """A campaign of ours that is sending, with these counts (default: 100 pending)."""
    base = LedgerView(
        campaign=CampaignId(1),
        now=NOW,
        revision=10,
        phase=Phase.SENDING,
        fingerprint="f",
        owner=Owner(US.cluster, US.uid, ago(seconds=1), expired=False),
        plan=sealed(),
        counts=counts(**(by_state if by_state is not None else {"pending": 100})),
        sessions=(),
        breaker=BreakerView(),
        wave=0,
        control=CONTROL.to_json(),
        next_due_at=None,
        due_now=0,
        last_settled_at=None,
        first_armed_at=None,
        duplicates_possible=0,
        reopen=None,
        proof=None,
        finished_at=None,
    )
    return replace(base, **changes)


def registered(**changes: Any) -> LedgerView:
    return view({}, phase=Phase.REGISTERED, plan=None, control={}, **changes)


def session(number: int, *, wave: int = 1, expired: bool = False) -> SessionView:
    return SessionView(SessionId(number), wave, f"pod-{number}", ago(minutes=1), ago(seconds=2), expired, 8)


def job(wave: int, *, kind: str = "send", alive: bool = True, **changes: Any) -> JobView:
    made = JobView(f"{kind}-{wave}", kind, wave, alive, started_at=ago(seconds=30))  # type: ignore[arg-type]
    if not alive:
        made = replace(made, ended_at=ago(seconds=10), exit_code=0)
    return replace(made, **changes)


def proof_of(ledger: LedgerView, *, holds: bool = True, at: datetime | None = None) -> Proof:
    return Proof(at or ago(seconds=1), ledger.counts, ledger.counts.total, "0", holds)


def world(ledger: LedgerView | None, **changes: Any) -> Observed:
    return replace(Observed(us=US, view=ledger), **changes)


def look(desired: Desired, observed: Observed, now: datetime = NOW) -> Decision:
    return decide(desired, observed, now)


def after(decision: Decision, observed: Observed) -> Observed:
    """The same world with the decided status written."""
    return replace(observed, previous=decision.status)


def kinds(decision: Decision) -> list[str]:
    return [type(action).__name__ for action in decision.actions if type(action).__name__ != "Emit"]


def of_kind(decision: Decision, kind: type) -> Any:
    return next(action for action in decision.actions if isinstance(action, kind))
