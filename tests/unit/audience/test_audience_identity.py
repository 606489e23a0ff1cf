"""Who an address is: the fast path says what the library says, and folding never merges two people."""

from __future__ import annotations

import string
import time
import unicodedata

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fullsend.audience.identity import InvalidAddress, fold_local_part, is_role_address, normalise

ATOM = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
LABEL = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12)
PLAIN = st.builds(
    "{}@{}".format,
    st.lists(st.text(ATOM, min_size=1, max_size=10), min_size=1, max_size=3).map(".".join),
    st.lists(LABEL, min_size=1, max_size=3).map(".".join).map(lambda name: f"{name}.de"),
)
WILD = st.builds(
    "{}@{}".format,
    st.text(st.characters(codec="utf-8") | st.sampled_from('.".\\@<> \u0130\u03a3\u212a'), max_size=12),
    st.text(st.characters(codec="utf-8") | st.sampled_from(".-[]@\u3002xn"), max_size=12) | st.just("münchen.de"),
)


def library(address: str) -> str | None:
    """The library's ASCII domain, or None where it refuses."""
    try:
        return validate_email(address, check_deliverability=False).ascii_domain
    except EmailNotValidError:
        return None


def ours(address: str) -> str | None:
    try:
        return normalise(address).domain
    except InvalidAddress:
        return None


@given(PLAIN | WILD)
@example("a@" + "x" * 60 + ".de")
@example("a" * 64 + "@" + ".".join(["b" * 63] * 3) + ".de")
@example("b" * 250 + "@x.de")
@example("a@@b.de")
@example("a@b.de.")
@example("\u212a@x.de")
@example("ab@" + "ü" * 50 + "." + "ü" * 50 + ".de")
def test_the_fast_path_and_the_library_give_one_verdict(address: str) -> None:
    assume(address == address.strip() and not set(address) & set("\ufeff\u200b\u200c\u200d\u2060"))
    assert ours(address) == library(address)


@pytest.mark.parametrize("length", range(240, 262))
@pytest.mark.parametrize("domain", ["example.com", "xn--mnchen-3ya.de", "münchen.de", "EXAMPLE.com"])
def test_at_the_length_limit_the_fast_path_agrees(length: int, domain: str) -> None:
    address = "a" * (length - len(domain) - 1) + "@" + domain
    assert ours(address) == library(address)


@given(PLAIN | WILD)
def test_an_identity_is_its_own_identity(address: str) -> None:
    try:
        found = normalise(address)
    except InvalidAddress:
        return
    assert normalise(found.identity).identity == found.identity
    assert normalise(found.wire) == found


@given(PLAIN)
def test_case_makes_nobody_another_person(address: str) -> None:
    assume(ours(address))
    assert normalise(address.upper()).identity == normalise(address.lower()).identity


@given(PLAIN)
def test_the_wire_keeps_the_local_part_as_it_was_written(address: str) -> None:
    assume(ours(address))
    assert normalise(address).wire.partition("@")[0] == address.partition("@")[0]


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_folding_maps_one_character_to_one_and_twice_is_once(local: str) -> None:
    folded = fold_local_part(local)
    assert fold_local_part(folded) == folded
    composed = unicodedata.normalize("NFC", local)
    assert len(folded) <= len(composed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ann.smith@x.de", "annsmith@x.de"),
        ("ann+news@x.de", "ann@x.de"),
        ("\u0130@x.de", "i@x.de"),
        ("straße@x.de", "strasse@x.de"),
        ("ann@x.de", "ann@y.de"),
    ],
)
def test_what_only_the_receiving_host_knows_is_not_folded(one: str, other: str) -> None:
    assert normalise(one).identity != normalise(other).identity


@pytest.mark.parametrize(
    ("written", "wire", "identity"),
    [
        ("Ann.Smith@Example.COM", "Ann.Smith@example.com", "ann.smith@example.com"),
        ("  ann@x.de\t", "ann@x.de", "ann@x.de"),
        ("\ufeffann@x.de\u200b", "ann@x.de", "ann@x.de"),
        ("ann@MÜNCHEN.de", "ann@xn--mnchen-3ya.de", "ann@xn--mnchen-3ya.de"),
        ("\u03a3\u0391\u03a3@x.de", "\u03a3\u0391\u03a3@x.de", "\u03c3\u03b1\u03c3@x.de"),
        ("u\u0308@x.de", "u\u0308@x.de", "\u00fc@x.de"),
        ("bob@mail.corp.local", "bob@mail.corp.local", "bob@mail.corp.local"),
        ("bob@example.test", "bob@example.test", "bob@example.test"),
    ],
)
def test_wire_and_identity(written: str, wire: str, identity: str) -> None:
    found = normalise(written)
    assert (found.wire, found.identity) == (wire, identity)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "EmptyAddress"),
        (" \u00a0", "EmptyAddress"),
        ("ann", "NoAtSign"),
        ("Ann <ann@x.de>", "DisplayName"),
        ('"ann smith"@x.de', "QuotedLocalPart"),
        ("ann@[192.0.2.1]", "AddressLiteral"),
        ("a" * 250 + "@x.de", "AddressTooLong"),
        ("ann@x", "InvalidDomain"),
        ("ann@x..de", "InvalidDomain"),
        ("ann@mail.invalid", "InvalidDomain"),
        ("ann@x.de, bob@x.de", "InvalidLocalPart"),
        (".ann@x.de", "InvalidLocalPart"),
        ("an\0n@x.de", "InvalidLocalPart"),
        ("ann@x.de\r\nRCPT TO:<bob@x.de>", "DisplayName"),
    ],
)
def test_an_unusable_address_says_why_by_name(address: str, reason: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        normalise(address)
    assert caught.value.reason == reason
    assert str(caught.value)


@given(st.text())
def test_no_text_makes_the_normaliser_raise_anything_else(address: str) -> None:
    ours(address)


@pytest.mark.parametrize("local", ["postmaster", "abuse", "noreply", "ietf-request", "www"])
def test_functions_of_a_mail_system_are_role_addresses(local: str) -> None:
    assert is_role_address(normalise(f"{local.upper()}@x.de").identity)


@pytest.mark.parametrize("local", ["info", "sales", "ann", "requester", "abuse.ann"])
def test_people_and_small_firms_are_not(local: str) -> None:
    assert not is_role_address(normalise(f"{local}@x.de").identity)


def test_a_hundred_thousand_addresses_take_less_than_a_second() -> None:
    addresses = [f"First.Last{n}@Mail{n % 700}.Example.com" for n in range(100_000)]
    started = time.process_time()
    for address in addresses:
        normalise(address)
    assert time.process_time() - started < 1
