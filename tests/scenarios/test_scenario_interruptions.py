"""Stopped, killed, resumed and cut off: where a campaign goes on is what its rows say, not where a cursor stood."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import Any

import psycopg

from support.sink_account import EVERYBODY_ONCE, account
from support.workspace import Sink, Workspace, eventually


def taken(*sinks: Sink) -> int:
    return sum(len(sink.entries()) for sink in sinks)


def interrupted(workspace: Workspace, enough: Any) -> None:
    """A run that is told to stop once ``enough`` is true."""
    with workspace.running() as run:
        eventually("enough to interrupt", 60, lambda: run.poll() is not None or enough())
        assert run.poll() is None, workspace.said()
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 130, workspace.said()


def the_relay_was_asked_in_vain(workspace: Workspace) -> bool:
    with psycopg.connect(workspace.database) as ledger:
        cursor = ledger.execute("SELECT FROM fullsend.campaign WHERE (breaker ->> 'failures')::int > 0")
        return cursor.fetchone() is not None


def test_paused_and_resumed_while_the_relay_is_down(workspace: Workspace):
    """C. Paused in the middle; resumed while the relay is down and paused before a single success; resumed.

    Listmonk 3.0.0: a run without a success moves the cursor to the end: it finishes at once, or resends to everybody.
    Fullsend: what was sent stays sent, what was not is open, whatever a run came to: each gets it once.
    """
    people = workspace.recipients(2000)
    first = workspace.sink({"replyDelay": 0.01})
    workspace.campaign(first.port, transport={"limits": {"connections": 4}}, smtp={"timeouts": {"connect": "2s"}})
    interrupted(workspace, lambda: taken(first) >= 200)
    first.stop()
    interrupted(workspace, lambda: the_relay_was_asked_in_vain(workspace))
    assert taken(first) < 2000
    second = workspace.sink(port=first.port)
    done = workspace.run()
    assert done.code == 0, done.err
    assert account(people, first, second) == EVERYBODY_ONCE


def test_killed_in_the_middle_of_a_batch(workspace: Workspace):
    """D. 1,000 people at one message a second; everything is killed with SIGKILL in the middle of the first batch.

    Listmonk 3.0.0: the rest of the batch is never sent: the cursor has moved when the batch was fetched.
    Fullsend: who was claimed and not sent to is due again at once; only what was on the wire may be sent twice.
    """
    people = workspace.recipients(1000)
    sink = workspace.sink()
    slow = {"limits": {"connections": 4, "rates": [{"messages": 1, "per": "1s"}]}}
    workspace.campaign(sink.port, transport=slow)
    with workspace.running() as run:
        eventually("the first of them sent", 60, lambda: taken(sink) >= 3)
        for pid in workspace.senders():
            os.kill(pid, signal.SIGKILL)
        run.kill()
        run.wait(10)
    with psycopg.connect(workspace.database) as ledger:  # what waiting would do: a lease lasts a minute
        ledger.execute("UPDATE fullsend.session SET heartbeat_at = heartbeat_at - interval '2 minutes'")
        ledger.execute("UPDATE fullsend.campaign SET owner_heartbeat_at = owner_heartbeat_at - interval '2 minutes'")
    early = taken(sink)
    assert 3 <= early < 20
    workspace.campaign(sink.port, transport={"limits": {"connections": 4}})
    done = workspace.run()
    assert done.code == 0, done.err
    found = account(people, sink)
    assert not found.missed
    assert not found.strangers
    assert sum(found.again.values()) - len(found.again) <= done.result[0]["report"]["duplicatesPossible"] <= 8


def in_ledger(workspace: Workspace) -> bool:
    with psycopg.connect(workspace.database) as ledger:
        [there] = ledger.execute("SELECT to_regclass('fullsend.campaign') IS NOT NULL").fetchone() or (False,)
        return there and ledger.execute("SELECT FROM fullsend.campaign").fetchone() is not None


def all_connections_cut(workspace: Workspace) -> bool:
    with psycopg.connect(workspace.database, autocommit=True) as ledger:
        cut = ledger.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND application_name ~ '^fullsend-'"
        )
        return cut.rowcount > 0


def test_database_connections_are_cut_in_the_middle(workspace: Workspace):
    """I. Every connection to the database is cut again and again: the senders' and that of who watches over them.

    Listmonk 3.0.0: a batch query that fails abandons the campaign: it is "running" and nobody works on it.
    Fullsend: whoever was cut connects again, looks in the ledger at what it holds, and goes on; nobody gets it twice.
    """
    people = workspace.recipients(3000)
    sink = workspace.sink({"replyDelay": 0.01})
    workspace.campaign(sink.port, transport={"limits": {"connections": 8}})
    dice = random.Random(11)
    cuts = 0
    with workspace.running() as run:
        eventually("the campaign in the ledger", 30, lambda: in_ledger(workspace))
        while run.poll() is None:
            if taken(sink) < 2500:  # not its last words
                cuts += all_connections_cut(workspace)
            time.sleep(dice.uniform(0.2, 0.7))
        assert run.returncode == 0, workspace.said()
    assert cuts >= 3
    assert account(people, sink) == EVERYBODY_ONCE


def test_resumed_before_the_pause_has_cleaned_up(workspace: Workspace):
    """J. Told to stop, and started again while the first run still waits for replies in flight.

    Listmonk 3.0.0: marked finished: the clean-up of the pause meets the state of the start.
    Fullsend: two runs never hold one campaign; the second waits for the first and goes on where it ended.
    """
    people = workspace.recipients(400)
    sink = workspace.sink({"rules": [{"fault": "Slow", "delay": 0.15}]})
    workspace.campaign(sink.port, transport={"limits": {"connections": 8}})
    with contextlib.ExitStack() as runs:
        for _ in range(3):
            before = taken(sink)
            run = runs.enter_context(workspace.running())
            eventually("mail of this run", 60, lambda before=before: taken(sink) > before + 20)
            run.send_signal(signal.SIGTERM)
        last = runs.enter_context(workspace.running())
        assert last.wait(90) == 0, workspace.said()
    assert account(people, sink) == EVERYBODY_ONCE
