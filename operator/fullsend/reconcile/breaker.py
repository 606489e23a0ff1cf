"""The circuit breaker of a campaign: trouble with the relay slows it down, then stops it, before recipients pay.

Pure step functions on ``BreakerView``: a sender or a shell reads the campaign's breaker under its row lock, applies
one step and writes the result, so that all pods share one breaker. A step that changes nothing returns the same
object. Invariant: trouble that can heal by itself is probed again by itself (one connection, at growing intervals);
a refusal of the sender, the message or everybody is never probed, it waits for a person.

                  trouble x3             trouble x3 at 1           trouble              probe time
    CLOSED ----------------> REDUCED ----------------> PROBING ---------> HALTED(30 s..15 min) ----> PROBING
       ^     halved each time  |  ^                       |                  ^
       |  doubled every 10 s   |  |      a success        |                  | the sender, the message or everyone
       +-----------------------+  +-----------------------+                  | refused; a probe without a reply after
                                                                             | 5 messages without: needs a person

The three are in a row, and so is each one after them: without a success in between, the connections are halved once
more. A trouble among successes is weather in ``REDUCED`` as in ``CLOSED``; else a relay that puts off one message in a
hundred, which a fast campaign meets more than once in ten seconds, would never be given its connections back.

Where everybody is only put off at RCPT it stays at ``PROBING``: one at a time is slow enough, and a halt would keep
each recipient of a greylisting relay waiting for a probe time of its own.

``PROBING`` after ``HALTED`` is never written by a clock: ``effective_state`` reads it off the probe time, so nobody has
to be alive at that moment.

How many recipients an unanswering relay can make ``unknown``: with C connections and k rows armed on each, the first
time-out finds up to C*k rows on the wire; a connection may arm again until the fifth report, and then one probe goes
out, because a relay that restarts leaves as many unanswered: at most C*k + 4*k + 1 rows become unknown before a person
is asked. (8 connections, k = 2: 25 rows.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from fullsend.ledger.view import Acknowledged, Blocked, BreakerState, BreakerView

# -- what can happen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """Connecting, greeting, TLS or authentication failed; no row was touched."""

    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class ConnectionBroke:
    """A connection that had been established ended before it carried anything; no row was touched."""

    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A reply charged to the transport (421, 4.3.x, quota texts): it says nothing of the recipient."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Content was on the wire and no final reply came: one more ``unknown`` row."""

    message: str


@dataclass(frozen=True, slots=True)
class SenderRefused:
    """The relay does not want this From: a sample of refusals charged to the sender (``judge`` made it)."""

    message: str


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """The relay does not want this content, from anyone to anyone (``judge`` made it)."""

    message: str


@dataclass(frozen=True, slots=True)
class EveryoneRefused:
    """Nearly everybody is refused at RCPT without a recipient's reason ("relay access denied")."""

    message: str


@dataclass(frozen=True, slots=True)
class PutOff:
    """Nearly everybody is asked to come again later, once named, without a word of why: the relay may be in trouble,
    or greylist each of them."""

    message: str


@dataclass(frozen=True, slots=True)
class TooManyRejected:
    """Clearly more of the recent recipients are rejected than ``failurePolicy`` allows (``rejections`` found it);
    ``rejected`` over the whole campaign, so far."""

    rejected: int
    message: str


@dataclass(frozen=True, slots=True)
class ProviderRefuses:
    """One receiving provider rejects its recipients, or this sender, while the others accept."""

    provider: str
    reason: str
    message: str
    rejected: int
    settled: int


Trouble = (
    ConnectFailed
    | ConnectionBroke
    | Refused
    | Unanswered
    | SenderRefused
    | MessageRefused
    | EveryoneRefused
    | PutOff
    | TooManyRejected
    | ProviderRefuses
)


class Reason(StrEnum):
    """Why the breaker is not closed; stable words for conditions and metrics."""

    CANNOT_CONNECT = "CannotConnect"
    CONNECTION_BROKE = "ConnectionBroke"
    RELAY_REFUSES = "RelayRefuses"
    NO_REPLY = "NoReplyAfterContent"
    SENDER_REFUSED = "SenderRefused"
    MESSAGE_REFUSED = "MessageRefused"
    EVERYONE_REFUSED = "EveryoneRefused"
    TOO_MANY_REJECTED = "TooManyRejected"
    LEDGER_WENT_BACK = "LedgerWentBack"
    PROVIDER_REJECTS = "ProviderRejects"
    PROVIDER_REFUSES_SENDER = "ProviderRefusesSender"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Thresholds. They are chosen, not measured: each says what it protects.

    ``connections`` is the transport's whole allowance, the starting point of the halving. Two lone troubles are
    weather; three without one success in between are a sign. Probes at 30 s doubling to 15 min find a mended relay
    within minutes and cost a broken one four connections an hour. ``unanswered_halt`` bounds possible duplicates.
    """

    connections: int = 8
    tolerated: int = 2
    first_probe: timedelta = timedelta(seconds=30)
    last_probe: timedelta = timedelta(minutes=15)
    recovery_step: timedelta = timedelta(seconds=10)
    unanswered_reduce: int = 3
    unanswered_halt: int = 5


DEFAULT_POLICY = BreakerPolicy()

MOST_BLOCKED = 50
"""Providers blocked at a time; beyond, the oldest is tried again: the campaign's document stays small."""

