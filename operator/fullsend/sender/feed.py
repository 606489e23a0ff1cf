"""Work at hand: claims rows ahead of the connections, builds their messages, gives back what won't be sent.

No more is claimed than is sent in about a second at the rate of late, and nothing while nothing may be sent, so that
suspension, suppression, limits and other senders act quickly. The fresh queue is walked in order above a low-water
mark; whatever was given back is in the due queue. An empty claim never means that the campaign is done (invariant 1):
rows may be locked by another claim, so the walk starts over while the counters still know of pending rows.

A claim or a return whose COMMIT is in doubt may leave rows claimed in the ledger that nobody here has in hand. After
every ledger error the feed compares what the session holds with what is in hand, and gives the rest back, before it
claims anything more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from fullsend.errors import LedgerError, RenderError, SessionFenced
from fullsend.ledger import sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Claimed, OpenedSession, Record
from fullsend.ledger.view import BreakerState
from fullsend.reconcile import breaker
from fullsend.reconcile.rejections import provider_of
from fullsend.sender.flusher import Flusher, Permission
from fullsend.sender.hand import InHand
from fullsend.sender.pulse import Pulse
from fullsend.states import DeliveryState, Seq

log = logging.getLogger(__name__)

AHEAD = 1.0
"""Seconds of work claimed ahead."""

MAX_AHEAD = 2000
ASK_AT_LEAST_EVERY = 1.0
"""Seconds between questions for tokens while there are none, however far away they are: a campaign that does not ask
loses its turn."""

KEEP_TOKENS = 1.0
"""Seconds that tokens are kept without a row to spend them on; then others may have them."""

POLL = 0.25
"""Seconds between looks at empty queues, at empty buckets, and at whether anything may be sent at all."""

REWALK_EVERY = 1.0
REWALK_SHARE = 0.05
"""A walk from the start reads every row of the campaign: it may take this share of the time, no more."""

UNRENDERABLE_RUN = 20
"""Messages that can't be built, before this sender has built any, until the campaign's message is at fault."""

MISHAPS = 3
"""Recipients in a row at whom building breaks for no reason of the message's, for want of memory or before any message
was built: this sender is broken. Otherwise one at whom it breaks this often can't be written to."""

Compose = Callable[[Claimed], InHand]


