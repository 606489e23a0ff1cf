"""Chunks are encoded wherever they stand, and nothing that reaches the wire can be taken for SMTP."""

from __future__ import annotations

import quopri
import re
from base64 import b64decode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fullsend.message.encoding import base64_lines, prefers_base64, quoted_printable

PIECES = [
    "\n",
    "\r\n",
    "\r",
    ".",
    "..",
    "." * 40,
    "From ",
    "F",
    "=",
    "=20",
    "é",
    "😀",
    "\ud83d",
    "\0",
    "\x0b",
    "\x0c",
    "\x7f",
    "\t",
    " ",
    "    ",
    "\u2028",
    "\u202e",
    "\u00a0",
    "word ",
    "x" * 37,
    "x" * 74,
    "x" * 75,
    "x" * 76,
    "日本語",
    "--",
    "\r\n.\r\n",
]
NASTY = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=200)


def plain(text: str) -> str:
    """The text as a reader gets it: LF for every line break, U+FFFD for lone surrogates."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def assert_safe_on_the_wire(data: bytes) -> None:
    assert data.isascii()
    assert data == b"" or data.endswith(b"\r\n")
    for line in data.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        assert len(line) <= 76
        assert not line.startswith((b".", b"From "))
        assert not line.endswith((b" ", b"\t"))


@settings(max_examples=1500, deadline=None)
@given(st.lists(NASTY, max_size=5))
@example(["x" * 75 + " "])
@example(["é" * 2 + "." * 61 + "x", "."])
@example(["." * 200])
@example([".", "From ", "From x\nFrom y"])
def test_encoded_chunks_can_be_concatenated(chunks: list[str]) -> None:
    chunks = [chunk + "!" if chunk.endswith("\r") else chunk for chunk in chunks]  # the composer's business
    data = b"".join([quoted_printable(chunk) for chunk in chunks])
    assert_safe_on_the_wire(data)
    assert quopri.decodestring(data).decode().replace("\r\n", "\n") == plain("".join(chunks))


@settings(max_examples=500, deadline=None)
@given(NASTY)
def test_base64_carries_the_same_text(text: str) -> None:
    data = base64_lines(text)
    assert_safe_on_the_wire(data)
    decoded = b64decode(data).decode()
    assert decoded.replace("\r\n", "\n") == plain(text)
    assert "\n" not in decoded.replace("\r\n", "")


@pytest.mark.parametrize(
    ("text", "wins"),
    [("", False), ("Viele Grüße aus Köln von uns allen hier", False), ("こんにちは、世界", True), ("Привет", True)],
)
def test_the_shorter_encoding_is_preferred(text: str, wins: bool) -> None:
    assert prefers_base64(text) is wins
