"""How long servers stay away in tests."""

from __future__ import annotations

import os


def outage(enough: float) -> float:
    """Seconds: ``enough`` is where the mechanism is the same as after a minute; FULLSEND_TEST_OUTAGE overrules it."""
    return float(os.environ.get("FULLSEND_TEST_OUTAGE") or enough)