MOST_ACKNOWLEDGED = 100
"""Acknowledgements that are remembered; beyond, the oldest is asked for again."""

PROVIDER_IN_ID = 64
"""Characters of a provider's name in an id, which must fit into ``spec.acknowledgedHalt``."""

# -- steps -------------------------------------------------------------------------------------------------------


def effective_state(view: BreakerView, now: datetime) -> BreakerState:
    """The state at ``now``: a halt that heals by itself is probing from its probe time on."""
    if (
        view.state is BreakerState.HALTED
        and not view.needs_person
        and view.next_probe_at is not None
        and now >= view.next_probe_at
    ):
        return BreakerState.PROBING
    return view.state


def allowed_connections(view: BreakerView, now: datetime) -> int | None:
    """How many connections the whole campaign may hold open now; None: as many as the transport allows.

    While PROBING the one connection sends one message at a time.
    """
    state = effective_state(view, now)
    match state:
        case BreakerState.CLOSED:
            return None
        case BreakerState.REDUCED:
            return max(1, view.connections or 1)
        case BreakerState.PROBING:
            return 1
        case BreakerState.HALTED:
            return 0
        case _:
            assert_never(state)


def trouble(
    view: BreakerView, event: Trouble, now: datetime, *, halt_id: str, policy: BreakerPolicy = DEFAULT_POLICY
) -> BreakerView:
    """One trouble further. ``halt_id`` names the halt if this step is the one that halts (any unique short text)."""
    match event:
        case ConnectFailed(stage, message):
            return _transport(view, Reason.CANNOT_CONNECT, f"{stage}: {message}", now, halt_id, policy)
        case ConnectionBroke(stage, message):
            words = f"the connection to the relay broke at {stage}: {message}"
            return _transport(view, Reason.CONNECTION_BROKE, words, now, halt_id, policy)
        case Refused(reason, message):
            return _transport(view, Reason.RELAY_REFUSES, f"{reason}: {message}", now, halt_id, policy)
        case Unanswered(message):
            return _unanswered(view, message, now, halt_id, policy)
        case SenderRefused(message):
            return halt(view, Reason.SENDER_REFUSED, message, now, halt_id=halt_id)
        case MessageRefused(message):
            return halt(view, Reason.MESSAGE_REFUSED, message, now, halt_id=halt_id)
        case EveryoneRefused(message):
            return halt(view, Reason.EVERYONE_REFUSED, message, now, halt_id=halt_id)
        case PutOff(message):
            return _put_off(view, message, now, halt_id, policy)
        case TooManyRejected(rejected, message):
            return halt(view, Reason.TOO_MANY_REJECTED, message, now, halt_id=rejection_halt_id(rejected))
        case ProviderRefuses():
            return _block(view, event, now, halt_id)
        case _:
            assert_never(event)


def success(view: BreakerView, now: datetime, *, policy: BreakerPolicy = DEFAULT_POLICY) -> BreakerView:
    """A message was accepted. Connections come back by doubling, at most one step every ``recovery_step``."""
    state = effective_state(view, now)
    match state:
        case BreakerState.CLOSED:
            return view if view.failures == 0 else _at_rest(view)
        case BreakerState.HALTED:
            return view  # a reply still in flight when the breaker halted proves nothing about the next message
        case BreakerState.PROBING:
            if policy.connections <= 1:
                return _at_rest(view)
            return replace(
                view,
                state=BreakerState.REDUCED,
                failures=0,
                connections=1,
                since=now,
                next_probe_at=None,
                halt_id="",
            )
        case BreakerState.REDUCED:
            if view.since is not None and now - view.since < policy.recovery_step:
                return view if view.failures == 0 else replace(view, failures=0)
            doubled = 2 * max(1, view.connections or 1)
            if doubled >= policy.connections:
                return _at_rest(view)
            return replace(view, failures=0, connections=doubled, since=now)
        case _:
            assert_never(state)


