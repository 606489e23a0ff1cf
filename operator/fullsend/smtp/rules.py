"""The form of a rule that judges a reply, and the table of them (``rules.toml``, which explains itself)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from fullsend.smtp.outcome import Stage
from fullsend.smtp.reply import Reply


class Charge(StrEnum):
    """Whose failure a refusal is."""

    RECIPIENT = "Recipient"  # this mailbox's
    TRANSPORT = "Transport"  # the relay's, the way's to it, or our account's there
    SENDER = "Sender"  # ours: From, domain, authentication, reputation
    MESSAGE = "Message"  # the content's: the recipient's if alone, the campaign's if general
    CONNECTION = "Connection"  # nobody's: close it and open another


_WAITING = frozenset({Charge.TRANSPORT, Charge.CONNECTION})  # rows are untouched, so nothing is for good
_CLASSES = {"4xx": range(400, 500), "5xx": range(500, 600)}


@dataclass(frozen=True, slots=True)
class Rule:
    """What each field means is said at the top of ``rules.toml``. ``permanent`` None: as the code says."""

    reason: str
    charge: Charge
    permanent: bool | None = None
    stages: frozenset[Stage] = frozenset()
    codes: frozenset[int] = frozenset()
    status: tuple[str, ...] = ()
    text: re.Pattern[str] | None = None
    feeds: bool = False
    doubtful: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any], flags: re.RegexFlag = re.NOFLAG) -> Rule:
        """Raises ValueError, KeyError or re.error for what is no rule."""
        charge = Charge(given["charge"])
        codes: set[int] = set()
        for code in given.get("codes", ()):
            codes.update(_CLASSES[code] if isinstance(code, str) else (code,))
        texts = given.get("texts", ())
        for text in texts:
            re.compile(text)  # each by itself, so that an error names the right one
        return cls(
            reason=given["reason"],
            charge=charge,
            permanent=False if charge in _WAITING else given.get("permanent"),
            stages=frozenset(Stage(stage) for stage in given.get("stages", ())),
            codes=frozenset(codes),
            status=tuple(given.get("status", ())),
            text=re.compile("|".join(f"(?:{text})" for text in texts), flags) if texts else None,
            feeds=given.get("feeds", False),
            doubtful=given.get("doubtful", False),
        )

    def fits(self, stage: Stage, reply: Reply, text: str) -> bool:
        return (
            (not self.stages or stage in self.stages)
            and (not self.codes or reply.code in self.codes)
            and (not self.status or any(_status_fits(wanted, reply.enhanced) for wanted in self.status))
            and (self.text is None or self.text.search(text) is not None)
        )


def _status_fits(wanted: str, status: str) -> bool:
    parts, wants = status.split("."), wanted.split(".")
    return len(parts) >= len(wants) and all(want in ("x", part) for want, part in zip(wants, parts, strict=False))


@cache
def table() -> tuple[Rule, ...]:
    """For text in lower case: ignoring case in the patterns costs twice the time.

    Read at the first refusal: compiling takes some 20 ms, and many a process sees none.
    """
    given = tomllib.loads(files(__package__).joinpath("rules.toml").read_text("utf-8"))
    return tuple(Rule.of(rule) for rule in given["rule"])
