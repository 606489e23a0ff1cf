"""Every source row becomes one plan row, and one that must not be mailed says why by name."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullsend.audience.identity import normalise
from fullsend.audience.intake import Intake, shown
from fullsend.audience.sources.base import SourceRow, Status
from fullsend.errors import SourceError
from fullsend.ledger.identity_hash import hash_identity
from fullsend.ledger.plans import PlanRow
from fullsend.states import DeliveryState

KEY = b"k" * 32


def nobody(_: Sequence[bytes]) -> Collection[bytes]:
    return ()


def take(*rows: SourceRow, roles: bool = False, intake: Intake | None = None) -> list[PlanRow]:
    intake = intake or Intake(KEY, (), nobody)
    return intake.take("june", rows, allow_role_addresses=roles)


def row(address: str, number: int = 2, status: str = "", **variables: Any) -> SourceRow:
    return SourceRow(address, variables, number, Status(status))


def test_an_eligible_row_keeps_the_wire_address_and_its_place() -> None:
    [planned] = take(row(" Ann.Smith@Example.COM", 7, city="Zürich"))
    assert planned == PlanRow(
        address="Ann.Smith@example.com",
        identity_hash=hash_identity(KEY, "ann.smith@example.com"),
        domain="example.com",
        variables='{"city":"Zürich"}',
        token=planned.token,
        source="june",
        source_row=7,
        state=DeliveryState.PENDING,
    )


def test_tokens_are_128_random_bits_that_fit_a_local_part_a_url_and_a_host_name() -> None:
    tokens = {planned.token for planned in take(*[row(f"u{n}@x.de") for n in range(500)])}
    assert len(tokens) == 500
    assert all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)


@pytest.mark.parametrize(
    ("source_row", "state", "reason"),
    [
        (row("ann"), DeliveryState.INVALID, "NoAtSign"),
        (row("", status="Unsubscribed"), DeliveryState.INVALID, "EmptyAddress"),
        (row("ann@x.de", status="Unsubscribed"), DeliveryState.SUPPRESSED, "Unsubscribed"),
        (row("Postmaster@x.de"), DeliveryState.SUPPRESSED, "RoleAddress"),
        (row("ann@x.de"), DeliveryState.PENDING, ""),
    ],
)
def test_who_must_not_be_mailed_says_why(source_row: SourceRow, state: DeliveryState, reason: str) -> None:
    [planned] = take(source_row)
    assert (planned.state, planned.reason) == (state, reason)


def test_role_addresses_can_be_allowed() -> None:
    assert take(row("postmaster@x.de"), roles=True)[0].state is DeliveryState.PENDING


def test_the_excluded_are_rows_with_a_reason_and_not_gaps() -> None:
    hashed = hash_identity(KEY, "bob@x.de")
    intake = Intake(KEY, (), lambda hashes: {hashed} & set(hashes))
    planned = take(row("ann@x.de"), row("BOB@x.de"), intake=intake)
    assert [(each.state, each.reason) for each in planned] == [
        (DeliveryState.PENDING, ""),
        (DeliveryState.SUPPRESSED, "Excluded"),
    ]


def test_empty_addresses_are_counted_each_and_one_bad_address_once() -> None:
    planned = take(row("", 2), row(" ", 3), row("oops", 4), row(" oops ", 5))
    assert len({each.identity_hash for each in planned}) == 3


def test_an_unusable_address_is_never_the_same_person_as_a_usable_one() -> None:
    planned = take(row("ann@x.de"), row("unusable ann@x.de"))
    assert planned[0].identity_hash != planned[1].identity_hash


@given(st.text(st.characters(), max_size=400))
def test_what_a_report_shows_fits_a_text_column(address: str) -> None:
    text = shown(address)
    assert "\0" not in text
    text.encode("utf-8")
    assert len(text) <= 320


@given(st.lists(st.text(max_size=12) | st.sampled_from(["ann@x.de", "ANN@x.de", "abuse@x.de", "b@x.de"]), max_size=30))
def test_no_row_is_lost_or_added(addresses: list[str]) -> None:
    planned = take(*[row(address, number) for number, address in enumerate(addresses)])
    assert [each.source_row for each in planned] == list(range(len(addresses)))
    for address, each in zip(addresses, planned, strict=True):
        if each.state is not DeliveryState.INVALID:
            assert each.identity_hash == hash_identity(KEY, normalise(address).identity)


def test_what_is_missing_is_counted_over_the_eligible_alone() -> None:
    intake = Intake(KEY, ("name", "city"), nobody)
    take(row("ann@x.de", name="Ann"), row("bob@x.de", name="Bob", city="Ulm"), row("oops"), intake=intake)
    assert (intake.rows_read, intake.eligible) == (3, 2)
    assert dict(intake.lacking) == {"city": 1}
    assert list(intake.columns) == ["name", "city"]
    assert [candidate.address for candidate in intake.sample.items] == ["ann@x.de", "bob@x.de"]


def test_variables_keep_their_types_and_their_text() -> None:
    variables = {"n": 3, "ok": True, "none": None, "list": [1, "ü"], "say": '\\u0000 "x"\n'}
    [planned] = take(row("ann@x.de", **variables))
    assert json.loads(planned.variables) == variables


@pytest.mark.parametrize("value", ["a\0b", "\ud800", {"deep": ["x\0"]}, {"\0": 1}])
def test_what_no_text_column_can_hold_is_an_error_with_its_row(value: Any) -> None:
    with pytest.raises(SourceError, match=r"june, row 9: a variable (contains a NUL|has half a surrogate)") as caught:
        take(row("ann@x.de", 9, name=value))
    assert caught.value.reason == "BadVariable"
