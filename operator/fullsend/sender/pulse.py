"""The sender's heart-beat: keeps its session live, learns what it may do, and buries dead neighbours.

Each beat brings the control (suspension, limits, transport, retry), the breaker and this sender's share of the
connections, so that an edit is obeyed within a beat or two and without a new process. Between beats the sender's own
clock limits it (``lease``). Invariants 4, 6 and 7.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from fullsend.errors import LedgerError, LedgerWentBack
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.control import Control
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Heartbeat, OpenedSession
from fullsend.ledger.view import BreakerState, BreakerView, Counts, Phase
from fullsend.reconcile import breaker, rejections
from fullsend.reconcile.breaker import BreakerPolicy, Trouble
from fullsend.sender.lease import Lease, boottime
from fullsend.states import CampaignId, DeliveryState

log = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between heart-beats: how fast a suspension, an edit or a halt reaches this sender."""

SWEEP_EVERY = 5.0
"""Seconds between looks for dead sessions, so that work goes on while nobody reconciles."""


class Pulse:
    """What this sender may do, as of its last heart-beat. ``changed`` is called whenever that may have changed.

    ``lease`` counts from before ``first`` was asked for. ``open_connections`` and ``opening`` are what the ledger is
    told: of a transport's connections, all its senders together are allowed no more than there are.
    """

    def __init__(
        self,
        db: Database,
        campaign: CampaignId,
        opened: OpenedSession,
        first: Heartbeat,
        lease: Lease,
        changed: Callable[[], None],
    ) -> None:
        self._db = db
        self._campaign = campaign
        self._session = opened
        self.lease = lease
        self._changed = changed
        self._swept_at = time.monotonic()
        self.open_connections = 0
        self.opening = 0
        self._reply_ms: float | None = None
        self._recent = rejections.Recent()
        self._steps = 0  # of the breaker, on their way to the ledger
        self._take(first)

    def _take(self, beat: Heartbeat) -> None:
        self.control = Control.from_json(beat.control)
        if not self._steps:  # else it may be older than what this sender already knows
            self.breaker: BreakerView = beat.breaker
        self.counts: Counts = beat.counts
        self.phase = beat.phase
        # By what measures durations: this machine's wall clock may be wrong, and may jump between two beats.
        self._now_ahead = beat.now.timestamp() - boottime()
        self._allowed = beat.connections
        self._rank, self._senders = beat.rank, max(1, beat.beating)
        self.revision = beat.control_revision
        if not beat.live:
            self.lease.fence()

    # -- what is allowed ------------------------------------------------------------------------------------------

    def database_now(self) -> datetime:
        """The database's clock, as this machine can tell it."""
        return datetime.fromtimestamp(boottime() + self._now_ahead, UTC)

    @property
    def held_back(self) -> bool:
        """Whether the campaign is suspended, cancelled, finished or outside its window: nothing is claimed or armed."""
        control = self.control
        if control.stop or control.cancel or self.phase is not Phase.SENDING:
            return True
        if control.start_at is None and control.deadline is None:  # asked several times a message
            return False
        now = self.database_now()
        return (control.start_at is not None and now < control.start_at) or (
            control.deadline is not None and now >= control.deadline
        )

    @property
    def halted(self) -> bool:
        return self._breaker_state is BreakerState.HALTED

    @property
    def connections(self) -> int:
        """How many this sender may hold now: its share of the transport's, or of what the breaker leaves."""
        cap = None
        if self.breaker.state is not BreakerState.CLOSED:
            cap = breaker.allowed_connections(self.breaker, self.database_now())
        if cap is None:
            return self._allowed
        each, left = divmod(cap, self._senders)
        return min(self._allowed, each + (1 if self._rank < left else 0))

    @property
    def probing(self) -> bool:
        """The breaker lets one connection try one message at a time."""
        return self._breaker_state is BreakerState.PROBING

    @property
    def _breaker_state(self) -> BreakerState:
        if self.breaker.state is not BreakerState.HALTED:  # the only one that changes with time
            return self.breaker.state
        return breaker.effective_state(self.breaker, self.database_now())

    @property
    def metered(self) -> bool:
        """Whether anything limits the rate, so that tokens must be asked for."""
        return bool(self.control.rates or self.control.relay.rates)

    @property
    def may_send(self) -> bool:
        return not (self.held_back or self.halted) and self.lease.may_start_content

    # -- beats ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Beat until cancelled."""
        await self._judge_the_whole()
        while not self.lease.fenced:
            await asyncio.sleep(BEAT)
            await self.beat()

    async def beat(self) -> None:
        asked = self.lease.asking()
        try:
            beat = await sessions.heartbeat(
                self._db,
                self._session,
                connections=self.open_connections,
                opening=self.opening,
                reply_ms=None if self._reply_ms is None else round(self._reply_ms),
            )
            self._take(beat)
            if beat.live:
                self.lease.confirm(asked)
                await self._judge_the_whole()
            if time.monotonic() - self._swept_at >= SWEEP_EVERY:
                self._swept_at = time.monotonic()
                await self._sweep()
        except LedgerWentBack as error:
            log.error("%s", error)
            self.lease.fence()
        except (LedgerError, ValidationError) as error:
            # Not confirmed: half a lease from now nothing new is sent. The next beat opens the connection again.
            log.warning("no heart-beat: %s", error)
        self._changed()

    async def _sweep(self) -> None:
        retry = self.control.retry
        swept = await sessions.sweep(
            self._db,
            self._campaign,
            lease_seconds=self._session.lease_seconds,
            max_unknown_resends=retry.max_unknown_resends,
            unknown_delay=retry.min_backoff,  # its accepted may still be on its way
        )
        if swept.fenced:
            log.warning(
                "fenced %d dead senders: %d rows given back, %d unknown, %d held",
                len(swept.fenced),
                swept.given_back,
                swept.unknown,
                swept.held,
            )

    def answered(self, took_ms: int) -> None:
        """The relay took so long over one message."""
        self._reply_ms = took_ms if self._reply_ms is None else 0.9 * self._reply_ms + 0.1 * took_ms

    # -- the breaker ----------------------------------------------------------------------------------------------

    def blocked(self, domain: str) -> bool:
        """Whether the domain's recipients wait until a person says otherwise."""
        if not self.breaker.blocked:
            return False
        provider = rejections.provider_of(domain)
        return any(one.provider == provider for one in self.breaker.blocked)

    async def settled(self, domain: str, *, rejected: bool, said: str = "") -> None:
        """A recipient was accepted or rejected: too many of the latter stop their provider, or the campaign."""
        control = self.control
        found = self._recent.settled(
            domain, rejected=rejected, said=said, max_rejected=control.max_rejected, min_sample=control.min_sample
        )
        if found is None:
            return
        if found.provider:
            if not breaker.may_reject(self.breaker, found.provider):
                reason = breaker.Reason.PROVIDER_REJECTS
                await self.trouble(
                    breaker.ProviderRefuses(found.provider, reason, found.message, found.rejected, found.settled)
                )
            return
        rejected_in_all = max(found.rejected, self.counts[DeliveryState.REJECTED])
        if not breaker.rejections_acknowledged((one.id for one in self.breaker.acknowledged), rejected_in_all):
            await self.trouble(breaker.TooManyRejected(rejected_in_all, found.message))

    async def _judge_the_whole(self) -> None:
        """What this sender remembers began with it, and those before it may have ended before they had seen enough; an
        operator, who would see the whole, may be away."""
        control, rejected = self.control, self.counts[DeliveryState.REJECTED]
        if self.phase is not Phase.SENDING or self.breaker.state is BreakerState.HALTED:
            return
        said = rejections.whole_beyond(
            self.counts,
            self.breaker,
            max_rejected=control.max_rejected,
            min_sample=control.min_sample,
            clearly=True,
        )
        if said:
            await self.trouble(breaker.TooManyRejected(rejected, said))

    async def too_many_connections(self, message: str, *, beside: bool = False) -> bool:
        """The relay takes no more connections than are open (but for one that it has just refused, ``beside``): all
        senders of the transport learn it. False where none is open, so that it is not ours that are too many."""
        mine = self.open_connections - beside
        try:
            taken = await sessions.learn_connections(self._db, self._session, open_=mine, message=message)
        except LedgerError as error:
            log.warning("how many connections the relay takes could not be stored: %s", error)
            return mine > 0
        if taken:
            self._allowed = min(self._allowed, max(1, mine))
            log.warning("the relay takes no more than %d connections: %s", taken, message)
            self._changed()
        return taken > 0

    def _policy(self) -> BreakerPolicy:
        return BreakerPolicy(connections=self.control.relay.connections)

    async def trouble(self, event: Trouble) -> None:
        """Tell the campaign's breaker; all senders see the result at their next beat, this one now."""
        halt_id = uuid.uuid4().hex[:12]
        now, policy = self.database_now(), self._policy()
        before = self.breaker
        await self._step(lambda view: breaker.trouble(view, event, now, halt_id=halt_id, policy=policy))
        if self.breaker.state is not before.state:
            log.warning("breaker %s: %s: %s", self.breaker.state, self.breaker.reason, self.breaker.message)
        self._changed()

    async def success(self) -> None:
        """A message was accepted; only worth a word to the ledger while the breaker isn't at rest."""
        if self.breaker.state is BreakerState.CLOSED and not self.breaker.failures:
            return
        now, policy = self.database_now(), self._policy()
        if breaker.success(self.breaker, now, policy=policy) == self.breaker:
            return
        await self._step(lambda view: breaker.success(view, now, policy=policy))
        self._changed()

    async def halt_went_back(self) -> None:
        """Whether the session is live in a ledger that went back says nothing: the halt counts in any case."""
        now, reason = self.database_now(), breaker.Reason.LEDGER_WENT_BACK
        message = f"{self._session.told.went_back} Whom it was sent to since may be waiting again."
        id_ = f"ledger-went-back-{self._session.id}-{uuid.uuid4().hex[:8]}"
        self.breaker = await campaigns.update_breaker(
            self._db, self._campaign, lambda view: breaker.halt(view, reason, message, now, halt_id=id_)
        )

    async def _step(self, step: Callable[[BreakerView], BreakerView]) -> None:
        self.breaker = step(self.breaker)  # at once for this sender, whatever the database takes
        self._steps += 1
        try:
            self.breaker = await campaigns.update_breaker(self._db, self._campaign, step, session=self._session)
        except LedgerError as error:
            log.warning("the breaker's state could not be stored: %s", error)
        finally:
            self._steps -= 1
