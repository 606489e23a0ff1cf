"""Our own lists as an audience: every member is a row, and who may not be mailed is one with a reason.

The invariant: a person is judged over all of their memberships in the chosen lists, the campaign's other audiences'
included, never over one arbitrary row. So the same person gets the same verdict whichever list names them first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from fullsend.audience.sources.base import ELIGIBLE, Chunks, SourceRow, Status
from fullsend.errors import SourceError
from fullsend.ledger.database import Database
from fullsend.ledger.membership import find_lists, judged_members

REASONS: Final = {"unconfirmed": Status("Unconfirmed"), "unsubscribed": Status("Unsubscribed")}


@dataclass(frozen=True, slots=True)
class ListSource:
    """``names`` are read in their order; ``judged_over`` are the names of all lists of the campaign."""

    db: Database
    tenant: str
    names: Sequence[str]
    judged_over: Collection[str]
    notes: list[str] = field(default_factory=list)

    async def chunks(self) -> Chunks:
        known = await find_lists(self.db, self.tenant, {*self.names, *self.judged_over})
        if missing := [name for name in self.names if name not in known]:
            raise SourceError("ListMissing", f"there is no list {', '.join(missing)} in the namespace {self.tenant}")
        chosen = [known[name] for name in self.judged_over if name in known]
        row = 0
        for name in self.names:
            async with aclosing(judged_members(self.db, known[name], chosen)) as pages:
                async for page in pages:
                    chunk = []
                    for member in page:
                        row += 1
                        status = ELIGIBLE if member.eligible else REASONS[member.status]
                        chunk.append(SourceRow(member.address, json.loads(member.variables), row, status))
                    yield chunk
