"""Arming and recording, group-committed over a sender's connections.

One flush is in flight at a time; what arrives meanwhile forms the next one, so the group grows by itself with the
load and no timer is needed. A flush is one transaction: either every arm and record in it is committed, or none.

When the database goes away in the middle of a COMMIT nobody can tell which. The flusher then reconnects, asks the
ledger which rows this session holds, and settles the doubt: a row found armed was armed by us (nothing of it is on
the wire yet, since its connection still waits for the answer); records are simply given again, for the attempt's key
makes a second copy of a record fall away. Invariants 4 and 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from fullsend.errors import LedgerUnavailable, SessionFenced
from fullsend.ledger import sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Arm, Flushed, OpenedSession, Record
from fullsend.states import DeliveryState, Seq

log = logging.getLogger(__name__)

MAX_GROUP = 256
"""Rows in one flush. Beyond some 32 the cost per row no longer falls; the bound keeps one transaction short."""

RECONNECT_FIRST = 0.2
RECONNECT_MAX = 5.0


class Permission(Enum):
    """What the ledger answered to a request to arm."""

    ARMED = "armed"
    SUPPRESSED = "suppressed"
    REFUSED = "refused"  # no longer ours, stopped, or no tokens: nothing may be sent


@dataclass(slots=True)
class _Group:
    arms: dict[Seq, tuple[Arm, asyncio.Future[Permission]]] = field(default_factory=dict)
    records: list[tuple[Record, asyncio.Future[None]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.arms) + len(self.records)


class Flusher:
    """Collects arms and records and commits them in groups.

    ``fenced`` is called once the ledger says that the session is no longer live.
    """

    def __init__(self, db: Database, session: OpenedSession, fenced: Callable[[], None]) -> None:
        self._db = db
        self._session = session
        self._fenced = fenced
        self._arms: list[tuple[Arm, asyncio.Future[Permission]]] = []
        self._records: list[tuple[Record, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self.database_away = False

    def arm(self, arm: Arm) -> Awaitable[Permission]:
        """Ask leave to put this row's content on the wire; resolves once the answer is durable."""
        future: asyncio.Future[Permission] = asyncio.get_running_loop().create_future()
        self._arms.append((arm, future))
        self._wake.set()
        return future

    def record(self, record: Record) -> Awaitable[None]:
        """Note what became of a row; resolves once it is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._records.append((record, future))
        self._wake.set()
        return future

    def close(self) -> None:
        """Let ``run`` return once everything handed over so far is committed."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        while True:
            group = self._take()
            if len(group):
                await self._commit(group)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _take(self) -> _Group:
        group = _Group()
        group.records, self._records = self._records[:MAX_GROUP], self._records[MAX_GROUP:]
        room = MAX_GROUP - len(group.records)
        taken, self._arms = self._arms[:room], self._arms[room:]
        group.arms = {arm.seq: (arm, future) for arm, future in taken}
        return group

    async def _commit(self, group: _Group) -> None:
        records = [record for record, _ in group.records]
        arms = [arm for arm, _ in group.arms.values()]
        try:
            flushed = await sessions.flush(self._db, self._session, arm=arms, record=records)
        except SessionFenced:
            flushed = _nothing_armed(arms)
        except LedgerUnavailable as error:
            log.warning("the ledger is away in the middle of a flush; reconnecting: %s", error)
            flushed = await self._settle_doubt(arms, records)
        if not flushed.live:
            self._fenced()
        for seq, (_, armed) in group.arms.items():
            if not armed.done():
                armed.set_result(_permission(seq, flushed))
        for _, recorded in group.records:
            if not recorded.done():
                recorded.set_result(None)

    async def _settle_doubt(self, arms: list[Arm], records: list[Record]) -> Flushed:
        self.database_away = True
        delay = RECONNECT_FIRST
        while True:
            try:
                await self._db.reconnect()
                held = dict(await sessions.held(self._db, self._session))
                live = await self._record_again(records)
                break
            except LedgerUnavailable:
                await asyncio.sleep(delay)
                delay = min(delay * 2, RECONNECT_MAX)
        self.database_away = False
        # A row that is still merely claimed is not armed now: its connection gives it back, which costs one walk
        # through the due queue and cannot be wrong.
        armed = frozenset(arm.seq for arm in arms if held.get(arm.seq) is DeliveryState.ARMED)
        refused = frozenset(arm.seq for arm in arms) - armed
        return Flushed(armed=armed, suppressed=frozenset(), refused=refused, live=live)

    async def _record_again(self, records: list[Record]) -> bool:
        if not records:
            return True
        return (await sessions.flush(self._db, self._session, arm=[], record=records)).live


def _nothing_armed(arms: list[Arm]) -> Flushed:
    nobody: frozenset[Seq] = frozenset()
    return Flushed(armed=nobody, suppressed=nobody, refused=frozenset(arm.seq for arm in arms), live=False)


def _permission(seq: Seq, flushed: Flushed) -> Permission:
    if seq in flushed.armed:
        return Permission.ARMED
    if seq in flushed.suppressed:
        return Permission.SUPPRESSED
    return Permission.REFUSED
