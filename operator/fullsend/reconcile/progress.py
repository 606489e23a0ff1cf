"""How it goes: what limits the campaign, when it goes on, whether it is stuck, and the status that says all this.

Invariant: the counters shown are the ledger's own and sum to ``total``; a status is made whole from what is, and from
the one before only the revision, transition times and (while the ledger can't be read) everything are kept.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fullsend.ledger.view import BreakerState, LedgerView
from fullsend.reconcile import breaker, conditions, senders
from fullsend.reconcile.conditions import ROWS, Look, is_true, trimmed
from fullsend.reconcile.observed import Desired, Observed
from fullsend.reconcile.situation import OVER, Situation, halted_for_person, too_many_rejected, went_back_id
from fullsend.resources.status import CampaignStatus, Halt, LimitedBy, PlanStatus, ProofStatus, share_done
from fullsend.states import DeliveryState

NO_PROGRESS = timedelta(minutes=10)
"""As long as a relay may take to answer one dot (RFC 5321 section 4.5.3.2); nothing settled for longer is odd."""
SLOW_RATES = 3
"""Under a rate slower than one message in NO_PROGRESS, so many expected intervals must pass."""
STARVED = timedelta(seconds=15)
"""A sender that asked in vain for more messages than the rates allow does so again within seconds: it is so since the
look before this one."""
SLOW_REPLY_MS = 1000
"""A relay that takes longer over a message is what the campaign waits for, whatever else there is."""


LEDGER_FACTS = (
    *(state.value for state in DeliveryState),
    *("total", "missing", "progress", "eligible", "learned_connections"),
    *("start_time", "completion_time", "plan", "proof"),
)
"""Fields of the status that come from the ledger alone; kept as they were while it can't be read."""


def fastest(desired: Desired) -> float | None:
    """Messages a second that all rates together allow; None without a rate."""
    if desired.control is None:
        return None
    rates = (*desired.control.rates, *desired.control.relay.rates)
    return min((rate.messages / rate.seconds for rate in rates), default=None)


def rate_per_second(observed: Observed, view: LedgerView, now: datetime) -> float:
    """Messages accepted a second since the sample the shell took earlier; 0 without one."""
    sample = observed.sample
    if sample is None or now <= sample.at:
        return 0.0
    gained = max(0, view.counts[DeliveryState.ACCEPTED] - sample.accepted)
    return round(gained / (now - sample.at).total_seconds(), 1)


def limited_by(situation: Situation, observed: Observed, now: datetime) -> LimitedBy | None:
    view = observed.view
    if situation in (Situation.LEDGER_UNREACHABLE, Situation.LEDGER_BROKEN):
        return LimitedBy.DATABASE
    if view is None:
        return None
    match situation:
        case Situation.SCHEDULED:
            return LimitedBy.SCHEDULE
        case Situation.AWAITING_APPROVAL:
            return LimitedBy.APPROVAL
        case Situation.WAITING:
            return LimitedBy.RELAY
        case Situation.HALTED | Situation.TRANSPORT_TROUBLE:
            return LimitedBy.BREAKER
        case Situation.SENDING:
            if breaker.effective_state(view.breaker, now) is not BreakerState.CLOSED:
                return LimitedBy.BREAKER
            if any(one.starved_at is not None and now - one.starved_at <= STARVED for one in view.sessions):
                return LimitedBy.RATE
            if view.outlet.learned is not None or slowest_reply(view) >= SLOW_REPLY_MS:
                return LimitedBy.RELAY
            return None
        case _:
            return None


def slowest_reply(view: LedgerView) -> int:
    """Milliseconds that the relay takes over a message, where it is slowest."""
    return max((session.reply_ms for session in view.sessions if not session.expired), default=0)


def reduced(view: LedgerView, now: datetime) -> tuple[str, str]:
    """Reason and message, where fewer connections are used than the transport's limits allow; ("", "") otherwise."""
    if breaker.effective_state(view.breaker, now) in (BreakerState.REDUCED, BreakerState.PROBING):
        return "TransportTrouble", trimmed(
            f"{view.breaker.reason}: {view.breaker.message}. More are used by themselves once messages are accepted"
        )
    if view.outlet.learned is not None:
        return "TooManyConnections", (
            f"the relay said that it takes no more than {view.outlet.learned} over all campaigns of the transport; one "
            f"more is tried now and then. It said: {trimmed(view.outlet.message)}"
        )
    return "", ""


