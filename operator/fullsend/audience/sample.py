"""Which recipients are tried before anybody is mailed: the first ones, and some from everywhere.

The number of rows is not known while they stream by, so every n-th is kept and n doubles whenever the room is full:
what remains is evenly spread over all rows, the choice is the same at each run, and the memory is bounded.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

T = TypeVar("T")

FIRST: Final = 200
TOTAL: Final = 1_000


class Sample(Generic[T]):
    """The ``first`` items and up to ``total - first`` evenly spread ones of the rest."""

    def __init__(self, first: int = FIRST, total: int = TOTAL) -> None:
        self._first = first
        self._room = total - first
        self._step = 1
        self._seen = 0
        self._head: list[T] = []
        self._spread: list[T] = []

    def offer(self, item: T) -> None:
        self._seen += 1
        if self._seen <= self._first:
            self._head.append(item)
        elif (self._seen - self._first - 1) % self._step == 0:
            if len(self._spread) == self._room:
                self._spread = self._spread[::2]
                self._step *= 2
                if (self._seen - self._first - 1) % self._step:
                    return
            self._spread.append(item)

    def __len__(self) -> int:
        return len(self._head) + len(self._spread)

    @property
    def items(self) -> list[T]:
        return self._head + self._spread
