"""What a sender claims first, and what it makes of messages that cannot be built."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from sender_fakes import SESSION, claimed, hand

from fullsend.ledger import sessions
from fullsend.ledger.sessions import Claimed, Record
from fullsend.ledger.view import BreakerState, BreakerView
from fullsend.reconcile.breaker import Trouble
from fullsend.sender.feed import Compose, Feed
from fullsend.sender.hand import InHand


@dataclass
class FakePulse:
    """What may be done, said by the test."""

    breaker: BreakerView = field(default_factory=BreakerView)
    connections: int = 1
    may_send: bool = True
    metered: bool = False
    told: list[Trouble] = field(default_factory=list)

    @property
    def control(self) -> Any:
        return type("Control", (), {"fresh_limit": None})

    @property
    def counts(self) -> Any:
        return dict.fromkeys(range(0), 0)

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
