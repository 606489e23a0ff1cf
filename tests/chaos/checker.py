"""An account of what a campaign did, from what the relay and the audience say; the ledger's word is what is judged.

The relay's own record (its journal of what it took, its log of what it refused and of how connections ended), the list
of people, what was done to the processes and when people said no: these are facts. What the ledger says of each
recipient at the end are claims. Every claim must be borne out by the facts:

- Nobody is missed: each eligible recipient was taken by the relay, was refused for good by the relay in so many words,
  or had said no.
- Who is ``accepted`` was taken by the relay, who is ``rejected`` was refused by it, who is ``suppressed`` had said no
  or been refused.
- A second copy has a name: no more copies than one and the unknowns noted for this recipient. Where the ledger was set
  back, copies from the time that it forgot are counted apart.
- Unknowns are few: no more than k for each SMTP connection that ended without QUIT, or was open when its sender was cut
  off from the ledger for good (frozen past its lease, or the ledger set back).
- Nobody is mailed later than five seconds after their unsubscribe was committed, by the time at which the relay had
  the whole message.
- All copies of a message bear one Message-ID. Nobody is mailed who is not eligible. Nothing is sent while halted.

Nothing here imports Fullsend.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

SUPPRESSION_TO_WIRE = 5.0
"""Seconds, as promised (docs/semantics.md, promise 9)."""

EXAMPLES = 10
"""How many of those who are not as they should be are named."""


@dataclass(frozen=True)
class Claim:
    """What the ledger says of one recipient at the end. ``unknowns``: how often nobody knew."""

    state: str
    reason: str
    unknowns: int


@dataclass(frozen=True)
class Facts:
    """``journal``: one entry for each message that the relay took. ``log``: each trouble it made, each connection that
    ended. ``said_no``: when a person's unsubscribe was committed, in seconds since the epoch. ``cut_off``: connections
    open when their sender was cut off from the ledger for good. ``forgotten``: from and to which moment the ledger has
    no memory, because it was set back. ``halted``: from and to which moment nothing may have been sent."""

    eligible: Sequence[str]
    journal: Iterable[Mapping[str, Any]]
    log: Iterable[Mapping[str, Any]]
    claims: Mapping[str, Claim]
    said_no_before: frozenset[str] = frozenset()
    said_no: Mapping[str, float] = field(default_factory=dict)
    cut_off: int = 0
    forgotten: tuple[float, float] | None = None
    halted: tuple[float, float] | None = None
    k: int = 2


@dataclass
class Account:
    """The table, and ``failures``: what must not be."""

    eligible: int = 0
    once: int = 0
    more: int = 0
    copies_beyond_first: int = 0
    of_the_forgotten: int = 0
    never: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    unknowns: int = 0
    killed: int = 0
    quit: int = 0
    refusals: int = 0
    unsubscribed: int = 0
    after_no: int = 0
    latest_after_no: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.failures

    def fail(self, what: str, who: Sequence[str]) -> None:
        if who:
            named = ", ".join(who[:EXAMPLES])
            self.failures.append(f"{len(who)} {what}: {named}{', ...' if len(who) > EXAMPLES else ''}")

    def table(self) -> str:
        rows = [
            ("eligible", self.eligible),
            ("accepted once", self.once),
            ("accepted more than once", self.more),
            ("copies beyond the first", self.copies_beyond_first),
            ("of these sent again because the ledger was set back", self.of_the_forgotten),
            *((f"never accepted: {why}", count) for why, count in sorted(self.never.items())),
            ("never accepted, and nobody can say why", self.missing),
            ("refusals and troubles the relay made", self.refusals),
            ("unknowns", self.unknowns),
            ("SMTP connections killed or cut off", self.killed),
            ("SMTP connections that ended with QUIT", self.quit),
            ("unsubscribed while it ran", self.unsubscribed),
            ("mailed more than 5 s after their unsubscribe committed", self.after_no),
        ]
        return "\n".join(["| | |", "|---|---|", *(f"| {what} | {count:,} |" for what, count in rows)])


@dataclass
class _Mail:
    """What the relay took for one recipient."""

    copies: int = 0
    forgotten: int = 0
    last: float = 0.0
    message_ids: tuple[str, ...] = ()


def account(facts: Facts) -> Account:
    found = Account(eligible=len(facts.eligible), unsubscribed=len(facts.said_no))
    mail = _mail(facts, found)
    refused = _log(facts, found)
    eligible = set(facts.eligible)
    _people(facts, found, mail, refused)
    found.fail("were mailed and are not eligible", sorted(set(mail) - eligible))
    found.fail(
        "are accepted in the ledger, and the relay never took anything",
        [who for who, claim in facts.claims.items() if claim.state == "accepted" and who not in mail],
    )
    renamed = [who for who, had in mail.items() if len(had.message_ids) > 1]
    found.fail("got copies of one message under different Message-IDs", renamed)
    found.unknowns = sum(claim.unknowns for claim in facts.claims.values())
    most = facts.k * found.killed
    if found.unknowns > most:
        found.failures.append(f"{found.unknowns} unknowns, and {found.killed} connections killed allow {most}")
    return found


def _mail(facts: Facts, found: Account) -> dict[str, _Mail]:
    mail: dict[str, _Mail] = {}
    while_halted: list[str] = []
    for entry in facts.journal:
        at = datetime.fromisoformat(entry["time"]).timestamp()
        for recipient in entry["recipients"]:
            who = recipient.lower()
            had = mail.setdefault(who, _Mail())
            had.copies += 1
            had.last = max(had.last, at)
            if entry["message_id"] not in had.message_ids:
                had.message_ids = (*had.message_ids, entry["message_id"])
            if facts.forgotten and facts.forgotten[0] <= at <= facts.forgotten[1]:
                had.forgotten += 1
            if facts.halted and facts.halted[0] < at < facts.halted[1]:
                while_halted.append(who)
    found.fail("were mailed while the campaign was halted", while_halted)
    return mail


def _log(facts: Facts, found: Account) -> dict[str, bool]:
    """Whom the relay has refused, and whether for good."""
    refused: dict[str, bool] = {}
    found.killed = facts.cut_off
    for entry in facts.log:
        if "ended" in entry:
            if entry["ended"] == "Quit":
                found.quit += 1
            else:
                found.killed += 1
            continue
        found.refusals += 1
        who = entry["address"].lower()
        for_good = entry["action"] == "Reply" and entry["reply"].startswith("5")
        refused[who] = refused.get(who, False) or for_good
    return refused


def _people(facts: Facts, found: Account, mail: Mapping[str, _Mail], refused: Mapping[str, bool]) -> None:
    missing, unfounded, unnamed, after_no = [], [], [], []
    for who in facts.eligible:
        claim, had = facts.claims.get(who), mail.get(who)
        if claim is None:
            found.failures.append(f"{who} is eligible and has no row")
            claim = Claim("", "", 0)
        if had is not None:
            found.once += had.copies == 1
            found.more += had.copies > 1
            beyond = had.copies - 1
            found.copies_beyond_first += beyond
            found.of_the_forgotten += min(max(0, beyond - claim.unknowns), had.forgotten)
            if beyond > claim.unknowns + had.forgotten:
                unnamed.append(who)
            late = had.last - facts.said_no.get(who, had.last)
            found.latest_after_no = max(found.latest_after_no, late)
            if late > SUPPRESSION_TO_WIRE:
                after_no.append(who)
        elif refused.get(who) and claim.state == "rejected":
            found.never["refused for good by the relay"] += 1
        elif who in facts.said_no and claim.state == "suppressed":
            found.never["unsubscribed before it was their turn"] += 1
        elif refused.get(who) and claim.state == "suppressed":
            found.never["refused for good by the relay, and suppressed for it"] += 1
        else:
            missing.append(f"{who} ({claim.state or 'no row'}: {claim.reason})")
        if claim.state == "rejected" and not refused.get(who):
            unfounded.append(who)
    found.missing, found.after_no = len(missing), len(after_no)
    found.fail("were never accepted, and the relay did not refuse them", missing)
    found.fail("are rejected in the ledger, and the relay never refused them for good", unfounded)
    found.fail("have more copies than one and the unknowns noted for them", unnamed)
    found.fail(f"were mailed more than {SUPPRESSION_TO_WIRE:g} s after their unsubscribe was committed", after_no)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a journal or a log, one at a time."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
