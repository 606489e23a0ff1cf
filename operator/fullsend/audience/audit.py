"""How far a sealed plan and today's source have drifted apart. For information: an audit changes nothing.

People are compared by identity, as the planner knows them. Whoever has come since is for ``top_up`` to add; who
has gone stays in the plan (take them out by a suppression); changed variables stay as they were frozen.
"""

from __future__ import annotations

import contextlib
import json
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.audience.intake import variables_text
from fullsend.audience.plan import lists_of
from fullsend.audience.sources.base import Mounts, Source
from fullsend.audience.sources.opening import open_source
from fullsend.audience.spool import IdentitySpool
from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.planned import PlannedPerson, planned_people
from fullsend.resources.fingerprint import content_from_json
from fullsend.states import CampaignId

EXAMPLES: Final = 20
_ADDRESS_END: Final = b"\n"  # in no usable address


@dataclass(slots=True)
class Drift:
    """One kind of difference: how many people, and some of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True, slots=True)
class Audit:
    """``planned`` people of the sealed plan against ``found`` ones in the source now (usable addresses, each person
    once). ``changed`` examples name the variables, not their values. Erased people are only counted."""

    planned: int
    found: int
    erased: int
    added: Drift
    gone: Drift
    changed: Drift


async def audit(db: Database, campaign: CampaignId, *, tenant: str, mounts: Mounts) -> Audit:
    """Reads the sources again. Raises SourceError, InvalidInput and LedgerError."""
    content = content_from_json(await campaigns.content(db, campaign))
    key = (await installation(db)).hash_key
    added, gone, changed = Drift(), Drift(), Drift()
    planned = erased = 0
    with IdentitySpool() as today:
        for audience in content.audiences:
            lists = lists_of(content.audiences)
            source = open_source(audience.spec, mounts=mounts, db=db, tenant=tenant, together_with=lists)
            await _spool(source, audience.name, key, today)
        found = len(today)
        async with aclosing(planned_people(db, campaign)) as pages:
            async for page in pages:
                people = [person for person in page if person.usable]
                values = today.find([person.identity_hash for person in people])
                planned += len(people)
                for person in people:
                    value = values.get(person.identity_hash)
                    if person.address is None:
                        erased += 1
                    elif value is None:
                        gone.note(person.address)
                    elif names := _changed(person, value):
                        changed.note(f"{person.address}: {', '.join(names)}")
                today.remove(values)
        for _, value in today:
            added.note(value.partition(_ADDRESS_END)[0].decode())
    return Audit(planned, found, erased, added, gone, changed)


async def _spool(source: Source, name: str, key: bytes, today: IdentitySpool) -> None:
    """Everybody with a usable address; of two copies the first, as in a plan."""
    async with aclosing(source.chunks()) as chunks:
        async for rows in chunks:
            entries = []
            for row in rows:
                with contextlib.suppress(InvalidAddress):
                    found = normalise(row.address)
                    value = found.wire.encode() + _ADDRESS_END + variables_text(row, name).encode()
                    entries.append((hash_identity(key, found.identity), value))
            today.put(entries)


def _changed(person: PlannedPerson, value: bytes) -> list[str]:
    """The names of the variables that differ."""
    before_text, now_text = person.variables or "{}", value.partition(_ADDRESS_END)[2].decode()
    if before_text == now_text:
        return []
    before, now = json.loads(before_text), json.loads(now_text)
    return sorted(
        name for name in {*before, *now} if (name in before, before.get(name)) != (name in now, now.get(name))
    )
