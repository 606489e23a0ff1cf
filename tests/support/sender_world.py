"""A sender in this process, on a real ledger, with a relay that does what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import OpenedSession
from fullsend.ledger.view import LedgerView
from fullsend.local.mailsink import MailSink
from fullsend.message.compile import compile_message
from fullsend.message.compose import Composer
from fullsend.message.source import MessageSource
from fullsend.sender.lease import Lease
from fullsend.sender.worker import Ended, Worker
from fullsend.states import CampaignId, DeliveryState
from support import ledger_worlds as world

S = DeliveryState
COMPILED = compile_message(
    MessageSource(
        campaign="spring",
        class_="Transactional",
        from_address="news@example.com",
        from_name="News",
        subject="Hello",
        text="Hello {{ email }}\n",
    )
)
COMPOSER = Composer(COMPILED)


@dataclass
class Place:
    """A sealed campaign to user1@example.com .. userN@example.com, its ledger and its relay."""

    dsn: str
    db: Database
    campaign: CampaignId
    port: int
    settings: dict[str, Any] = field(default_factory=dict)

    def control(self, **changes: Any) -> Mapping[str, Any]:
        relay = {
            "name": "relay",
            "host": "127.0.0.1",
            "port": self.port,
            "tls": "Off",
            "pipelining": "Overlap",
            "connections": 4,
            "return_path": "news@example.com",
            "connect_timeout": 5.0,
            "reply_timeout": 5.0,
            "dot_timeout": 5.0,
        }
        retry = {"min_backoff": 0.2, "max_backoff": 0.4, "expire_after": 60.0, "max_unknown_resends": 1}
        given = {"stop": False, "cancel": False, "rates": [], **self.settings, **changes}
        return {
            **given,
            "relay": {**relay, **given.get("relay", {})},
            "retry": {**retry, **given.get("retry", {})},
        }

    async def say(self, **changes: Any) -> None:
        await campaigns.write_control(self.db, self.campaign, self.control(**changes))

    @asynccontextmanager
    async def sender(self, *, dsn: str = "", lease: Lease | None = None) -> AsyncIterator[Sender]:
        """A worker that runs; stopped at the end if it still does."""
        db = await Database.open(dsn or self.dsn, application="sender")
        flush_db = await Database.open(dsn or self.dsn, application="flusher")
        opened = await sessions.open_session(db, self.campaign, wave=1, holder="pod", connections=0)
        assert opened is not None
        worker = Worker(
            db=db,
            flush_db=flush_db,
            campaign=self.campaign,
            opened=opened,
            first=await sessions.heartbeat(db, opened),
            lease=lease or Lease(opened.lease_seconds),
            composer=COMPOSER,
            secrets_dir=Path("/nonexistent"),
        )
        running = asyncio.create_task(worker.run())
        try:
            yield Sender(worker, opened, running)
        finally:
            if not running.done():
                worker.stop()
                worker.stop()
            await asyncio.wait({running}, timeout=20)
            await db.close()
            await flush_db.close()

    async def run(self, *, dsn: str = "", seconds: float = 30.0) -> Ended:
        """A worker from its start to its end."""
        async with self.sender(dsn=dsn) as sender:
            return await sender.ends(seconds)

    async def view(self) -> LedgerView:
        return await campaigns.observe(self.db, self.campaign, session_lease_seconds=60)

    async def count(self, state: DeliveryState) -> int:
        return (await world.rows_by_state(self.db, self.campaign)).get(state, 0)

    async def unknowns(self) -> dict[str, int]:
        """Unknowns that the ledger has noted, by address."""
        rows = await world.sql(
            self.db,
            "SELECT r.address, d.unknowns FROM fullsend.delivery AS d JOIN fullsend.recipient AS r USING"
            " (campaign_id, seq) WHERE d.campaign_id = %s AND d.unknowns > 0",
            self.campaign,
        )
        return dict(rows)


@dataclass
class Sender:
    worker: Worker
    session: OpenedSession
    running: asyncio.Task[Ended]

    async def ends(self, seconds: float = 30.0) -> Ended:
        done, _ = await asyncio.wait({self.running}, timeout=seconds)
        assert done, f"the sender still runs after {seconds} s"
        return self.running.result()


async def place(
    dsn: str, db: Database, sink: MailSink | int, rows: int, *, key: str = "spring", **settings: Any
) -> Place:
    port = sink if isinstance(sink, int) else sink.port
    made = Place(dsn, db, CampaignId(0), port, settings)
    made.campaign = await world.sealed(db, rows, key=key, control=made.control())
    return made


async def until(look: Any, seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not await look():
        assert asyncio.get_running_loop().time() < deadline, "not seen in time"
        await asyncio.sleep(0.02)