def halt(
    view: BreakerView, reason: str, message: str, now: datetime, *, halt_id: str, needs_person: bool = True
) -> BreakerView:
    """Stop everything until a person acknowledges, or (``needs_person`` false) until the first probe time.

    The first halt that needs a person stays: its id is what the person was shown.
    """
    if view.state is BreakerState.HALTED and (view.needs_person or not needs_person):
        return view
    return replace(
        _at_rest(view),
        state=BreakerState.HALTED,
        failures=view.failures + 1,
        connections=1,
        reason=reason,
        message=message,
        since=now,
        next_probe_at=None if needs_person else now + DEFAULT_POLICY.first_probe,
        halt_id=halt_id,
        needs_person=needs_person,
    )


def _at_rest(view: BreakerView) -> BreakerView:
    """All is well, but for the providers that are apart."""
    return BreakerView(blocked=view.blocked, acknowledged=view.acknowledged)


def _block(view: BreakerView, event: ProviderRefuses, now: datetime, halt_id: str) -> BreakerView:
    """The provider's recipients wait; those of others are sent to. Who is blocked stays so under the same id.

    Whoever has said that a provider may go on rejecting is not asked again; but one that still refuses this sender
    has not been mended, and is blocked anew under an id that nobody has acknowledged.
    """
    if any(one.provider == event.provider for one in view.blocked):
        return view
    rejects = event.reason == Reason.PROVIDER_REJECTS
    if rejects and may_reject(view, event.provider):
        return view
    id_ = f"{event.provider[:PROVIDER_IN_ID]}-{'rejects' if rejects else 'refuses'}-{halt_id}"
    one = Blocked(event.provider, id_, event.reason, event.message, now, event.rejected, event.settled)
    return replace(view, blocked=(*view.blocked, one)[-MOST_BLOCKED:])


def may_reject(view: BreakerView, provider: str) -> bool:
    """Whether a person has said that this provider is to be sent to although it rejects."""
    return any(one.id.rpartition("-rejects-")[0] == provider[:PROVIDER_IN_ID] for one in view.acknowledged)


def acknowledge(view: BreakerView, halt_id: str, now: datetime) -> BreakerView:
    """A person says "go on" to exactly the halt they were shown. It goes on carefully: one probing connection. A
    provider that was blocked is sent to like the others."""
    known = next((one for one in view.blocked if one.id == halt_id), None)
    if known is not None:
        left = tuple(one for one in view.blocked if one is not known)
        return replace(_agreed(view, Acknowledged(halt_id, known.rejected)), blocked=left)
    if view.state is not BreakerState.HALTED or not halt_id or halt_id != view.halt_id:
        return view
    if view.reason == Reason.TOO_MANY_REJECTED:
        view = _agreed(view, Acknowledged(halt_id))
    return replace(
        _at_rest(view),
        state=BreakerState.PROBING,
        connections=1,
        reason=view.reason,
        message=f"acknowledged; was: {view.message}",
        since=now,
    )


def _agreed(view: BreakerView, one: Acknowledged) -> BreakerView:
    return replace(view, acknowledged=(*view.acknowledged, one)[-MOST_ACKNOWLEDGED:])


def _transport(
    view: BreakerView, reason: Reason, message: str, now: datetime, halt_id: str, policy: BreakerPolicy
) -> BreakerView:
    failures = view.failures + 1
    state = effective_state(view, now)
    match state:
        case BreakerState.HALTED:
            return view  # late reports of connections that broke together with the one that halted
        case BreakerState.PROBING:
            return _halt_until_probe(view, reason, message, now, halt_id, policy)
        case BreakerState.CLOSED | BreakerState.REDUCED if failures <= policy.tolerated:
            return replace(view, failures=failures, reason=reason, message=message)
        case BreakerState.CLOSED | BreakerState.REDUCED:
            held = policy.connections if view.connections is None else view.connections
            if held <= 1:
                return replace(
                    view,
                    state=BreakerState.PROBING,
                    failures=failures,
                    connections=1,
                    reason=reason,
                    message=message,
                    since=now,
                    next_probe_at=None,
                )
            return replace(
                view,
                state=BreakerState.REDUCED,
                failures=failures,
                connections=held // 2,
                reason=reason,
                message=message,
                since=now,
            )
        case _:
            assert_never(state)


def _put_off(view: BreakerView, message: str, now: datetime, halt_id: str, policy: BreakerPolicy) -> BreakerView:
    """Down to one message at a time, but no further: each of those who are greylisted must be tried once before any of
    them can pass, and who was put off waits by its own backoff."""
    if effective_state(view, now) is not BreakerState.PROBING:
        return _transport(view, Reason.RELAY_REFUSES, message, now, halt_id, policy)
    if view.state is BreakerState.PROBING:
        return view
    return replace(
        _at_rest(view),
        state=BreakerState.PROBING,
        failures=view.failures,
        connections=1,
        reason=Reason.RELAY_REFUSES,
        message=message,
        since=now,
    )


