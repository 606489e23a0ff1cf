"""A relay's reply, and the parser that finds replies in whatever a relay sends.

Invariant: nothing a relay sends raises, and nothing it sends grows without bound. A line is at most 4 KB (RFC 5321
section 4.5.3.1.5 asks for 512 octets; real ones are longer), a reply at most 64 KB; beyond that, or where a line does
not start with a code, ``violation`` says so and the parser reads no more. Text is sanitised before anybody sees it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

MAX_LINE = 4096
MAX_REPLY = 65536
MAX_TEXT = 1000  # characters of a reply that are kept, for reports and the ledger

RawReply = tuple[int, bytes]
"""Code and text, lines joined by LF; made into a ``Reply`` only when somebody looks."""

_CODES = {b"%03d" % code: code for code in range(100, 600)}
_ENHANCED = re.compile(r"[\s#(\[<]*([245]\.\d{1,3}\.\d{1,3})(?![\d.])[\])>:;,-]*\s*")
_ENHANCED_INSIDE = re.compile(r"[(\[]#?([245]\.\d{1,3}\.\d{1,3})[)\]]")  # qmail: "no mailbox by that name. (#5.1.1)"


@dataclass(frozen=True, slots=True)
class Reply:
    """``enhanced`` is the RFC 3463 status ("5.1.1") or ""; ``text`` is one printable line without the codes.

    An enhanced status of another class than the code ("250 5.1.1") is not one: it stays in the text.
    """

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)

    @classmethod
    def of(cls, code: int, text: bytes | str) -> Self:
        decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
        lines = decoded.replace("\r", "\n").split("\n")
        enhanced = ""
        kept = []
        for line in lines:
            match = _ENHANCED.match(line)
            if match and int(match[1][0]) == code // 100 and match[1] == (enhanced := enhanced or match[1]):
                kept.append(line[match.end() :])
            else:
                kept.append(line)
        clean = _printable(" ".join(kept))
        if not enhanced and (inside := _ENHANCED_INSIDE.search(clean)) and int(inside[1][0]) == code // 100:
            enhanced = inside[1]
        return cls(code, enhanced, clean)


def _printable(text: str) -> str:
    text = text[: 4 * MAX_TEXT]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())[:MAX_TEXT]


class ReplyParser:
    """Feed it bytes in any fragments; it gives back the replies that are complete.

    Tolerant where the meaning is plain (a bare "250", LF without CR, text right behind the code, lines of one reply
    whose codes differ within one class: the last counts). Anything else is a ``violation``.
    """

    __slots__ = ("_lines", "_size", "_tail", "violation")

    def __init__(self) -> None:
        self._tail = b""
        self._lines: list[RawReply] = []
        self._size = 0
        self.violation = ""

    @property
    def partial(self) -> bool:
        """Whether a reply has begun and not ended."""
        return bool(self._tail or self._lines)

    def feed(self, data: bytes) -> list[RawReply]:
        replies: list[RawReply] = []
        if self.violation:
            return replies
        lines = (self._tail + data if self._tail else data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            code = _CODES.get(line[:3])
            if code is None:
                self.violation = f"not an SMTP reply: {_quote(line)}"
            elif len(line) > MAX_LINE:
                self.violation = f"a reply line of {len(line)} bytes, {MAX_LINE} are allowed"
            elif (separator := line[3:4]) == b"-":
                self._lines.append((code, line[4:]))
                self._size += len(line)
                if self._size > MAX_REPLY:
                    self.violation = f"a reply of more than {MAX_REPLY} bytes"
            elif separator.isdigit():
                self.violation = f"not an SMTP reply: {_quote(line)}"
            else:
                text = line[4:] if separator == b" " else line[3:]
                if self._lines:
                    self._lines.append((code, text))
                    if any(other // 100 != code // 100 for other, _ in self._lines):
                        codes = ", ".join(str(other) for other in dict.fromkeys(other for other, _ in self._lines))
                        self.violation = f"one reply with the codes {codes}"
                    text = b"\n".join(part for _, part in self._lines)
                    self._lines = []
                    self._size = 0
                if not self.violation:
                    replies.append((code, text))
            if self.violation:
                self._tail = b""
                return replies
        if len(self._tail) > MAX_LINE:
            self.violation = f"a reply line of more than {MAX_LINE} bytes"
            self._tail = b""
        return replies


def _quote(line: bytes) -> str:
    text = _printable(line[:60].decode("utf-8", "replace"))
    return f"{text!r}" + ("..." if len(line) > 60 else "")
