"""What a sender claims first, and what it makes of messages that cannot be built."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from sender_fakes import SESSION, claimed, hand

from fullsend.errors import RenderError
from fullsend.ledger import sessions
from fullsend.ledger.sessions import Claimed, Record
from fullsend.ledger.view import BreakerState, BreakerView
from fullsend.reconcile.breaker import MessageRefused, Trouble
from fullsend.sender.feed import MISHAPS, UNRENDERABLE_RUN, Compose, Feed
from fullsend.sender.hand import InHand
from fullsend.states import DeliveryState


@dataclass
class FakePulse:
    """What may be done, said by the test."""

    breaker: BreakerView = field(default_factory=BreakerView)
    connections: int = 1
    may_send: bool = True
    metered: bool = False
    blocked_domains: frozenset[str] = frozenset()
    told: list[Trouble] = field(default_factory=list)

    @property
    def control(self) -> Any:
        return type("Control", (), {"fresh_limit": None})

    @property
    def counts(self) -> Any:
        return dict.fromkeys(DeliveryState, 1)

    def blocked(self, domain: str) -> bool:
        return domain in self.blocked_domains

    async def trouble(self, event: Trouble) -> None:
        self.told.append(event)
        self.may_send = False


@dataclass
class FakeFlusher:
    records: list[Record] = field(default_factory=list)

    def record(self, record: Record) -> asyncio.Future[None]:
        self.records.append(record)
        return asyncio.get_running_loop().create_future()


class World:
    """A feed over two queues: the due rows, then the fresh ones."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, due: int, fresh: int, compose: Compose | None = None
    ) -> None:
        self.due = [claimed(seq) for seq in range(1, due + 1)]
        self.fresh = [claimed(1000 + seq) for seq in range(fresh)]
        self.given_back: list[int] = []
        self.pulse, self.flusher = FakePulse(), FakeFlusher()
        monkeypatch.setattr(sessions, "claim_due", self._claim_due)
        monkeypatch.setattr(sessions, "claim_fresh", self._claim_fresh)
        monkeypatch.setattr(sessions, "give_back", self._give_back)
        self.feed = Feed(
            cast(Any, None),
            SESSION,
            cast(Any, self.pulse),
            cast(Any, self.flusher),
            compose=compose or self._compose,
            changed=lambda: None,
        )

    def _compose(self, row: Claimed) -> InHand:
        return hand(row.seq)

    async def _claim_due(self, *_: Any, limit: int) -> list[Claimed]:
        rows, self.due = self.due[:limit], self.due[limit:]
        return rows

    async def _claim_fresh(self, *_: Any, limit: int, **__: Any) -> list[Claimed]:
        rows, self.fresh = self.fresh[:limit], self.fresh[limit:]
        return rows

    async def _give_back(self, _: Any, __: Any, seqs: list[Any]) -> None:
        self.given_back += seqs


def taken(feed: Feed) -> int:
    row = feed.take()
    assert row is not None
    return row.claimed.seq


async def test_rows_that_are_due_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, due=9, fresh=9)
    await world.feed._turn()
    assert taken(world.feed) == 1


@pytest.mark.parametrize("state", [BreakerState.REDUCED, BreakerState.PROBING])
async def test_a_breaker_that_leaves_one_connection_is_tried_with_a_row_that_was_in_no_trouble(
    state: BreakerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, due=9, fresh=1)
    world.pulse.breaker = BreakerView(state=state, connections=1)
    await world.feed._turn()
    assert [taken(world.feed) for _ in range(2)] == [1000, 1]


def failing(error: Exception, *seqs: int) -> Compose:
    """Builds everybody's message but these rows', or nobody's."""

    def compose(row: Claimed) -> InHand:
        if not seqs or row.seq in seqs:
            raise error
        return hand(row.seq)

    return compose


async def test_a_message_that_cannot_be_built_for_anybody_asks_a_person_before_the_list_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, due=0, fresh=200, compose=failing(RenderError("no such variable")))
    world.pulse.connections = 20
    while world.pulse.may_send:
        await world.feed._turn()
        assert world.feed.take() is None
    assert len(world.flusher.records) == UNRENDERABLE_RUN
    assert {record.state for record in world.flusher.records} == {DeliveryState.UNRENDERABLE}
    (told,) = world.pulse.told
    assert isinstance(told, MessageRefused)
    assert "for anybody" in told.message
    assert "no such variable" in told.message
    assert UNRENDERABLE_RUN + len(world.given_back) + len(world.fresh) == 200
    assert world.feed.idle


async def test_recipients_whose_message_cannot_be_built_among_others_stop_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = [1000 + n for n in range(300) if n % (3 * UNRENDERABLE_RUN) != UNRENDERABLE_RUN // 2]
    world = World(monkeypatch, due=0, fresh=300, compose=failing(RenderError("no"), *bad))
    while world.fresh or world.feed.has_work():
        await world.feed._turn()
        while world.feed.take():
            pass
    assert len(world.flusher.records) == len(bad)
    assert not world.pulse.told


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("a mistake")])
async def test_a_sender_that_can_build_nothing_is_broken_and_charges_nobody(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, due=0, fresh=50, compose=failing(error))
    await world.feed._turn()
    with pytest.raises(type(error)):
        world.feed.take()
    await world.feed._turn()
    assert len(world.given_back) == MISHAPS
    assert not world.flusher.records


@pytest.mark.parametrize("bad", [{1003}, {1001, 1003}, {1003, 1004, 1005, 1006}])
async def test_recipients_at_whom_building_breaks_are_tried_again_and_end_while_others_are_sent(
    bad: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(monkeypatch, due=0, fresh=9, compose=failing(ZeroDivisionError("a mistake"), *bad))
    built = []
    for _ in range(20):
        await world.feed._turn()
        world.due += [claimed(seq) for seq in world.given_back]
        world.given_back.clear()
        while row := world.feed.take():
            built.append(row.claimed.seq)
    assert set(built) == {1000 + n for n in range(9)} - bad
    assert sorted(record.seq for record in world.flusher.records) == sorted(bad)
    assert {record.state for record in world.flusher.records} == {DeliveryState.UNRENDERABLE}
