"""From a campaign's frozen content to a sealed plan: the one time its audience is read.

The invariant: a plan is sealed whole or not at all. What fails is recorded in the ledger with a reason and a message
that a person can act on; what dies leaves an unsealed generation that nobody sends from and the next run discards.
Sources are read in the order of the campaign's audiences, so that of two copies of one person the same one wins each
time; a suppression on any copy wins over that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.audience.intake import Intake
from fullsend.audience.rendering import Rendering, RenderCheck
from fullsend.audience.sources.base import Mounts, Source, SourceRow
from fullsend.audience.sources.opening import open_source
from fullsend.audience.spool import IdentitySpool
from fullsend.errors import FullsendError, InvalidInput, LedgerUnavailable, SourceError
from fullsend.ledger import campaigns, plans
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity
from fullsend.ledger.installation import installation
from fullsend.ledger.view import PlanView
from fullsend.resources.fingerprint import FrozenContent, content_from_json
from fullsend.resources.models import RoleAddresses
from fullsend.resources.resolve import NamedAudience
from fullsend.states import CampaignId

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life of a plan that runs."""

T = TypeVar("T")


class PlanFailed(FullsendError):
    """The plan can't be sealed. The ledger already knows; ``reason`` is a stable CamelCase word."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


async def plan(db: Database, campaign: CampaignId, *, tenant: str, mounts: Mounts) -> PlanView:
    """Read, judge, check and seal. Whoever is in the campaign already is a duplicate: a later generation only adds.

    Raises PlanFailed (recorded in the ledger), InvalidInput (recorded too) and LedgerError.
    """
    generation = await plans.begin_plan(db, campaign)
    try:
        return await _Planner(db, campaign, generation, tenant, mounts).run()
    except InvalidInput as error:
        await plans.fail_plan(db, campaign, generation, "InvalidContent", str(error))
        raise
    except SourceError as error:
        await plans.fail_plan(db, campaign, generation, error.reason, str(error))
        raise PlanFailed(error.reason, str(error)) from error
    except PlanFailed as error:
        await plans.fail_plan(db, campaign, generation, error.reason, str(error))
        raise
    except LedgerUnavailable:
        raise
    except Exception as error:
        # A defect of ours must show in the campaign's status too, not only in a pod's log.
        with contextlib.suppress(FullsendError):
            await plans.fail_plan(db, campaign, generation, "InternalError", f"{type(error).__name__}: {error}")
        raise


async def top_up(db: Database, campaign: CampaignId, *, tenant: str, mounts: Mounts) -> PlanView:
    """A further generation with the people who have come since; nobody twice. The frozen message stays as it is."""
    return await plan(db, campaign, tenant=tenant, mounts=mounts)


@dataclass(slots=True)
class _Planner:
    """One generation of one campaign, from content to seal."""

    db: Database
    campaign: CampaignId
    generation: int
    tenant: str
    mounts: Mounts
    notes: list[str] = field(default_factory=list)
    _last_beat: float = field(default_factory=time.monotonic)

    async def run(self) -> PlanView:
        content = content_from_json(await campaigns.content(self.db, self.campaign))
        frozen = await campaigns.compiled(self.db, self.campaign)
        rendering = await self._beating(Rendering.prepare(content, self.mounts, frozen))
        key = (await installation(self.db)).hash_key
        with IdentitySpool() as excluded:
            await self._exclude(content, key, excluded)
            intake = Intake(key, rendering.required, excluded.find)
            for audience in content.audiences:
                await self._read(audience, content, intake)
        self._check_variables(intake, rendering.required)
        check = await self._beating(rendering.check(intake.sample.items))
        if check.failed and check.failed == check.checked:
            raise PlanFailed("NothingRenders", f"the message can't be built for anybody: {'; '.join(check.examples)}")
        return await plans.seal_plan(
            self.db,
            self.campaign,
            self.generation,
            compiled=rendering.compiled,
            rows_read=intake.rows_read,
            render_checked=check.checked,
            render_failed=check.failed,
            message=self._message(intake, check),
        )

    async def _read(self, audience: NamedAudience, content: FrozenContent, intake: Intake) -> None:
        allow = audience.spec.role_addresses is RoleAddresses.ALLOW
        async for rows in self._rows(audience, content.audiences):
            await plans.add_rows(
                self.db,
                self.campaign,
                self.generation,
                intake.take(audience.name, rows, allow_role_addresses=allow),
            )
            await self._beat()

    async def _exclude(self, content: FrozenContent, key: bytes, excluded: IdentitySpool) -> None:
        """Everybody in an excluded audience, whatever their status there, and in an excluded campaign's plan."""
        for audience in content.excludes:
            async for rows in self._rows(audience, content.excludes):
                excluded.put((hash_, b"") for hash_ in _hashes(rows, key))
                await self._beat()
        for name in content.exclude_campaigns:
            other = await campaigns.find(self.db, self.tenant, name)
            if other is None:
                raise PlanFailed(
                    "ExcludedCampaignMissing", f"there is no campaign with the ledger key {name!r} to exclude"
                )
            async for hashes in plans.identity_hashes(self.db, other):
                excluded.put((hash_, b"") for hash_ in hashes)
                await self._beat()

    async def _rows(
        self, audience: NamedAudience, among: Collection[NamedAudience]
    ) -> AsyncIterator[Sequence[SourceRow]]:
        """The chunks of one audience, with signs of life while its source keeps us waiting."""
        try:
            source = self._open(audience, among)
            chunks = source.chunks()
            empty = True
            while (rows := await self._beating(anext(chunks, None))) is not None:
                empty = empty and not rows
                yield rows
            self.notes.extend(source.notes)
            if empty and not audience.spec.allow_empty:
                raise SourceError("EmptyAudience", "it has no rows; `allowEmpty: true` accepts that")
        except SourceError as error:
            raise SourceError(error.reason, f"audience {audience.name}: {error}") from error

    def _open(self, audience: NamedAudience, among: Collection[NamedAudience]) -> Source:
        lists = {name for each in among if each.spec.list is not None for name in each.spec.list.all_names}
        return open_source(audience.spec, mounts=self.mounts, db=self.db, tenant=self.tenant, together_with=lists)
