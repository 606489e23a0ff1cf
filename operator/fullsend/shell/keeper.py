"""A campaign's keeper: all that a shell does with the ledger, so that the cluster's and this machine's do the same.

It finds the campaign of a ledger key, compares what the key holds with what is declared, keeps the owner's lease, and
carries out the actions of ``decide`` that are the ledger's. Invariant: nothing is remembered that the ledger does not
know, but for the rate's samples; a keeper made anew acts as the one before it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from psycopg.errors import DiskFull

from fullsend.errors import CampaignOwned, LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.campaigns import OwnerClaim
from fullsend.ledger.control import RetryControl
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import SESSION_LEASE_SECONDS
from fullsend.ledger.view import FINISHED, LedgerView, Owner, Phase
from fullsend.reconcile import actions as act
from fullsend.reconcile import breaker
from fullsend.reconcile.observed import Claimant, DatabaseFault, DatabaseProblem, Sample
from fullsend.resources.fingerprint import differences, fingerprint, frozen_content
from fullsend.resources.resolve import ResolvedCampaign
from fullsend.states import CampaignId, DeliveryState

SAMPLE_EVERY = timedelta(seconds=5)

LedgerAction = (
    act.Register
    | act.WriteControl
    | act.Sweep
    | act.EndRows
    | act.RequestReopen
    | act.CarryOutReopen
    | act.Prove
    | act.Finish
    | act.AcknowledgeHalt
    | act.Halt
)
"""What a keeper carries out; the other actions are about jobs, and the shell's."""

_NOT_ABOUT_RECIPIENTS = frozenset({breaker.Reason.EVERYONE_REFUSED, breaker.Reason.MESSAGE_REFUSED})
"""Halts whose run of refusals struck recipients for what was not theirs."""

LONG = (act.Sweep, act.EndRows, act.CarryOutReopen, act.Prove, act.AcknowledgeHalt)
"""Actions that walk rows: seconds to minutes in a large campaign."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared under a ledger key. ``content`` is None while something the campaign names is missing."""

    content: Mapping[str, Any] | None = None
    fingerprint: str = ""
    retry: RetryControl | None = None

    @classmethod
    def of(cls, resolved: ResolvedCampaign, retry: RetryControl) -> Declared:
        content = frozen_content(resolved)
        return cls(content, fingerprint(content), retry)


