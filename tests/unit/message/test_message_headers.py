"""Header values survive two independent parsers, and cannot become headers of their own."""

from __future__ import annotations

from email import message_from_bytes
from email.headerregistry import AddressHeader
from email.policy import default

import fast_mail_parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fullsend.errors import RenderError
from fullsend.message.headers import collapsed, mailbox, unstructured, wire_address

VALUES = (
    st.text(max_size=300)
    | st.text(st.sampled_from("aé \t\r\n=?_,;:\"'<>()@\\.\0\u200f\u202e\u2028😀"), max_size=120)
    | st.lists(
        st.sampled_from(["word", "=?utf-8?q?x?=", "Grüße", "x" * 90, "日本語", "\r\nBcc: a@b"]), max_size=20
    ).map(" ".join)
)


def assert_one_field(data: bytes, name: str) -> None:
    assert data.isascii()
    assert data.endswith(b"\r\n")
    first, *folded = data[:-2].split(b"\r\n")
    assert first.startswith(f"{name}: ".encode())
    for line in [first, *folded]:
        assert b"\r" not in line
        assert b"\n" not in line
        assert len(line) <= 76
        assert line.strip()
    assert all(line.startswith(b" ") for line in folded)


@settings(max_examples=1500, deadline=None)
@given(VALUES)
@example("x" * 200)
@example("short " + "y" * 80)
@example("=?utf-8?q?already?= encoded")
def test_a_subject_reads_back_as_it_was_written(value: str) -> None:
    value = collapsed(value)
    if not value:
        return
    data = unstructured("Subject", value)
    assert_one_field(data, "Subject")
    message = data + b"X-After: kept\r\n\r\n"
    parsed = message_from_bytes(message, policy=default)
    assert parsed.keys() == ["Subject", "X-After"]
    assert str(parsed["Subject"]) == value
    assert fast_mail_parser.parse_email(message).subject == value


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_collapsed_values_hold_no_control_characters(value: str) -> None:
    line = collapsed(value)
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in line)
    assert line == line.strip(" ")
    assert "  " not in line
    line.encode()


@pytest.mark.parametrize(
    "name",
    [
        "Example",
        "Example News",
        "O'Neil",
        'The "Best"',
        "back\\slash",
        "Doe, Jane",
        "a@b.example",
        "Käse & Brüder",
        "日本の会社",
        "=?utf-8?q?trick?=",
        "Emoji 😀 Inc.",
        "Line\r\nBcc: victim@example.com",
        "Dr. " + "Long " * 20 + "Name",
        "(comment)",
        "Semi; Colon: Ltd.",
    ],
)
def test_a_display_name_reads_back_as_it_was_written(name: str) -> None:
    data = mailbox("From", name, "news@example.com")
    assert_one_field(data, "From")
    parsed = message_from_bytes(data + b"\r\n", policy=default)
    assert parsed.keys() == ["From"]
    header = parsed["From"]
    assert isinstance(header, AddressHeader)
    (address,) = header.addresses
    assert (address.display_name, address.addr_spec) == (collapsed(name), "news@example.com")


@settings(max_examples=1000, deadline=None)
@given(VALUES)
def test_any_display_name_is_folded_and_decoded_again(name: str) -> None:
    data = mailbox("From", name, "news@example.com")
    assert_one_field(data, "From")
    assert message_from_bytes(data + b"\r\n", policy=default).keys() == ["From"]
    if not collapsed(name).isascii():
        # The standard library keeps the white space between the encoded words of a phrase; RFC 2047 does not.
        read = fast_mail_parser.parse_email(data + b"\r\n").headers["From"]
        assert read == [f"{collapsed(name)} <news@example.com>"]


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        ("jane@example.com", "jane@example.com"),
        ("jane.o'neil+tag@sub.example.com", "jane.o'neil+tag@sub.example.com"),
        ("jane@exämple.com", "jane@xn--exmple-cua.com"),
        ("jane@EXÄMPLE.com", "jane@xn--exmple-cua.com"),
        ("jürgen@example.com", "jürgen@example.com"),
        ('"a b"@example.com', '"a b"@example.com'),
        ("x@localhost", "x@localhost"),
    ],
)
def test_the_domain_goes_on_the_wire_in_a_labels(address: str, wire: str) -> None:
    assert wire_address(address) == wire


@pytest.mark.parametrize(
    "address",
    [
        "",
        "jane",
        "@example.com",
        "jane@",
        "jane@exam ple.com",
        "jane>\r\nBcc: x@example.com",
        "jane@example.com\r\nBcc: x@y.z",
        "jane@example.com>",
        "a b@example.com",
        "jane@-example.com",
        "jane@example..com",
        ".jane@example.com",
        "jane.@example.com",
        '"a"b"@example.com',
        "jane@example.com\n",
        "jane@\u2028example.com",
        "j\u2028ane@ex.com",
        "a" * 400 + "@example.com",
        "j\ud83d@example.com",
        "jane@" + "ä" * 80 + ".com",
        "a,b@example.com",
        "a@b@example.com",
    ],
)
def test_what_is_no_address_never_reaches_a_header(address: str) -> None:
    with pytest.raises(RenderError):
        wire_address(address)
