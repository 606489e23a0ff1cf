"""What is asked about an Audience, a MailTemplate or a MailTransport, and what its probe answers.

The operator asks and reads; the probe, a Job of the namespace with the rights of its tenant's role, answers.
Invariants: a question has a number, and an answer to an older one is dropped; what was asked is forgotten once it is
answered, for it may name people; an answer stays until the next one, so that a restarted operator has nothing to probe
again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fullsend.errors import LedgerError
from fullsend.ledger.database import Database, utc, utc_or_none
from fullsend.ledger.mapping import breaker_of
from fullsend.ledger.view import ProbeView, TransportUse

RESULT_LIMIT = 65_536
"""Bytes of an answer, as the table checks."""


@dataclass(frozen=True, slots=True)
class Question:
    """``content`` is what the object's spec says; ``tenant`` is its namespace."""

    kind: str
    name: str
    tenant: str
    content: Mapping[str, Any]


async def observe(db: Database, tenant: str, uid: str) -> tuple[datetime, ProbeView | None]:
    """The database's clock and what is known of this object."""
    row = await db.fetch_one("observe_probe", {"tenant": tenant, "uid": uid})
    assert row is not None, "a left join of one row"
    now = utc(row["now"])
    if row["id"] is None:
        return now, None
    return now, ProbeView(
        id=row["id"],
        number=row["number"],
        generation=row["generation"],
        failures=row["failures"],
        asked_at=utc(row["asked_at"]),
        answered_number=row["answered_number"],
        answered_generation=row["answered_generation"],
        answered_at=utc_or_none(row["answered_at"]),
        result=row["result"] if isinstance(row["result"], dict) else {},
    )


async def ask(
    db: Database,
    tenant: str,
    uid: str,
    *,
    kind: str,
    name: str,
    generation: int,
    failures: int,
    known: int,
    content: Mapping[str, Any],
) -> tuple[int, int] | None:
    """The row's id and the question's number. ``known``: the number of the last question, 0 for none; None where
    another operator has asked since."""
    params = {"tenant": tenant, "uid": uid, "kind": kind, "name": name, "generation": generation}
    params |= {"failures": failures, "known": known, "content": json.dumps(content)}
    await db.unit(("ensure_tenant", {"tenant": tenant}))
    row = await db.fetch_one("ask_probe", params)
    return None if row is None else (row["id"], row["number"])


async def question(db: Database, probe: int, number: int) -> Question:
    """Raises LedgerError where this question is no longer the one."""
    row = await db.fetch_one("read_probe", {"probe": probe, "number": number})
    if row is None:
        raise LedgerError(f"Probe {probe} is not asked question {number} any more.")
    return Question(row["kind"], row["name"], row["tenant"], row["content"])


async def answer(db: Database, probe: int, number: int, result: Mapping[str, Any]) -> bool:
    """False where another question has been asked since, or this one is answered."""
    params = {"probe": probe, "number": number, "result": json.dumps(result)}
    return await db.fetch_one("answer_probe", params) is not None


async def forget(db: Database, tenant: str, uid: str) -> None:
    await db.unit(("forget_probe", {"tenant": tenant, "uid": uid}))


async def transport_use(db: Database, tenant: str, transport: str) -> tuple[TransportUse, ...]:
    """The campaigns that send through this transport now."""
    rows = await db.fetch("transport_use", {"tenant": tenant, "transport": transport})
    return tuple(
        TransportUse(row["name"], breaker_of(row["breaker"]), row["connections"], row["learned"]) for row in rows
    )


async def refused_among(db: Database, tenant: str, lists: Collection[str], hashes: Sequence[bytes]) -> set[bytes]:
    """Those of these people who said no somewhere that counts for these lists."""
    rows = await db.fetch("refused_among", {"tenant": tenant, "lists": sorted(lists), "hashes": list(hashes)})
    return {bytes(row["identity_hash"]) for row in rows}
