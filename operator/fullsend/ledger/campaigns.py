"""The campaign as the ledger knows it: its key, its owner, what senders obey, and what a tick sees.

Invariants: a ledger key belongs to one content from its first seal on, for ever (the caller compares fingerprints);
before it nobody can have been sent to, so the owner may mend what could not be planned; one live owner a key;
``revision`` only ever grows; ``observe`` never scans rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fullsend.errors import CampaignOwned
from fullsend.ledger.database import Connection, Database, unknown_campaign, utc, utc_or_none
from fullsend.ledger.endings import carry_out_reopen, end_rows, reopen_refused, reopen_run, request_reopen
from fullsend.ledger.flush import guarding
from fullsend.ledger.mapping import (
    breaker_of,
    breaker_to_json,
    counts_of,
    outlet_of,
    plan_of,
    proof_of,
    reopen_of,
    session_of,
)
from fullsend.ledger.named import query
from fullsend.ledger.proofs import finish, prove
from fullsend.ledger.purging import purge
from fullsend.ledger.view import BreakerView, LedgerView, Owner, Phase
from fullsend.states import CampaignId

if TYPE_CHECKING:
    from fullsend.ledger.sessions import OpenedSession

__all__ = [
    "CampaignSummary",
    "OwnerClaim",
    "Registered",
    "carry_out_reopen",
    "compiled",
    "content",
    "end_rows",
    "find",
    "finish",
    "heartbeat_owner",
    "list_campaigns",
    "load_breaker",
    "new_wave",
    "observe",
    "prove",
    "purge",
    "register",
    "release_owner",
    "reopen_refused",
    "reopen_run",
    "request_reopen",
    "update_breaker",
    "write_control",
]


@dataclass(frozen=True, slots=True)
class OwnerClaim:
    """Who wants to reconcile a key: the cluster's id, the object's uid, and for how long a silence keeps the key."""

    cluster: str
    uid: str
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Registered:
    """What the key holds. Where ``fingerprint`` is not the caller's, the key belongs to another campaign and was left
    as it is: the caller raises LedgerKeyConflict with the differences to ``content`` ({} once purged)."""

    campaign: CampaignId
    created: bool
    fingerprint: str
    content: Mapping[str, Any]
    phase: Phase


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    campaign: CampaignId
    tenant: str
    key: str
    name: str
    phase: Phase
    fingerprint: str
    revision: int
    created_at: datetime
    finished_at: datetime | None
    reopen_waits: bool  # a reopen request is not carried out yet


async def register(
    db: Database,
    *,
    tenant: str,
    key: str,
    name: str,
    owner: OwnerClaim,
    content: Mapping[str, Any],
    fingerprint: str,
) -> Registered:
    """Finds or makes the campaign of a ledger key and takes ownership of it.

    Content that was never sealed is replaced, and a plan that is being made of it discarded; a campaign with another
    fingerprint that was sealed, or that another live owner holds, is returned untouched. Raises CampaignOwned where
    another live owner holds this very campaign.
    """
    key_params = {"tenant": tenant, "key": key}

    async def work(connection: Connection) -> Registered:
        await connection.execute(query("ensure_tenant"), {"tenant": tenant})
        made = await connection.execute(
            query("register_campaign"),
            {**key_params, "name": name, "fingerprint": fingerprint, "content": json.dumps(content)},
        )
        created = await made.fetchone() is not None
        row = await (await connection.execute(query("lock_campaign_by_key"), key_params)).fetchone()
        assert row is not None
        campaign, known_fingerprint, known_content, cluster, uid, phase, owned = row
        registered = Registered(CampaignId(campaign), created, known_fingerprint, known_content or {}, Phase(phase))
        other = known_fingerprint != fingerprint
        foreign = owned and (cluster, uid) != (owner.cluster, owner.uid)
        if other and (foreign or registered.phase is not Phase.REGISTERED):
            return registered
        if foreign:
            raise CampaignOwned(_owned_message(key, cluster, uid))
        if other:
            await connection.execute(query("discard_running_plans"), {"campaign": campaign})
            new = {"campaign": campaign, "name": name, "fingerprint": fingerprint, "content": json.dumps(content)}
            await connection.execute(query("replace_unsealed_content"), new)
            registered = replace(registered, fingerprint=fingerprint, content=content)
        await connection.execute(query("take_ownership"), _claim(registered.campaign, owner))
        return registered

    return await db.transaction(work)


async def find(db: Database, tenant: str, key: str) -> CampaignId | None:
    row = await db.fetch_one("find_campaign", {"tenant": tenant, "key": key})
    return None if row is None else CampaignId(row["id"])


async def list_campaigns(db: Database, tenant: str | None) -> tuple[CampaignSummary, ...]:
    """The campaigns of one tenant, or of all (None)."""
    return tuple(
        CampaignSummary(
            campaign=CampaignId(row["id"]),
            tenant=row["tenant"],
            key=row["ledger_key"],
            name=row["name"],
            phase=Phase(row["phase"]),
            fingerprint=row["fingerprint"],
            revision=row["revision"],
            created_at=utc(row["created_at"]),
            finished_at=utc_or_none(row["finished_at"]),
            reopen_waits=row["reopen_waits"],
        )
        for row in await db.fetch("list_campaigns", {"tenant": tenant})
    )


async def heartbeat_owner(db: Database, campaign: CampaignId, owner: OwnerClaim) -> None:
    """Extends the owner's lease. Raises CampaignOwned where another took the key meanwhile."""
    if await db.fetch_one("take_ownership", _claim(campaign, owner)) is None:
        raise CampaignOwned(
            f"Campaign {campaign} of the ledger is reconciled by another owner whose lease has not run out."
        )


