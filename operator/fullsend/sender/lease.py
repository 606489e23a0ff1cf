"""Whether this sender may still put content on the wire, judged without asking anyone.

A sender that was frozen (SIGSTOP, a paused VM, a partition) may have been fenced meanwhile, and its armed rows handed
to others. It cannot know before its next heart-beat, so it trusts its own clock first: no content is started once
half of the lease has passed since the last heart-beat that the ledger confirmed. CLOCK_BOOTTIME goes on while the
machine sleeps; CLOCK_MONOTONIC would not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CONTENT_SHARE = 0.5
"""Share of the lease within which content may be started; the rest is for what is already on the wire."""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """The time since the last confirmed heart-beat against the lease's length in seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = boottime) -> None:
        self._seconds = seconds
        self._clock = clock
        self._confirmed_at = clock()
        self._fenced = False

    def asking(self) -> float:
        """The moment a heart-beat is sent. The lease counts from here, not from the answer."""
        return self._clock()

    def confirm(self, asked_at: float) -> None:
        self._confirmed_at = max(self._confirmed_at, asked_at)

    def fence(self) -> None:
        self._fenced = True

    @property
    def fenced(self) -> bool:
        return self._fenced

    @property
    def silence(self) -> float:
        """Seconds since a heart-beat was last confirmed."""
        return self._clock() - self._confirmed_at

    @property
    def may_start_content(self) -> bool:
        return not self._fenced and self.silence < self._seconds * CONTENT_SHARE
