"""A list that goes bad is stopped while it goes bad, and one provider does not stop the others."""

from __future__ import annotations

from dataclasses import replace

from reconcile_worlds import NOW, ahead, look, view, wish, world

from fullsend.ledger.mapping import breaker_of, breaker_to_json
from fullsend.ledger.view import BreakerState, BreakerView
from fullsend.reconcile import breaker
from fullsend.reconcile.actions import AcknowledgeHalt, Emit, EnsureSenders
from fullsend.reconcile.conditions import find, is_true
from fullsend.reconcile.rejections import Recent, TooMany, provider_of


def fed(
    recent: Recent, *recipients: tuple[str, bool], max_rejected: float = 0.05, min_sample: int = 200
) -> list[TooMany]:
    found = [
        recent.settled(domain, rejected=rejected, said="550 no", max_rejected=max_rejected, min_sample=min_sample)
        for domain, rejected in recipients
    ]
    return [one for one in found if one is not None]


GOOD = [(f"d{number % 40}.example", False) for number in range(400)]


def test_recent_attempts_count_as_well_as_the_whole() -> None:
    """20,000 accepted, then a bad stretch: it stops long before it is 5% of the whole."""
    recent = Recent()
    assert fed(recent, *GOOD * 50) == []
    stretch = [(f"d{number % 40}.example", number % 3 == 0) for number in range(400)]
    [found, *_] = fed(recent, *stretch)
    assert found.provider == ""
    assert found.rejected < 30
    assert "550 no" in found.message


def test_one_small_domain_stops_only_itself() -> None:
    recent = Recent()
    mixed = [one for pair in zip(GOOD, [("small.example", True)] * 400, strict=True) for one in pair]
    found = fed(recent, *mixed)
    assert {one.provider for one in found} == {"small.example"}
    assert found[0].settled == 20


def test_a_company_behind_several_domains_is_one_provider() -> None:
    assert provider_of("Googlemail.com") == provider_of("gmail.com") == "google"
    assert provider_of("example.com") == "example.com"
    recent = Recent()
    bad = [(("gmail.com", "googlemail.com")[number % 2], True) for number in range(40)]
    assert fed(recent, *GOOD, *bad)[0].provider == "google"


def test_where_there_is_one_provider_it_is_everybody() -> None:
    [found, *_] = fed(Recent(), *[("only.example", number % 3 == 0) for number in range(300)])
    assert (found.provider, found.settled) == ("", 200)


def test_chance_and_few_do_not_stop_anybody() -> None:
    usual = [(f"d{number % 7}.example", number % 25 == 0) for number in range(5000)]  # 4%
    assert fed(Recent(), *usual) == []
    assert fed(Recent(), *[("a.example", True)] * 4, *GOOD, ("b.example", True)) == []
    assert fed(Recent(), *[("a.example", True)] * 500, max_rejected=1.0) == []


BLOCK = breaker.ProviderRefuses("small.example", breaker.Reason.PROVIDER_REJECTS, "20 of the last 20", 20, 20)


def test_a_blocked_provider_is_a_condition_and_an_event_that_says_what_to_do_and_an_acknowledgement_ends_it() -> None:
    held = breaker.trouble(BreakerView(), BLOCK, NOW, halt_id="x")
    assert breaker.trouble(held, BLOCK, ahead(seconds=5), halt_id="y") == held
    assert breaker.allowed_connections(held, NOW) is None, "the others are sent to"
    assert breaker_of(breaker_to_json(held)) == held
    decision = look(wish(), world(view(breaker=held)))
    told = find(decision.status, "ProvidersBlocked")
    assert told is not None
    [one] = held.blocked
    assert f'set spec.acknowledgedHalt to "{one.id}"' in told.message
    assert [action for action in decision.actions if isinstance(action, Emit) and action.reason == "ProvidersBlocked"]
    after = look(wish(acknowledged_halt=one.id), world(view(breaker=held)))
    assert AcknowledgeHalt(one.id) in after.actions
    agreed = breaker.acknowledge(held, one.id, NOW)
    assert agreed.blocked == ()
    assert breaker.may_reject(agreed, "small.example")
    assert not breaker.may_reject(agreed, "other.example")
    assert breaker_of(breaker_to_json(agreed)) == agreed


def refusing(provider: str, reason: breaker.Reason = breaker.Reason.PROVIDER_REJECTS) -> breaker.ProviderRefuses:
    return breaker.ProviderRefuses(provider, reason, "20 of the last 20", 20, 20)


