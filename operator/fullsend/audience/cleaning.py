"""A look at a list or a file before anybody is mailed: which rows can't be used, and why.

The invariant: cleaning changes nothing. It says by the very rules of the planner what a plan would make of each row,
and writes the rows that would not be mailed to a CSV that a person can work through.
"""

from __future__ import annotations

import csv
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final, TextIO

from fullsend.audience.identity import InvalidAddress, is_role_address, normalise
from fullsend.audience.intake import RowReason, shown
from fullsend.audience.sources.base import Source, SourceRow
from fullsend.audience.spool import IdentitySpool

COLUMNS: Final = ("row", "address", "problem", "detail")


class Finding(StrEnum):
    """What is wrong with a row. Only the first thing that is wrong is told."""

    INVALID = "invalid"
    ROLE = "role"
    DUPLICATE = "duplicate"
    REFUSED = "refused"  # the source itself says this person must not be mailed


@dataclass(frozen=True, slots=True)
class CleanReport:
    """``rows`` is the sum of the others."""

    rows: int = 0
    usable: int = 0
    invalid: int = 0
    role: int = 0
    duplicate: int = 0
    refused: int = 0


async def clean(source: Source, findings: TextIO) -> CleanReport:
    """Reads the whole source; ``findings`` gets a CSV with one line for each row that is not usable.

    Raises SourceError.
    """
    counts = dict.fromkeys(Finding, 0)
    rows = 0
    writer = csv.writer(findings)
    writer.writerow(COLUMNS)
    with IdentitySpool() as seen:
        async with aclosing(source.chunks()) as chunks:
            async for chunk in chunks:
                for row in chunk:
                    rows += 1
                    if (found := _judge(row, seen)) is not None:
                        finding, detail = found
                        counts[finding] += 1
                        writer.writerow((row.row, _harmless(shown(row.address)), finding.value, detail))
    return CleanReport(
        rows=rows,
        usable=rows - sum(counts.values()),
        invalid=counts[Finding.INVALID],
        role=counts[Finding.ROLE],
        duplicate=counts[Finding.DUPLICATE],
        refused=counts[Finding.REFUSED],
    )


def _judge(row: SourceRow, seen: IdentitySpool) -> tuple[Finding, str] | None:
    try:
        identity = normalise(row.address).identity
    except InvalidAddress as error:
        return Finding.INVALID, f"{error.reason}: {error}"
    key = blake2b(identity.encode(), digest_size=16).digest()
    if not seen.put([(key, str(row.row).encode())]):
        return Finding.DUPLICATE, f"the same person as row {seen.find([key])[key].decode()}"
    if row.status:
        return Finding.REFUSED, str(row.status)
    if is_role_address(identity):
        return Finding.ROLE, str(RowReason.ROLE_ADDRESS)
    return None


def _harmless(text: str) -> str:
    """An address that a spreadsheet would run as a formula is shown as text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
