"""Header fields: values in, folded 7-bit lines out (RFC 5322, RFC 2047, RFC 6532 only where an address needs it).

Invariant: nothing that is put into a header can begin a new one. Control characters, CR and LF among them, are
*collapsed to a space* rather than refused: a name that came with a line break at its end out of somebody's
spreadsheet is no reason to leave that person out, and a space cannot inject anything. Every line but one that holds
a single long token is at most 76 characters long, and none is longer than 998.
"""

from __future__ import annotations

import re
from base64 import b64encode

import idna

from fullsend.errors import RenderError
from fullsend.message.encoding import to_utf8

LINE = 76
"""RFC 2047 section 2: the longest line that holds an encoded word. RFC 5322 recommends 78 for the others."""
LONGEST_LINE = 998
LONGEST_ADDRESS = 320
"""64 for the local part, 255 for the domain (RFC 5321 section 4.5.3.1)."""
LONGEST_VALUE = 10_000
"""The longest header value; far above what any reader shows, far below what relays take."""

_BLANKS = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_PLAIN = re.compile(r"(?!.*=\?)[!-~]+(?: [!-~]+)*").fullmatch
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*").fullmatch
_DOT_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PLAIN_ADDRESS = re.compile(rf"{_DOT_ATOM}@{_LABEL}(?:\.{_LABEL})*").fullmatch
_LOCAL_PART = re.compile(rf"(?:{_DOT_ATOM}|\"(?:[ !#-\[\]-~]|\\[ -~])*\")").fullmatch
_UTF8_LOCAL_PART = re.compile(
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a0-\ud7ff\ue000-\U0010ffff-]+"
    r"(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a0-\ud7ff\ue000-\U0010ffff-]+)*)"
).fullmatch
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*").fullmatch

FIELD_NAME = re.compile(r"[!-9;-~]{1,76}").fullmatch


def collapsed(value: str) -> str:
    """The value as one line: runs of white space and control characters become a single space, none at the ends.
    Non-breaking and ideographic spaces are text and stay; a lone surrogate becomes U+FFFD."""
    if not value.isascii():
        value = to_utf8(value).decode()
    return _BLANKS.sub(" ", value).strip(" ")


def unstructured(name: str, value: str) -> bytes:
    """A whole field, ``Name: value`` CRLF, for free text such as a subject. ``value`` is ``collapsed``, not empty."""
    if _PLAIN(value):
        if len(name) + 2 + len(value) <= LINE:
            return f"{name}: {value}\r\n".encode("ascii")
        if (folded := _folded(name, value)) is not None:
            return folded
    return _encoded_words(f"{name}: ", value) + b"\r\n"


def mailbox(name: str, display_name: str, address: str) -> bytes:
    """A whole field with one mailbox: ``From: "Doe, Jane" <jane@example.com>`` CRLF. The address is a wire address."""
    display_name = collapsed(display_name)
    if not display_name:
        return f"{name}: <{address}>\r\n".encode()
    if display_name.isascii() and "=?" not in display_name:
        phrase = display_name
        if not _ATOMS(display_name):
            escaped = display_name.replace("\\", "\\\\").replace('"', '\\"')
            phrase = f'"{escaped}"'
        first = (_folded(name, phrase) or _encoded_words(f"{name}: ", display_name)).removesuffix(b"\r\n")
    else:
        first = _encoded_words(f"{name}: ", display_name)
    last_line = len(first) - (first.rfind(b"\n") + 1)
    separator = b" " if last_line + len(address.encode()) + 3 <= LINE else b"\r\n "
    return first + separator + f"<{address}>\r\n".encode()


def wire_address(address: str) -> str:
    """An address as it goes on the wire: the domain in A-labels, the local part untouched.

    Raises RenderError for what cannot be put into a header or an envelope without changing its meaning.
    """
    if len(address) > LONGEST_ADDRESS:
        raise RenderError(f"{address[:40]!r}... is too long for an e-mail address")
    if _PLAIN_ADDRESS(address):
        return address
    local, at, domain = address.rpartition("@")
    if not (at and (_LOCAL_PART(local) or (_UTF8_LOCAL_PART(local) and local.isprintable()))):
        raise RenderError(f"{address!r} is not an e-mail address")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise RenderError(f"the domain of {address!r} cannot be used: {error}") from error
    if not _DOMAIN(domain):
        raise RenderError(f"the domain of {address!r} cannot be used")
    return f"{local}@{domain}"


def _folded(name: str, value: str) -> bytes | None:
    """Plain text folded at its spaces; None where a word does not fit into a line."""
    lines = []
    line = f"{name}:"
    for word in value.split(" "):
        if len(line) + 1 + len(word) > LINE:
            if len(word) + 1 > LINE or line == f"{name}:":
                return None
            lines.append(line)
            line = ""
        line = f"{line} {word}"
    return "\r\n".join([*lines, line, ""]).encode("ascii")


def _encoded_words(prefix: str, value: str) -> bytes:
    """The value as RFC 2047 encoded words in UTF-8, after ``prefix`` on the first line, without the final CRLF.

    Q where most of it is ASCII, so that it can be read in a log; else B. No character is split between two words.
    """
    data = to_utf8(value)
    other = len(data) - len(data.decode("ascii", "ignore"))
    quoted = other * 3 < len(data)
    lines: list[str] = []
    line = prefix
    word: list[str] = []
    size = 0
    room = LINE - len(prefix) - len("=?utf-8?q??=")
    for character in data.decode():
        encoded = character.encode()
        piece = _q(encoded) if quoted else character
        cost = len(piece) if quoted else len(encoded)
        limit = room if quoted else room // 4 * 3
        if size + cost > limit and word:
            lines.append(line + _word("".join(word), quoted))
            line, word, size = " ", [], 0
            room = LINE - 1 - len("=?utf-8?q??=")
        word.append(piece)
        size += cost
    lines.append(line + _word("".join(word), quoted))
    return "\r\n".join(lines).encode("ascii")


def _q(character: bytes) -> str:
    """One character in the Q encoding as a phrase allows it (RFC 2047 section 5, rule 3)."""
    return "".join(chr(byte) if byte in _Q_SAFE else "_" if byte == 0x20 else f"={byte:02X}" for byte in character)


def _word(text: str, quoted: bool) -> str:
    return f"=?utf-8?q?{text}?=" if quoted else f"=?utf-8?b?{b64encode(text.encode()).decode('ascii')}?="
