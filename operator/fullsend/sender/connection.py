"""One SMTP connection's life: connect when there is work, arm, submit, record, and never strand a row.

At most ``k`` rows are armed per connection: one with ``Off`` and ``Group``, two with ``Overlap``, where the next
message's envelope travels in the same write as this one's content. The record of a message and the arming of the next
go into one flush, so a connection waits for the ledger once a message, and never has more than ``k`` rows armed.
Measured with 16 connections, sender, database and sink on two cores: Overlap 4,800 messages/s, Group 2,700; at 20 ms a
round trip on a busy machine 419, 231, and 154 in lock-step (docs/decisions/arming.md).

    idle --work--> connected --armed--> submitting --outcome--> (record + arm next) --> submitting ...

Content is started only while the worker says so, asked in the moment before it is written, and not on an old arming:
where the relay took its time over the envelope, the ledger is asked again whether the row is still to be sent.
Whenever nothing more may be sent (stop, halt, a stale lease, a lost connection) the rows that are armed but have no
content on the wire are recorded as not sent: due now, uncharged. Where the connection itself fails or is cancelled,
a row whose content may be on the wire is recorded as unknown. Invariants 4, 5, 7 and 9.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from fullsend.errors import RelayError
from fullsend.sender.flusher import Flusher, Permission
from fullsend.sender.hand import Armed, InHand
from fullsend.sender.verdict import Judgement
from fullsend.smtp.outcome import Outcome, Unknown, Unsent
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining

log = logging.getLogger(__name__)

IDLE_QUIT = 10.0
"""Seconds without work after which a connection is closed politely rather than left to the relay's time-out."""

ARMING_KEEPS = 4.0
"""Seconds after which an arming is too old to start content on: the person may have said no since. The ledger is asked
again, and has as long to answer, or the content is not sent (invariant 9)."""

SLOW_DOT = 1.0
"""Where the relay takes longer than this to answer a message, the next one is not armed ahead: it would grow old."""


class Supply(Protocol):
    """What a connection needs of its worker."""

    @property
    def may_send(self) -> bool:
        """Whether content may be started now."""

    @property
    def ended(self) -> bool:
        """Whether this sender has nothing more to do, for good."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether nothing may be armed ahead, whatever the connection can do."""

    def wanted(self, index: int) -> bool:
        """Whether the connection of this index is among those allowed now."""

    @property
    def change(self) -> asyncio.Event:
        """Set once work comes or what is allowed changes after this moment."""

    def has_work(self) -> bool: ...

    def worth_connecting(self) -> bool:
        """Whether there is more work than connections that are being opened for it: a slow relay gets no more of them
        than it can use."""

    def take(self) -> InHand | None:
        """The next composed row, or None when there is none just now."""

    def not_armed(self, hand: InHand, permission: Permission) -> None:
        """What became of a row that was taken and not armed."""

    async def connect(self) -> Session | None:
        """None when the sender has ended meanwhile. Raises RelayError."""

    async def connect_failed(self, error: RelayError) -> None:
        """Note the trouble; returns when it is sensible to try again."""

    def judge(self, armed: Armed, outcome: Outcome, session: Session, took_ms: int) -> Judgement:
        """What is to be recorded of an outcome, and who else is to know."""

    async def tell(self, judgement: Judgement, recorded: asyncio.Future[None]) -> None:
        """Tell the breaker what concerns the breaker."""

    def may_carry(self, carried: int) -> bool:
        """Whether a connection that has been given this many messages may be given another one."""

    def opened(self, change: int) -> None:
        """One connection more, or one fewer."""


