"""Trouble slows a campaign down and stops it before recipients pay; what heals by itself is probed by itself."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reconcile_worlds import NOW

from fullsend.ledger.view import BreakerState, BreakerView
from fullsend.reconcile import breaker
from fullsend.reconcile.breaker import (
    DEFAULT_POLICY,
    BreakerPolicy,
    ConnectFailed,
    ConnectionBroke,
    EveryoneRefused,
    MessageRefused,
    Refused,
    SenderRefused,
    Trouble,
    Unanswered,
    Verdict,
)

DOWN = ConnectFailed("connect", "connection refused")
SILENT = Unanswered("no reply to the final dot within 600 s")


def troubled(view: BreakerView, event: Trouble, times: int, now: datetime = NOW) -> BreakerView:
    for _ in range(times):
        view = breaker.trouble(view, event, now, halt_id="h")
    return view


def test_a_person_reads_whether_the_relay_was_not_reached_or_broke_the_connection() -> None:
    view = troubled(BreakerView(), ConnectionBroke("MAIL", "the relay closed the connection"), 3)
    assert view.reason == "ConnectionBroke"
    assert view.message.startswith("the connection to the relay broke at MAIL: the relay closed the connection")
    assert troubled(view, DOWN, 1).reason == "CannotConnect"


def test_two_lone_troubles_are_weather() -> None:
    view = troubled(BreakerView(), DOWN, 2)
    assert view.state is BreakerState.CLOSED
    assert breaker.success(view, NOW) == BreakerView()


def test_connections_halve_then_one_probes_then_it_halts() -> None:
    view, seen = BreakerView(), []
    for _ in range(7):
        view = breaker.trouble(view, DOWN, NOW, halt_id="h", policy=BreakerPolicy(connections=8))
        seen.append((view.state, breaker.allowed_connections(view, NOW)))
    assert seen == [
        (BreakerState.CLOSED, None),
        (BreakerState.CLOSED, None),
        (BreakerState.REDUCED, 4),
        (BreakerState.REDUCED, 2),
        (BreakerState.REDUCED, 1),
        (BreakerState.PROBING, 1),
        (BreakerState.HALTED, 0),
    ]
    assert not view.needs_person
    assert view.next_probe_at == NOW + timedelta(seconds=30)


def passed(view: BreakerView, share: float, seconds: int, now: datetime = NOW) -> tuple[BreakerView, list[float]]:
    """``seconds`` of a relay that makes trouble at this share of messages, 10 a second and connection; the share of the
    connections that were allowed, second by second."""
    dice, most, allowed = random.Random(7), DEFAULT_POLICY.connections, []
    for _ in range(seconds):
        now += timedelta(seconds=1)
        connections = breaker.allowed_connections(view, now)
        allowed.append((most if connections is None else connections) / most)
        for _ in range(10 * (most if connections is None else connections)):
            if dice.random() < share:
                view = breaker.trouble(view, Refused("RelayTrouble", "451 4.3.0"), now, halt_id="h")
            else:
                view = breaker.success(view, now)
    return view, allowed


def test_a_trouble_in_a_hundred_neither_slows_a_campaign_nor_keeps_it_slow() -> None:
    view, allowed = passed(BreakerView(), 0.01, 3600)
    assert min(allowed) == 1
    after_an_outage = troubled(view, DOWN, 5)
    assert after_an_outage.state is BreakerState.REDUCED
    _, allowed = passed(after_an_outage, 0.01, 60)
    assert allowed[0] < 1
    assert allowed[-1] == 1


def test_a_relay_that_refuses_every_third_message_is_given_a_small_part_of_the_connections() -> None:
    _, allowed = passed(BreakerView(), 0.33, 3600)
    assert sum(allowed) / len(allowed) < 0.2


def test_a_transport_halt_ends_by_itself_at_the_probe_time() -> None:
    view = troubled(BreakerView(), DOWN, 7)
    assert view.next_probe_at is not None
    before = view.next_probe_at - timedelta(seconds=1)
    assert breaker.allowed_connections(view, before) == 0
    assert breaker.allowed_connections(view, view.next_probe_at) == 1
    assert breaker.effective_state(view, view.next_probe_at) is BreakerState.PROBING


def test_failed_probes_come_at_growing_intervals_up_to_a_quarter_of_an_hour() -> None:
    view, delays = troubled(BreakerView(), DOWN, 7), []
    for _ in range(8):
        assert view.next_probe_at is not None
        assert view.since is not None
        delays.append((view.next_probe_at - view.since).total_seconds())
        view = troubled(view, DOWN, 1, now=view.next_probe_at + timedelta(seconds=2))
    assert delays == [30, 60, 120, 240, 480, 900, 900, 900]


def test_reports_of_connections_that_broke_together_do_not_lengthen_the_halt() -> None:
    view = troubled(BreakerView(), DOWN, 7)
    assert troubled(view, DOWN, 10) is view


def test_connections_come_back_by_doubling_and_not_all_at_once() -> None:
    view, now, seen = troubled(BreakerView(), DOWN, 7), NOW + timedelta(seconds=31), []
    for _ in range(200):
        view = breaker.success(view, now)
        seen.append(breaker.allowed_connections(view, now))
        now += timedelta(seconds=1)
    changes = [allowed for allowed, before in zip(seen, [-1, *seen], strict=False) if allowed != before]
    assert changes == [1, 2, 4, None]
    assert seen.index(None) >= 2 * DEFAULT_POLICY.recovery_step.total_seconds()
    assert view == BreakerView()


def test_a_reply_still_in_flight_does_not_end_a_halt() -> None:
    view = troubled(BreakerView(), DOWN, 7)
    assert breaker.success(view, NOW) is view


@pytest.mark.parametrize("event", [SenderRefused("550 5.7.1"), MessageRefused("554 spam"), EveryoneRefused("denied")])
def test_refusals_of_sender_message_or_everyone_need_a_person(event: Trouble) -> None:
    view = breaker.trouble(BreakerView(), event, NOW, halt_id="h-1")
    assert (view.state, view.needs_person, view.halt_id) == (BreakerState.HALTED, True, "h-1")
    assert breaker.allowed_connections(view, NOW + timedelta(days=30)) == 0


def test_the_first_halt_shown_to_a_person_stays() -> None:
    view = breaker.trouble(BreakerView(), SenderRefused("first"), NOW, halt_id="h-1")
    assert breaker.trouble(view, MessageRefused("second"), NOW, halt_id="h-2") is view
    assert breaker.trouble(view, DOWN, NOW, halt_id="h-3") is view


def test_a_refused_sender_takes_a_transport_halt_over() -> None:
    view = breaker.trouble(troubled(BreakerView(), DOWN, 7), SenderRefused("5.7.1"), NOW, halt_id="h-2")
    assert (view.needs_person, view.halt_id) == (True, "h-2")


def test_only_the_id_that_was_shown_acknowledges_and_it_goes_on_with_one_connection() -> None:
    view = breaker.trouble(BreakerView(), SenderRefused("5.7.1"), NOW, halt_id="h-1")
    assert breaker.acknowledge(view, "h-0", NOW) is view
    assert breaker.acknowledge(view, "", NOW) is view
    going_on = breaker.acknowledge(view, "h-1", NOW)
    assert breaker.allowed_connections(going_on, NOW) == 1
    assert breaker.acknowledge(going_on, "h-1", NOW) is going_on


def test_unanswered_messages_reduce_at_three_halt_at_five_and_a_person_is_asked_when_the_probe_is_one_more() -> None:
    allowed = [breaker.allowed_connections(troubled(BreakerView(), SILENT, n), NOW) for n in range(1, 6)]
    assert allowed == [None, None, 1, 1, 0]
    halted = troubled(BreakerView(), SILENT, 5)
    assert not halted.needs_person
    assert halted.next_probe_at is not None
    probed = breaker.trouble(halted, SILENT, halted.next_probe_at, halt_id="h")
    assert probed.needs_person


def test_a_relay_that_restarted_with_many_messages_on_the_wire_is_gone_on_with() -> None:
    halted = troubled(BreakerView(), SILENT, 5)
    assert halted.next_probe_at is not None
    assert breaker.success(halted, halted.next_probe_at).state is BreakerState.REDUCED


@pytest.mark.parametrize(("connections", "armed"), [(1, 1), (8, 2), (16, 2)])
def test_the_stated_bound_on_unknown_rows_holds(connections: int, armed: int) -> None:
    """Every connection has ``armed`` rows on the wire; whoever reports a time-out arms anew while it is let."""
    on_wire, unknown, view = [armed] * connections, 0, BreakerView()
    while any(on_wire):
        for index in range(connections):
            if on_wire[index]:
                on_wire[index] -= 1
                unknown += 1
                view = breaker.trouble(view, SILENT, NOW, halt_id="h", policy=BreakerPolicy(connections=connections))
                allowed = breaker.allowed_connections(view, NOW)
                if allowed is None or index < allowed:
                    on_wire[index] = armed
    assert view.next_probe_at is not None
    view = breaker.trouble(view, SILENT, view.next_probe_at, halt_id="h", policy=BreakerPolicy(connections=connections))
    assert unknown + 1 <= connections * armed + 4 * armed + 1
    assert view.needs_person


def test_an_answer_in_between_starts_the_count_of_unanswered_anew() -> None:
    view = breaker.success(troubled(BreakerView(), SILENT, 4), NOW + timedelta(minutes=1))
    assert troubled(view, SILENT, 4).state is not BreakerState.HALTED


def test_after_an_acknowledgement_one_unanswered_probe_is_enough() -> None:
    halted = troubled(BreakerView(), SILENT, 5)
    assert halted.next_probe_at is not None
    asked = breaker.trouble(halted, SILENT, halted.next_probe_at, halt_id="h")
    going_on = breaker.acknowledge(asked, "h", NOW)
    assert troubled(going_on, SILENT, 1).needs_person


events = st.sampled_from(
    [DOWN, SILENT, Refused("Busy", "421"), SenderRefused("5.7.1"), MessageRefused("spam"), EveryoneRefused("denied")]
)


@given(st.lists(st.tuples(st.one_of(events, st.none(), st.just("ack")), st.integers(0, 2000)), max_size=40))
def test_it_is_never_stuck_and_never_above_what_the_transport_allows(
    steps: list[tuple[Trouble | str | None, int]],
) -> None:
    view, now = BreakerView(), NOW
    for event, seconds in steps:
        now += timedelta(seconds=seconds)
        if event is None:
            view = breaker.success(view, now)
        elif isinstance(event, str):
            view = breaker.acknowledge(view, view.halt_id, now)
        else:
            view = breaker.trouble(view, event, now, halt_id=f"h{seconds}")
        allowed = breaker.allowed_connections(view, now)
        assert allowed is None or 0 <= allowed <= DEFAULT_POLICY.connections
        if view.state is BreakerState.HALTED:
            # Whatever halts is either probed within a quarter of an hour or has an id to acknowledge.
            assert view.reason
            assert view.halt_id
            assert view.needs_person or (
                view.next_probe_at is not None and view.next_probe_at - now <= timedelta(minutes=15)
            )


def sample(*verdicts: Verdict) -> tuple[Verdict, ...]:
    seen: tuple[Verdict, ...] = ()
    for verdict in verdicts:
        seen = breaker.remember(seen, verdict)
    return seen


A, R, SEND, M, OTHER = Verdict.ACCEPTED, Verdict.RECIPIENT, Verdict.SENDER, Verdict.MESSAGE, Verdict.OTHER


def test_three_sender_refusals_without_an_accept_halt() -> None:
    assert breaker.judge(sample(A, SEND, SEND), "x") is None
    assert breaker.judge(sample(A, SEND, OTHER, SEND, SEND), "x") == SenderRefused("x")
    assert breaker.judge(sample(SEND, SEND, A, SEND), "x") is None


def test_one_provider_in_five_refusing_the_sender_halts_though_others_accept() -> None:
    fifty = [A, A, A, A, SEND] * 10
    assert breaker.judge(sample(*fifty), "x") == SenderRefused("x")
    assert breaker.judge(sample(*([A] * 9 + [SEND]) * 5), "x") is None


def test_content_refused_once_is_the_recipients_and_generally_is_the_messages() -> None:
    assert breaker.judge(sample(A, M), "x") is None
    assert breaker.judge(sample(M, M, M), "x") == MessageRefused("x")


def test_everyone_refused_is_believed_after_ten_and_never_with_an_accept_in_between() -> None:
    assert breaker.judge(sample(*[R] * 9), "x") is None
    assert breaker.judge(sample(*[R] * 10), "relay access denied") == EveryoneRefused("relay access denied")
    assert breaker.judge(sample(*[R] * 9, A, *[R] * 9), "x") is None


def test_a_sample_never_grows_beyond_its_size() -> None:
    assert len(sample(*[A] * 200)) == breaker.SAMPLE
    assert breaker.judge((), "x") is None


def test_an_acknowledgement_of_rejections_holds_until_they_double() -> None:
    acknowledged = [breaker.rejection_halt_id(20)]
    assert breaker.rejections_acknowledged(acknowledged, 20)
    assert breaker.rejections_acknowledged(acknowledged, 39)
    assert not breaker.rejections_acknowledged(acknowledged, 40)
    assert not breaker.rejections_acknowledged(["something-else-20"], 20)
    assert not breaker.rejections_acknowledged([""], 0)
