"""From what the relay did to what the ledger records and what the breaker is told.

Only the recipient's own failures are charged to the recipient (invariant 5): every outcome that speaks of the
connection, the transport, the sender or the message leaves the row due again, uncharged, and is judged over a sample
of recent recipients before anything is stopped. Pure but for the dice of the backoff.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from fullsend.ledger.control import RetryControl
from fullsend.ledger.sessions import Claimed, Record
from fullsend.reconcile import breaker
from fullsend.reconcile.breaker import Trouble
from fullsend.reconcile.rejections import provider_of
from fullsend.sender.hand import Armed
from fullsend.smtp.classify import Verdict as ReplyVerdict
from fullsend.smtp.classify import classify
from fullsend.smtp.outcome import Accepted, Outcome, Refused, Stage, Unknown, Unsent
from fullsend.smtp.reply import Reply
from fullsend.smtp.rules import Charge, Rule
from fullsend.states import DeliveryState, Seq

POISON_AFTER = 3
"""Connections that one address may break, or refusals that speak of the relay that it may meet, while others pass in
between, before it is charged for them."""

ALONE_AFTER = 10
"""Attempts without a verdict after which a row that is alone in its trouble is charged, though nobody is left to pass
in between: no row stays for ever."""

PERSISTENT = 6
"""Tries at which one recipient met "not now, and it is the sender" before that is taken for a no: by a backoff that
doubles from 15 minutes, some eight hours. Until then it may be greylisting, or a limit that passes."""

CHARGED_BEFORE = 3
"""Charges after which a message that is refused for good is not tried again by a sender that had no part in them."""

QUOTA_EXCEEDED = "QuotaExceeded"
"""What ``rules.toml`` calls a limit of our account at the relay."""

JITTER = 0.25
"""Backoff is stretched by up to this share, upward only: never sooner than the relay was promised."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to record of one outcome; what to tell the breaker; whom of those refused before to try again after all
    (identity hashes); whether the connection is at its end although the relay keeps it open; ``domain``: the
    recipient's."""

    record: Record
    trouble: Trouble | None = None
    reopen: tuple[bytes, ...] = ()
    hang_up: bool = False
    domain: str = ""


def backoff(retry: RetryControl, charged: int, dice: random.Random) -> float:
    """Seconds to wait after the ``charged``-th charged failure (from 1): doubling, capped, jitter upward."""
    base = min(retry.max_backoff, retry.min_backoff * 2.0 ** min(max(charged, 1) - 1, 30))
    return base * (1 + JITTER * dice.random())


def _in_vain(claimed: Claimed) -> int:
    """Tries that came to nothing and were charged to nobody."""
    return claimed.attempts - claimed.charges - claimed.unknowns


