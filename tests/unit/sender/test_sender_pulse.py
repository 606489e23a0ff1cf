"""What a sender takes for the time is the database's, however wrong the clock of its machine is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sender_fakes import SESSION

from fullsend.ledger.sessions import Heartbeat
from fullsend.ledger.view import BreakerView, Counts, Phase
from fullsend.sender.lease import Lease
from fullsend.sender.pulse import Pulse

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("jump", [600.0, -600.0])
def test_a_clock_that_jumps_between_two_beats_does_not_move_the_databases(
    monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    control: dict[str, Any] = {"relay": {"name": "relay", "host": "127.0.0.1", "port": 25}}
    beat = Heartbeat(True, Phase.SENDING, control, 1, BreakerView(), NOW, Counts(), 8, 1, 0)
    pulse = Pulse(cast("Any", None), SESSION.campaign, SESSION, beat, Lease(60.0), lambda: None)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + jump)
    assert abs(pulse.database_now() - NOW) < timedelta(seconds=60)
