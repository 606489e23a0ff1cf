"""Retention: a finished campaign's recipients are deleted, and a tombstone stays for ever.

The tombstone (key, fingerprint, counts, proof, plan numbers) holds no personal data and refuses to send: registering
its key finds the phase ``purged``, no session opens, no plan begins, nothing is reopened. The phase changes first, so a
purge that is cut short has already closed the door, and calling it again deletes the rest.
"""

from __future__ import annotations

from typing import Final

from fullsend.errors import LedgerError
from fullsend.ledger.database import Database, unknown_campaign
from fullsend.ledger.view import Phase
from fullsend.states import CampaignId

_CHUNK: Final = 5_000


async def purge(db: Database, campaign: CampaignId) -> int:
    """Deletes the recipients of a finished campaign; returns how many. Raises LedgerError for one that is not."""
    row = await db.fetch_one("campaign_exists", {"campaign": campaign})
    if row is None:
        raise unknown_campaign(campaign)
    if Phase(row["phase"]) is not Phase.PURGED and await db.fetch_one("start_purge", {"campaign": campaign}) is None:
        raise LedgerError(f"Campaign {campaign} is {row['phase']}: only a finished campaign can be purged.")
    total = 0
    while True:
        [[(count,)]] = await db.unit(("purge_chunk", {"campaign": campaign, "chunk": _CHUNK}))
        total += int(count)
        if not count:
            break
    await db.unit(("purge_rest", {"campaign": campaign}))
    return total
