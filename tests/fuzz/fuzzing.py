"""What the fuzzers share: how many inputs, how they are made from seeds, and how long one may take.

A short run (some thousands of inputs each, the same each time) is a part of ``make test``; ``make fuzz`` is the long
one, with other inputs each time. The bound is on the processor's time, so that a busy machine fails nobody; what is cut
off raises in the middle of the work.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("FULLSEND_FUZZ_INPUTS", "0"))
"""Asked for by ``make fuzz``; 0 is a short run."""

SHORT_RUN = 2000
SECONDS = 1.0
"""Of processor time that one input may take."""

fuzzed = settings(
    max_examples=INPUTS or SHORT_RUN,
    derandomize=not INPUTS,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TookTooLong(BaseException):
    """Not an Exception: nothing may take it for an outcome."""


def named(reason: str, text: str) -> None:
    """A refusal has a word for programs and a sentence for people."""
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", reason)
    assert text.strip()


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Raises TookTooLong where what is done inside takes too long."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLong(f"more than {seconds} s of processor time for one input")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = (b"\0",)) -> bytes:
    """A seed, a few times cut, doubled, joined with another one, or with bytes or tokens put into it."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        how = draw(st.integers(0, 5))
        if how == 0:
            data = data[:at] + data[to:]
        elif how == 1:
            data = data[:to] + data[at:to] * draw(st.integers(1, 50)) + data[to:]
        elif how == 2:
            data = data[:at] + draw(st.sampled_from(seeds))[at:]
        elif how == 3:
            data = data[:at] + draw(st.binary(max_size=8)) + data[to:]
        elif how == 4:
            data = data[:at] + draw(st.sampled_from(tokens)) * draw(st.integers(1, 3)) + data[at:]
        else:
            data = data[:at] + draw(st.text(max_size=8)).encode("utf-8", "surrogatepass") + data[at:]
    return data