class Connection:
    """Runs connection number ``index`` of a sender until the worker has ended.

    ``busy``: it has, or is about to have, a row in hand.
    """

    def __init__(self, index: int, supply: Supply, flusher: Flusher) -> None:
        self._index = index
        self._supply = supply
        self._flusher = flusher
        self._session: Session | None = None
        self._asked: list[tuple[InHand, float, asyncio.Future[Permission]]] = []
        self._armed: list[Armed] = []  # the first is being submitted, or is next
        self._submitting = False  # until what became of the first is handed over
        self._held_back = False
        self._carried = 0
        self._took = 0.0
        self.busy = False

    async def run(self) -> None:
        while not self._supply.ended:
            if not (self._supply.wanted(self._index) and self._supply.may_send and self._supply.worth_connecting()):
                await self._supply.change.wait()
                continue
            try:
                session = await self._supply.connect()
            except RelayError as error:
                await self._supply.connect_failed(error)
                continue
            if session is not None:
                await self._use(session)

    def hold_back(self) -> None:
        """Nothing more may be sent: don't wait for a relay that hesitates before the content."""
        if self._submitting and self._session is not None and not self._session.content_started:
            self._held_back = True
            self._session.abort()

    async def _use(self, session: Session) -> None:
        self._session, self._carried, self._held_back = session, 0, False
        self._supply.opened(+1)
        try:
            await self._converse(session)
        except BaseException as error:
            self._disown(error)
            raise
        finally:
            self.busy = False
            self._session = None
            try:
                await session.quit()
            finally:
                self._supply.opened(-1)  # only now is it one fewer for the relay

    # -- messages -------------------------------------------------------------------------------------------------

    async def _converse(self, session: Session) -> None:
        await self._arm_some(session)
        while self._armed or await self._wait_for_work(session):
            if not self._may_go_on(session):
                break
            current = self._armed[0]
            outcome = await self._submit(session, current)
            if self._held_back and isinstance(outcome, Unsent):
                self._submitting = False
                break
            judgement = self._supply.judge(current, outcome, session, round(self._took * 1000))
            recorded = self._flusher.record(judgement.record)
            self._submitting = False
            del self._armed[0]
            # Only now, with the record handed over, may the next row be armed: never more than k are.
            await self._supply.tell(judgement, recorded)
            if self._may_go_on(session) and not judgement.hang_up:
                await self._arm_some(session)
            await recorded
            if judgement.hang_up:
                break
        await self._unarm()

    async def _submit(self, session: Session, current: Armed) -> Outcome:
        following = self._armed[1].hand.outgoing if len(self._armed) > 1 else None
        started = time.monotonic()
        self._submitting = True
        outcome = await session.submit(current.hand.outgoing, following, self._proceed)
        self._took = time.monotonic() - started
        return outcome

    async def _proceed(self) -> bool:
        if not (self._supply.may_send and await self._still_meant(self._armed[0]) and self._supply.may_send):
            self._held_back = True
        return not self._held_back

    async def _still_meant(self, armed: Armed) -> bool:
        """Whether nobody has said no to this row, as of a few seconds ago at most."""
        if (asked := time.monotonic()) - armed.since <= ARMING_KEEPS:
            return True
        try:
            meant = await asyncio.wait_for(self._flusher.still_meant(armed.hand), ARMING_KEEPS)
        except TimeoutError:
            return False
        return meant and time.monotonic() - asked <= ARMING_KEEPS

    def _may_go_on(self, session: Session) -> bool:
        return session.usable and self._supply.may_send and self._supply.wanted(self._index)

    # -- arming -----------------------------------------------------------------------------------------------------

    def _room(self, session: Session) -> int:
        ahead = session.pipelining is Pipelining.OVERLAP and self._took < SLOW_DOT and not self._supply.one_at_a_time
        return (2 if ahead else 1) - len(self._armed)

    async def _arm_some(self, session: Session) -> None:
        """Arms up to k rows, as far as there is work; suppressed people make room for others."""
        refused = False
        while not refused and (room := self._room(session)) > 0:
            while len(self._asked) < room and self._supply.may_carry(self._carried) and (hand := self._supply.take()):
                self.busy = True
                self._carried += 1
                self._asked.append((hand, time.monotonic(), self._flusher.arm(hand)))
            if not self._asked:
                return
            while self._asked:
                hand, since, answer = self._asked[0]
                permission = await answer
                del self._asked[0]
                if permission is Permission.ARMED:
                    self._armed.append(Armed(hand, since))
                else:
                    self._carried -= 1
                    self._supply.not_armed(hand, permission)
                    refused |= permission is Permission.REFUSED

    async def _wait_for_work(self, session: Session) -> bool:
        """True once a row is armed; False when the connection is no longer needed."""
        self.busy = False
        deadline = time.monotonic() + IDLE_QUIT
        while not self._supply.ended and self._may_go_on(session) and self._supply.may_carry(self._carried):
            if self._supply.has_work():
                await self._arm_some(session)
                if self._armed:
                    return True
                self.busy = False
                if self._supply.ended or not self._may_go_on(session):
                    break  # changed while the ledger was asked, so nobody will say so again
            try:
                await asyncio.wait_for(self._supply.change.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                break
        return False

    async def _unarm(self) -> None:
        waits = [self._flusher.record(row.hand.not_sent("NotSent")) for row in self._armed]
        self._armed.clear()
        if waits:
            await asyncio.gather(*waits)

    def _disown(self, error: BaseException) -> None:
        """Hands over what is true of the rows in hand when this connection can't go on."""
        session = self._session
        for hand, _, answer in self._asked:
            if not answer.done():
                answer.cancel()  # the flusher sees to it
            elif not answer.cancelled() and answer.result() is Permission.ARMED:
                self._flusher.record(hand.not_sent("NotSent"))
        for number, row in enumerate(self._armed):
            if number == 0 and self._submitting and session is not None and session.content_started:
                why = f"{type(error).__name__} while the relay's answer was awaited"
                self._flusher.record(self._supply.judge(row, Unknown(why), session, 0).record)
            else:
                self._flusher.record(row.hand.not_sent("NotSent"))
        self._asked.clear()
        self._armed.clear()
        self._submitting = False
