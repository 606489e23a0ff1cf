"""Who is to be looked at, and why: the meeting point of events, timers and polls.

An event only wakes; what is true is read when the object is looked at. Wakes that come while a look is under way are
kept for the next one, and many become one.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from typing import Final

LONGEST: Final = timedelta(minutes=10)
JITTER: Final = 0.1
FIRST_RETRY: Final = 0.5
LAST_RETRY: Final = 60.0


class Cause(StrEnum):
    """What may have changed."""

    OBJECT = "object"  # itself
    REFERENCE = "reference"  # something that it names
    JOB = "job"  # a Job of it, or a pod's end
    LEDGER = "ledger"  # a poll has seen something
    TIMER = "timer"


class Bell:
    """Wakes one object's task."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._causes: set[Cause] = set()

    def ring(self, cause: Cause) -> None:
        self._causes.add(cause)
        self._rung.set()

    async def wait(self, seconds: float) -> frozenset[Cause]:
        """Everything that rang since the last wait, or TIMER alone."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), max(0.0, seconds))
        causes = frozenset(self._causes or {Cause.TIMER})
        self._causes.clear()
        self._rung.clear()
        return causes


def spread(again: timedelta) -> float:
    """Seconds to the next look: never later than asked, and not at the same moment for all."""
    seconds = min(again, LONGEST).total_seconds()
    return seconds * (1 - random.uniform(0, JITTER))  # noqa: S311 - not a secret


def retry_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(LAST_RETRY, FIRST_RETRY * float(1 << min(failures - 1, 10))) * random.uniform(0.8, 1.2)  # noqa: S311
