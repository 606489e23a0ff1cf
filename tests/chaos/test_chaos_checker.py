"""The checker of ``make chaos``, given forged logs, finds what must not be, and only that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from chaos.checker import Account, Claim, Facts, account

NOW = 1_800_000_000.0


def taken(who: str, at: float = NOW, message_id: str = "") -> dict[str, Any]:
    time = datetime.fromtimestamp(at, UTC).isoformat()
    return {"time": time, "recipients": [who], "message_id": message_id or f"<{who}>", "connection": 1}


def refused(who: str, reply: str = "550 5.1.1 no such user", action: str = "Reply") -> dict[str, Any]:
    return {"connection": 1, "address": who, "stage": "Rcpt", "action": action, "reply": reply}


def ended(how: str) -> dict[str, Any]:
    return {"connection": 1, "ended": how}


ACCEPTED = Claim("accepted", "Accepted", 0)

GOOD = Facts(
    eligible=("a@x", "b@x", "gone@x", "left@x"),
    journal=[taken("a@x"), taken("B@x")],
    log=[refused("gone@x"), ended("Quit"), ended("Lost")],
    claims={
        "a@x": ACCEPTED,
        "b@x": ACCEPTED,
        "gone@x": Claim("rejected", "UnknownMailbox", 0),
        "left@x": Claim("suppressed", "asked", 0),
        "bad@@x": Claim("invalid", "", 0),
    },
    said_no={"left@x": NOW - 1},
)


def told(facts: Facts, **claims: Claim) -> Mapping[str, Claim]:
    return {**facts.claims, **{f"{name}@x": claim for name, claim in claims.items()}}


def only_failure(facts: Facts) -> str:
    found = account(facts)
    assert len(found.failures) == 1, found.failures
    assert not found.holds
    return found.failures[0]


def test_an_account_that_holds_says_so_and_counts_everybody_once() -> None:
    found = account(GOOD)
    assert found.failures == []
    assert (found.eligible, found.once, found.more, found.missing, found.after_no) == (4, 2, 0, 0, 0)
    assert dict(found.never) == {"refused for good by the relay": 1, "unsubscribed before it was their turn": 1}
    assert (found.killed, found.quit, found.refusals) == (1, 1, 1)


def test_who_was_never_taken_is_missing_whatever_the_ledger_claims() -> None:
    lost = replace(GOOD, journal=[taken("a@x")])
    found = account(lost)
    assert found.missing == 1
    assert any("never accepted" in failure and "b@x (accepted" in failure for failure in found.failures)
    assert any("the relay never took anything: b@x" in failure for failure in found.failures)


@pytest.mark.parametrize("state", ["pending", "deferred", "unknown", "held", "expired", "suppressed", "cancelled", ""])
def test_no_state_of_the_ledger_excuses_who_was_neither_taken_nor_refused_nor_left(state: str) -> None:
    facts = replace(GOOD, journal=[taken("a@x")], claims=told(GOOD, b=Claim(state, "", 0)))
    assert f"b@x ({state or 'no row'}" in only_failure(facts)


def test_an_eligible_person_without_a_row_is_found() -> None:
    facts = replace(GOOD, claims={who: claim for who, claim in GOOD.claims.items() if who != "b@x"})
    assert only_failure(facts) == "b@x is eligible and has no row"


@pytest.mark.parametrize(
    "trouble",
    [refused("gone@x", "450 4.2.0 later"), refused("gone@x", "", action="Drop"), refused("other@x")],
)
def test_a_rejection_that_the_relay_never_gave_is_found(trouble: dict[str, Any]) -> None:
    found = account(replace(GOOD, log=[trouble, ended("Lost")]))
    assert any("the relay never refused them for good: gone@x" in failure for failure in found.failures)


def test_a_second_copy_needs_an_unknown_of_the_same_recipient() -> None:
    twice = replace(GOOD, journal=[*GOOD.journal, taken("a@x")])
    assert "more copies than one" in only_failure(replace(twice, claims=told(GOOD, b=Claim("accepted", "", 1))))
    named = account(replace(twice, claims=told(GOOD, a=Claim("accepted", "", 1))))
    assert named.holds
    assert (named.once, named.more, named.copies_beyond_first, named.of_the_forgotten) == (1, 1, 1, 0)


def test_copies_of_the_time_that_a_ledger_forgot_are_counted_apart_and_no_others() -> None:
    forgotten = (NOW - 10, NOW + 10)
    again = replace(GOOD, journal=[*GOOD.journal, taken("a@x", NOW + 60)], forgotten=forgotten)
    found = account(again)
    assert found.holds
    assert (found.copies_beyond_first, found.of_the_forgotten) == (1, 1)
    assert "more copies" in only_failure(replace(again, journal=[*again.journal, taken("a@x", NOW + 70)]))
    assert "more copies" in only_failure(replace(again, forgotten=(NOW - 20, NOW - 10)))


def test_unknowns_are_no_more_than_k_for_each_connection_killed_or_cut_off() -> None:
    doubtful = replace(GOOD, claims=told(GOOD, a=Claim("accepted", "", 2), b=Claim("accepted", "", 1)))
    assert only_failure(doubtful) == "3 unknowns, and 1 connections killed allow 2"
    assert account(replace(doubtful, cut_off=1)).holds
    assert account(replace(doubtful, log=[*doubtful.log, ended("Dropped")])).holds
    assert not account(replace(doubtful, log=[*doubtful.log, ended("Quit")])).holds


def test_mail_later_than_five_seconds_after_an_unsubscribe_is_found_and_sooner_is_allowed() -> None:
    assert account(replace(GOOD, said_no={**GOOD.said_no, "a@x": NOW - 4.9})).holds
    late = account(replace(GOOD, said_no={**GOOD.said_no, "a@x": NOW - 5.1}))
    assert late.after_no == 1
    assert [failure for failure in late.failures if "unsubscribe" in failure and "a@x" in failure]


def test_mail_to_whoever_is_not_eligible_is_found() -> None:
    assert "not eligible: stranger@x" in only_failure(replace(GOOD, journal=[*GOOD.journal, taken("stranger@x")]))


def test_mail_while_halted_is_found() -> None:
    assert "while the campaign was halted: a@x" in only_failure(
        replace(GOOD, halted=(NOW - 1, NOW + 1), journal=[taken("a@x"), taken("b@x", NOW - 2)])
    )


def test_copies_with_another_message_id_are_found() -> None:
    twice = replace(GOOD, journal=[*GOOD.journal, taken("a@x", message_id="<new>")])
    assert "Message-ID" in only_failure(replace(twice, claims=told(GOOD, a=Claim("accepted", "", 1))))


def test_the_table_says_it_all() -> None:
    table = Account(eligible=1_000_000, once=999_999, missing=1).table()
    assert "| eligible | 1,000,000 |" in table
    assert "| never accepted, and nobody can say why | 1 |" in table
