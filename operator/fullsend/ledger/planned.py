"""What a sealed plan holds, for those who compare with it: audits, and campaigns that exclude another's recipients.

Read a page at a time by sequence number, without a cursor or a transaction that stays open: the reader may take as long
as it likes. A sealed plan only grows (top-up), so that is as good as a snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from fullsend.ledger.database import Database
from fullsend.states import CampaignId

PAGE: Final = 10_000


@dataclass(frozen=True, slots=True)
class PlannedPerson:
    """``address`` and ``variables`` are None once erased; ``usable`` is false for an address that can't be used."""

    identity_hash: bytes
    address: str | None
    variables: str | None
    usable: bool


@dataclass(frozen=True, slots=True)
class PlannedRecipient:
    """What a message is built from. ``variables`` is JSON text."""

    address: str
    variables: str
    token: str


async def planned_recipient(
    db: Database, campaign: CampaignId, identity_hash: bytes | None = None
) -> PlannedRecipient | None:
    """One recipient of the sealed plan: who has this identity, or (None) the first who is eligible."""
    row = await db.fetch_one("planned_recipient", {"campaign": campaign, "identity": identity_hash})
    return None if row is None else PlannedRecipient(**row)


async def planned_identities(db: Database, campaign: CampaignId) -> AsyncGenerator[list[bytes], None]:
    """The identity hashes of the sealed plan, in pages."""
    async for page in _pages(db, "planned_identities", campaign):
        yield [bytes(row["identity_hash"]) for row in page]


async def planned_people(db: Database, campaign: CampaignId) -> AsyncGenerator[list[PlannedPerson], None]:
    """The people of the sealed plan, in pages, in the plan's order."""
    async for page in _pages(db, "planned_people", campaign):
        yield [
            PlannedPerson(bytes(row["identity_hash"]), row["address"], row["variables"], row["usable"]) for row in page
        ]


async def note_plan(db: Database, campaign: CampaignId, generation: int, message: str) -> None:
    """Leaves a message for a person on a plan that runs; the seal keeps it."""
    await db.unit(
        ("note_plan", {"campaign": campaign, "generation": generation, "message": message.replace("\x00", "")})
    )


async def _pages(db: Database, name: str, campaign: CampaignId) -> AsyncGenerator[list[dict[str, Any]], None]:
    after = 0
    while page := await db.fetch(name, {"campaign": campaign, "after": after, "page": PAGE}):
        after = page[-1]["seq"]
        yield page
