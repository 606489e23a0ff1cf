"""Who is woken, and how it is found that nobody was."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from fullsend.controller.audit import OVERDUE, WatchAudit
from fullsend.controller.wakes import LONGEST, Bell, Cause, retry_after, spread


async def test_many_events_are_one_wake_with_every_cause() -> None:
    bell = Bell()
    for cause in (Cause.JOB, Cause.OBJECT, Cause.JOB):
        bell.ring(cause)
    assert await bell.wait(10) == {Cause.JOB, Cause.OBJECT}
    assert await bell.wait(0.01) == {Cause.TIMER}


async def test_a_wake_during_a_look_is_kept_for_the_next() -> None:
    bell = Bell()
    bell.ring(Cause.JOB)
    await bell.wait(0)
    bell.ring(Cause.REFERENCE)
    assert await bell.wait(0) == {Cause.REFERENCE}


async def test_a_ring_ends_a_wait() -> None:
    bell = Bell()
    waiting = asyncio.create_task(bell.wait(10))
    await asyncio.sleep(0)
    bell.ring(Cause.LEDGER)
    assert await asyncio.wait_for(waiting, 1) == {Cause.LEDGER}


def test_a_look_is_never_later_than_asked_for() -> None:
    for _ in range(100):
        assert 9 <= spread(timedelta(seconds=10)) <= 10
        assert spread(timedelta(days=3)) <= LONGEST.total_seconds()


def test_failures_in_a_row_are_tried_again_ever_more_rarely() -> None:
    assert retry_after(1) < retry_after(4) < retry_after(7)
    assert retry_after(1000) <= 72


def seen(uid: str, version: str) -> dict[str, Any]:
    return {"uid": uid, "resourceVersion": version}


def test_what_a_watch_has_brought_is_no_news() -> None:
    audit = WatchAudit()
    audit.brought(seen("a", "1"))
    assert audit.listed([seen("a", "1")], now=0) == []
    assert not audit.overdue(now=10_000)


def test_what_it_has_not_brought_is_news_at_once_and_a_stuck_watch_later() -> None:
    audit = WatchAudit()
    audit.brought(seen("a", "1"))
    assert audit.listed([seen("a", "2"), seen("b", "1")], now=0) == [seen("a", "2"), seen("b", "1")]
    assert not audit.overdue(now=OVERDUE - 1)
    audit.listed([seen("a", "3"), seen("b", "1")], now=60)
    assert audit.overdue(now=OVERDUE)


def test_a_watch_that_catches_up_is_not_stuck() -> None:
    audit = WatchAudit()
    audit.listed([seen("a", "1")], now=0)
    audit.brought(seen("a", "1"))
    assert not audit.overdue(now=10_000)


def test_a_deletion_that_it_did_not_tell_of_counts_too() -> None:
    audit = WatchAudit()
    audit.brought(seen("a", "1"))
    audit.listed([], now=0)
    assert audit.overdue(now=OVERDUE)
    audit.brought(seen("a", "2"), gone=True)
    assert not audit.overdue(now=OVERDUE)
    assert audit.listed([], now=200) == []


def test_while_nothing_can_be_listed_nothing_is_said_of_a_watch() -> None:
    assert not WatchAudit().overdue(now=10_000)
