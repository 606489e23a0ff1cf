"""What a sender records of an outcome, and whom it charges."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from datetime import UTC, datetime, timedelta

import pytest

from fullsend.ledger.control import RetryControl
from fullsend.ledger.sessions import Claimed
from fullsend.ledger.view import BreakerView
from fullsend.reconcile import breaker
from fullsend.sender.hand import Armed, InHand
from fullsend.sender.verdict import ALONE_AFTER, JITTER, PERSISTENT, POISON_AFTER, Judge, Judgement, backoff
from fullsend.smtp.outcome import Accepted, Outcome, Outgoing, Refused, Stage, Unknown, Unsent
from fullsend.smtp.reply import Reply
from fullsend.states import DeliveryState, Seq

RETRY = RetryControl(min_backoff=60.0, max_backoff=3600.0, expire_after=7200.0, max_unknown_resends=1)
OK = Accepted(Reply(250, "2.0.0", "queued as 1"))


def armed(
    seq: int = 1, *, attempts: int = 0, unknowns: int = 0, charges: int = 0, since: datetime | None = None
) -> Armed:
    claimed = Claimed(
        seq=Seq(seq),
        address=f"u{seq}@example.com",
        identity_hash=seq.to_bytes(16, "big"),
        variables="{}",
        token=f"t{seq}",
        domain="example.com",
        attempts=attempts,
        unknowns=unknowns,
        charges=charges,
        charged_since=since,
    )
    return Armed(InHand(claimed, Outgoing("a@b.example", claimed.address, b"x\r\n"), f"<t{seq}@x>"), since=0.0)


class Judged:
    """A judge with the same settings for every outcome."""

    def __init__(self) -> None:
        self.judge = Judge(random.Random(7))

    def __call__(
        self,
        row: Armed,
        outcome: Outcome,
        *,
        fresh: bool = True,
        now: datetime | None = None,
        retry: RetryControl = RETRY,
    ) -> Judgement:
        return self.judge.judge(
            row,
            outcome,
            relay="relay[1]:25",
            took_ms=3,
            fresh=fresh,
            retry=retry,
            rules=(),
            now=now or datetime.now(UTC),
        )


def refused(stage: Stage, code: int, enhanced: str, text: str) -> Refused:
    return Refused(stage, Reply(code, enhanced, text))


def test_accepted_is_recorded_with_the_relays_words():
    record = Judged()(armed(), OK).record
    assert (record.state, record.code, record.text, record.content_sent) == (
        DeliveryState.ACCEPTED,
        250,
        "queued as 1",
        True,
    )


def test_an_unknown_mailbox_is_rejected_charged_and_fed_to_suppression():
    judgement = Judged()(armed(), refused(Stage.RCPT, 550, "5.1.1", "no such user"))
    assert judgement.record.state is DeliveryState.REJECTED
    assert judgement.record.charged
    assert judgement.record.feed_suppression
    assert judgement.trouble is None


def test_greylisting_waits_and_is_charged():
    record = Judged()(armed(), refused(Stage.RCPT, 450, "4.2.0", "greylisted, try again later")).record
    assert record.state is DeliveryState.DEFERRED
    assert record.charged
    assert record.delay is not None
    assert 60.0 <= record.delay <= 60.0 * (1 + JITTER)


def test_a_charged_failure_past_its_time_expires_by_the_ledgers_clock():
    since = datetime(2030, 1, 1, tzinfo=UTC)
    row, said = armed(attempts=9, charges=9, since=since), refused(Stage.RCPT, 450, "4.2.0", "greylisted")
    late = since + timedelta(seconds=RETRY.expire_after)
    assert Judged()(row, said, now=late).record.state is DeliveryState.EXPIRED
    assert Judged()(row, said, now=late - timedelta(seconds=1)).record.state is DeliveryState.DEFERRED


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (421, "4.3.2", "service shutting down"),
        (454, "4.7.0", "temporary authentication failure"),
        (452, "4.5.3", "daily sending quota exceeded"),
        (451, "4.3.0", "local error in processing"),
    ],
)
def test_what_speaks_of_the_relay_leaves_the_row_uncharged(code: int, enhanced: str, text: str):
    since = datetime.now(UTC) - timedelta(days=30)
    record = Judged()(armed(attempts=50, charges=1, since=since), refused(Stage.MAIL, code, enhanced, text)).record
    assert record.state is DeliveryState.DEFERRED
    assert not record.charged


def test_a_refused_sender_is_no_recipients_fault_and_halts_after_a_run():
    judge = Judged()
    said = refused(Stage.MAIL, 550, "5.7.1", "this sender is not allowed here")
    judgements = [judge(armed(seq), said) for seq in range(1, breaker.RUN + 1)]
    assert all(not j.record.charged and j.record.state is DeliveryState.DEFERRED for j in judgements)
    assert [j.trouble for j in judgements[:-1]] == [None] * (breaker.RUN - 1)
    assert isinstance(judgements[-1].trouble, breaker.SenderRefused)


def test_unknown_is_resent_once_and_then_held():
    judge = Judged()
    first = judge(armed(), Unknown("connection lost")).record
    second = judge(armed(attempts=1, unknowns=1), Unknown("connection lost")).record
    assert (first.state, second.state) == (DeliveryState.UNKNOWN, DeliveryState.HELD)
    assert first.content_sent
    assert second.content_sent


def test_unanswered_content_is_told_to_the_breaker():
    assert isinstance(Judged()(armed(), Unknown("no reply")).trouble, breaker.Unanswered)


def test_a_lost_connection_before_the_content_touches_nobody():
    judgement = Judged()(armed(), Unsent("connection reset", None, Stage.RCPT))
    assert judgement.record.state is DeliveryState.DEFERRED
    assert judgement.record.delay == 0.0
    assert not judgement.record.charged
    assert isinstance(judgement.trouble, breaker.ConnectionBroke)


def test_the_end_of_a_connection_that_has_carried_messages_is_no_trouble():
    judgement = Judged()(armed(), Unsent("421 too many messages", None, Stage.MAIL), fresh=False)
    assert judgement.trouble is None
    assert judgement.record.delay == 0.0


def test_an_address_that_breaks_connections_while_others_pass_is_charged_by_name():
    judge = Judged()
    poison = armed(13)
    last = None
    for _ in range(POISON_AFTER):
        last = judge(poison, Unsent("connection closed", None, Stage.RCPT))
        judge(armed(1), OK)
    assert last is not None
    assert last.record.reason == "BreaksConnections"
    assert last.record.charged
    assert last.trouble is None


TROUBLES = pytest.mark.parametrize(
    "trouble",
    [
        Unsent("connection closed", None, Stage.RCPT),
        Unsent("connection closed", None, Stage.MAIL),
        refused(Stage.RCPT, 451, "4.3.0", "temporary lookup failure"),
        refused(Stage.RCPT, 452, "4.5.3", "too many recipients"),
    ],
)


@TROUBLES
def test_a_row_known_for_its_trouble_that_is_left_alone_is_charged_by_each_new_sender_until_it_expires(
    trouble: Outcome,
):
    since = datetime(2030, 1, 1, tzinfo=UTC)
    row = armed(13, attempts=POISON_AFTER, charges=1, since=since)
    judgement = Judged()(row, trouble, now=since)
    assert (judgement.record.state, judgement.record.charged) == (DeliveryState.DEFERRED, True)
    assert judgement.trouble is None
    late = since + timedelta(seconds=RETRY.expire_after)
    assert Judged()(row, trouble, now=late).record.state is DeliveryState.EXPIRED


@TROUBLES
def test_a_row_alone_from_the_start_is_charged_once_it_was_tried_often_enough(trouble: Outcome):
    assert not Judged()(armed(13, attempts=ALONE_AFTER - 1), trouble).record.charged
    assert Judged()(armed(13, attempts=ALONE_AFTER), trouble).record.charged


@TROUBLES
def test_rows_in_the_same_trouble_without_anybody_passing_are_not_charged_for_what_they_met_before(trouble: Outcome):
    judge = Judged()
    judge(armed(1), trouble)
    for _ in range(9):
        assert not judge(armed(13, attempts=40, charges=1), trouble).record.charged
        assert not judge(armed(14, attempts=40), trouble).record.charged


def test_a_connection_that_ends_between_messages_is_nobodys_however_often():
    judge = Judged()
    for n in range(POISON_AFTER * 3):
        row = armed(13, attempts=n)
        assert not judge(row, Unsent("421 too many messages", None, Stage.MAIL), fresh=False).record.charged
        judge(armed(100 + n), OK)


def test_a_relay_that_breaks_every_connection_charges_nobody():
    judge = Judged()
    for _ in range(POISON_AFTER * 3):
        judgement = judge(armed(13), Unsent("connection closed", None, Stage.RCPT))
        assert not judgement.record.charged


SPEAK_OF_THE_RELAY = [
    (550, "5.4.4", "no servers could be reached"),
    (451, "4.4.1", "connection to mx timed out"),
    (451, "4.3.0", "temporary lookup failure"),
    (452, "4.5.3", "too many recipients"),
]


@pytest.mark.parametrize(("code", "enhanced", "text"), SPEAK_OF_THE_RELAY)
def test_a_refusal_of_the_relay_that_follows_one_recipient_while_others_pass_is_charged_by_name(
    code: int, enhanced: str, text: str
):
    judge, said = Judged(), refused(Stage.RCPT, code, enhanced, text)
    judgements = []
    for n in range(POISON_AFTER):
        judgements.append(judge(armed(13), said, fresh=False))
        judge(armed(100 + n), OK)
    assert all(not j.record.charged and (j.record.delay or 0) >= RETRY.min_backoff for j in judgements[:-1])
    last = judgements[-1]
    assert (last.record.state, last.record.reason) == (DeliveryState.DEFERRED, "RefusedAsRelayTrouble")
    assert last.record.charged
    assert last.trouble is None


@pytest.mark.parametrize(("code", "enhanced", "text"), SPEAK_OF_THE_RELAY)
def test_a_relay_in_trouble_with_everybody_charges_nobody_and_is_told_of(code: int, enhanced: str, text: str):
    judge, said = Judged(), refused(Stage.RCPT, code, enhanced, text)
    for n in range(POISON_AFTER * 9):
        judgement = judge(armed(n % 9), said)
        assert not judgement.record.charged
        assert isinstance(judgement.trouble, breaker.Refused)


def test_only_a_refusal_of_the_connection_ends_the_connection():
    assert Judged()(armed(), refused(Stage.RCPT, 452, "4.5.3", "too many recipients")).hang_up
    assert Judged()(armed(), refused(Stage.MAIL, 452, "4.5.3", "too many messages in this session")).hang_up
    assert not Judged()(armed(), refused(Stage.RCPT, 451, "4.3.0", "temporary lookup failure")).hang_up
    used = Judged()(armed(), refused(Stage.RCPT, 452, "4.5.3", "too many recipients"), fresh=False)
    assert used.trouble is None


def test_when_everybody_is_refused_those_already_rejected_are_tried_again():
    judge = Judged()
    judgement = None
    for seq in range(1, breaker.EVERYONE_RUN + 1):
        judgement = judge(armed(seq), refused(Stage.RCPT, 550, "", "no"))
    assert judgement is not None
    assert isinstance(judgement.trouble, breaker.EveryoneRefused)
    assert judgement.record.state is DeliveryState.DEFERRED
    assert len(judgement.reopen) == breaker.EVERYONE_RUN - 1
    assert armed(breaker.EVERYONE_RUN).hand.claimed.identity_hash not in judgement.reopen


def test_an_accept_in_between_makes_bare_refusals_the_recipients_own():
    judge = Judged()
    for seq in range(1, breaker.EVERYONE_RUN * 3):
        judgement = judge(armed(seq), refused(Stage.RCPT, 550, "", "no"))
        assert judgement.record.state is DeliveryState.REJECTED
        if seq % 5 == 0:
            judge(armed(1000 + seq), OK)


def test_content_refused_once_is_tried_again_and_then_this_recipients_copy_is_rejected():
    judge = Judged()
    said = refused(Stage.DOT, 552, "5.3.4", "message too big")
    first = judge(armed(5), said)
    judge(armed(6), OK)
    second = judge(armed(5, attempts=1, charges=1), said)
    assert first.record.state is DeliveryState.DEFERRED
    assert first.record.charged
    assert second.record.state is DeliveryState.REJECTED


def test_a_message_that_was_armed_before_and_never_refused_is_not_rejected_at_its_first_refusal():
    judgement = Judged()(armed(5, attempts=4), refused(Stage.DOT, 552, "5.3.4", "message too big"))
    assert judgement.record.state is DeliveryState.DEFERRED


def test_content_refused_for_now_never_ends_a_recipient_before_its_time():
    judge, said = Judged(), refused(Stage.DOT, 451, "", "try again later")
    since = datetime(2030, 1, 1, tzinfo=UTC)
    for charges in range(9):
        judgement = judge(armed(5, attempts=charges, charges=charges, since=since), said, now=since)
        assert (judgement.record.state, judgement.record.charged) == (DeliveryState.DEFERRED, True)
        assert judgement.trouble is None
    late = since + timedelta(seconds=RETRY.expire_after)
    assert judge(armed(5, attempts=9, charges=9, since=since), said, now=late).record.state is DeliveryState.EXPIRED


def test_content_refused_for_now_to_everybody_is_the_relays_trouble_and_needs_no_person():
    judge, said = Judged(), refused(Stage.DOT, 451, "", "try again later")
    judgements = [judge(armed(seq), said) for seq in range(1, breaker.RUN * 4)]
    assert [j.trouble for j in judgements[: breaker.RUN - 1]] == [None] * (breaker.RUN - 1)
    assert all(isinstance(j.trouble, breaker.Refused) for j in judgements[breaker.RUN - 1 :])
    assert not any(j.record.charged for j in judgements[breaker.RUN - 1 :])


def test_a_charge_for_something_else_is_no_first_refusal_of_the_content():
    said = refused(Stage.DOT, 552, "5.3.4", "message too big")
    record = Judged()(armed(5, attempts=1, charges=1), said).record
    assert (record.state, record.charged) == (DeliveryState.DEFERRED, True)


def test_content_refused_for_good_to_one_recipient_ends_also_where_each_try_is_another_sender_s():
    said = refused(Stage.DOT, 552, "5.3.4", "message too big")
    states = [Judged()(armed(5, attempts=n, charges=n), said).record.state for n in range(4)]
    assert states == [DeliveryState.DEFERRED] * 3 + [DeliveryState.REJECTED]


def test_a_tail_of_recipients_whose_provider_refuses_the_sender_ends_in_a_halt_not_in_a_loop():
    said = refused(Stage.MAIL, 550, "5.7.1", "this sender is not allowed here")
    assert Judged()(armed(1, attempts=1), said).trouble is None
    assert isinstance(Judged()(armed(1, attempts=breaker.RUN - 1), said).trouble, breaker.SenderRefused)


@pytest.mark.parametrize("charged", [1, 2, 5, 30])
def test_backoff_doubles_up_to_its_cap_with_jitter_upward_only(charged: int):
    base = min(RETRY.max_backoff, RETRY.min_backoff * 2 ** (charged - 1))
    waits = [backoff(RETRY, charged, random.Random(seed)) for seed in range(100)]
    assert min(waits) >= base
    assert max(waits) <= base * (1 + JITTER)
    assert max(waits) > min(waits)


def test_an_unarmed_row_is_due_now_and_uncharged():
    record = armed(3).hand.not_sent("NotSent")
    assert (record.state, record.delay, record.charged, record.content_sent) == (
        DeliveryState.DEFERRED,
        0.0,
        False,
        False,
    )


def test_everybody_refused_for_now_without_a_reason_is_the_relays_trouble_and_needs_no_person():
    judged = Judged()
    later = refused(Stage.RCPT, 451, "", "try again later")
    judgements = [judged(armed(seq), later) for seq in range(1, breaker.EVERYONE_RUN + 1)]
    assert [judgement.trouble for judgement in judgements[:-1]] == [None] * (breaker.EVERYONE_RUN - 1)
    assert isinstance(judgements[-1].trouble, breaker.PutOff)
    assert not judgements[-1].record.charged
    assert judgements[-1].reopen == ()


@pytest.mark.parametrize(
    ("stage", "code", "enhanced", "text"),
    [
        (Stage.MAIL, 451, "4.7.1", "Greylisting in action, please come back later"),
        (Stage.MAIL, 451, "4.7.1", "Service unavailable - try again later"),
        (Stage.MAIL, 450, "4.7.1", "<news@example.com>: Sender address rejected: not now"),
        (Stage.RCPT, 451, "4.7.1", "<news@example.com>: Sender address rejected: unverified, try later"),
        (Stage.RCPT, 450, "4.7.26", "this mail is unauthenticated"),
        (Stage.DOT, 451, "4.7.26", "this mail is unauthenticated"),
    ],
)
def test_a_sender_that_is_refused_for_now_waits_and_no_person_is_asked_unless_it_persists(
    stage: Stage, code: int, enhanced: str, text: str
):
    judged, said = Judged(), refused(stage, code, enhanced, text)
    for seq in range(1, 100):
        judgement = judged(armed(seq), said)
        assert isinstance(judgement.trouble, breaker.Refused | breaker.PutOff | None)
        assert (judgement.record.state, judgement.record.charged) == (DeliveryState.DEFERRED, False)
        assert judgement.record.delay is not None
        assert judgement.record.delay >= RETRY.min_backoff
    assert judgement.trouble is not None, "everybody's: fewer connections"
    waits = [judged(armed(200, attempts=tries), said).record.delay or 0.0 for tries in range(PERSISTENT - 1)]
    assert waits[-1] > 2 * waits[0], "longer each time"
    assert isinstance(judged(armed(200, attempts=PERSISTENT - 1), said).trouble, breaker.SenderRefused)


def test_one_provider_that_refuses_the_sender_for_now_is_not_blocked_while_others_accept():
    judged, said = Judged(), refused(Stage.RCPT, 451, "4.7.26", "this mail is unauthenticated")
    for seq in range(1, 100):
        judged(armed(1000 + seq), OK)
        assert judged(armed(seq), said).trouble is None


def test_a_relay_that_greylists_everybody_for_five_minutes_without_saying_so_keeps_nobody_longer_than_the_backoff():
    """2,000 recipients at the default backoff, 50 ms a message, by the clock of a simulation: each is walked once and
    comes again after 15 minutes at least; a halt on the way would add minutes to each."""
    rows, took, greylisted = 2000, 0.05, 300.0
    retry = RetryControl(min_backoff=900.0, max_backoff=14400.0)
    judged, view, start = Judged(), BreakerView(), datetime(2030, 1, 1, tzinfo=UTC)
    fresh, due = deque(range(1, rows + 1)), list[tuple[float, int]]()
    first, attempts, charges = dict[int, float](), Counter[int](), Counter[int]()
    clock, turn, accepted = 0.0, 0, 0
    while (fresh or due) and clock < 86400:
        now = start + timedelta(seconds=clock)
        connections = breaker.allowed_connections(view, now)
        if connections == 0:
            assert view.next_probe_at is not None
            clock = (view.next_probe_at - start).total_seconds()
            continue
        turn += 1
        if due and due[0][0] <= clock and not (connections == 1 and turn % 2 and fresh):
            _, seq = heapq.heappop(due)
        elif fresh:
            seq = fresh.popleft()
        else:
            clock = due[0][0]
            continue
        clock += took / (connections or 8)
        later = clock - first.setdefault(seq, clock) < greylisted
        said = refused(Stage.RCPT, 451, "", "Temporary failure, please try again later") if later else OK
        row = armed(seq, attempts=attempts[seq], charges=charges[seq], since=now if charges[seq] else None)
        judgement = judged(row, said, retry=retry, now=now)
        attempts[seq] += 1
        charges[seq] += judgement.record.charged
        if judgement.trouble is not None:
            view = breaker.trouble(view, judgement.trouble, now, halt_id="h")
            assert not view.needs_person
        elif not later:
            accepted += 1
            view = breaker.success(view, now)
        if later:
            heapq.heappush(due, (clock + (judgement.record.delay or 0.0), seq))
    assert accepted == rows
    assert max(attempts.values()) == 2
    assert clock <= 2 * rows * took + 900 * (1 + JITTER) + 60


@pytest.mark.parametrize("stage", [Stage.RCPT, Stage.DATA, Stage.DOT])
def test_at_the_end_of_a_list_those_who_were_refused_for_now_before_are_no_trouble_among_themselves(stage: Stage):
    judged = Judged()
    later = refused(stage, 451, "", "try again later")
    for seq in range(1, 100):
        judgement = judged(armed(seq, attempts=1, charges=1, since=datetime.now(UTC)), later)
        assert judgement.trouble is None
        assert judgement.record.charged


def test_who_was_refused_for_good_waits_again_though_the_last_of_the_run_is_refused_for_now():
    judged = Judged()
    for seq in range(1, breaker.EVERYONE_RUN):
        judged(armed(seq), refused(Stage.RCPT, 550, "", "no"))
    last = judged(armed(99), refused(Stage.RCPT, 451, "", "not now"))
    assert isinstance(last.trouble, breaker.EveryoneRefused)
    assert last.reopen == tuple(seq.to_bytes(16, "big") for seq in range(1, breaker.EVERYONE_RUN))


def test_a_quota_that_is_used_up_for_a_day_is_not_charged_to_the_only_recipient_who_is_left():
    judged = Judged()
    for attempts in range(3 * ALONE_AFTER):
        judgement = judged(armed(attempts=attempts), refused(Stage.RCPT, 454, "4.5.3", "daily sending quota exceeded"))
        assert not judgement.record.charged
        assert isinstance(judgement.trouble, breaker.Refused)
