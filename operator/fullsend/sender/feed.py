"""Work at hand: claims rows ahead of the connections, builds their messages, gives back what won't be sent.

No more is claimed than is sent in about a second at the rate of late, so that suspension, suppression, limits and
other senders act quickly. The fresh queue is walked once, in order, above a low-water mark; whatever was given back is
in the due queue. An empty claim never means that the campaign is done (invariant 1): rows may be locked by another
claim, so the walk starts over while the counters still know of pending rows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from fullsend.errors import LedgerUnavailable, RenderError
from fullsend.ledger import sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Claimed, OpenedSession
from fullsend.sender.hand import InHand
from fullsend.sender.pulse import Pulse
from fullsend.states import DeliveryState, Seq

log = logging.getLogger(__name__)

AHEAD = 1.0
"""Seconds of work claimed ahead."""

MAX_AHEAD = 2000
REWALK_EVERY = 1.0
POLL = 0.25
"""Seconds between looks at empty queues: what is due at once (a row given back elsewhere) waits no longer."""

Compose = Callable[[Claimed], InHand]


class Feed:
    """The buffer between the ledger's queues and the connections.

    ``compose`` builds a claimed row's message or raises RenderError; ``unrenderable`` records that it can't be built.
    """

    def __init__(
        self,
        db: Database,
        session: OpenedSession,
        pulse: Pulse,
        *,
        compose: Compose,
        unrenderable: Callable[[Claimed, RenderError], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self._db = db
        self._session = session
        self._pulse = pulse
        self._compose = compose
        self._unrenderable = unrenderable
        self._changed = changed
        self._ready: deque[Claimed] = deque()
        self._returned: list[Seq] = []
        self._pending_records: set[asyncio.Future[None]] = set()
        self._low_water = Seq(0)
        self._walked_at = 0.0
        self._wanting = asyncio.Event()
        self._budget = 0
        self._ask_at = 0.0
        self._rate = 0.0
        self._taken = 0
        self._measured_at = time.monotonic()
        self.empty_since: float | None = None

    # -- the connections' side ------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        return bool(self._ready) and self._budget > 0

    def take(self) -> InHand | None:
        """The next row with its message built, within the tokens at hand; None when there is none just now."""
        while self.has_work():
            claimed = self._ready.popleft()
            if len(self._ready) <= self._ahead() // 2:
                self._wanting.set()
            try:
                hand = self._compose(claimed)
            except RenderError as error:
                record = asyncio.ensure_future(self._unrenderable(claimed, error))
                self._pending_records.add(record)
                record.add_done_callback(self._pending_records.discard)
                continue
            self._budget -= 1
            self._taken += 1
            return hand
        self._wanting.set()
        return None

    def give_back(self, hand: InHand) -> None:
        self._returned.append(hand.claimed.seq)
        self._wanting.set()

    # -- the ledger's side ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the buffer filled until cancelled; while nothing may be sent, give everything back."""
        while True:
            try:
                await self._return_refused()
                if not self._pulse.may_send:
                    await self.give_back_all()
                elif len(self._ready) <= self._ahead() // 2 or self._out_of_tokens():
                    await self._refill()
            except LedgerUnavailable as error:
                log.warning("no rows can be claimed while the ledger is away: %s", error)
                await asyncio.sleep(POLL)
            self._wanting.clear()
            if self._ready and not self._out_of_tokens():
                await self._wanting.wait()
            else:
                await _wait(self._wanting, POLL)

    async def give_back_all(self) -> None:
        """Claimed rows go back uncharged, due now."""
        self._returned.extend(claimed.seq for claimed in self._ready)
        self._ready.clear()
        await self._return_refused()
        if self._pending_records:
            await asyncio.gather(*self._pending_records)

    async def _return_refused(self) -> None:
        returned, self._returned = self._returned, []
        if returned:
            try:
                await sessions.give_back(self._db, self._session, returned)
            except LedgerUnavailable:
                self._returned = returned + self._returned
                raise

    def _out_of_tokens(self) -> bool:
        return self._budget <= 0

    def _ahead(self) -> int:
        now = time.monotonic()
        if (elapsed := now - self._measured_at) >= 0.5:
            self._rate = 0.5 * self._rate + 0.5 * self._taken / elapsed
            self._taken, self._measured_at = 0, now
        least = 4 * max(1, self._pulse.connections)
        return min(MAX_AHEAD, max(least, round(self._rate * AHEAD)))

    async def _refill(self) -> None:
        want = self._ahead() - len(self._ready)
        if self._budget < self._ahead():
            await self._ask_tokens(self._ahead() - self._budget)
        want = min(want, self._budget - len(self._ready))
        if want <= 0:
            self._changed()
            return
        rows = await sessions.claim_due(self._db, self._session, limit=want)
        if len(rows) < want:
            rows += await self._claim_fresh(want - len(rows))
        if rows:
            self._ready.extend(rows)
            self.empty_since = None
            self._changed()
        elif self.empty_since is None and not self._ready:
            self.empty_since = time.monotonic()

    async def _claim_fresh(self, limit: int) -> list[Claimed]:
        now = time.monotonic()
        fresh = await sessions.claim_fresh(
            self._db,
            self._session,
            after=self._low_water,
            limit=limit,
            fresh_limit=self._pulse.control.fresh_limit,
        )
        if fresh:
            self._low_water = fresh[-1].seq
            self._walked_at = now
        elif self._pulse.counts[DeliveryState.PENDING] and now - self._walked_at >= REWALK_EVERY:
            self._low_water, self._walked_at = Seq(0), now
        return fresh

    async def _ask_tokens(self, want: int) -> None:
        now = time.monotonic()
        if now >= self._ask_at:
            granted = await sessions.grant(self._db, self._session, want)
            self._budget += granted.messages
            self._ask_at = now + granted.retry_after


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
