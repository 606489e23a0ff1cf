"""What is to happen to a campaign and when: made from the seed, in order of how much of the mail is out.

A moment is a share of the campaign, not a time, so that every kind of fault is met at any speed and size.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from chaos.proxy import Cut


class Fault(StrEnum):
    KILL = "SIGKILL of a sender"
    TERM = "SIGTERM of a sender"
    FREEZE = "SIGSTOP of a sender past its lease"
    NAP = "SIGSTOP of a sender for 3 s"
    KILL_SHELL = "SIGKILL of the shell"
    CRASH = "immediate restart of PostgreSQL"
    CUT_MIDDLE = f"PostgreSQL cut {Cut.MIDDLE}"
    CUT_DOUBT = f"PostgreSQL cut {Cut.DOUBT}"
    CUT_RACE = f"PostgreSQL cut {Cut.RACE}"
    CUT_STALL = f"PostgreSQL cut {Cut.STALL}"
    RELAY = "restart of the relay"
    COPY = "copy of the database kept"
    SET_BACK = "database set back to the copy"


CUTS = {
    Fault.CUT_MIDDLE: Cut.MIDDLE,
    Fault.CUT_DOUBT: Cut.DOUBT,
    Fault.CUT_RACE: Cut.RACE,
    Fault.CUT_STALL: Cut.STALL,
}

OFTEN = {
    Fault.KILL: 4,
    Fault.TERM: 2,
    Fault.NAP: 1,
    Fault.KILL_SHELL: 1,
    Fault.CRASH: 2,
    Fault.CUT_MIDDLE: 4,
    Fault.CUT_DOUBT: 4,
    Fault.CUT_RACE: 4,
    Fault.CUT_STALL: 2,
    Fault.RELAY: 1,
}
"""How often in a short run."""

SHORT = 20_000
"""Recipients of a short run. A longer one meets more, but no more than ten times as much."""

FREEZE_AT = 0.08
"""Early, so that the frozen sender wakes while the others still send."""

COPY_AT, SET_BACK_AT = 0.45, 0.6


@dataclass(frozen=True, slots=True, order=True)
class Strike:
    at: float
    fault: Fault
    dice: int


def storm(size: int, seed: int) -> list[Strike]:
    """In order of time. Nothing strikes between the copy and some time after it was put in place, but cuts: a person
    who restores a database does one thing at a time."""
    dice = random.Random(f"storm {seed}")
    times = max(1, min(10, size // SHORT))
    strikes = [Strike(COPY_AT, Fault.COPY, 0), Strike(SET_BACK_AT, Fault.SET_BACK, 0)]
    strikes += [Strike(FREEZE_AT + 0.1 * turn, Fault.FREEZE, dice.randrange(1 << 30)) for turn in range(min(times, 3))]
    for fault, often in OFTEN.items():
        for _ in range(often * times):
            at = dice.choice((dice.uniform(0.03, COPY_AT - 0.02), dice.uniform(SET_BACK_AT + 0.02, 0.95)))
            strikes.append(Strike(at, fault, dice.randrange(1 << 30)))
    return sorted(strikes)
