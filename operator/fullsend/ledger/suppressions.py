"""Who said no, and where it counts: to the whole installation, to one tenant, or to one of its lists.

Looked at when a plan is sealed and again in the statement that arms each row, so a suppression committed before a row
is armed is honoured. One entry a reason: lifting what a relay's refusal fed does not lift what the person said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from fullsend.errors import InvalidInput, Problem
from fullsend.ledger.database import Database, utc
from fullsend.ledger.tenants import ensure_tenant

_CHUNK: Final = 5_000
_PAGE: Final = 5_000


class Scope(StrEnum):
    INSTALLATION = "installation"
    TENANT = "tenant"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a suppression counts. ``tenant`` is needed but for the installation, ``list`` for a list."""

    scope: Scope
    tenant: str | None = None
    list: str | None = None

    @classmethod
    def installation(cls) -> Target:
        return cls(Scope.INSTALLATION)


@dataclass(frozen=True, slots=True)
class NewSuppression:
    """``address`` is for people who read the list; None keeps only the hash."""

    identity_hash: bytes
    address: str | None
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Suppression:
    scope: Scope
    tenant: str | None
    list: str | None
    identity_hash: bytes
    address: str | None
    reason: str
    source: str
    created_at: datetime


async def add(db: Database, target: Target, entries: Iterable[NewSuppression]) -> int:
    """Adds entries, committed a chunk at a time; returns how many were new. Raises InvalidInput for a tenant or list
    that is not known."""
    await _check(db, target)
    new = 0
    source = iter(entries)
    while chunk := list(islice(source, _CHUNK)):
        [rows] = await db.unit(
            (
                "add_suppressions",
                {
                    **_params(target),
                    "hashes": [entry.identity_hash for entry in chunk],
                    "addresses": [entry.address for entry in chunk],
                    "reasons": [entry.reason for entry in chunk],
                    "sources": [entry.source for entry in chunk],
                },
            )
        )
        new += len(rows)
    return new


async def remove(db: Database, target: Target, identity_hash: bytes, *, reason: str | None = None) -> int:
    """Lifts a person's suppressions in one place, for one reason or (None) for all; returns how many."""
    [rows] = await db.unit(("remove_suppressions", {**_params(target), "identity": identity_hash, "reason": reason}))
    return len(rows)


async def list_suppressions(db: Database, tenant: str | None) -> AsyncIterator[Suppression]:
    """What binds a tenant (its own and the installation's), or (None) all there are, in the order of arrival."""
    after = 0
    while rows := await db.fetch("suppressions_page", {"tenant": tenant, "after": after, "page": _PAGE}):
        for row in rows:
            yield Suppression(
                scope=Scope(row["scope"]),
                tenant=row["tenant"],
                list=row["list"],
                identity_hash=row["identity_hash"],
                address=row["address"],
                reason=row["reason"],
                source=row["source"],
                created_at=utc(row["created_at"]),
            )
        after = rows[-1]["id"]


def _params(target: Target) -> dict[str, Any]:
    return {"scope": target.scope.value, "tenant": target.tenant, "list": target.list}


async def _check(db: Database, target: Target) -> None:
    match target.scope:
        case Scope.INSTALLATION:
            if target.tenant is not None or target.list is not None:
                raise ValueError("a suppression for the installation names no tenant and no list")
        case Scope.TENANT:
            if target.tenant is None or target.list is not None:
                raise ValueError("a suppression for a tenant names the tenant and no list")
            await ensure_tenant(db, target.tenant)
        case Scope.LIST:
            if target.tenant is None or target.list is None:
                raise ValueError("a suppression for a list names the tenant and the list")
            known = await db.fetch("lists_by_name", {"tenant": target.tenant, "names": [target.list]})
            if not known:
                what = f"there is no list {target.list} in the namespace {target.tenant}"
                raise InvalidInput([Problem("suppression", what, "create the list first")])