def blocked(view: LedgerView) -> tuple[str, str]:
    """Reason and message, where recipients wait because their provider refuses; ("", "") otherwise."""
    if not view.breaker.blocked:
        return "", ""
    newest = view.breaker.blocked[-1]
    return newest.reason, trimmed(
        f"recipients at {', '.join(sorted(one.provider for one in view.breaker.blocked))} wait, the others are sent "
        f'to. {newest.message}. To go on with {newest.provider}, set spec.acknowledgedHalt to "{newest.id}"; else they '
        "expire at schedule.deadline, or spec.cancel ends them"
    )


def next_attempt(situation: Situation, desired: Desired, observed: Observed, now: datetime) -> datetime | None:
    """When the campaign goes on by itself; None while it goes on, is over, or waits for a person."""
    view = observed.view
    if view is None:
        return None
    match situation:
        case Situation.SCHEDULED:
            return desired.start_at
        case Situation.WAITING | Situation.AWAITING_APPROVAL:
            return view.next_due_at
        case Situation.PLANNING | Situation.PLAN_STALLED:
            later = senders.plan_retry_at(observed, view, now)
        case Situation.TRANSPORT_TROUBLE if breaker.effective_state(view.breaker, now) is BreakerState.HALTED:
            return view.breaker.next_probe_at
        case Situation.SENDING | Situation.TRANSPORT_TROUBLE if senders.live_sessions(view) == 0:
            later = senders.restart_at(observed, view, now)
        case _:
            return None
    return later if later > now else None


def no_progress(situation: Situation, desired: Desired, observed: Observed, now: datetime) -> str:
    """People are missing, nothing holds the campaign up, and yet nothing settles. "" otherwise.

    Counted from when the oldest sender started: before that there was nobody to make progress, and why there was
    nobody is said elsewhere (a wait, or ``SendersFailing``). Rows in the hands of no session at all count as well.
    """
    view = observed.view
    if situation is not Situation.SENDING or view is None:
        return ""
    live = [session.started_at for session in view.sessions if not session.expired]
    orphaned = not view.sessions and senders.sendable(desired, view) == 0
    if not live and not orphaned:
        return ""
    limit = fastest(desired)
    patience = NO_PROGRESS if limit is None else max(NO_PROGRESS, timedelta(seconds=SLOW_RATES / limit))
    begun = min(live) if live else view.first_armed_at
    since = max(filter(None, (begun, view.last_settled_at, view.breaker.since)), default=now)
    if now - since < patience:
        return ""
    return (
        f"recipients are open and none has settled since {since:%Y-%m-%d %H:%M:%S} UTC, though nothing holds the "
        + ("campaign up: look at the senders' logs" if live else "campaign up and no sender lives: run fullsend report")
    )


def build(
    situation: Situation, reason: str, message: str, desired: Desired, observed: Observed, now: datetime
) -> CampaignStatus:
    """The whole next status."""
    if situation is Situation.LEDGER_UNREACHABLE or (
        situation is Situation.LEDGER_BROKEN and is_true(observed.previous, "Finished")
    ):
        return _unreadable(reason, message, observed, now)
    view = observed.view
    look = Look(
        situation=situation,
        reason=reason,
        message=message,
        suspend=desired.suspend,
        senders_failing="" if view is None or situation in OVER else senders_trouble(situation, observed, view, now),
        no_progress=no_progress(situation, desired, observed, now),
        reduced=("", "") if view is None else reduced(view, now),
        blocked=("", "") if view is None else blocked(view),
        generation=desired.generation,
        previous=observed.previous,
        now=now,
    )
    status = CampaignStatus(
        observed_generation=desired.generation,
        state=ROWS[situation].state,
        conditions=conditions.conditions(look),
        revision=remembered(situation, observed),
        limited_by=limited_by(situation, observed, now),
        next_attempt_time=next_attempt(situation, desired, observed, now),
        halt=halt_shown(situation, desired, observed, message, now),
    )
    if view is None:
        return status.model_copy(update={name: getattr(observed.previous, name) for name in LEDGER_FACTS})
    return status.model_copy(
        update={
            **{state.value: view.counts[state] for state in DeliveryState},
            "total": view.counts.total,
            "missing": view.counts.missing,
            "progress": share_done(view.counts.total, view.counts.missing),
            "eligible": senders.eligible(view.counts),
            "rate_per_second": rate_per_second(observed, view, now),
            "learned_connections": view.outlet.learned,
            "start_time": view.first_armed_at,
            "completion_time": view.finished_at,
            "plan": plan_shown(view),
            "proof": proof_shown(view),
        }
    )


