"""From declared resources to what a tick and a sender look at: durations to seconds, percents to shares.

Invariant: a value the user left out arrives here as its documented default, and a secret as its name, never its value.
"""

from __future__ import annotations

from typing import Any

from fullsend.ledger.control import Control, Rate, RelayControl, RetryControl
from fullsend.reconcile.observed import Desired, Reopen, Tolerance
from fullsend.resources.base import Rate as DeclaredRate
from fullsend.resources.base import SecretRef, parse_duration, parse_percent
from fullsend.resources.campaign import CampaignSpec, Retry, Tolerate
from fullsend.resources.resolve import ResolvedCampaign
from fullsend.resources.transport import MailTransportSpec, Pipelining, ReplyRule, TlsMode
from fullsend.states import DeliveryState


def desired_from(resolved: ResolvedCampaign, *, generation: int = 1, emergency_stop: bool = False) -> Desired:
    """A campaign whose references are all there. ``emergency_stop``: the suspend annotation, against Git's will."""
    transport = resolved.transport
    control = control_for(resolved)
    return _desired(resolved.spec, generation, emergency_stop, control, transport.spec.limits.connections, problems=())


def desired_unresolved(
    spec: CampaignSpec, problems: tuple[str, ...], *, generation: int = 1, emergency_stop: bool = False
) -> Desired:
    """A campaign that names something that is not there or can't be used: it can still be suspended and cancelled."""
    return _desired(spec, generation, emergency_stop, None, 1, problems=problems)


def control_for(resolved: ResolvedCampaign) -> Control:
    """What a sender that may send is to obey; ``decide`` sets stop, cancel and fresh_limit."""
    spec, transport = resolved.spec, resolved.transport
    return Control(
        start_at=spec.schedule.start_at,
        deadline=spec.schedule.deadline,
        relay=relay_control(
            transport.name, transport.spec, return_path=resolved.message.return_path or resolved.message.from_.address
        ),
        retry=retry_control(spec.retry),
        rates=_rates(spec.limits.rates),
        max_rejected=parse_percent(spec.failure_policy.max_rejected),
        min_sample=spec.failure_policy.min_sample,
    )


def relay_control(name: str, transport: MailTransportSpec, *, return_path: str) -> RelayControl:
    smtp, limits = transport.smtp, transport.limits
    return RelayControl(
        name=name,
        host=smtp.host,
        port=smtp.port,
        tls="Off" if smtp.tls is TlsMode.DISABLED else smtp.tls.value,
        pipelining="Off" if smtp.pipelining is Pipelining.DISABLED else smtp.pipelining.value,
        credentials_secret=_secret(smtp.credentials_secret_ref),
        ca_secret=_secret(smtp.ca_secret_ref),
        server_name=smtp.server_name or "",
        helo_name=smtp.helo_name or "",
        auth_mechanism=smtp.auth_mechanism.value if smtp.auth_mechanism is not None else "",
        connections=limits.connections,
        messages_per_connection=limits.messages_per_connection,
        return_path=return_path,
        verp=smtp.verp,
        connect_timeout=_seconds(smtp.timeouts.connect),
        reply_timeout=_seconds(smtp.timeouts.reply),
        dot_timeout=_seconds(smtp.timeouts.dot),
        reply_rules=tuple(_reply_rule(rule) for rule in transport.reply_rules),
        rates=_rates(limits.rates),
        pool=limits.pool or "",
    )


def retry_control(retry: Retry) -> RetryControl:
    return RetryControl(
        min_backoff=_seconds(retry.min_backoff),
        max_backoff=_seconds(retry.max_backoff),
        expire_after=_seconds(retry.expire_after),
        max_unknown_resends=retry.max_unknown_resends,
    )


def _desired(
    spec: CampaignSpec,
    generation: int,
    emergency_stop: bool,
    control: Control | None,
    connections: int,
    *,
    problems: tuple[str, ...],
) -> Desired:
    return Desired(
        generation=generation,
        suspend=spec.suspend or emergency_stop,
        cancel=spec.cancel,
        start_at=spec.schedule.start_at,
        deadline=spec.schedule.deadline,
        rollout_first=spec.rollout.first if spec.rollout is not None else None,
        rollout_approved=spec.rollout is not None and spec.rollout.approved,
        max_pods=spec.senders.max_pods,
        connections=connections,
        max_rejected=parse_percent(spec.failure_policy.max_rejected),
        min_sample=spec.failure_policy.min_sample,
        tolerance=_tolerance(spec.completion.tolerate),
        acknowledged_halt=spec.acknowledged_halt or "",
        reopen=Reopen(spec.reopen.id, tuple(DeliveryState(state.value) for state in spec.reopen.states))
        if spec.reopen is not None
        else None,
        control=control,
        problems=problems,
    )


def _tolerance(tolerate: Tolerate) -> Tolerance:
    return Tolerance(
        (
            (DeliveryState.EXPIRED, parse_percent(tolerate.expired)),
            (DeliveryState.UNRENDERABLE, parse_percent(tolerate.unrenderable)),
            (DeliveryState.HELD, parse_percent(tolerate.held)),
        )
    )


def _rates(rates: tuple[DeclaredRate, ...]) -> tuple[Rate, ...]:
    return tuple(Rate(messages=rate.messages, seconds=rate.seconds) for rate in rates)


def _reply_rule(rule: ReplyRule) -> dict[str, Any]:
    return rule.model_dump(mode="json", exclude_none=True)


def _secret(reference: SecretRef | None) -> str:
    return reference.name if reference is not None else ""


def _seconds(duration: str) -> float:
    return parse_duration(duration).total_seconds()