def test_what_was_acknowledged_stays_so_when_the_one_field_says_something_else() -> None:
    held = BreakerView()
    for provider in ("one.example", "two.example"):
        held = breaker.trouble(held, refusing(provider), NOW, halt_id=f"h-{provider}")
    first, second = held.blocked
    held = breaker.acknowledge(breaker.acknowledge(held, first.id, NOW), second.id, NOW)
    held = breaker.trouble(held, breaker.TooManyRejected(40, "40 of 200"), NOW, halt_id="x")
    held = breaker.acknowledge(held, held.halt_id, NOW)
    for _ in range(9):
        held = breaker.trouble(held, breaker.ConnectFailed("connect", "refused"), NOW, halt_id="h")
    held = breaker.success(held, ahead(minutes=20))
    for provider in ("one.example", "two.example"):
        assert breaker.trouble(held, refusing(provider), NOW, halt_id="again").blocked == ()
    counts = {"pending": 1000, "accepted": 300, "rejected": 79}
    desired = wish(max_rejected=0.05, min_sample=200, acknowledged_halt=second.id)
    assert look(desired, world(view(counts, breaker=held))).status.state != "Halted"
    assert look(desired, world(view({**counts, "rejected": 80}, breaker=held))).status.state == "Halted"


def test_what_a_provider_rejected_before_a_person_agreed_does_not_halt_the_whole_afterwards() -> None:
    counts = {"pending": 1000, "accepted": 300, "rejected": 20}
    held = breaker.trouble(BreakerView(), BLOCK, NOW, halt_id="x")
    agreed = breaker.acknowledge(held, held.blocked[0].id, NOW)
    desired = wish(max_rejected=0.05, min_sample=200, acknowledged_halt=held.blocked[0].id)
    assert look(desired, world(view(counts, breaker=agreed))).status.state != "Halted"


def test_a_provider_that_still_refuses_this_sender_is_blocked_anew_and_asks_again() -> None:
    refuses = refusing("small.example", breaker.Reason.PROVIDER_REFUSES_SENDER)
    held = breaker.trouble(BreakerView(), refuses, NOW, halt_id="first")
    [first] = held.blocked
    held = breaker.trouble(breaker.acknowledge(held, first.id, NOW), refuses, NOW, halt_id="second")
    [second] = held.blocked
    assert second.id != first.id
    after = look(wish(acknowledged_halt=first.id), world(view(breaker=held)))
    assert not [action for action in after.actions if isinstance(action, AcknowledgeHalt)]


def test_the_id_of_any_provider_fits_into_the_spec() -> None:
    longest = refusing(".".join(["a" * 60] * 4))
    [one] = breaker.trouble(BreakerView(), longest, NOW, halt_id="0" * 12).blocked
    assert len(one.id) <= 128
    assert breaker.may_reject(breaker.acknowledge(BreakerView(blocked=(one,)), one.id, NOW), longest.provider)


def test_a_person_is_called_once_only_a_blocked_providers_recipients_are_left() -> None:
    held = breaker.trouble(BreakerView(), BLOCK, NOW, halt_id="x")
    [one] = held.blocked
    others = view({"deferred": 80, "pending": 3}, breaker=held, blocked_only=True, next_due_at=ahead(minutes=9))
    assert is_true(look(wish(), world(others)).status, "Ready"), "the others are sent to first"
    for due in (0, 80):
        left = view({"deferred": 80, "accepted": 900}, breaker=held, blocked_only=True, due_now=due)
        decision = look(wish(), world(left))
        assert decision.status.state == "Halted"
        for type_, status in (("Halted", True), ("Stalled", True), ("Ready", False)):
            assert is_true(decision.status, type_) is status
        ready = find(decision.status, "Ready")
        assert ready is not None
        assert ready.reason == "ProviderRejects"
        assert decision.status.halt is not None
        assert decision.status.halt.id == one.id
        assert not [action for action in decision.actions if isinstance(action, EnsureSenders)], "no idle pods"
        agreed = look(wish(acknowledged_halt=one.id), world(left))
        assert AcknowledgeHalt(one.id) in agreed.actions
    assert look(wish(deadline=NOW), world(left)).status.state == "Expiring", "never after is absolute"
    assert look(wish(suspend=True), world(left)).status.state == "Halted"


def test_what_is_blocked_stays_so_through_trouble_and_recovery() -> None:
    held = breaker.trouble(BreakerView(), BLOCK, NOW, halt_id="x")
    for _ in range(9):
        held = breaker.trouble(held, breaker.ConnectFailed("connect", "refused"), NOW, halt_id="h")
    assert held.state is BreakerState.HALTED
    held = breaker.success(held, ahead(minutes=20))
    assert held.blocked
    assert breaker.success(replace(held, state=BreakerState.CLOSED, failures=1), ahead(minutes=30)).blocked


def test_a_blocked_providers_rejections_do_not_halt_the_whole() -> None:
    counts = {"pending": 1000, "accepted": 300, "rejected": 20}
    blocked = breaker.trouble(BreakerView(), BLOCK, NOW, halt_id="x")
    desired = wish(max_rejected=0.05, min_sample=200)
    assert look(desired, world(view(counts))).status.state == "Halted"
    assert look(desired, world(view(counts, breaker=blocked))).status.state != "Halted"


def test_too_many_recent_rejections_halt_under_the_id_by_which_the_whole_is_acknowledged() -> None:
    halted = breaker.trouble(BreakerView(), breaker.TooManyRejected(40, "40 of 200"), NOW, halt_id="x")
    assert (halted.state, halted.needs_person) == (BreakerState.HALTED, True)
    assert breaker.rejections_acknowledged([halted.halt_id], 79)
