"""The sender: claim -> compose -> arm -> submit -> record, within what the ledger allows.

One asyncio process, one session. The pulse learns what may be done, the feed keeps work at hand, connections submit it,
the flusher commits. The worker ends when nothing is left that it could do soon, when it is told to stop, or when its
session is fenced; in every case replies in flight are read, records are committed and the rest is given back.
Invariants 4 to 7.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from fullsend.errors import LedgerUnavailable, RelayError, RenderError
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Claimed, Heartbeat, OpenedSession, Record
from fullsend.message.compose import Composer
from fullsend.reconcile import breaker
from fullsend.sender.connection import Connection
from fullsend.sender.envelope import compose
from fullsend.sender.feed import Feed
from fullsend.sender.flusher import Flusher
from fullsend.sender.hand import Armed, InHand
from fullsend.sender.pulse import Pulse
from fullsend.sender.relay import rules_of, settings_for
from fullsend.sender.verdict import Judge
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outcome
from fullsend.smtp.session import Session
from fullsend.smtp.settings import RelayMemory
from fullsend.states import CampaignId, DeliveryState

log = logging.getLogger(__name__)

LINGER = 5.0
"""Rows due within this many seconds are waited for; for later ones a new sender is cheaper than an idle one."""

LOOK_EVERY = 0.5
"""Seconds between looks at whether an idle sender is done."""

HELD_BACK_PATIENCE = 3.0
"""A suspended or halted campaign's senders stay this long, in case it was only a moment; then their pods go."""

MAX_CONNECTIONS = 64


class Ended(StrEnum):
    """Why a sender ended; kept with its session in the ledger."""

    DRAINED = "Drained"  # nothing left that could be done soon
    STOPPED = "Stopped"  # told to, by a signal
    HELD_BACK = "HeldBack"  # suspended, halted, cancelled or outside its window
    FENCED = "Fenced"  # declared dead by others


