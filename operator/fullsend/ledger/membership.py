"""Who is on the chosen lists, and whether they may be mailed: judged over the person, never over one row.

Eligible is who, on some chosen list, is confirmed, or is unconfirmed where the list asks for no confirmation. Somebody
who confirmed one list and never confirmed another is eligible for a mail to both. Who is blocked everywhere is a
suppression of the tenant, which the plan's seal and every arming look at.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from fullsend.ledger.database import Database

PAGE: Final = 5_000


@dataclass(frozen=True, slots=True)
class JudgedMember:
    """``status`` is that of this membership; ``eligible`` is of the person. ``variables`` is JSON text."""

    address: str
    variables: str
    status: str
    eligible: bool


@dataclass(frozen=True, slots=True)
class KnownMember:
    """A membership as it is stored."""

    address: str
    variables: str
    status: str
    evidence: str


async def find_lists(db: Database, tenant: str, names: Collection[str]) -> Mapping[str, int]:
    """The ids of the tenant's lists with these names; a name without a list is not in the answer."""
    rows = await db.fetch("lists_by_name", {"tenant": tenant, "names": sorted(names)})
    return {row["name"]: row["id"] for row in rows}


async def judged_members(
    db: Database, list_id: int, chosen: Collection[int], *, page: int = PAGE
) -> AsyncGenerator[list[JudgedMember], None]:
    """All members of a list in the order they joined, eligible or not, in pages."""
    after = 0
    params = {"list": list_id, "chosen": sorted(chosen), "page": page}
    while rows := await db.fetch("judged_members", {**params, "after": after}):
        after = rows[-1]["id"]
        yield [JudgedMember(row["address"], row["variables"], row["status"], row["eligible"]) for row in rows]


async def known_members(db: Database, tenant: str, name: str, hashes: Collection[bytes]) -> Mapping[bytes, KnownMember]:
    """Those of these people who are on the list already."""
    rows = await db.fetch("members_by_identity", {"tenant": tenant, "list": name, "hashes": list(hashes)})
    return {
        bytes(row["identity_hash"]): KnownMember(row["address"], row["variables"], row["status"], row["evidence"])
        for row in rows
    }
