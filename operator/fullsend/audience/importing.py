"""A file of people into one of our lists, with what they consented to.

The invariant: an import never takes back a no. Who unsubscribed stays unsubscribed and who is blocked stays blocked,
whatever a file says; a no in the file counts on any of its copies. Every row is in the report: what became of it, or
why it could not be taken.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.audience.intake import shown, variables_text
from fullsend.audience.sources.base import Source, SourceRow
from fullsend.audience.spool import IdentitySpool
from fullsend.errors import InvalidInput, Problem
from fullsend.ledger import lists, suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.lists import MemberStatus, NewMember
from fullsend.ledger.membership import KnownMember, known_members

STATUS: Final = "status"
EVIDENCE: Final = ("consent_at", "consent_source", "consent_ip")
EXAMPLES: Final = 20
BLOCKED: Final = "Blocked"

_NO: Final = frozenset({"unsubscribed", "disabled", "blocklisted"})
_BLOCKED_WORDS: Final = frozenset({"disabled", "blocklisted"})  # never mailed, from whichever list
_STATUSES: Final = frozenset({"confirmed", "unconfirmed"})
_WORDS: Final = _NO | _STATUSES | {"", "enabled"}  # "enabled" says nothing of the list


@dataclass(slots=True)
class ImportReport:
    """``rows`` is the sum of ``inserted`` to ``duplicate``. ``blocked`` counts those among them whom the file blocks
    from every list. ``examples`` name rows that could not be taken."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    kept_unsubscribed: int = 0
    invalid: int = 0
    duplicate: int = 0
    blocked: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Person:
    hash: bytes
    member: NewMember
    says_no: bool
    blocked: bool


async def import_list(
    db: Database,
    tenant: str,
    name: str,
    source: Source,
    *,
    double_opt_in: bool | None = None,
    status: MemberStatus = MemberStatus.UNCONFIRMED,
) -> ImportReport:
    """Takes every row of the source into the list. ``double_opt_in`` makes the list where there is none;
    ``status`` is for rows without one of their own (column ``status``).

    Raises InvalidInput for a list that isn't there or is of the other kind, and SourceError; what was taken until then
    stays, and importing again goes on from it.
    """
    await _ensure_list(db, tenant, name, double_opt_in)
    key = (await installation(db)).hash_key
    report = ImportReport()
    with IdentitySpool() as seen:
        async with aclosing(source.chunks()) as chunks:
            async for rows in chunks:
                report.rows += len(rows)
                people = [person for row in rows if (person := _person(row, name, key, status, report)) is not None]
                await _take(db, tenant, name, people, seen, report)
    return report


async def _take(
    db: Database, tenant: str, name: str, people: list[_Person], seen: IdentitySpool, report: ImportReport
) -> None:
    known = await known_members(db, tenant, name, [person.hash for person in people])
    members: list[NewMember] = []
    blocked: list[suppressions.NewSuppression] = []
    for person in people:
        new = person.member
        old = known.get(person.hash)
        if person.blocked:
            blocked.append(suppressions.NewSuppression(person.hash, new.address, BLOCKED, f"import into {name}"))
            report.blocked += 1
        if not seen.put([(person.hash, b"")]):
            report.duplicate += 1
            if person.says_no:
                members.append(new)
        elif old is None:
            report.inserted += 1
            members.append(new)
        elif old.status == MemberStatus.UNSUBSCRIBED and not person.says_no:
            report.kept_unsubscribed += 1
        elif _tells_nothing_new(old, person):
            report.unchanged += 1
        else:
            report.updated += 1
            members.append(new)
    if blocked:
        await suppressions.add(db, suppressions.Target(suppressions.Scope.TENANT, tenant), blocked)
    await lists.import_members(db, tenant, name, members)


def _tells_nothing_new(old: KnownMember, person: _Person) -> bool:
    new = person.member
    confirmed_before = old.status == MemberStatus.CONFIRMED and not person.says_no
    return (
        (old.address, old.variables) == (new.address, new.variables)
        and new.evidence in ("", old.evidence)
        and (old.status == new.status or confirmed_before)
    )


def _person(row: SourceRow, name: str, key: bytes, status: MemberStatus, report: ImportReport) -> _Person | None:
    word = str(row.variables.get(STATUS) or "").strip().lower()
    try:
        if word not in _WORDS:
            raise InvalidAddress(
                "UnknownStatus", f"{word!r} is not a status; known are {', '.join(sorted(_WORDS - {''}))}"
            )
        found = normalise(row.address)
    except InvalidAddress as error:
        report.invalid += 1
        if len(report.examples) < EXAMPLES:
            report.examples.append(f"row {row.row} ({shown(row.address)}): {error.reason}: {error}")
        return None
    if word in _NO:
        status = MemberStatus.UNSUBSCRIBED
    elif word in _STATUSES:
        status = MemberStatus(word)
    kept = {column: value for column, value in row.variables.items() if column not in (STATUS, *EVIDENCE)}
    text = variables_text(SourceRow(row.address, kept, row.row), name)
    hashed = hash_identity(key, found.identity)
    member = NewMember(hashed, found.wire, text, status, _evidence(row.variables))
    return _Person(hashed, member, word in _NO, word in _BLOCKED_WORDS)


def _evidence(variables: Any) -> str:
    """The consent columns that say something, as JSON text; "" where none does."""
    told = {column: str(variables[column]) for column in EVIDENCE if variables.get(column)}
    return json.dumps(told, ensure_ascii=False) if told else ""


async def _ensure_list(db: Database, tenant: str, name: str, double_opt_in: bool | None) -> None:
    found = next((each for each in await lists.tenant_lists(db, tenant) if each.name == name), None)
    if found is None:
        if double_opt_in is None:
            what = f"there is no list {name} in the namespace {tenant}"
            how = "to make it, say what makes a member eligible: --opt-in single or double"
            raise InvalidInput([Problem("list", what, how)])
        await lists.create_list(db, tenant, name, double_opt_in=double_opt_in)
    elif double_opt_in is not None and found.double_opt_in != double_opt_in:
        kind = "double" if found.double_opt_in else "single"
        raise InvalidInput([Problem("list", f"{name} is a {kind} opt-in list already", "import into it as it is")])
