"""The operator's few connections to the ledger, shared by all campaigns.

Two lanes, so that the proof of one large campaign doesn't keep a thousand others from being looked at. A connection is
opened when it is first needed, and again when it was lost: the operator starts and stays up while the database is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fullsend.errors import LedgerError
from fullsend.ledger.database import Database

QUICK: Final = 4
SLOW: Final = 2


class Lane:
    """At most ``size`` connections; whoever wants one waits for its turn."""

    def __init__(self, dsn: str, application: str, size: int) -> None:
        self._dsn = dsn
        self._application = application
        self._idle: list[Database] = []
        self._turns = asyncio.Semaphore(size)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Database]:
        """Raises LedgerError. A connection on which anything failed is not used again."""
        async with self._turns:
            db = self._idle.pop() if self._idle else await Database.open(self._dsn, application=self._application)
            try:
                yield db
            except BaseException:
                await _close(db)
                raise
            self._idle.append(db)

    async def close(self) -> None:
        while self._idle:
            await _close(self._idle.pop())


async def _close(db: Database) -> None:
    try:
        await db.close()
    except LedgerError:
        return  # it is gone, which is what was wanted


class Connections:
    """``quick`` for looks and small writes, ``slow`` for what walks rows."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.quick = Lane(dsn, "fullsend-operator", QUICK)
        self.slow = Lane(dsn, "fullsend-operator/rows", SLOW)

    async def close(self) -> None:
        await self.quick.close()
        await self.slow.close()