class Worker:
    """Works for one campaign under one session until nothing is left to do."""

    def __init__(
        self,
        *,
        db: Database,
        flush_db: Database,
        campaign: CampaignId,
        opened: OpenedSession,
        first: Heartbeat,
        composer: Composer,
        secrets_dir: Path,
    ) -> None:
        self._db = db
        self._campaign = campaign
        self._session = opened
        self._composer = composer
        self._secrets_dir = secrets_dir
        self._change = asyncio.Event()
        self._stopping = False
        self.ended = False
        self._judge = Judge()
        self._relay_memory = RelayMemory()
        self._pulse = Pulse(db, campaign, opened, first, self._notify)
        self._flusher = Flusher(flush_db, opened, self._pulse.lease.fence)
        self._feed = Feed(
            db,
            opened,
            self._pulse,
            compose=self._compose,
            unrenderable=self._unrenderable,
            changed=self._notify,
        )
        self._connections: list[Connection] = []

    # -- lifecycle ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Arm nothing more; what is on the wire is finished, the rest is given back."""
        self._stopping = True
        self._notify()

    async def run(self) -> Ended:
        """Work until nothing is left to do; returns why it ended. Raises LedgerError when the ledger stays away."""
        async with asyncio.TaskGroup() as group:
            flushing = group.create_task(self._flusher.run())
            pulsing = group.create_task(self._pulse.run())
            feeding = group.create_task(self._feed.run())
            connections = [group.create_task(c.run()) for c in self._open_connections()]
            ended = await self._until_done()
            log.info("ending: %s", ended)
            self.ended = True
            self._notify()
            await asyncio.gather(*connections)
            feeding.cancel()
            self._flusher.close()
            await flushing
            pulsing.cancel()
        if ended is not Ended.FENCED:
            await self._leave(ended)
        return ended

    async def _leave(self, ended: Ended) -> None:
        try:
            await self._feed.give_back_all()
            await sessions.close_session(self._db, self._session, ended)
        except LedgerUnavailable as error:
            # Nothing is lost: the session's lease runs out and its rows are given back by whoever notices.
            log.warning("the ledger is away; this session ends by its lease: %s", error)

    def _open_connections(self) -> list[Connection]:
        self._connections = [Connection(index, self, self._flusher) for index in range(MAX_CONNECTIONS)]
        return self._connections

    async def _until_done(self) -> Ended:
        held_back_since: float | None = None
        while True:
            if self._pulse.lease.fenced:
                return Ended.FENCED
            if self._stopping:
                return Ended.STOPPED
            now = time.monotonic()
            if self._pulse.held_back or self._pulse.halted:
                held_back_since = held_back_since or now
                if now - held_back_since >= HELD_BACK_PATIENCE:
                    return Ended.HELD_BACK
            else:
                held_back_since = None
                if await self._drained():
                    return Ended.DRAINED
            try:
                await asyncio.wait_for(self._stopped_or_fenced(), LOOK_EVERY)
            except TimeoutError:
                continue

    async def _stopped_or_fenced(self) -> None:
        while not (self._stopping or self._pulse.lease.fenced):
            await self.changed()

    async def _drained(self) -> bool:
        if self._feed.empty_since is None or any(connection.busy for connection in self._connections):
            return False
        try:
            view = await campaigns.observe(self._db, self._campaign, session_lease_seconds=self._session.lease_seconds)
        except LedgerUnavailable:
            return False
        if view.counts[DeliveryState.PENDING] and self._pulse.control.fresh_limit is None:
            return False
        if view.due_now:
            return False
        return view.next_due_at is None or (view.next_due_at - view.now).total_seconds() > LINGER

    # -- what connections ask (connection.Supply) -----------------------------------------------------------------

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def changed(self) -> None:
        await self._change.wait()

    @property
    def may_send(self) -> bool:
        return not (self._stopping or self.ended) and self._pulse.may_send

    def wanted(self, index: int) -> bool:
        return index < self._pulse.connections

    def has_work(self) -> bool:
        return self._feed.has_work()

    def take(self) -> InHand | None:
        return self._feed.take() if self.may_send else None

    def give_back(self, hand: InHand) -> None:
        self._feed.give_back(hand)

    async def connect(self) -> Session:
        return await connect(settings_for(self._pulse.control.relay, self._secrets_dir), self._relay_memory)

    async def connect_failed(self, error: RelayError) -> None:
        log.warning("no connection to the relay: %s", error)
        await self._pulse.trouble(breaker.ConnectFailed(error.stage, str(error)))
        # The breaker decides how many may try; each that may takes a breath first.
        await asyncio.sleep(min(self._pulse.control.retry.min_backoff, 1.0))

    async def judge(self, armed: Armed, outcome: Outcome, relay: str, took_ms: int) -> Record:
        judgement = self._judge.judge(
            armed,
            outcome,
            relay=relay,
            took_ms=took_ms,
            retry=self._pulse.control.retry,
            rules=rules_of(self._pulse.control.relay),
        )
        if judgement.trouble is not None:
            await self._pulse.trouble(judgement.trouble)
        elif isinstance(outcome, Accepted):
            await self._pulse.success()
        if judgement.reopen:
            await self._reopen(judgement.reopen)
        return judgement.record

    async def _reopen(self, identities: Sequence[bytes]) -> None:
        """Rows that were refused for what turned out to be everybody's trouble: they wait again, uncharged."""
        id_ = f"everyone-refused-{self._session.id}-{uuid.uuid4().hex[:8]}"
        try:
            await campaigns.request_reopen(
                self._db, self._campaign, id=id_, states=[DeliveryState.REJECTED], identities=identities
            )
            await campaigns.carry_out_reopen(self._db, self._campaign)
        except LedgerUnavailable as error:
            log.warning("%d rows refused for everybody's trouble stay rejected: %s", len(identities), error)

    def spent(self, session: Session) -> bool:
        limit = self._pulse.control.relay.messages_per_connection
        return bool(limit) and session.delivered >= limit

    # -- composing ------------------------------------------------------------------------------------------------

    def _compose(self, claimed: Claimed) -> InHand:
        return compose(self._composer, claimed, self._pulse.control.relay)

    async def _unrenderable(self, claimed: Claimed, error: RenderError) -> None:
        await self._flusher.record(
            Record(
                seq=claimed.seq,
                attempt=claimed.attempts + 1,
                state=DeliveryState.UNRENDERABLE,
                reason="RenderError",
                text=str(error),
            )
        )
