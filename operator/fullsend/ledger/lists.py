"""Our own lists: members, what they consented to, and the evidence of it.

An import never takes back what a person said: who unsubscribed stays so, and a confirmation is not undone by a file
that does not know of it. Only ``set_status`` changes that, with evidence. Unsubscribing also suppresses the person for
the list, so that campaigns already planned from it stop at the next arming.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Final

from fullsend.errors import InvalidInput, Problem
from fullsend.ledger.database import Connection, Database, utc
from fullsend.ledger.named import query
from fullsend.ledger.tenants import ensure_tenant

_CHUNK: Final = 5_000
_PAGE: Final = 5_000


class MemberStatus(StrEnum):
    UNCONFIRMED = "unconfirmed"
    CONFIRMED = "confirmed"
    UNSUBSCRIBED = "unsubscribed"


@dataclass(frozen=True, slots=True)
class NewMember:
    """``variables`` is JSON text; ``evidence`` says how consent was given (form, time, IP, import)."""

    identity_hash: bytes
    address: str
    variables: str = "{}"
    status: MemberStatus = MemberStatus.UNCONFIRMED
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    identity_hash: bytes
    address: str
    variables: str
    status: MemberStatus
    evidence: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ListSummary:
    name: str
    double_opt_in: bool
    created_at: datetime
    confirmed: int
    unconfirmed: int
    unsubscribed: int


@dataclass(frozen=True, slots=True)
class Imported:
    added: int
    updated: int


async def create_list(db: Database, tenant: str, name: str, *, double_opt_in: bool) -> bool:
    """Makes a list; False where there is one of that name already."""
    await ensure_tenant(db, tenant)
    [made] = await db.unit(("create_list", {"tenant": tenant, "name": name, "double_opt_in": double_opt_in}))
    return bool(made)


async def tenant_lists(db: Database, tenant: str) -> tuple[ListSummary, ...]:
    rows = await db.fetch("tenant_lists", {"tenant": tenant})
    return tuple(ListSummary(**{**row, "created_at": utc(row["created_at"])}) for row in rows)


async def import_members(db: Database, tenant: str, name: str, members: Iterable[NewMember]) -> Imported:
    """Adds or updates members, committed a chunk at a time. Raises InvalidInput for a list that is not known."""
    await _check(db, tenant, name)
    added = updated = 0
    source = iter(members)
    while chunk := list(islice(source, _CHUNK)):
        hashes = [member.identity_hash for member in chunk]
        put, _ = await db.unit(
            (
                "put_members",
                {
                    "tenant": tenant,
                    "list": name,
                    "hashes": hashes,
                    "addresses": [member.address for member in chunk],
                    "variables": [member.variables for member in chunk],
                    "statuses": [member.status.value for member in chunk],
                    "evidences": [member.evidence for member in chunk],
                },
            ),
            ("suppress_unsubscribed", {"tenant": tenant, "list": name, "hashes": hashes}),
        )
        new = sum(inserted for (inserted,) in put)
        added, updated = added + new, updated + len(put) - new
    return Imported(added, updated)


async def set_status(
    db: Database, tenant: str, name: str, identity_hash: bytes, status: MemberStatus, evidence: str
) -> bool:
    """What a person said, with its evidence; False where they are not a member of the list."""
    key = {"tenant": tenant, "list": name, "identity": identity_hash}

    async def work(connection: Connection) -> bool:
        changed = await connection.execute(
            query("set_member_status"), {**key, "status": status.value, "evidence": evidence}
        )
        if await changed.fetchone() is None:
            return False
        if status is MemberStatus.UNSUBSCRIBED:
            await connection.execute(query("suppress_unsubscribed"), {**key, "hashes": [identity_hash]})
        else:
            await connection.execute(query("resubscribe"), key)
        return True

    return await db.transaction(work)


async def list_members(db: Database, tenant: str, name: str) -> AsyncIterator[Member]:
    """Every member of a list, in the order they joined. Raises InvalidInput for a list that is not known."""
    await _check(db, tenant, name)
    after = 0
    while rows := await db.fetch("members_page", {"tenant": tenant, "list": name, "after": after, "page": _PAGE}):
        for row in rows:
            yield Member(
                identity_hash=row["identity_hash"],
                address=row["address"],
                variables=row["variables"],
                status=MemberStatus(row["status"]),
                evidence=row["evidence"],
                created_at=utc(row["created_at"]),
                updated_at=utc(row["updated_at"]),
            )
        after = rows[-1]["id"]


async def _check(db: Database, tenant: str, name: str) -> None:
    if not await db.fetch("lists_by_name", {"tenant": tenant, "names": [name]}):
        what = f"there is no list {name} in the namespace {tenant}"
        raise InvalidInput([Problem("list", what, "create it first")])