class Keeper:
    """Keeps one ledger key for one owner. ``lease``: how long the key stays this owner's without a look."""

    def __init__(self, us: Claimant, *, tenant: str, key: str, name: str, lease: timedelta) -> None:
        self.us = us
        self.tenant = tenant
        self.key = key
        self.campaign: CampaignId | None = None
        self.view: LedgerView | None = None
        self.conflict: tuple[str, ...] = ()
        self._name = name
        self._lease = lease
        self._declared = Declared()
        self._samples: deque[Sample] = deque(maxlen=4)
        self._compared: tuple[str, str] | None = None  # the fingerprints that ``conflict`` was found for

    @property
    def sample(self) -> Sample | None:
        return self._samples[0] if self._samples else None

    @property
    def _claim(self) -> OwnerClaim:
        return OwnerClaim(self.us.cluster, self.us.uid, self._lease.total_seconds())

    # -- looking --------------------------------------------------------------------------------------------------

    async def look(self, db: Database, declared: Declared) -> LedgerView | None:
        """The campaign as the ledger has it now, or None where it has none of this key. What was never planned is
        replaced by what is declared now: nobody can have been sent it. Raises LedgerError."""
        self._declared = declared
        self.view = None
        if self.campaign is None:
            self.campaign = await campaigns.find(db, self.tenant, self.key)
            if self.campaign is None:
                return None
        view = await self._observe(db, self.campaign)
        if declared.content is not None and view.fingerprint != declared.fingerprint and view.phase is Phase.REGISTERED:
            await self._register(db)
            view = await self._observe(db, self.campaign)
        await self._compare(db, view)
        if await self._keep_key(db, view):
            view = await self._observe(db, self.campaign)
        accepted = view.counts[DeliveryState.ACCEPTED]
        if not self._samples or view.now - self._samples[-1].at >= SAMPLE_EVERY:
            self._samples.append(Sample(view.now, accepted))
        self.view = view
        return view

    async def _observe(self, db: Database, campaign: CampaignId) -> LedgerView:
        return await campaigns.observe(db, campaign, session_lease_seconds=SESSION_LEASE_SECONDS)

    async def _compare(self, db: Database, view: LedgerView) -> None:
        """Whether the key holds what is declared. While that is not known, what was found last stays."""
        content, ours = self._declared.content, self._declared.fingerprint
        if content is None or self._compared == (view.fingerprint, ours):
            return
        if view.fingerprint == ours:
            self.conflict = ()
        else:
            held = await campaigns.content(db, view.campaign)
            self.conflict = tuple(differences(held, content)) if held else ("what it held was purged",)
        self._compared = (view.fingerprint, ours)

    async def _keep_key(self, db: Database, view: LedgerView) -> bool:
        """Renew our lease, or take over from an owner that is gone; True where the owner may have changed."""
        if view.phase in FINISHED:
            return False  # nothing is to be kept from anybody
        owner = view.owner
        if owner is not None and (owner.cluster, owner.uid) == (self.us.cluster, self.us.uid):
            if view.now - owner.heartbeat_at < self._lease / 3:
                return False
        elif (owner is not None and not owner.expired) or self._compared != (view.fingerprint, view.fingerprint):
            return False
        with contextlib.suppress(CampaignOwned):  # the view tells who it is
            await campaigns.heartbeat_owner(db, view.campaign, self._claim)
        return True

    async def release(self, db: Database) -> None:
        """Let go of the key, so that the next owner need not wait for the lease."""
        if self.campaign is not None:
            await campaigns.release_owner(db, self.campaign, self._claim)

    async def evict(self, db: Database, owner: Owner) -> None:
        """Let go of the key for an owner that is known to be gone for good."""
        if self.campaign is not None:
            await campaigns.release_owner(db, self.campaign, OwnerClaim(owner.cluster, owner.uid, 0))

    # -- acting ---------------------------------------------------------------------------------------------------

    async def carry_out(self, db: Database, action: LedgerAction) -> None:
        """Raises LedgerError; carried out twice, an action changes nothing the second time."""
        if isinstance(action, act.Register):
            await self._register(db)
            return
        campaign, view = self.campaign, self.view
        assert campaign is not None, "decide acts on a campaign only once it is registered"
        assert view is not None, "decide acts on what was seen"
        match action:
            case act.WriteControl(control):
                await campaigns.write_control(db, campaign, control.to_json())
            case act.Sweep():
                await self._sweep(db, view)
            case act.EndRows(from_states, to_state, reason):
                await campaigns.end_rows(db, campaign, from_states, to_state, reason)
            case act.RequestReopen(id, states):
                await campaigns.request_reopen(db, campaign, id=id, states=states)
            case act.CarryOutReopen():
                await campaigns.carry_out_reopen(db, campaign)
            case act.Prove():
                await campaigns.prove(db, campaign)
            case act.Finish(phase):
                assert view.proof is not None, "decide finishes on a proof"
                await campaigns.finish(db, campaign, phase, view.proof)
            case act.AcknowledgeHalt(halt_id):
                now = datetime.now(UTC)
                # First the rows, then the breaker: should this end in between, the next look does both again.
                held = view.breaker
                if held.halt_id == halt_id and held.reason in _NOT_ABOUT_RECIPIENTS and held.since is not None:
                    await campaigns.reopen_run(db, campaign, halt_id=halt_id, halted_at=held.since)
                await campaigns.update_breaker(db, campaign, lambda held: breaker.acknowledge(held, halt_id, now))
            case act.Halt(halt_id, reason, message, needs_person):
                now = datetime.now(UTC)
                await campaigns.update_breaker(
                    db,
                    campaign,
                    lambda held: breaker.halt(held, reason, message, now, halt_id=halt_id, needs_person=needs_person),
                )
            case _:
                assert_never(action)

    async def new_wave(self, db: Database) -> int:
        """The number of the next sender wave; two callers get two numbers."""
        assert self.campaign is not None, "senders are for a campaign in the ledger"
        return await campaigns.new_wave(db, self.campaign)

    async def _register(self, db: Database) -> None:
        content = self._declared.content
        assert content is not None, "decide registers only what is resolved"
        with contextlib.suppress(CampaignOwned):  # seen at the next look, as a foreign owner
            registered = await campaigns.register(
                db,
                tenant=self.tenant,
                key=self.key,
                name=self._name,
                owner=self._claim,
                content=content,
                fingerprint=self._declared.fingerprint,
            )
            self.campaign = registered.campaign

    async def _sweep(self, db: Database, view: LedgerView) -> None:
        retry = self._declared.retry
        if retry is None:  # what is declared can't be read now: as it was when it could
            retry = RetryControl.model_validate(view.control.get("retry", {}))
        await sessions.sweep(
            db,
            view.campaign,
            lease_seconds=SESSION_LEASE_SECONDS,
            max_unknown_resends=retry.max_unknown_resends,
            unknown_delay=retry.min_backoff,
        )


def problem_of(error: LedgerError) -> DatabaseProblem:
    """Ledger trouble as something to be looked at, not an error."""
    match error:
        case LedgerError(__cause__=DiskFull()):
            return DatabaseProblem(DatabaseFault.DISK_FULL, str(error))
        case LedgerUnavailable():
            return DatabaseProblem(DatabaseFault.UNREACHABLE, str(error))
        case SchemaMismatch():
            return DatabaseProblem(DatabaseFault.SCHEMA, str(error))
        case _:
            return DatabaseProblem(DatabaseFault.REFUSED, str(error))