class Feed:
    """The buffer between the ledger's queues and the connections.

    ``compose`` builds a claimed row's message or raises RenderError. Anything else that it raises is not charged to
    the recipient, unless it befalls that one again and again while others' are built. ``changed`` is called when there
    is work. ``walked_whole``: the fresh queue was walked from its start and had nothing to claim.
    """

    def __init__(
        self,
        db: Database,
        session: OpenedSession,
        pulse: Pulse,
        flusher: Flusher,
        *,
        compose: Compose,
        changed: Callable[[], None],
    ) -> None:
        self._db = db
        self._session = session
        self._pulse = pulse
        self._flusher = flusher
        self._compose = compose
        self._changed = changed
        self._ready: deque[Claimed] = deque()
        self._unrenderable = 0  # before any message was built
        self._at_fault = ""  # why no message is built until the breaker knows
        self._mishaps: Counter[Seq] = Counter()
        self._befallen: set[Seq] = set()  # by mishaps, in a row
        self._ever_built = False
        self._returned: list[Seq] = []
        self._in_doubt = False
        self._claiming = False
        self._low_water = Seq(0)
        self._rewalk_at = 0.0
        self._fresh_limit: int | None = None
        self._fresh_first = False
        self.walked_whole = False
        self._wanting = asyncio.Event()
        self._tokens = 0
        self._ask_at = 0.0
        self._spent_at = time.monotonic()  # when a token was last of use
        self._control_revision = -1
        self._rate = 0.0
        self._taken = 0
        self._measured_at = time.monotonic()

    # -- the connections' side ------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        return self.at_hand > 0

    @property
    def at_hand(self) -> int:
        """How many rows could be taken now."""
        if self._at_fault:
            return 0
        return min(len(self._ready), self._tokens) if self._pulse.metered else len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing is held and nothing is being claimed."""
        return not (self._ready or self._returned or self._claiming or self._at_fault)

    def take(self) -> InHand | None:
        """The next row with its message built, within the tokens at hand; None when there is none just now."""
        while self.has_work():
            claimed = self._ready.popleft()
            if self._pulse.blocked(claimed.domain):
                self._wait_for_provider(claimed)
                continue
            try:
                hand = self._compose(claimed)
            except RenderError as error:
                self._cannot_be_built(claimed, str(error))
                continue
            except Exception as error:
                self._mishap(claimed, error)
                continue
            self._built(claimed.seq)
            if self._pulse.metered:
                self._tokens -= 1
                self._spent_at = time.monotonic()
            self._taken += 1
            if 2 * len(self._ready) <= self._ahead():
                self._wanting.set()
            return hand
        self._wanting.set()
        return None

    def _wait_for_provider(self, claimed: Claimed) -> None:
        """Uncharged, and no attempt: it is looked at again after a while, and sent when a person says so."""
        delay = self._pulse.control.retry.min_backoff
        reason = f"ProviderBlocked:{provider_of(claimed.domain)}"  # by which the ledger tells who waits for what
        what = Record(claimed.seq, claimed.attempts + 1, DeliveryState.DEFERRED, reason, delay=delay)
        if claimed.unknowns:
            what = replace(what, state=DeliveryState.UNKNOWN)
        self._flusher.record(what)

    def _built(self, seq: Seq) -> None:
        self._ever_built = True
        self._befallen.clear()
        self._mishaps.pop(seq, None)

    def _cannot_be_built(self, claimed: Claimed, why: str) -> None:
        self._flusher.record(
            Record(claimed.seq, claimed.attempts + 1, DeliveryState.UNRENDERABLE, "RenderError", text=why)
        )
        if self._ever_built:
            return
        self._unrenderable += 1
        if self._unrenderable >= UNRENDERABLE_RUN:
            self._unrenderable = 0
            self._at_fault = f"the message can't be built for anybody; `retry` once it can: {why}"
            self._wanting.set()

    def _mishap(self, claimed: Claimed, error: Exception) -> None:
        """Building broke: out of memory, or by a mistake. Raises ``error`` where it is this sender that is broken."""
        log.error("recipient %d: building the message broke", claimed.seq, exc_info=error)
        self._mishaps[claimed.seq] += 1
        self._befallen.add(claimed.seq)
        general = len(self._befallen) >= MISHAPS and (isinstance(error, MemoryError) or not self._ever_built)
        if not general and self._mishaps[claimed.seq] >= MISHAPS:
            del self._mishaps[claimed.seq]
            self._cannot_be_built(claimed, f"building the message broke: {type(error).__name__}: {error}")
            return
        self._returned.append(claimed.seq)
        self._wanting.set()
        if general:
            raise error

    def not_armed(self, hand: InHand, permission: Permission) -> None:
        """A row taken from here was refused leave to be armed, or needs it no longer."""
        match permission:
            case Permission.SUPPRESSED:
                if self._pulse.metered:
                    self._tokens += 1  # a token is spent by arming only
            case Permission.REFUSED:
                self._tokens = 0  # perhaps there were fewer than we thought: ask anew
                self._returned.append(hand.claimed.seq)
                self._wanting.set()
            case Permission.ARMED | Permission.RETURNED:
                return
            case _:
                assert_never(permission)

    # -- the ledger's side ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the buffer filled until cancelled or fenced."""
        while True:
            self._claiming = True
            try:
                await self._turn()
            except SessionFenced:
                self._ready.clear()
                self._returned.clear()
                self._pulse.lease.fence()
                return
            except LedgerError as error:
                if not self._in_doubt:
                    log.warning("no rows can be claimed now: %s", error)
                self._in_doubt = True
            finally:
                self._claiming = False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanting.wait(), POLL)
            self._wanting.clear()

    async def _turn(self) -> None:
        if self._at_fault:
            await self._pulse.trouble(breaker.MessageRefused(self._at_fault))
            self._at_fault = ""
        if self._in_doubt:
            await self._give_back_strays()
        if not (self._pulse.may_send and self._pulse.connections):
            self._returned.extend(claimed.seq for claimed in self._ready)
            self._ready.clear()
        if self._tokens > 0 and not self._ready and time.monotonic() - self._spent_at >= KEEP_TOKENS:
            self._tokens, self._ask_at = 0, time.monotonic() + KEEP_TOKENS
            await sessions.return_tokens(self._db, self._session)
        if self._returned:
            # Kept until the ledger has taken it; what comes back meanwhile waits for the next turn.
            count = len(self._returned)
            await sessions.give_back(self._db, self._session, self._returned)
            del self._returned[:count]
        if self._pulse.may_send and self._pulse.connections and 2 * len(self._ready) <= self._ahead():
            await self._refill()

    async def _give_back_strays(self) -> None:
        held = await sessions.held(self._db, self._session)
        ours = self._flusher.in_hand() | {claimed.seq for claimed in self._ready}
        strays = [seq for seq, state in held if state is DeliveryState.CLAIMED and seq not in ours]
        self._returned.clear()  # those still claimed are among the strays
        if strays:
            await sessions.give_back(self._db, self._session, strays)
        self._in_doubt = False

    def _ahead(self) -> int:
        now = time.monotonic()
        if (elapsed := now - self._measured_at) >= 0.5:
            self._rate = 0.5 * self._rate + 0.5 * self._taken / elapsed
            self._taken, self._measured_at = 0, now
        least = 4 * max(1, self._pulse.connections)
        return min(MAX_AHEAD, max(least, round(self._rate * AHEAD)))

    async def _refill(self) -> None:
        want = self._ahead() - len(self._ready)
        if self._pulse.metered:
            await self._ask_tokens()
            want = min(want, self._tokens - len(self._ready))
        if want > 0:
            claims = [self._claim_due, self._claim_fresh]
            if self._pulse.breaker.state is not BreakerState.CLOSED and self._pulse.connections == 1:
                # What is tried next must not be what was in trouble before; but only every other time: where everybody
                # is put off at the first try, it is those whose turn has come again who pass.
                self._fresh_first = not self._fresh_first
                if self._fresh_first:
                    claims.reverse()
            for claim in claims:
                if want > 0:
                    rows = await claim(want)
                    self._ready.extend(rows)  # at once: whatever happens below, they are in hand
                    want -= len(rows)
        if self.has_work():
            self._changed()

    async def _claim_due(self, limit: int) -> list[Claimed]:
        return await sessions.claim_due(self._db, self._session, limit=limit)

    async def _claim_fresh(self, limit: int) -> list[Claimed]:
        started = time.monotonic()
        fresh_limit = self._pulse.control.fresh_limit
        if fresh_limit != self._fresh_limit:
            self._fresh_limit, self.walked_whole = fresh_limit, False
        if self._low_water and not self._pulse.counts[DeliveryState.PENDING]:
            return []
        fresh = await sessions.claim_fresh(
            self._db, self._session, after=self._low_water, limit=limit, fresh_limit=fresh_limit
        )
        now = time.monotonic()
        if fresh:
            self._low_water, self.walked_whole = fresh[-1].seq, False
        elif not self._low_water:
            self.walked_whole = True
            self._rewalk_at = now + max(REWALK_EVERY, (now - started) / REWALK_SHARE)
        elif now >= self._rewalk_at:
            self._low_water = Seq(0)
        return fresh

    async def _ask_tokens(self) -> None:
        now = time.monotonic()
        if self._pulse.revision != self._control_revision:
            self._control_revision, self._ask_at = self._pulse.revision, now  # the rates may be others now
        if now >= self._ask_at and (want := self._ahead() - self._tokens) > 0:
            granted = await sessions.grant(self._db, self._session, want)
            self._tokens += granted.messages
            self._ask_at = now + min(granted.retry_after, ASK_AT_LEAST_EVERY)
            if granted.messages:
                self._spent_at = now