class Judge:
    """Judges outcomes one by one; remembers the recent ones of this sender, and which address broke what."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()  # noqa: S311 - jitter, not a secret
        self._sample: tuple[breaker.Verdict, ...] = ()
        self._bare: list[bytes] = []  # refused for good at RCPT without a recipient's reason since the last accept
        self._accepts = 0
        self._accepted_by: deque[str] = deque(maxlen=breaker.SAMPLE)  # providers of those accepted last
        self._refused_us: Counter[str] = Counter()  # refusals of the sender since the provider's last accept
        self._content: set[Seq] = set()  # refused for good as a message, by this sender
        self._troubled: set[Seq] = set()  # met with trouble that may be the relay's since the last accept
        self._put_off: set[Seq] = set()  # refused for now as a message since the last accept
        self._breaks: dict[Seq, tuple[int, int]] = {}  # connections broken, and the accepts there were by then
        self._refusals: dict[Seq, tuple[int, int]] = {}  # the same of refusals that speak of the relay

    def judge(
        self,
        armed: Armed,
        outcome: Outcome,
        *,
        relay: str,
        took_ms: int,
        fresh: bool,
        retry: RetryControl,
        rules: Sequence[Rule],
        now: datetime,
    ) -> Judgement:
        """``fresh``: the connection has not had a message accepted yet. ``now``: by the ledger's clock."""
        base = _Recorder(armed, relay, took_ms, now)
        match outcome:
            case Accepted(reply):
                self._accepted(armed.hand.claimed.seq)
                provider = provider_of(armed.hand.claimed.domain)
                self._accepted_by.append(provider)
                self._refused_us.pop(provider, None)
                return Judgement(base.record(DeliveryState.ACCEPTED, "Accepted", stage="DOT", reply=reply, sent=True))
            case Unknown():
                return self._unknown(base, outcome, retry)
            case Unsent():
                return self._unsent(base, outcome, retry, fresh=fresh)
            case Refused():
                return self._refused(base, outcome, classify(outcome, rules), retry, fresh=fresh)
            case _:
                assert_never(outcome)

    def _accepted(self, seq: Seq) -> None:
        self._sample = breaker.remember(self._sample, breaker.Verdict.ACCEPTED)
        self._bare.clear()
        self._put_off.clear()
        self._troubled.clear()
        self._accepts += 1
        self._breaks.pop(seq, None)
        self._refusals.pop(seq, None)
        self._content.discard(seq)

    def _unknown(self, base: _Recorder, outcome: Unknown, retry: RetryControl) -> Judgement:
        self._sample = breaker.remember(self._sample, breaker.Verdict.OTHER)
        unknowns = base.claimed.unknowns + 1
        trouble = breaker.Unanswered(outcome.why)
        if unknowns > retry.max_unknown_resends:
            record = base.record(DeliveryState.HELD, "NoReplyAfterContent", stage="DOT", text=outcome.why, sent=True)
        else:
            delay = backoff(retry, unknowns, self._dice)
            record = base.record(
                DeliveryState.UNKNOWN, "NoReplyAfterContent", stage="DOT", text=outcome.why, sent=True, delay=delay
            )
        return Judgement(record, trouble)

    def _unsent(self, base: _Recorder, outcome: Unsent, retry: RetryControl, *, fresh: bool) -> Judgement:
        """The connection ended before this content. If that follows one address, others passing, it is the address.

        A connection that has carried messages may end: the next one tells whether the relay is in trouble.
        """
        named = outcome.stage in (Stage.RCPT, Stage.DATA) or (outcome.stage is Stage.MAIL and fresh)
        if named and self._follows(self._breaks, base.claimed):
            return Judgement(
                self._deferred_or_expired(base, "BreaksConnections", retry, stage=outcome.stage, text=outcome.why)
            )
        record = base.record(
            DeliveryState.DEFERRED,
            "ConnectionLost",
            stage=outcome.stage,
            reply=outcome.reply,
            text=outcome.why,
            delay=0.0,
        )
        return Judgement(record, breaker.ConnectionBroke(outcome.stage, outcome.why) if fresh else None)

    def _follows(self, seen: dict[Seq, tuple[int, int]], claimed: Claimed, *, alone: bool = True) -> bool:
        """One more trouble of this row: whether it follows the row, others passing in between, and is its own.

        A sender that meets nobody else can't tell. What others have learnt is in the ledger: a row that was charged
        and has been tried in vain as often as it takes is charged again, and any row after ``ALONE_AFTER`` such tries;
        but never while somebody else meets with the same, and never (``alone`` false) for what can't be a recipient's.
        """
        self._troubled.add(claimed.seq)
        in_vain = _in_vain(claimed)
        if (
            alone
            and self._troubled == {claimed.seq}
            and in_vain >= (POISON_AFTER - 1 if claimed.charges else ALONE_AFTER)
        ):
            return True
        count, accepts = seen.get(claimed.seq, (0, -1))
        if accepts != self._accepts:
            count += 1
            seen[claimed.seq] = (count, self._accepts)
        if count < POISON_AFTER:
            return False
        del seen[claimed.seq]
        return True

    def _relays(
        self, base: _Recorder, refused: Refused, verdict: ReplyVerdict, retry: RetryControl, trouble: Trouble | None
    ) -> Judgement:
        """A refusal that speaks of the relay or of the connection.

        Once the recipient was named it may be the recipient's all the same: such a row is not due at once, or it would
        come before everybody else again, and if the refusal follows it, others passing, it is charged.
        """
        self._remember(breaker.Verdict.OTHER)
        stage, reply = str(refused.stage), refused.reply
        hang_up = verdict.charge is Charge.CONNECTION
        if refused.stage not in (Stage.RCPT, Stage.DATA, Stage.DOT):
            return Judgement(base.untouched(verdict.reason, stage, reply), trouble, hang_up=hang_up)
        # A day's quota lasts for more tries than a row that is alone has, and says of itself whose it is.
        if self._follows(self._refusals, base.claimed, alone=verdict.reason != QUOTA_EXCEEDED):
            record = self._deferred_or_expired(base, "RefusedAsRelayTrouble", retry, stage=stage, reply=reply)
            return Judgement(record, hang_up=hang_up)
        record = base.untouched(verdict.reason, stage, reply, delay=backoff(retry, 1, self._dice))
        return Judgement(record, trouble, hang_up=hang_up)

    def _refused(
        self, base: _Recorder, refused: Refused, verdict: ReplyVerdict, retry: RetryControl, *, fresh: bool
    ) -> Judgement:
        stage, reply = str(refused.stage), refused.reply
        said = f"{reply.code} {reply.enhanced} {reply.text}"
        match verdict.charge:
            case Charge.RECIPIENT:
                return self._recipient(base, refused, verdict, retry)
            case Charge.CONNECTION:
                # At its end before it carried anything: if the next one is as well, the relay is in trouble.
                trouble = breaker.Refused(verdict.reason, said) if fresh else None
                return self._relays(base, refused, verdict, retry, trouble)
            case Charge.TRANSPORT:
                return self._relays(base, refused, verdict, retry, breaker.Refused(verdict.reason, said))
            case Charge.SENDER if not verdict.permanent and _in_vain(base.claimed) + 1 < PERSISTENT:
                return self._not_now(base, refused, verdict, retry)
            case Charge.SENDER:
                # Not due at once: the next recipient tells whether it is this provider or everybody.
                record = base.untouched(verdict.reason, stage, reply, delay=backoff(retry, 1, self._dice))
                if (provider := self._refuses_alone(base.claimed, refused.stage)) is not None:
                    return Judgement(record, self._provider(provider, said))
                self._remember(breaker.Verdict.SENDER)
                general = breaker.judge(self._sample, said)
                if general is None and not self._accepts and base.claimed.attempts + 1 >= breaker.RUN:
                    general = breaker.SenderRefused(said)  # those who are left are refused each time: no loop
                return Judgement(record, general)
            case Charge.MESSAGE:
                return self._message(base, refused, verdict, retry)
            case _:
                assert_never(verdict.charge)

    def _not_now(self, base: _Recorder, refused: Refused, verdict: ReplyVerdict, retry: RetryControl) -> Judgement:
        """The sender is refused for now, which heals by itself unless it persists; what is said of the sender is often
        greylisting of the recipient, once there is one, and then it says nothing of others while they pass."""
        stage, reply = str(refused.stage), refused.reply
        said = f"{reply.code} {reply.enhanced} {reply.text}"
        delay = backoff(retry, _in_vain(base.claimed) + 1, self._dice)
        trouble: Trouble | None = None
        if refused.stage not in (Stage.RCPT, Stage.DATA, Stage.DOT):
            self._remember(breaker.Verdict.OTHER)
            trouble = breaker.Refused(verdict.reason, said)
        else:
            self._remember(breaker.Verdict.RECIPIENT)
            if breaker.judge(self._sample, said) is not None:
                trouble = breaker.PutOff(said)
        return Judgement(base.untouched(verdict.reason, stage, reply, delay=delay), trouble)

    def _refuses_alone(self, claimed: Claimed, stage: Stage) -> str | None:
        """The provider, where it alone refuses this sender while others accept: then it is not everybody's trouble."""
        provider = provider_of(claimed.domain)
        if stage not in (Stage.RCPT, Stage.DATA, Stage.DOT):
            return None
        self._refused_us[provider] += 1
        others_accept = any(name != provider for name in self._accepted_by)
        return provider if others_accept and len(self._refused_us) == 1 else None

    def _provider(self, provider: str, said: str) -> Trouble | None:
        self._remember(breaker.Verdict.OTHER)
        count = self._refused_us[provider]
        if count < breaker.RUN:
            return None
        why = f"{provider} refuses this sender while others accept: {said}"
        return breaker.ProviderRefuses(provider, breaker.Reason.PROVIDER_REFUSES_SENDER, why, 0, count)

    def _message(self, base: _Recorder, refused: Refused, verdict: ReplyVerdict, retry: RetryControl) -> Judgement:
        """This recipient's copy is refused, or the campaign's content: for now, or for good.

        For good it is at the second try only, by this sender, which would have halted if it were everybody's; what
        other senders have seen is known by their charges. For now it is never: if it happens to others as well, the
        relay is in trouble, and no person is asked. Who was charged before, others passing, is no other: at the end of
        a list such recipients are among themselves.
        """
        stage, reply, seq = str(refused.stage), refused.reply, base.claimed.seq
        said = f"{reply.code} {reply.enhanced} {reply.text}"
        delay = backoff(retry, 1, self._dice)
        final = False
        if not verdict.permanent:
            self._remember(breaker.Verdict.OTHER)
            if not base.claimed.charges:
                self._put_off.add(seq)
            if len(self._put_off) >= breaker.RUN:
                trouble = breaker.Refused(verdict.reason, said)
                return Judgement(base.untouched(verdict.reason, stage, reply, delay=delay), trouble)
        else:
            self._remember(breaker.Verdict.MESSAGE)
            if (general := breaker.judge(self._sample, said)) is not None:
                return Judgement(base.untouched(verdict.reason, stage, reply, delay=delay), general)
            final = seq in self._content or base.claimed.charges >= CHARGED_BEFORE
            self._content.add(seq)
        if final:
            self._content.discard(seq)
            return Judgement(
                base.record(DeliveryState.REJECTED, verdict.reason, stage=stage, reply=reply, charged=True)
            )
        return Judgement(self._deferred_or_expired(base, verdict.reason, retry, stage=stage, reply=reply))

    def _recipient(self, base: _Recorder, refused: Refused, verdict: ReplyVerdict, retry: RetryControl) -> Judgement:
        """This mailbox, or, if nearly everybody gets such an answer without a recipient's reason, the relay.

        Refused for good that waits for a person, and those who were rejected in the run wait again. Refused for now it
        is transport trouble, which heals by itself; and who was charged before, others passing, says nothing of
        everybody: at the end of a list such recipients are among themselves.
        """
        stage, reply = str(refused.stage), refused.reply
        if not verdict.doubtful or (base.claimed.charges and not verdict.permanent):
            self._remember(breaker.Verdict.OTHER)
        else:
            self._remember(breaker.Verdict.RECIPIENT)
            if verdict.permanent:
                self._bare.append(base.claimed.identity_hash)
            said = f"{reply.code} {reply.text}"
            if (trouble := breaker.judge(self._sample, said)) is not None:
                if not self._bare:
                    delay = backoff(retry, 1, self._dice)
                    return Judgement(base.untouched(verdict.reason, stage, reply, delay=delay), breaker.PutOff(said))
                reopen = tuple(seen for seen in self._bare if seen != base.claimed.identity_hash)
                self._bare.clear()
                return Judgement(base.untouched("EveryoneRefused", stage, reply), trouble, reopen)
        if verdict.permanent:
            return Judgement(
                base.record(
                    DeliveryState.REJECTED,
                    verdict.reason,
                    stage=stage,
                    reply=reply,
                    charged=True,
                    feeds=verdict.feeds_suppression,
                )
            )
        return Judgement(self._deferred_or_expired(base, verdict.reason, retry, stage=stage, reply=reply))

    def _deferred_or_expired(
        self,
        base: _Recorder,
        reason: str,
        retry: RetryControl,
        *,
        stage: str,
        reply: Reply | None = None,
        text: str = "",
    ) -> Record:
        since = base.claimed.charged_since
        if since is not None and base.now - since >= timedelta(seconds=retry.expire_after):
            return base.record(DeliveryState.EXPIRED, reason, stage=stage, reply=reply, text=text, charged=True)
        delay = backoff(retry, base.claimed.charges + 1, self._dice)
        return base.record(
            DeliveryState.DEFERRED, reason, stage=stage, reply=reply, text=text, charged=True, delay=delay
        )

    def _remember(self, verdict: breaker.Verdict) -> None:
        self._sample = breaker.remember(self._sample, verdict)


