"""Identity hashes: how the ledger knows a person again without keeping the address.

16 bytes of BLAKE2b, keyed with the installation's own key: not reversible by a dictionary of addresses without the
key, stable for ever within an installation. Erasure removes the address and keeps the hash, so that deduplication,
suppression and the plan's digest still hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final
from uuid import UUID

from fullsend.errors import SchemaMismatch
from fullsend.ledger.database import Database

HASH_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Installation:
    id: UUID
    hash_key: bytes = field(repr=False)


def hash_identity(key: bytes, identity: str) -> bytes:
    """The hash of a normalised identity."""
    return blake2b(identity.encode(), key=key, digest_size=HASH_BYTES).digest()


async def installation(db: Database) -> Installation:
    row = await db.fetch_one("installation")
    if row is None:
        raise SchemaMismatch("The ledger's migration was not finished. Run `fullsend migrate`.")
    return Installation(row["id"], row["hash_key"])
