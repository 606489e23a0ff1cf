"""Gives sender processes a wrong clock: found by every Python below a run of chaos, obeyed only by senders.

The clock of a sender is right, an hour or a day off, or jumps back and forth between right and ten minutes ahead; which
one is a function of its job's name. Only ``time.time`` is wrong, as on a machine with a wrong clock: what measures
durations goes on.
"""

import hashlib
import os
import sys
import time

_right = time.time


def _skewed(name: str) -> None:
    offsets = (0.0, 3600.0, -3600.0, 86400.0, None)
    offset = offsets[hashlib.blake2b(name.encode(), digest_size=2).digest()[0] % len(offsets)]
    if offset is None:
        time.time = lambda: _right() + (600.0 if int(time.monotonic()) % 20 < 10 else 0.0)
    else:
        time.time = lambda: _right() + offset


if "fullsend.sender" in sys.orig_argv and "FULLSEND_CHAOS_SEED" in os.environ:
    _skewed(f"{os.environ['FULLSEND_CHAOS_SEED']} {os.path.basename(sys.orig_argv[-1])}")
