"""A person's rights: to be forgotten, and to be told what is held.

Erasure takes the texts (address, variables, token, what relays said, memberships, addresses written into frozen
contents) and keeps the identity hash: the digest of a sealed plan, the deduplication and what the person said no to all
still hold. A row that waits ends as ``suppressed`` with the reason ``Erased``; a row that is on the wire, or in a plan
that is being made, is left and counted as ``in_flight``: call again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from fullsend.ledger.database import Database

_ERASED: Final = "[erased]"


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of each kind were cleared. ``in_flight`` > 0: something was on the wire; call again."""

    deliveries: int
    members: int
    suppressions: int
    contents: int
    in_flight: int


async def erase(db: Database, tenant: str | None, identity_hash: bytes, identity: str) -> Erased:
    """Forgets a person in one tenant, or (None) in all. ``identity`` is the normalised address of the hash, needed to
    find it in frozen contents. Idempotent."""
    key = {"tenant": tenant, "identity": identity_hash}
    deliveries = in_flight = 0
    for row in await db.fetch("campaigns_of_identity", key):
        [[(forgotten, busy, _)]] = await db.unit(("erase_from_campaign", {**key, "campaign": row["id"]}))
        deliveries += forgotten
        in_flight += busy
    members, suppressions = await db.unit(("erase_members", key), ("erase_suppressions", key))
    contents = 0
    named = re.compile(rf"(?<![\w.+-]){re.escape(identity)}(?![\w-])", re.IGNORECASE)  # not in the middle of another's
    for row in await db.fetch("contents_that_name", {"tenant": tenant, "needle": identity.lower()}):
        content = _without(row["content"], named)
        if content != row["content"]:
            await db.unit(("replace_content", {"campaign": row["id"], "content": json.dumps(content)}))
            contents += 1
    return Erased(deliveries, len(members), len(suppressions), contents, in_flight)


async def export(db: Database, tenant: str | None, identity_hash: bytes) -> dict[str, Any]:
    """All that is held of a person in one tenant, or (None) in all, as JSON-able values."""
    key = {"tenant": tenant, "identity": identity_hash}
    campaigns = [row["id"] for row in await db.fetch("campaigns_of_identity", key)]
    return {
        "deliveries": _plain(await db.fetch("export_deliveries", {"campaigns": campaigns, **key})),
        "memberships": _plain(await db.fetch("export_memberships", key)),
        "suppressions": _plain(await db.fetch("export_suppressions", key)),
    }


def _without(value: Any, named: re.Pattern[str]) -> Any:
    """The document with the address replaced wherever a string names it, and what an inline audience says of that
    person (their variables, their number elsewhere) gone with it."""
    match value:
        case {"email": str(address)} if named.fullmatch(address.strip()):
            return {"email": _ERASED}
        case str():
            return named.sub(_ERASED, value)
        case list():
            return [_without(item, named) for item in value]
        case dict():
            return {key: _without(item, named) for key, item in value.items()}
        case _:
            return value


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in row.items()} for row in rows]
