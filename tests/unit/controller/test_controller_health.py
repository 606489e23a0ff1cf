"""What the probes say: red for what a restart mends, and for nothing else."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from fullsend.controller import operator as module
from fullsend.controller.audit import OVERDUE
from fullsend.controller.connections import Connections
from fullsend.controller.health import Health
from fullsend.controller.leadership import Leadership
from fullsend.controller.names import CAMPAIGNS
from fullsend.controller.operator import SILENT, STUCK, Operator, Settings
from fullsend.controller.supervisor import Entry, Supervisor
from fullsend.errors import LedgerUnavailable


class Ledger:
    """Stands for the connections: what ``take`` does is the test's."""

    def __init__(self, take: Callable[[], Any]) -> None:
        self.quick = self
        self._take = take

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Any]:
        yield await self._take()


def operator() -> Operator:
    """One that has just begun: it has lost nothing yet."""
    made = Operator(Settings(dsn="", image="fullsend:test"))
    made._beats.update(poll=time.monotonic(), audit=time.monotonic())
    made._supervisor = Supervisor(cast(Any, None))
    made._leadership = Leadership(cast(Any, None), "home", "it", gained=cast(Any, None), lost=cast(Any, None))
    return made


async def polled(made: Operator, take: Callable[[], Any]) -> None:
    """One turn of the poll and what came of it."""
    task = asyncio.create_task(made._poll(cast(Connections, Ledger(take))))
    await asyncio.sleep(0.2)
    task.cancel()


def test_idle_or_on_standby_it_is_alive() -> None:
    assert operator()._not_alive() == ""


@pytest.mark.parametrize("loop", ["poll", "audit"])
def test_a_loop_that_has_not_turned_is_stuck(loop: str) -> None:
    made = operator()
    made._beats[loop] -= SILENT + 1
    assert made._not_alive().startswith(f"the {loop} loop has not turned for 18")


def test_a_leader_that_no_longer_renews_is_stuck() -> None:
    made = operator()
    assert made._leadership is not None
    made._leadership.turned_at -= SILENT + 1
    assert made._not_alive().startswith("the leader's loop has not turned for 18")


def test_a_watch_that_does_not_bring_what_a_list_shows_is_stuck_until_it_does() -> None:
    made = operator()
    there = {"uid": "a", "resourceVersion": "2"}
    made._audits[CAMPAIGNS].listed([there], time.monotonic() - OVERDUE - 1)
    assert made._not_alive() == "the watch of campaigns has not brought changes that a list shows"
    made._audits[CAMPAIGNS].brought(there)
    assert made._not_alive() == ""


def test_a_look_that_takes_for_ever_is_stuck_unless_the_database_is_away() -> None:
    made = operator()
    made._database_wrong = ""
    assert made._supervisor is not None
    entry = made._supervisor._entries["a"] = Entry(cast(Any, None), cast(Any, None))
    entry.busy_since = time.monotonic() - STUCK + 10
    assert made._not_alive() == ""
    entry.busy_since = time.monotonic() - STUCK - 1
    assert made._not_alive().startswith("a look at an object has taken 90")
    made._database_wrong = "connection refused"
    assert made._not_alive() == ""


async def test_a_database_that_is_away_is_not_ready_and_nothing_to_restart_for() -> None:
    made = operator()

    async def refused() -> None:
        raise LedgerUnavailable("connection refused")

    await polled(made, refused)
    assert made._not_ready() == "connection refused"
    assert made._not_alive() == ""


async def test_a_database_that_does_not_answer_is_away_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    made = operator()

    async def hangs() -> None:
        await asyncio.sleep(3600)

    await polled(made, hangs)
    assert "has not answered" in made._not_ready()
    assert made._not_alive() == ""


def test_a_database_that_answered_a_while_ago_is_no_longer_ready() -> None:
    made = operator()
    made._database_wrong, made._database_at = "", time.monotonic()
    assert made._not_ready() == ""
    made._database_at -= module.STALE + 1
    assert made._not_ready() == "the database has not answered for a while"


async def test_what_is_wrong_is_a_503_that_says_so() -> None:
    async def scrape() -> bytes:
        return b"fullsend_ledger_up 1\n"

    health = Health(alive=lambda: "", ready=lambda: "no database", scrape=scrape)
    await health.serve(0)

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    try:
        assert await asyncio.to_thread(get, "/healthz") == (200, "ok\n")
        assert await asyncio.to_thread(get, "/readyz") == (503, "no database\n")
        assert await asyncio.to_thread(get, "/metrics") == (200, "fullsend_ledger_up 1\n")
    finally:
        await health.close()
