"""Who got what, by the relay's own journal and the audience: the judge of a campaign that asks none of our counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from support.workspace import Sink


@dataclass(frozen=True)
class Account:
    """``missed``: in the audience and never taken; ``again``: taken more often than once, and how often;
    ``strangers``: taken, and in nobody's audience."""

    missed: frozenset[str] = frozenset()
    again: dict[str, int] = field(default_factory=dict)
    strangers: frozenset[str] = frozenset()


EVERYBODY_ONCE = Account()


def account(audience: Collection[str], *sinks: Sink) -> Account:
    """What these sinks together have taken, against who was to get one message."""
    taken: Counter[str] = Counter()
    for sink in sinks:
        taken.update(sink.copies())
    wanted = frozenset(audience)
    return Account(
        missed=wanted - taken.keys(),
        again={who: count for who, count in taken.items() if count > 1},
        strangers=taken.keys() - wanted,
    )
