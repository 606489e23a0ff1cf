"""One SMTP connection's life: connect when there is work, arm, submit, record, and never strand a row.

At most ``k`` rows are armed per connection: one with ``Off`` and ``Group``, two with ``Overlap``, where the next
message's envelope travels in the same write as this one's content. The record of a message and the arming of the next
go into one flush, so a connection waits for the ledger once a message.

    idle --work--> connected --armed--> submitting --outcome--> (record + arm next) --> submitting ...

Whenever nothing more may be sent (stop, halt, a stale lease, a lost connection) the rows that are armed but have no
content on the wire are un-armed: recorded as due now, uncharged. Invariants 4, 5 and 7.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from fullsend.errors import RelayError
from fullsend.ledger.sessions import Record
from fullsend.sender.flusher import Flusher, Permission
from fullsend.sender.hand import Armed, InHand
from fullsend.sender.verdict import unarmed
from fullsend.smtp.outcome import Outcome
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining

log = logging.getLogger(__name__)

IDLE_QUIT = 10.0
"""Seconds without work after which a connection is closed politely rather than left to the relay's time-out."""


class Supply(Protocol):
    """What a connection needs of its worker."""

    @property
    def may_send(self) -> bool:
        """Whether content may be started now."""

    @property
    def ended(self) -> bool:
        """Whether this sender has nothing more to do, for good."""

    def wanted(self, index: int) -> bool:
        """Whether the connection of this index is among those allowed now."""

    async def changed(self) -> None:
        """Return when work has come or what is allowed has changed."""

    def has_work(self) -> bool: ...

    def take(self) -> InHand | None:
        """The next composed row, or None when there is none just now."""

    def give_back(self, hand: InHand) -> None:
        """A claimed row that was refused leave to be armed."""

    async def connect(self) -> Session:
        """Raises RelayError."""

    async def connect_failed(self, error: RelayError) -> None:
        """Note the trouble; returns when it is sensible to try again."""

    async def judge(self, armed: Armed, outcome: Outcome, relay: str, took_ms: int) -> Record:
        """What the ledger is to record of this outcome; tells the breaker where it concerns the breaker."""

    def spent(self, session: Session) -> bool:
        """Whether this connection has carried as many messages as it may."""


class Connection:
    """Runs connection number ``index`` of a sender until the worker has ended.

    ``busy``: it has, or is about to have, a row in hand.
    """

    def __init__(self, index: int, supply: Supply, flusher: Flusher) -> None:
        self._index = index
        self._supply = supply
        self._flusher = flusher
        self.busy = False

    async def run(self) -> None:
        while not self._supply.ended:
            if not (self._supply.wanted(self._index) and self._supply.may_send and self._supply.has_work()):
                await self._supply.changed()
                continue
            self.busy = True
            try:
                await self._connected()
            finally:
                self.busy = False

    async def _connected(self) -> None:
        try:
            session = await self._supply.connect()
        except RelayError as error:
            await self._supply.connect_failed(error)
            return
        try:
            await self._converse(session)
        finally:
            await session.quit()

    async def _converse(self, session: Session) -> None:
        overlap = session.pipelining is Pipelining.OVERLAP
        current, following = await self._begin(two=overlap)
        while current is not None:
            if not self._may_go_on(session):
                break
            started = time.monotonic()
            outcome = await session.submit(current.hand.outgoing, following.hand.outgoing if following else None)
            took_ms = round((time.monotonic() - started) * 1000)
            record = await self._supply.judge(current, outcome, session.relay, took_ms)
            recorded = self._flusher.record(record)
            # Not before the record is handed over: with it in the same flush no more than k rows are ever armed.
            current, following = following, None
            if self._may_go_on(session) and not self._supply.spent(session):
                following = await self._arm_next()
            await recorded
            if current is None:
                current, following = following, None
            if current is None and session.usable and not self._supply.spent(session):
                current, following = await self._wait_for_work(session, two=overlap)
        await self._unarm(current, following)

    def _may_go_on(self, session: Session) -> bool:
        return session.usable and self._supply.may_send and self._supply.wanted(self._index)

    async def _begin(self, *, two: bool) -> tuple[Armed | None, Armed | None]:
        first, second = (
            await asyncio.gather(self._arm_next(), self._arm_next()) if two else (await self._arm_next(), None)
        )
        return (first, second) if first is not None else (second, None)

    async def _wait_for_work(self, session: Session, *, two: bool) -> tuple[Armed | None, Armed | None]:
        self.busy = False
        deadline = time.monotonic() + IDLE_QUIT
        while not self._supply.ended and self._may_go_on(session):
            if self._supply.has_work():
                self.busy = True
                armed = await self._begin(two=two)
                if armed[0] is not None:
                    return armed
                self.busy = False
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(self._supply.changed(), left)
            except TimeoutError:
                break
        return None, None

    async def _arm_next(self) -> Armed | None:
        while (hand := self._supply.take()) is not None:
            match await self._flusher.arm(hand.arm):
                case Permission.ARMED:
                    return Armed(hand)
                case Permission.SUPPRESSED:
                    continue
                case Permission.REFUSED:
                    self._supply.give_back(hand)
                    return None
        return None

    async def _unarm(self, *rows: Armed | None) -> None:
        waits = [self._flusher.record(unarmed(row, "NotSent")) for row in rows if row is not None]
        if waits:
            await asyncio.gather(*waits)
