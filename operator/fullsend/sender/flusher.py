"""Arming and recording, group-committed over a sender's connections.

One flush is in flight at a time; what arrives meanwhile forms the next one, so the group grows by itself with the load
and no timer is needed. A flush is one transaction: either every arm and record in it is committed, or none. Records
leave in the order in which they came and no arm overtakes a record handed over before it, so whoever hands over a
record and then asks to arm never has more rows armed than before.

When the database goes away in the middle of a COMMIT nobody can tell which. The doubt is settled in the safe
direction, again and again until the ledger has taken it: records are given once more (the attempt's number makes a
second copy fall away), and every row whose arming is in doubt is recorded as not sent, which is true, since its
connection still waits, and ends the row's attempt whether or not the arming was committed. The session's lock, which
each flush takes first, makes that wait for a server process that still works on the lost one. A database that comes
back older than it was (see ``sessions.Told``) arms nothing more. Invariants 4 and 7.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from fullsend.errors import LedgerError, LedgerUnavailable, LedgerWentBack, SchemaMismatch, SessionFenced
from fullsend.ledger import sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import OpenedSession, Record
from fullsend.sender.hand import InHand
from fullsend.states import Seq

log = logging.getLogger(__name__)

MAX_GROUP = 256
"""Rows in one flush. Beyond some 32 the cost per row no longer falls; the bound keeps one transaction short."""

RECONNECT_FIRST = 0.2
RECONNECT_MAX = 5.0


class Permission(Enum):
    """What the ledger answered to a request to arm."""

    ARMED = "armed"
    SUPPRESSED = "suppressed"  # settled
    REFUSED = "refused"  # stopped, no tokens, or no longer ours: nothing may be sent, and it may still be claimed
    RETURNED = "returned"  # the arming was in doubt: the row waits again


@dataclass(frozen=True, slots=True)
class _Arming:
    hand: InHand
    answer: asyncio.Future[Permission]


@dataclass(frozen=True, slots=True)
class _Question:
    hand: InHand
    answer: asyncio.Future[bool]


@dataclass(frozen=True, slots=True)
class _Recording:
    record: Record
    done: asyncio.Future[None]


class Flusher:
    """Collects arms and records and commits them in groups.

    ``fenced`` is called once the ledger says that the session is no longer live. ``away_since`` (time.monotonic) is
    set while the ledger can't be reached. ``lost`` counts records that were given up: their rows stay armed and become
    unknown with the end of the session.
    """

    def __init__(self, db: Database, session: OpenedSession, fenced: Callable[[], None]) -> None:
        self._db = db
        self._session = session
        self._fenced = fenced
        self._arms: list[_Arming] = []
        self._records: list[_Recording] = []
        self._questions: list[_Question] = []
        self._flying: tuple[Sequence[_Arming], Sequence[_Recording]] = ((), ())
        self._wake = asyncio.Event()
        self._closing = False
        self._abandoned = asyncio.Event()
        self.away_since: float | None = None
        self.lost = 0

    # -- what connections and the feed ask --------------------------------------------------------------------------

    def arm(self, hand: InHand) -> asyncio.Future[Permission]:
        """Ask leave to put this row's content on the wire; resolves once the answer is durable. Where the asker was
        cancelled meanwhile, an armed row is recorded as not sent."""
        arming = _Arming(hand, asyncio.get_running_loop().create_future())
        if self._abandoned.is_set():
            arming.answer.set_result(Permission.REFUSED)
        else:
            self._arms.append(arming)
            self._wake.set()
        return arming.answer

    def record(self, record: Record) -> asyncio.Future[None]:
        """Note what became of a row; resolves once it is durable (or given up, see ``lost``)."""
        recording = _Recording(record, asyncio.get_running_loop().create_future())
        self._records.append(recording)
        if self._abandoned.is_set():
            self._give_up()
        self._wake.set()
        return recording.done

    def still_meant(self, hand: InHand) -> asyncio.Future[bool]:
        """Ask whether the content of a row that was armed a while ago may go out now. False as well where the ledger
        can't say; while it is away there is no answer."""
        question = _Question(hand, asyncio.get_running_loop().create_future())
        if self._abandoned.is_set():
            question.answer.set_result(False)
        else:
            self._questions.append(question)
            self._wake.set()
        return question.answer

    def in_hand(self) -> set[Seq]:
        """Rows about which an answer is still to come."""
        arms, records = self._flying
        return {a.hand.claimed.seq for a in (*arms, *self._arms)} | {r.record.seq for r in (*records, *self._records)}

    def close(self) -> None:
        """Let ``run`` return once everything handed over so far is committed."""
        self._closing = True
        self._wake.set()

    def abandon(self) -> None:
        """Try no longer: nothing more is armed, and what could not be recorded is given up."""
        self._abandoned.set()
        self._wake.set()

    # -- the ledger's side ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while not self._abandoned.is_set():
                if self._questions:
                    await self._inquire()
                if self._arms or self._records:
                    await self._commit(*self._take())
                elif self._closing and not self._questions:
                    return
                elif not self._questions:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._abandoned.set()
            self._give_up()

    async def _inquire(self) -> None:
        asked, self._questions = self._questions, []
        meant: frozenset[Seq] = frozenset()
        try:
            meant = await sessions.still_meant(self._db, self._session, [q.hand.arm for q in asked])
        except (SessionFenced, LedgerWentBack) as error:
            log.warning("%s", error)
            self._fenced()
        except LedgerError as error:  # what is recorded of these rows next sees to the connection
            log.warning("the ledger can't say whether armed rows are still to be sent: %s", error)
        finally:
            for question in asked:
                if not question.answer.done():
                    question.answer.set_result(question.hand.claimed.seq in meant)

    def _take(self) -> tuple[list[_Arming], list[_Recording]]:
        records, self._records = self._records[:MAX_GROUP], self._records[MAX_GROUP:]
        room = MAX_GROUP - len(records)
        arms, self._arms = self._arms[:room], self._arms[room:]
        self._flying = (arms, records)
        return arms, records

    async def _commit(self, arms: Sequence[_Arming], records: Sequence[_Recording]) -> None:
        try:
            flushed = await sessions.flush(
                self._db, self._session, arm=[a.hand.arm for a in arms], record=[r.record for r in records]
            )
        except LedgerWentBack as error:
            log.error("%s", error)
            self._fenced()
            self._answer(arms, lambda _: Permission.REFUSED)
            if records:  # without the arms they are taken
                await self._commit((), records)
                return
        except SessionFenced:
            self._fenced()
            self._answer(arms, lambda _: Permission.REFUSED)
        except (LedgerUnavailable, SchemaMismatch) as error:
            log.warning("the ledger is away in the middle of a flush: %s", error)
            if not await self._settle_doubt(arms, records):
                return
            self._answer(arms, lambda _: Permission.RETURNED)
        except LedgerError as error:
            await self._one_by_one(arms, records, error)
            return
        else:
            if not flushed.live:
                self._fenced()
            armed, suppressed = flushed.armed, flushed.suppressed
            self._answer(
                arms,
                lambda seq: (
                    Permission.ARMED
                    if seq in armed
                    else Permission.SUPPRESSED
                    if seq in suppressed
                    else Permission.REFUSED
                ),
            )
        for recording in records:
            if not recording.done.done():
                recording.done.set_result(None)
        self._flying = ((), ())

    def _answer(self, arms: Sequence[_Arming], permission: Callable[[Seq], Permission]) -> None:
        for arming in arms:
            answer = permission(arming.hand.claimed.seq)
            if not arming.answer.done():
                arming.answer.set_result(answer)
            elif answer is Permission.ARMED:
                self.record(arming.hand.not_sent("NotSent"))

    async def _settle_doubt(self, arms: Sequence[_Arming], records: Sequence[_Recording]) -> bool:
        """True once it is settled; False where it was given up."""
        self.away_since = time.monotonic()
        again = [r.record for r in records] + [a.hand.not_sent("ArmingInDoubt") for a in arms]
        delay = RECONNECT_FIRST
        while not self._abandoned.is_set():
            try:
                await self._db.reconnect()
                flushed = await sessions.flush(self._db, self._session, arm=[], record=again)
            except LedgerWentBack as error:
                log.error("%s", error)
                self._fenced()  # again at once: what is true of a row may be recorded, nothing is armed
            except (LedgerUnavailable, SchemaMismatch):
                try:
                    await asyncio.wait_for(self._abandoned.wait(), delay)
                except TimeoutError:
                    delay = min(delay * 2, RECONNECT_MAX)
            else:
                self.away_since = None
                if not flushed.live:
                    self._fenced()
                return True
        return False

    async def _one_by_one(self, arms: Sequence[_Arming], records: Sequence[_Recording], error: LedgerError) -> None:
        """The ledger refused the group. One row must not keep the others from being recorded."""
        if len(arms) + len(records) == 1:
            log.error("the ledger refuses: %s", error)
            self._answer(arms, lambda _: Permission.REFUSED)
            for recording in records:
                self.lost += 1
                if not recording.done.done():
                    recording.done.set_result(None)
            return
        for recording in records:
            await self._commit((), (recording,))
        for arming in arms:
            await self._commit((arming,), ())

    def _give_up(self) -> None:
        arms, records = self._flying
        for arming in (*arms, *self._arms):
            if not arming.answer.done():
                arming.answer.set_result(Permission.REFUSED)
        for recording in (*records, *self._records):
            if not recording.done.done():
                self.lost += 1
                recording.done.set_result(None)
        for question in self._questions:
            if not question.answer.done():
                question.answer.set_result(False)
        self._flying = ((), ())
        self._arms, self._records, self._questions = [], [], []
