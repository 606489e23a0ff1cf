"""From a source's row to a plan's row: one function for every row, and what was seen on the way.

The invariant: every row a source gives comes out as exactly one plan row, with its address usable or not, and a row
that must not be mailed says why by name. Nothing here reads or writes anything; the same rows give the same verdicts.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from fullsend.audience.identity import InvalidAddress, is_role_address, normalise, trim
from fullsend.audience.sample import Sample
from fullsend.audience.sources.base import SourceRow
from fullsend.errors import SourceError
from fullsend.ledger.identity_hash import hash_identity
from fullsend.ledger.plans import PlanRow
from fullsend.states import DeliveryState

TOKEN_BYTES: Final = 16
"""128 random bits. In lower-case hexadecimal, because the token is also part of a VERP local part and a Message-ID."""

Planned = Literal[DeliveryState.PENDING, DeliveryState.SUPPRESSED, DeliveryState.INVALID]

_SHOWN: Final = 320  # characters kept of an address that can't be used
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str).encode


class RowReason(StrEnum):
    """Why the plan itself suppresses a row; a source's own reasons come with its rows."""

    EXCLUDED = "Excluded"
    ROLE_ADDRESS = "RoleAddress"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An eligible recipient as the render check needs it. ``where`` names the row to a person without naming anybody:
    what a plan says ends up in a campaign's status."""

    where: str
    address: str
    variables: str
    token: str


@dataclass(slots=True)
class Intake:
    """Judges the rows of one plan. ``required`` are the names the message can't do without."""

    hash_key: bytes
    required: Collection[str]
    excluded: Callable[[Sequence[bytes]], Collection[bytes]]
    rows_read: int = 0
    eligible: int = 0
    lacking: Counter[str] = field(default_factory=Counter)
    columns: dict[str, None] = field(default_factory=dict)
    sample: Sample[Candidate] = field(default_factory=Sample)

    def take(self, source: str, rows: Sequence[SourceRow], *, allow_role_addresses: bool) -> list[PlanRow]:
        """One plan row for each; ``source`` is the name of the audience."""
        self.rows_read += len(rows)
        judged = [self._judge(source, row, allow_role_addresses) for row in rows]
        tokens = os.urandom(TOKEN_BYTES * len(rows)).hex()
        hashes = [hash_identity(self.hash_key, identity) for identity, *_ in judged]
        excluded = self.excluded(hashes)
        planned: list[PlanRow] = []
        for place, (row, hashed, verdict) in enumerate(zip(rows, hashes, judged, strict=True)):
            _, address, domain, state, reason = verdict
            if hashed in excluded and state is DeliveryState.PENDING:
                state, reason = DeliveryState.SUPPRESSED, str(RowReason.EXCLUDED)
            token = tokens[place * 2 * TOKEN_BYTES : (place + 1) * 2 * TOKEN_BYTES]
            variables = variables_text(row, source)
            if state is DeliveryState.PENDING:
                self._note(row.variables, Candidate(f"{source}, row {row.row}", address, variables, token))
            planned.append(
                PlanRow(
                    address=address,
                    identity_hash=hashed,
                    domain=domain,
                    variables=variables,
                    token=token,
                    source=source,
                    source_row=row.row,
                    source_status=row.status,
                    state=state,
                    reason=reason,
                )
            )
        return planned

    def _judge(self, source: str, row: SourceRow, allow_role_addresses: bool) -> tuple[str, str, str, Planned, str]:
        """(identity, address, domain, state, reason)"""
        try:
            found = normalise(row.address)
        except InvalidAddress as error:
            return unusable_identity(row, source), shown(row.address), "", DeliveryState.INVALID, error.reason
        person = (found.identity, found.wire, found.domain)
        if row.status:
            return *person, DeliveryState.SUPPRESSED, str(row.status)
        if not allow_role_addresses and is_role_address(found.identity):
            return *person, DeliveryState.SUPPRESSED, str(RowReason.ROLE_ADDRESS)
        return *person, DeliveryState.PENDING, ""

    def _note(self, variables: Mapping[str, Any], candidate: Candidate) -> None:
        self.eligible += 1
        self.columns.update(dict.fromkeys(variables))
        for name in self.required:
            if name not in variables:
                self.lacking[name] += 1
        self.sample.offer(candidate)


def variables_text(row: SourceRow, source: str) -> str:
    """The variables as JSON. Raises SourceError for what no text column can hold."""
    text = _encode(row.variables)
    if "\\u0000" in text and _holds_nul(row.variables):
        raise SourceError("BadVariable", f"{source}, row {row.row}: a variable contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SourceError("BadVariable", f"{source}, row {row.row}: a variable has half a surrogate pair") from None
    return text


def unusable_identity(row: SourceRow, source: str) -> str:
    """What an address without an identity is known by: itself, as it is written; an empty one by its row, so that
    500 empty fields are 500 unusable addresses and not one with 499 duplicates."""
    text = trim(row.address)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return f"unusable {text}" if text else f"unusable row {row.row} of {source}"


def shown(address: str) -> str:
    """An unusable address as a report can show it and a text column hold it."""
    text = trim(address)[:_SHOWN].replace("\0", "\ufffd")
    return text.encode("utf-8", "replace").decode("utf-8")


def _holds_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case Mapping():
            return any(_holds_nul(name) or _holds_nul(each) for name, each in value.items())
        case list() | tuple():
            return any(_holds_nul(each) for each in value)
        case _:
            return False
