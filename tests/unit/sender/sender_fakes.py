"""A ledger, a relay and a worker small enough to see through, for tests of one connection and its flusher."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from fullsend.errors import LedgerUnavailable, RelayError, SessionFenced
from fullsend.ledger import sessions
from fullsend.ledger.control import RetryControl
from fullsend.ledger.sessions import Arm, Claimed, Flushed, OpenedSession, Record
from fullsend.sender.flusher import Permission
from fullsend.sender.hand import Armed, InHand
from fullsend.sender.verdict import Judge, Judgement
from fullsend.smtp.outcome import Accepted, Outcome, Outgoing, Refused, Stage, Unknown, Unsent
from fullsend.smtp.reply import Reply
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining
from fullsend.states import CampaignId, DeliveryState, Seq, SessionId

S = DeliveryState
SESSION = OpenedSession(SessionId(1), datetime(2026, 1, 1, tzinfo=UTC), CampaignId(1), 1, 60.0)
RETRY = RetryControl(min_backoff=60.0, max_backoff=3600.0, expire_after=7200.0, max_unknown_resends=1)


def claimed(seq: int) -> Claimed:
    return Claimed(
        Seq(seq), f"u{seq}@example.com", seq.to_bytes(16, "big"), "{}", f"t{seq}", "example.com", 0, 0, 0, None
    )


def hand(seq: int) -> InHand:
    row = claimed(seq)
    return InHand(row, Outgoing("a@b.example", row.address, b"x\r\n"), f"<t{seq}@x>")


@dataclass
class FakeLedger:
    """Rows of one session. ``fate`` says what becomes of each flush: "commit", "refuse" (nothing was committed, and the
    connection is lost), "doubt" (it was committed, and the answer is lost) or "fence"."""

    states: dict[Seq, DeliveryState] = field(default_factory=dict)
    suppressed: set[Seq] = field(default_factory=set)
    refused: set[Seq] = field(default_factory=set)
    attempts: Counter[tuple[Seq, int]] = field(default_factory=Counter)
    fate: Callable[[], str] = lambda: "commit"
    live: bool = True
    most_armed: int = 0
    asked_again: int = 0
    groups: list[tuple[int, int]] = field(default_factory=list)
    refuses: Callable[[Record], Exception | None] = lambda _: None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "flush", self.flush)
        monkeypatch.setattr(sessions, "still_meant", self.still_meant)

    async def reconnect(self) -> None:
        await asyncio.sleep(0)

    @property
    def armed(self) -> int:
        return sum(state is S.ARMED for state in self.states.values())

    async def flush(self, _: object, __: object, *, arm: Sequence[Arm], record: Sequence[Record]) -> Flushed:
        await asyncio.sleep(0)
        self.groups.append((len(arm), len(record)))
        fate = self.fate()
        if fate == "refuse":
            raise LedgerUnavailable("gone before the commit")
        if fate == "fence":
            self.live = False
        for one in record:
            if (error := self.refuses(one)) is not None:
                raise error
        flushed = self._commit(arm, record)
        if fate == "doubt":
            raise LedgerUnavailable("gone after the commit")
        await asyncio.sleep(0)
        if not self.live and not record:
            raise SessionFenced("fenced")
        return flushed

    async def still_meant(self, _: object, __: object, armed: Sequence[Arm]) -> frozenset[Seq]:
        await asyncio.sleep(0)
        self.asked_again += 1
        return frozenset(one.seq for one in armed if one.seq not in self.suppressed and self.live)

    def _commit(self, arm: Sequence[Arm], record: Sequence[Record]) -> Flushed:
        for one in record:
            state = self.states[one.seq]
            if state is S.ARMED or (state is S.CLAIMED and one.state in (S.DEFERRED, S.UNKNOWN, S.UNRENDERABLE)):
                if state is S.ARMED:
                    self.attempts[one.seq, one.attempt] += 1
                self.states[one.seq] = one.state
        armed, gone = set(), set()
        for want in arm:
            if not self.live or want.seq in self.refused or self.states[want.seq] is not S.CLAIMED:
                continue
            if want.seq in self.suppressed:
                self.states[want.seq] = S.SUPPRESSED
                gone.add(want.seq)
            else:
                self.states[want.seq] = S.ARMED
                armed.add(want.seq)
        self.most_armed = max(self.most_armed, self.armed)
        left = {want.seq for want in arm} - armed - gone
        return Flushed(frozenset(armed), frozenset(gone), frozenset(left), self.live)


class FakeRelay:
    """A session that does what the dice say, and sees to it that nothing is written that is not armed."""

    relay = "relay[1]:25"

    def __init__(self, ledger: FakeLedger, pipelining: Pipelining, dice: random.Random, seqs: dict[int, Seq]) -> None:
        self.pipelining = pipelining
        self.usable = True
        self.delivered = 0
        self.content_started = False
        self.contents: Counter[Seq] = Counter()
        self.hang: asyncio.Event | None = None  # set: the answer to the content waits for it
        self._ledger = ledger
        self._dice = dice
        self._seqs = seqs
        self._ahead: Outgoing | None = None

    async def submit(
        self, message: Outgoing, following: Outgoing | None, proceed: Callable[[], Awaitable[bool]]
    ) -> Outcome:
        assert self._ahead is None or self._ahead is message, "an envelope written ahead was passed over"
        self._ahead = None
        self.content_started = False
        for one in filter(None, (message, following)):
            assert self._ledger.states[self._seqs[id(one)]] is S.ARMED, "on the wire without being armed"
        await asyncio.sleep(0)
        if not self.usable:
            return Unsent("closed", None, Stage.MAIL)
        match self._dice.random():
            case x if x < 0.05:
                self.usable = False
                return Unsent("reset", None, Stage.RCPT)
            case x if x < 0.15:
                self._ahead = following
                return Refused(Stage.RCPT, Reply(550, "5.1.1", "no such user"))
            case _ if not await proceed():
                self.usable = False
                return Unsent("withdrawn", None, Stage.DATA)
        self.content_started = True
        self.contents[self._seqs[id(message)]] += 1
        self._ahead = following
        await asyncio.sleep(0)
        if self.hang is not None:
            await self.hang.wait()
        if self._dice.random() < 0.05:
            self.usable = False
            return Unknown("lost")
        self.delivered += 1
        return Accepted(Reply(250, "2.0.0", "queued"))

    def abort(self) -> None:
        self.usable = False

    async def quit(self) -> None:
        self.usable = False


class FakeSupply:
    """The worker's part: rows to take, relays to connect to, and notes of what came back."""

    def __init__(self, ledger: FakeLedger, rows: int, pipelining: Pipelining, seed: int = 1) -> None:
        self.ledger = ledger
        self.dice = random.Random(seed)
        self.pipelining = pipelining
        self.seqs: dict[int, Seq] = {}
        self.rows: deque[InHand] = deque()
        self.kept: list[InHand] = []  # so that ids stay unique
        for seq in range(1, rows + 1):
            self.add(hand(seq))
        self.given_back: list[Seq] = []
        self.relays: list[FakeRelay] = []
        self.may_send = True
        self.ended = False
        self.one_at_a_time = False
        self.limit = 0
        self.connected = 0
        self.told: list[Judgement] = []
        self._judge = Judge(random.Random(seed))
        self._change = asyncio.Event()

    def add(self, row: InHand) -> None:
        self.ledger.states[row.claimed.seq] = S.CLAIMED
        self.seqs[id(row.outgoing)] = row.claimed.seq
        self.rows.append(row)
        self.kept.append(row)

    def notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def wanted(self, index: int) -> bool:
        return True

    @property
    def change(self) -> asyncio.Event:
        return self._change

    def has_work(self) -> bool:
        return bool(self.rows)

    def worth_connecting(self) -> bool:
        return self.has_work()

    def take(self) -> InHand | None:
        return self.rows.popleft() if self.rows and self.may_send else None

    def not_armed(self, hand: InHand, permission: Permission) -> None:
        if permission is Permission.REFUSED:
            self.given_back.append(hand.claimed.seq)
            self.ledger.states[hand.claimed.seq] = S.DEFERRED
            asyncio.get_running_loop().call_later(0.001, self.notify)  # as the feed does once it has given it back

    async def connect(self) -> Session:
        await asyncio.sleep(0)
        if self.dice.random() < 0.1:
            raise RelayError("connect", "refused")
        self.relays.append(FakeRelay(self.ledger, self.pipelining, self.dice, self.seqs))
        return self.relays[-1]  # type: ignore[return-value]

    async def connect_failed(self, error: RelayError) -> None:
        await asyncio.sleep(0)

    def judge(self, armed: Armed, outcome: Outcome, session: Session, took_ms: int) -> Judgement:
        return self._judge.judge(
            armed,
            outcome,
            relay=session.relay,
            took_ms=took_ms,
            fresh=not session.delivered,
            retry=RETRY,
            rules=(),
            now=datetime.now(UTC),
        )

    async def tell(self, judgement: Judgement, recorded: asyncio.Future[None]) -> None:
        self.told.append(judgement)
        await asyncio.sleep(0)

    def may_carry(self, carried: int) -> bool:
        return not self.limit or carried < self.limit

    def opened(self, change: int) -> None:
        self.connected += change
