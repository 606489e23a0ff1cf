"""Memory that is free goes back to the system.

A busy hour leaves the C library's heap full of holes (requests' bodies, query results), which it keeps for the next
one; an operator that rests for weeks would hold them all that time. Measured: 4 MB of 86 after 33 campaigns.
"""

from __future__ import annotations

import ctypes
from typing import Any


def _found() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library than glibc
        return None


_malloc_trim = _found()


def give_back() -> None:
    """Takes some milliseconds; does nothing where the C library can't."""
    if _malloc_trim is not None:
        _malloc_trim(0)
