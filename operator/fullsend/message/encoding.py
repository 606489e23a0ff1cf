"""Text to the bytes of a MIME body, piece by piece.

A rendered template is a stream of chunks: static text, which is the same for everybody, and values. The trick that
makes bulk mail cheap is that static text is encoded once. It works because every chunk is encoded *independently of
its position*: a chunk whose last line is open ends with a soft line break (``=`` CRLF, RFC 2045 section 6.7), so the
encoded chunks can be concatenated in any order and decode to the concatenated text.

Invariants of whatever leaves here: 7-bit; every line ends with CRLF, and no CR or LF stands alone, whatever the
input (no SMTP smuggling); no line is longer than 76 bytes; no line begins with a dot, so that no message needs
dot-stuffing (RFC 5321 section 4.5.2), and none with "From ", which mbox stores would change. CR, LF and CRLF in the
text all mean one line break. A lone surrogate, which UTF-8 cannot carry, becomes U+FFFD.
"""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp

LINE = 76
"""The longest line of an encoded body (RFC 2045 sections 6.7 and 6.8)."""

BASE64_FROM = 1 / 6
"""The share of non-ASCII bytes from which base64 (4/3 of the size) is shorter than quoted-printable (3 a byte)."""

_SIMPLE = re.compile(r"[!-\-/-<>-EG-~](?:[ -<>-~]{0,70}[!-<>-~])?").fullmatch
"""A short value that is its own encoding; more than half of all values, and a third of the time."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_END_SPACE = re.compile(rb"=(?:20|09)(?:\n|\Z)").search


def to_utf8(text: str) -> bytes:
    """UTF-8, with U+FFFD for what is no character (a lone surrogate, such as half an emoji cut off in a database)."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def quoted_printable(chunk: str) -> bytes:
    """One chunk of text, encoded so that it may stand anywhere between other encoded chunks."""
    if _SIMPLE(chunk):
        return chunk.encode("ascii") + b"=\r\n"
    if "\r" in chunk:
        chunk = chunk.replace("\r\n", "\n").replace("\r", "\n")
    encoded = b2a_qp(to_utf8(chunk), False, True, False)
    if (
        encoded.startswith((b".", b"From "))
        or (len(encoded) >= LINE and (len(encoded) - encoded.rfind(b"\n") > LINE or _END_SPACE(encoded)))
        or (b"\n" in encoded and (b"\n." in encoded or b"\nFrom " in encoded))
    ):
        encoded = b"\n".join([_mended(line) for line in encoded.split(b"\n")])
    if b"\n" in encoded:
        encoded = encoded.replace(b"\n", b"\r\n")
    if not encoded or encoded.endswith(b"\n"):
        return encoded
    return encoded + b"=\r\n"


def _mended(line: bytes) -> bytes:
    """A line of ``b2a_qp`` with its delicate first character escaped, and broken again where it is too long: by that,
    or because ``b2a_qp`` does not count the escape of a space at the end of a line."""
    lines: list[bytes] = []
    while True:
        if line.startswith((b".", b"From ")):
            line = b"=%02X" % line[0] + line[1:]
        if len(line) < LINE or (len(line) == LINE and line.endswith(b"=")):
            return b"\n".join([*lines, line])
        cut = LINE - 1
        if (escape := line.rfind(b"=", cut - 2, cut)) >= 0:  # =XX stays whole
            cut = escape
        lines.append(line[:cut] + b"=")
        line = line[cut:]


def base64_lines(text: str) -> bytes:
    """A whole text as base64 in lines of 76, each ended by CRLF; its line breaks are CRLF inside."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return base64_bytes(to_utf8(text).replace(b"\n", b"\r\n"))


def base64_bytes(data: bytes) -> bytes:
    """Bytes as base64 in lines of 76, each ended by CRLF."""
    encoded = b2a_base64(data, newline=False)
    lines = [encoded[at : at + LINE] for at in range(0, len(encoded), LINE)]
    return b"\r\n".join([*lines, b""])


def prefers_base64(text: str) -> bool:
    """Whether base64 is the shorter encoding for a text like this one."""
    data = to_utf8(text)
    other = len(data) - len(data.decode("ascii", "ignore"))
    return other > len(data) * BASE64_FROM