class _Recorder:
    """Fills in what all records of one attempt share."""

    def __init__(self, armed: Armed, relay: str, took_ms: int, now: datetime) -> None:
        self._armed = armed
        self._relay = relay
        self._took_ms = took_ms
        self.now = now

    @property
    def claimed(self) -> Claimed:
        return self._armed.hand.claimed

    def record(
        self,
        state: DeliveryState,
        reason: str,
        *,
        stage: str,
        reply: Reply | None = None,
        text: str = "",
        sent: bool = False,
        charged: bool = False,
        delay: float | None = None,
        feeds: bool = False,
    ) -> Record:
        return Record(
            seq=self.claimed.seq,
            attempt=self._armed.hand.attempt,
            state=state,
            reason=reason,
            charged=charged,
            content_sent=sent,
            delay=delay,
            stage=stage,
            code=reply.code if reply else None,
            enhanced=reply.enhanced if reply else "",
            text=reply.text if reply else text,
            relay=self._relay,
            took_ms=self._took_ms,
            feed_suppression=feeds,
        )

    def untouched(self, reason: str, stage: str, reply: Reply, delay: float = 0.0) -> Record:
        """Due again, uncharged: what happened is not the recipient's."""
        return self.record(DeliveryState.DEFERRED, reason, stage=stage, reply=reply, delay=delay)