async def release_owner(db: Database, campaign: CampaignId, owner: OwnerClaim) -> None:
    await db.unit(("release_ownership", _claim(campaign, owner)))


async def observe(db: Database, campaign: CampaignId, *, session_lease_seconds: float) -> LedgerView:
    """What a tick needs to know, in one snapshot and without a scan. Raises LedgerError for an unknown campaign."""
    row = await db.fetch_one("observe_campaign", {"campaign": campaign, "lease": session_lease_seconds})
    if row is None:
        raise unknown_campaign(campaign)
    owner = None
    if row["owner_heartbeat_at"] is not None:
        owner = Owner(row["owner_cluster"], row["owner_uid"], utc(row["owner_heartbeat_at"]), row["owner_expired"])
    return LedgerView(
        campaign=CampaignId(row["id"]),
        now=utc(row["now"]),
        revision=row["revision"],
        phase=Phase(row["phase"]),
        fingerprint=row["fingerprint"],
        owner=owner,
        plan=None if row["plan"] is None else plan_of(row["plan"]),
        counts=counts_of(row["counts"]),
        sessions=tuple(session_of(session) for session in row["sessions"]),
        breaker=breaker_of(row["breaker"]),
        wave=row["wave"],
        control=row["control"],
        next_due_at=utc_or_none(row["next_due_at"]),
        due_now=row["due_now"],
        last_settled_at=utc_or_none(row["last_settled_at"]),
        first_armed_at=utc_or_none(row["first_armed_at"]),
        duplicates_possible=row["resent"],
        reopen=reopen_of(row["reopen"]),
        proof=proof_of(row["proof"]),
        finished_at=utc_or_none(row["finished_at"]),
        outlet=outlet_of(row["outlet"]),
        blocked_only=row["blocked_only"],
    )


async def write_control(db: Database, campaign: CampaignId, control: Mapping[str, Any]) -> bool:
    """What senders obey from their next heart-beat on. True where it was different."""
    document = json.dumps(control)
    return await db.fetch_one("write_control", {"campaign": campaign, "control": document}) is not None


async def content(db: Database, campaign: CampaignId) -> Mapping[str, Any]:
    """What was registered; {} once purged."""
    row = await db.fetch_one("campaign_content", {"campaign": campaign})
    if row is None:
        raise unknown_campaign(campaign)
    return row["content"] or {}


async def compiled(db: Database, campaign: CampaignId) -> bytes | None:
    """The message as compiled at the seal; None before it."""
    row = await db.fetch_one("campaign_compiled", {"campaign": campaign})
    if row is None:
        raise unknown_campaign(campaign)
    value: bytes | None = row["compiled"]
    return value


async def new_wave(db: Database, campaign: CampaignId) -> int:
    row = await db.fetch_one("new_wave", {"campaign": campaign})
    if row is None:
        raise unknown_campaign(campaign)
    return int(row["wave"])


async def load_breaker(db: Database, campaign: CampaignId) -> BreakerView:
    row = await db.fetch_one("load_breaker", {"campaign": campaign})
    if row is None:
        raise unknown_campaign(campaign)
    return breaker_of(row["breaker"])


async def update_breaker(
    db: Database,
    campaign: CampaignId,
    step: Callable[[BreakerView], BreakerView],
    *,
    session: OpenedSession | None = None,
) -> BreakerView:
    """Applies a pure step to the breaker under its lock; ``step`` may be called again after a lost race.

    A sender gives its ``session``: what a fenced one says no longer counts, and the breaker stays as it is.
    """

    async def work(connection: Connection) -> BreakerView:
        counts = True
        if session is not None:
            guard = await (await connection.execute(query("lock_session"), guarding(session))).fetchone()
            counts = guard == (True,)
        row = await (await connection.execute(query("lock_breaker"), {"campaign": campaign})).fetchone()
        if row is None:
            raise unknown_campaign(campaign)
        before = breaker_of(row[0])
        after = step(before) if counts else before
        if after != before:
            document = json.dumps(breaker_to_json(after))
            await connection.execute(query("write_breaker"), {"campaign": campaign, "breaker": document})
        return after

    return await db.transaction(work)


def _claim(campaign: CampaignId, owner: OwnerClaim) -> dict[str, Any]:
    return {"campaign": campaign, "cluster": owner.cluster, "uid": owner.uid, "lease": owner.lease_seconds}


def _owned_message(key: str, cluster: str, uid: str) -> str:
    return (
        f"Ledger key {key!r} is reconciled by another owner (cluster {cluster or 'unknown'}, uid {uid}), whose lease "
        "has not run out. Stop that one, or wait for its lease to run out."
    )