def senders_trouble(situation: Situation, observed: Observed, view: LedgerView, now: datetime) -> str:
    if situation not in (Situation.SENDING, Situation.TRANSPORT_TROUBLE, Situation.WAITING):
        return ""
    return senders.senders_failing(observed, view, now) or senders.senders_not_starting(observed, view, now)


def remembered(situation: Situation, observed: Observed) -> int:
    """The revision to compare the next look with. It goes down only by a person's acknowledgement."""
    revision = observed.view.revision if observed.view is not None else 0
    if situation in (Situation.LEDGER_WENT_BACK, Situation.LEDGER_BROKEN):
        return max(revision, observed.remembered_revision)
    return revision


def halt_shown(situation: Situation, desired: Desired, observed: Observed, message: str, now: datetime) -> Halt | None:
    """The halt a person can acknowledge, or the trouble that is being probed."""
    view = observed.view
    if situation is Situation.LEDGER_WENT_BACK:
        before = observed.previous.halt
        id_ = went_back_id(observed)
        since = before.since if before is not None and before.id == id_ else now
        return Halt(id=id_, reason="LedgerWentBack", message=message, since=since)
    if view is None or situation in OVER:
        return None
    by_person = situation is Situation.HALTED and not halted_for_person(view)
    if by_person and not too_many_rejected(desired, view):
        newest = view.breaker.blocked[-1]
        return Halt(id=newest.id, reason=newest.reason, message=trimmed(message), since=newest.since)
    if view.breaker.state is BreakerState.HALTED:
        return Halt(
            id=view.breaker.halt_id,
            reason=view.breaker.reason,
            message=trimmed(view.breaker.message),
            since=view.breaker.since,
            next_probe_time=view.breaker.next_probe_at,
        )
    if by_person:
        rejected = view.counts[DeliveryState.REJECTED]
        return Halt(id=breaker.rejection_halt_id(rejected), reason="TooManyRejected", message=message, since=now)
    return None


def plan_shown(view: LedgerView) -> PlanStatus | None:
    plan = view.plan
    if plan is None:
        return None
    return PlanStatus(
        state=plan.state.value,
        generation=plan.generation,
        rows_read=plan.rows_read,
        inserted=plan.inserted,
        duplicates=plan.duplicates,
        invalid=plan.invalid,
        suppressed=plan.suppressed,
        digest=plan.digest,
        render_checked=plan.render_checked,
        render_failed=plan.render_failed,
        sealed_at=plan.sealed_at,
        reason=plan.reason,
        message=trimmed(plan.message),
    )


def proof_shown(view: LedgerView) -> ProofStatus | None:
    proof = view.proof
    if proof is None:
        return None
    return ProofStatus(time=proof.at, digest=proof.digest, rows=proof.rows, holds=proof.holds)


def _unreadable(reason: str, message: str, observed: Observed, now: datetime) -> CampaignStatus:
    """What was true stays true. Only a campaign that never got further than its first look says why on Ready."""
    previous = observed.previous
    if previous.conditions:
        return previous.model_copy(update={"limited_by": LimitedBy.DATABASE, "next_attempt_time": None})
    look = Look(Situation.LEDGER_UNREACHABLE, reason, message, False, "", "", ("", ""), ("", ""), 0, previous, now)
    return previous.model_copy(
        update={"conditions": conditions.conditions(look), "state": "Pending", "limited_by": LimitedBy.DATABASE}
    )
