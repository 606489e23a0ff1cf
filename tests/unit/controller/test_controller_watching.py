"""What kopf is told, so that its watches outlive an API server that is away."""

from __future__ import annotations

from itertools import islice

from fullsend.controller.watching import settings


def test_a_watch_tries_for_ever_and_never_waits_long() -> None:
    backoffs = settings().networking.error_backoffs
    for _ in range(2):  # each request begins anew
        tries = list(islice(iter(backoffs), 500))  # type: ignore[arg-type]
        assert len(tries) == 500
        assert max(tries) <= 5