def _unanswered(view: BreakerView, message: str, now: datetime, halt_id: str, policy: BreakerPolicy) -> BreakerView:
    state = effective_state(view, now)
    if state is BreakerState.HALTED:
        return view  # armed before the halt; whoever was shown a halt keeps seeing that one
    if state is BreakerState.PROBING:
        if view.reason == Reason.NO_REPLY:  # probing again and again would cost a possible duplicate each time
            return halt(replace(view, state=state), Reason.NO_REPLY, message, now, halt_id=halt_id)
        return _halt_until_probe(view, Reason.NO_REPLY, message, now, halt_id, policy)
    run = view.failures + 1 if view.reason == Reason.NO_REPLY else 1
    if run >= policy.unanswered_halt:
        return _halt_until_probe(view, Reason.NO_REPLY, message, now, halt_id, policy)
    if run >= policy.unanswered_reduce:
        return replace(
            view,
            state=BreakerState.REDUCED,
            failures=run,
            connections=1,
            reason=Reason.NO_REPLY,
            message=message,
            since=now,
        )
    return replace(view, failures=run, reason=Reason.NO_REPLY, message=message)


def _halt_until_probe(
    view: BreakerView, reason: Reason, message: str, now: datetime, halt_id: str, policy: BreakerPolicy
) -> BreakerView:
    delay = policy.first_probe
    if view.next_probe_at is not None and view.since is not None:  # the probe of an earlier halt failed
        delay = min(policy.last_probe, 2 * (view.next_probe_at - view.since))
    return replace(
        _at_rest(view),
        state=BreakerState.HALTED,
        failures=view.failures + 1,
        connections=1,  # what it goes on with: shares are counted from it once the probe time has come
        reason=reason,
        message=message,
        since=now,
        next_probe_at=now + delay,
        halt_id=halt_id,
    )


# -- judging a sample ----------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What one message taught about the sender, the content and the recipients in general."""

    ACCEPTED = "accepted"
    RECIPIENT = "recipient"  # refused at RCPT, no recipient's reason given
    SENDER = "sender"
    MESSAGE = "message"
    OTHER = "other"  # says nothing in general (mailbox full, greylisted, unknown)


SAMPLE = 50
"""Verdicts a sender remembers. 50 at a time see a provider that refuses one message in five."""
RUN = 3
"""This many refusals of sender or content without an accept in between: the next ones will be refused too."""
SHARE = 0.2
EVERYONE_RUN = 10
"""Bare refusals at RCPT in a row before "everybody" is believed; a list's bad start rarely has ten strangers."""


def remember(sample: Sequence[Verdict], verdict: Verdict) -> tuple[Verdict, ...]:
    """The sample with one more verdict, newest last, at most ``SAMPLE`` long."""
    return (*sample[-(SAMPLE - 1) :], verdict)


def judge(sample: Sequence[Verdict], message: str) -> Trouble | None:
    """Is this the sender's, the message's or everybody's trouble, judged by what happened to the last recipients?

    ``message`` is the newest refusal's text. Each sender process judges its own sample, so before a halt at most
    pods x ``RUN`` rows (they wait, uncharged), or for bare RCPT refusals pods x ``EVERYONE_RUN`` rows, are touched.
    """
    if not sample:
        return None
    newest = sample[-1]
    match newest:
        case Verdict.SENDER if _general(sample, Verdict.SENDER):
            return SenderRefused(message)
        case Verdict.MESSAGE if _general(sample, Verdict.MESSAGE):
            return MessageRefused(message)
        case Verdict.RECIPIENT if _run(sample, Verdict.RECIPIENT) >= EVERYONE_RUN:
            return EveryoneRefused(message)
        case _:
            return None


def _run(sample: Sequence[Verdict], verdict: Verdict) -> int:
    """How many of ``verdict`` since the last accept."""
    count = 0
    for seen in reversed(sample):
        if seen is Verdict.ACCEPTED:
            break
        count += seen is verdict
    return count


def _general(sample: Sequence[Verdict], verdict: Verdict) -> bool:
    if _run(sample, verdict) >= RUN:
        return True
    return len(sample) >= SAMPLE and sum(seen is verdict for seen in sample[-SAMPLE:]) >= SHARE * SAMPLE


def rejection_halt_id(rejected: int) -> str:
    """The id of a halt by ``failurePolicy``. It carries the count, so that an acknowledgement covers what the person
    saw: the policy asks again only when twice as many have been rejected."""
    return f"too-many-rejected-{rejected}"


def rejections_acknowledged(acknowledged: Iterable[str], rejected: int) -> bool:
    """Whether one of these ids (spec.acknowledgedHalt and what the ledger remembers) covers this many rejections."""
    for one in acknowledged:
        prefix, _, count = one.rpartition("-")
        if prefix == "too-many-rejected" and count.isdigit() and rejected < 2 * int(count):
            return True
    return False
