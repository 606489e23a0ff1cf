"""How many people an Audience has, and who of them may be mailed: its source, read once and thrown away.

Counted as a plan would count, people and not rows: the first copy of a person counts, a suppression on any copy wins,
and who said no somewhere that counts is passed over. What only a campaign knows (whom it excludes, what its message
needs, the lists of its other audiences) is not counted here. Nothing of anybody leaves this process but numbers and the
names of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from fullsend.audience.intake import Intake
from fullsend.audience.sources.base import Mounts
from fullsend.audience.sources.opening import open_source
from fullsend.audience.spool import IdentitySpool
from fullsend.errors import SourceError
from fullsend.ledger import lists as ledger_lists
from fullsend.ledger import probes
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import installation
from fullsend.ledger.plans import PlanRow
from fullsend.reconcile.probes import Answer, Outlook
from fullsend.resources.models import AudienceSpec, RoleAddresses
from fullsend.states import DeliveryState

COLUMNS: Final = 200
_COLUMN_LENGTH: Final = 128
_BY_ITSELF: Final = frozenset({"DatabaseUnreachable"})
"""Reasons of a source that nobody need do anything about but wait."""


async def probe_audience(spec: AudienceSpec, name: str, *, db: Database, tenant: str, mounts: Mounts) -> Answer:
    chosen = spec.list.all_names if spec.list is not None else ()
    try:
        with IdentitySpool() as people, IdentitySpool() as refused:
            count = _Count(people, refused)
            intake = Intake((await installation(db)).hash_key, (), lambda _: ())
            source = open_source(spec, mounts=mounts, db=db, tenant=tenant)
            allow = spec.role_addresses is RoleAddresses.ALLOW
            async with aclosing(source.chunks()) as chunks:
                async for rows in chunks:
                    planned = intake.take(name, rows, allow_role_addresses=allow)
                    willing = [row.identity_hash for row in planned if row.state is DeliveryState.PENDING]
                    count.add(planned, await probes.refused_among(db, tenant, chosen, willing))
            if not intake.rows_read and not spec.allow_empty:
                raise SourceError("EmptyAudience", "it has no rows; `allowEmpty: true` accepts that")
            found = count.found(intake.rows_read)
    except SourceError as error:
        outlook = Outlook.ITSELF if error.reason in _BY_ITSELF else Outlook.PERSON
        return Answer(False, error.reason, str(error), outlook)
    members = [each for each in await ledger_lists.tenant_lists(db, tenant) if each.name in chosen]
    text = f"{found['eligible']} of {found['recipients']} people may be mailed"
    return Answer(
        True,
        "Counted",
        "; ".join((text, *source.notes)),
        found={
            "lastCount": found,
            "columns": [column[:_COLUMN_LENGTH] for column in list(intake.columns)[:COLUMNS]],
            "lists": [
                {
                    "name": each.name,
                    "confirmed": each.confirmed,
                    "unconfirmed": each.unconfirmed,
                    "unsubscribed": each.unsubscribed,
                }
                for each in members
            ],
        },
    )


@dataclass(slots=True)
class _Count:
    """People by what a plan would make of them. ``people`` has everybody once, ``refused`` who is passed over."""

    people: IdentitySpool
    refused: IdentitySpool
    invalid: int = field(default=0)

    def add(self, rows: Sequence[PlanRow], said_no: set[bytes]) -> None:
        unusable = [row.identity_hash for row in rows if row.state is DeliveryState.INVALID]
        usable = [row.identity_hash for row in rows if row.state is not DeliveryState.INVALID]
        suppressed = [row.identity_hash for row in rows if row.state is DeliveryState.SUPPRESSED]
        self.invalid += self.people.put((hash_, b"") for hash_ in unusable)
        self.people.put((hash_, b"") for hash_ in usable)
        self.refused.put((hash_, b"") for hash_ in (*suppressed, *said_no))

    def found(self, rows_read: int) -> dict[str, Any]:
        people, suppressed = len(self.people), len(self.refused)
        return {
            "rowsRead": rows_read,
            "recipients": people,
            "eligible": people - self.invalid - suppressed,
            "duplicates": rows_read - people,
            "invalid": self.invalid,
            "suppressed": suppressed,
        }
