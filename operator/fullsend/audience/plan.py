"""From a campaign's frozen content to a sealed plan: the one time its audience is read.

The invariant: a plan is sealed whole or not at all. What fails is recorded in the ledger with a reason and a message
that a person can act on; what dies leaves an unsealed generation that nobody sends from and the next run discards.
Sources are read in the order of the campaign's audiences, so that of two copies of one person the same one wins each
time; a suppression on any copy wins over that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fullsend.audience import rendering
from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.audience.intake import Intake
from fullsend.audience.sources.base import Chunks, Mounts, SourceRow
from fullsend.audience.sources.opening import open_source
from fullsend.audience.spool import IdentitySpool
from fullsend.errors import FullsendError, InvalidInput, LedgerError, LedgerUnavailable, SessionFenced, SourceError
from fullsend.ledger import campaigns, plans
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.planned import note_plan, planned_identities
from fullsend.ledger.view import PlanView
from fullsend.message.compiled import CompiledMessage
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
    """Read, judge, check and seal; a campaign that has a sealed plan keeps it and nothing is read.

    Raises PlanFailed, InvalidInput (both recorded in the ledger) and LedgerError.
    """
    if await campaigns.compiled(db, campaign) is not None:
        # The job runs again: the one before it died between its seal and its end.
        view = await campaigns.observe(db, campaign, session_lease_seconds=0)
        if view.plan is not None:
            return view.plan
    return await _plan(db, campaign, tenant, mounts)


async def top_up(db: Database, campaign: CampaignId, *, tenant: str, mounts: Mounts) -> PlanView:
    """A further generation with the people who have come since. Whoever is in the campaign already is a duplicate of
    themselves, whatever became of them; the frozen message stays as it is. Raises as ``plan`` does."""
    return await _plan(db, campaign, tenant, mounts)


async def _plan(db: Database, campaign: CampaignId, tenant: str, mounts: Mounts) -> PlanView:
    held = await campaigns.content(db, campaign)
    if not held:
        raise LedgerError(f"Campaign {campaign} was purged: its key never sends again, and nothing can be planned.")
    try:
        content = content_from_json(held)
    except InvalidInput as error:
        generation = await plans.begin_plan(db, campaign)
        await plans.fail_plan(db, campaign, generation, "InvalidContent", str(error))
        raise
    generation = await plans.begin_plan(db, campaign, lists=sorted(lists_of(content.audiences)))
    if await campaigns.content(db, campaign) != held:
        # A replacement discards the plans that run: one from before this plan began is seen here, a later one fences.
        raise SessionFenced("The campaign's content was replaced while its plan began.")
    try:
        return await _Planner(db, campaign, generation, tenant, mounts, content).run()
    except InvalidInput as error:
        await plans.fail_plan(db, campaign, generation, "InvalidMessage", str(error))
        raise
    except (SourceError, PlanFailed) as error:
        await plans.fail_plan(db, campaign, generation, error.reason, str(error))
        raise PlanFailed(error.reason, str(error)) from error
    except (LedgerUnavailable, SessionFenced):
        raise  # nothing can be recorded, or another plan took this one's place
    except Exception as error:
        # A defect of ours must show in the campaign's status too, not only in a pod's log.
        with contextlib.suppress(FullsendError):
            await plans.fail_plan(db, campaign, generation, "InternalError", f"{type(error).__name__}: {error}")
        raise


@dataclass(slots=True)
class _Planner:
    """One generation of one campaign, from content to seal."""

    db: Database
    campaign: CampaignId
    generation: int
    tenant: str
    mounts: Mounts
    content: FrozenContent
    notes: list[str] = field(default_factory=list)

    async def run(self) -> PlanView:
        compiled = await self._alive(self._compiled())
        key = (await installation(self.db)).hash_key
        with IdentitySpool() as excluded:
            await self._exclude(key, excluded)
            intake = Intake(key, compiled.required, excluded.find)
            for audience in self.content.audiences:
                await self._read(audience, intake)
        self._check_variables(intake, compiled)
        check = await self._alive(rendering.check(compiled, intake.sample.items))
        if check.failed and check.failed == check.checked:
            raise PlanFailed("NothingRenders", f"the message can't be built for anybody: {'; '.join(check.examples)}")
        if check.failed:
            what = f"the message can't be built for {check.failed} of the {check.checked} recipients tried"
            self.notes.append(f"{what}: {'; '.join(check.examples)}")
        await note_plan(self.db, self.campaign, self.generation, "\n".join(self.notes))
        return await self._alive(
            plans.seal_plan(
                self.db,
                self.campaign,
                self.generation,
                compiled=compiled.to_bytes(),
                rows_read=intake.rows_read,
                render_checked=check.checked,
                render_failed=check.failed,
            )
        )

    async def _compiled(self) -> CompiledMessage:
        """The frozen message of an earlier generation, or a new one."""
        if frozen := await campaigns.compiled(self.db, self.campaign):
            return CompiledMessage.from_bytes(frozen)
        summaries = await campaigns.list_campaigns(self.db, self.tenant)
        name = next((each.name for each in summaries if each.campaign == self.campaign), None)
        if name is None:
            raise PlanFailed("CampaignMissing", f"the namespace {self.tenant} has no campaign {self.campaign}")
        return await rendering.compile_content(self.content, name, self.mounts)

    async def _read(self, audience: NamedAudience, intake: Intake) -> None:
        """One audience into the plan. The ledger writes a chunk while the next one is read and judged."""
        allow = audience.spec.role_addresses is RoleAddresses.ALLOW
        writing: asyncio.Future[int] | None = None
        try:
            async with aclosing(self._rows(audience, self.content.audiences)) as chunks:
                async for rows in chunks:
                    planned = intake.take(audience.name, rows, allow_role_addresses=allow)
                    if writing is not None:
                        await writing
                    writing = asyncio.ensure_future(plans.add_rows(self.db, self.campaign, self.generation, planned))
            if writing is not None:
                await writing
        finally:
            if writing is not None:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)

    async def _exclude(self, key: bytes, excluded: IdentitySpool) -> None:
        """Everybody in an excluded audience, whatever their status there, and in an excluded campaign's plan."""
        for audience in self.content.excludes:
            async with aclosing(self._rows(audience, self.content.excludes)) as chunks:
                async for rows in chunks:
                    excluded.put((hash_, b"") for hash_ in usable_hashes(rows, key))
        for name in self.content.exclude_campaigns:
            other = await campaigns.find(self.db, self.tenant, name)
            if other is None or await campaigns.compiled(self.db, other) is None:
                what = f"excluded campaign {name}: the ledger has no sealed plan under this key"
                raise PlanFailed("ExcludedCampaignNotPlanned", what)
            pages = planned_identities(self.db, other)
            while (page := await self._alive(anext(pages, None))) is not None:
                excluded.put((hash_, b"") for hash_ in page)

    async def _rows(self, audience: NamedAudience, among: Collection[NamedAudience]) -> Chunks:
        """The chunks of one audience, with signs of life while its source keeps us waiting."""
        try:
            source = open_source(
                audience.spec, mounts=self.mounts, db=self.db, tenant=self.tenant, together_with=lists_of(among)
            )
            empty = True
            async with aclosing(source.chunks()) as chunks:
                while (rows := await self._alive(anext(chunks, None))) is not None:
                    empty = empty and not rows
                    yield rows
        except SourceError as error:
            raise SourceError(error.reason, f"audience {audience.name}: {error}") from error
        if empty and not audience.spec.allow_empty:
            text = f"audience {audience.name}: it has no rows; `allowEmpty: true` accepts that"
            raise SourceError("EmptyAudience", text)
        self.notes.extend(source.notes)

    def _check_variables(self, intake: Intake, compiled: CompiledMessage) -> None:
        """A name that nobody has is a mistake in the template; one that a few lack is theirs, and counted."""
        columns = ", ".join(sorted(intake.columns)) or "(none)"
        nobody = [name for name in compiled.required if intake.eligible and intake.lacking[name] == intake.eligible]
        if nobody:
            text = f"the message needs {', '.join(nobody)}, which no recipient has; the columns are {columns}"
            raise PlanFailed("MissingVariable", text)
        for name, lacking in sorted(intake.lacking.items()):
            self.notes.append(f"{lacking} of {intake.eligible} recipients have no {name}, which the message needs")

    async def _alive(self, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
        """The result of something slow; the plan's heart beats while it is awaited."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=HEARTBEAT)
                if not task.done() and not await plans.heartbeat_plan(self.db, self.campaign, self.generation):
                    # No longer running: replaced, or just sealed by what is awaited here.
                    await asyncio.wait({task}, timeout=HEARTBEAT)
                    if not task.done():
                        raise SessionFenced("Another plan of this campaign took this one's place.")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


def usable_hashes(rows: Sequence[SourceRow], key: bytes) -> Iterator[bytes]:
    """The identity hashes of the rows whose address can be used."""
    for row in rows:
        with contextlib.suppress(InvalidAddress):
            yield hash_identity(key, normalise(row.address).identity)


def lists_of(audiences: Collection[NamedAudience]) -> set[str]:
    """The names of all lists that these audiences are drawn from."""
    return {name for each in audiences if each.spec.list is not None for name in each.spec.list.all_names}
