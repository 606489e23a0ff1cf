"""Random concurrent histories: senders that die, lose their connection in the middle of a commit, wake up late and
record what they had sent, with sweepers, people and a poll at work beside them. Whatever the order, afterwards the
counters are the rows, everything that was ever recorded as accepted is accepted, and the proof holds."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from fullsend.errors import LedgerUnavailable, SessionFenced
from fullsend.ledger import campaigns, sessions, suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import Claimed, OpenedSession, Record
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from fullsend.ledger.view import Phase
from fullsend.states import CampaignId, Seq
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world

PATIENCE = 30.0
RECIPIENTS = 80


@dataclass
class History:
    """What really happened, outside the ledger."""

    dsn: str
    campaign: CampaignId
    random: random.Random
    ends_at: float
    accepted: set[int] = field(default_factory=set)  # recorded, and the ledger said so
    sends: Counter[int] = field(default_factory=Counter)
    cut: int = 0

    @property
    def running(self) -> bool:
        """Goes on past its time, for a while, on a machine so busy that nothing worth the name has happened yet."""
        now = asyncio.get_running_loop().time()
        return now < self.ends_at or (now < self.ends_at + PATIENCE and not (self.cut and self.accepted))


class Sender:
    """One process: claims, arms, sends, records; dies or stalls at random."""

    def __init__(self, history: History, db: Database, killer: Database) -> None:
        self.history, self.db, self.killer, self.random = history, db, killer, history.random

    async def run(self) -> None:
        while self.history.running:
            session = await self.again(
                lambda: sessions.open_session(self.db, self.history.campaign, wave=1, holder="x", connections=2)
            )
            assert session is not None
            try:
                await self.one_life(session)
            except SessionFenced:
                continue

    async def again(self, call):  # type: ignore[no-untyped-def]
        while True:
            try:
                return await call()
            except LedgerUnavailable:
                await self.db.reconnect()

    async def one_life(self, session: OpenedSession) -> None:
        after = 0
        for _ in range(self.random.randint(1, 6)):
            rows = await self.again(
                lambda after=after: sessions.claim_fresh(
                    self.db, session, after=Seq(after), limit=self.random.randint(1, 8), fresh_limit=None
                )
            )
            after = rows[-1].seq if rows else 0
            if not rows or self.random.random() < 0.5:
                rows += await self.again(lambda: sessions.claim_due(self.db, session, limit=self.random.randint(1, 8)))
            if not rows:
                await asyncio.sleep(0.005)
                continue
            if self.random.random() < 0.2:
                back = self.random.sample(rows, len(rows) // 2)
                seqs = [row.seq for row in back]
                await self.again(lambda seqs=seqs: sessions.give_back(self.db, session, seqs))
                rows = [row for row in rows if row not in back]
            armed = await self.arm(session, rows)
            await self.send(session, [row for row in rows if row.seq in armed])
        if self.random.random() < 0.5:
            await self.again(lambda: sessions.close_session(self.db, session, "done"))

    async def arm(self, session: OpenedSession, rows: list[Claimed]) -> set[Seq]:
        try:
            flushed = await self.cut_sometimes(sessions.flush(self.db, session, arm=world.arms(rows), record=[]))
            return set(flushed.armed)
        except LedgerUnavailable:
            await self.db.reconnect()
            held = dict(await self.again(lambda: sessions.held(self.db, session)))
            return {row.seq for row in rows if held.get(row.seq) is S.ARMED}

    async def send(self, session: OpenedSession, rows: list[Claimed]) -> None:
        """The content goes out; then the sender may die, stall past its lease, or record."""
        records = [self.verdict(row) for row in rows]
        self.history.sends.update(row.seq for row in rows)
        match self.random.random():
            case x if x < 0.15:
                return  # died: nothing is recorded, ever
            case x if x < 0.35:
                await asyncio.sleep(self.random.uniform(0, 0.1))  # stalled: most likely fenced meanwhile
        try:
            await self.cut_sometimes(sessions.flush(self.db, session, arm=[], record=records))
        except LedgerUnavailable:
            await self.db.reconnect()
            await self.again(lambda: sessions.flush(self.db, session, arm=[], record=records))
        self.history.accepted.update(r.seq for r in records if r.state is S.ACCEPTED)

    def verdict(self, row: Claimed) -> Record:
        state = self.random.choices(
            [S.ACCEPTED, S.DEFERRED, S.REJECTED, S.UNKNOWN, S.EXPIRED], weights=[6, 3, 2, 1, 0.5]
        )[0]
        if state is S.ACCEPTED:
            return world.accepted(row)
        return world.outcome(
            row, state, delay=self.random.choice([0.0, 0.01]), charged=self.random.random() < 0.5, feed_suppression=True
        )

    async def cut_sometimes(self, call):  # type: ignore[no-untyped-def]
        """Now and then the server process is killed at a random moment of the flush: the commit is in doubt."""
        if self.random.random() > 0.15:
            return await call
        task = asyncio.ensure_future(call)
        await asyncio.sleep(self.random.uniform(0, 0.004))
        await world.sql(self.killer, "SELECT pg_terminate_backend(%s::integer)", self.db.backend_pid)
        self.history.cut += 1
        return await task


async def sweeper(history: History, db: Database) -> None:
    while history.running:
        await asyncio.sleep(history.random.uniform(0, 0.05))
        await sessions.sweep(
            db,
            history.campaign,
            lease_seconds=0.03,
            max_unknown_resends=1,
            unknown_delay=history.random.choice([0, 0.02]),
        )


async def people(history: History, db: Database) -> None:
    """Somebody says no, somebody retries what ended."""
    while history.running:
        await asyncio.sleep(history.random.uniform(0.02, 0.1))
        if history.random.random() < 0.3:
            who = NewSuppression(world.identity(history.random.randint(1, RECIPIENTS)), None, "unsubscribed")
            await suppressions.add(db, Target(Scope.TENANT, "ns"), [who])
        else:
            name = f"r{history.random.random()}"
            await campaigns.request_reopen(db, history.campaign, id=name, states=[S.REJECTED, S.EXPIRED, S.HELD])
            await campaigns.carry_out_reopen(db, history.campaign)


async def poll(history: History, db: Database) -> None:
    """The revision never goes back and nobody is ever missing from the counters."""
    revision = 0
    while history.running:
        view = await campaigns.observe(db, history.campaign, session_lease_seconds=1)
        assert view.revision >= revision
        assert view.counts.total == RECIPIENTS
        revision = view.revision
        await asyncio.sleep(0.005)


async def live(dsn: str, seed: int, seconds: float) -> History:
    dbs = [await Database.open(dsn, application=f"tests-{n}") for n in range(9)]
    campaign = await world.sealed(dbs[0], RECIPIENTS)
    history = History(dsn, campaign, random.Random(seed), asyncio.get_running_loop().time() + seconds)
    try:
        await asyncio.gather(
            *(Sender(history, db, dbs[0]).run() for db in dbs[1:5]),
            sweeper(history, dbs[5]),
            sweeper(history, dbs[6]),
            people(history, dbs[7]),
            poll(history, dbs[8]),
        )
        await settle(history, dbs[0])
    finally:
        for db in dbs:
            await db.close()
    return history


async def settle(history: History, db: Database) -> None:
    """What must be true whatever happened."""
    campaign = history.campaign
    await asyncio.sleep(0.05)
    await sessions.sweep(db, campaign, lease_seconds=0, max_unknown_resends=1)
    counted = await world.rows_by_state(db, campaign)
    assert await world.counts(db, campaign) == counted
    assert sum(counted.values()) == RECIPIENTS
    assert not {S.CLAIMED, S.ARMED} & set(counted)
    rows = await world.sql(
        db,
        "SELECT d.seq, d.state, d.attempts, d.unknowns, (SELECT count(*) FROM fullsend.attempt a"
        " WHERE a.campaign_id = d.campaign_id AND a.seq = d.seq) FROM fullsend.delivery d WHERE d.campaign_id = %s",
        campaign,
    )
    states = {seq: S(state) for seq, state, *_ in rows}
    assert {seq for seq in history.accepted if states[seq] is not S.ACCEPTED} == set()
    for seq, _, attempts, _, noted in rows:
        assert attempts == noted, f"row {seq}: armed {attempts} times, {noted} attempts are noted"
        assert history.sends[seq] <= attempts, f"row {seq} was sent more often than armed"
    sessions_left = await world.sql(db, "SELECT count(*) FROM fullsend.counter WHERE session_id <> 0")
    assert sessions_left == [(0,)], "every session's counters are folded"
    await campaigns.end_rows(db, campaign, [S.PENDING, S.DEFERRED, S.UNKNOWN], S.CANCELLED, "Test", chunk=7)
    proof = await campaigns.prove(db, campaign)
    assert proof.holds, proof.differences
    assert await campaigns.finish(db, campaign, Phase.CANCELLED, proof)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_dies_in_whatever_order_the_books_balance(postgres_dsn: str, seed: int) -> None:
    history = await live(postgres_dsn, seed, 1.5)
    assert history.cut
    assert history.accepted
