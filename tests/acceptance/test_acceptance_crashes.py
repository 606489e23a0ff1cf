"""Whatever is killed, stopped or frozen in the middle of a campaign: nobody is missed, and a second copy has a name.

``unknowns`` are what the ledger says nobody can know; each may be a second copy, nothing else may.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest
from psycopg.rows import TupleRow

from support.workspace import Sink, Workspace, eventually

RECIPIENTS = 3000
CONNECTIONS = 8
K = 2
"""Rows armed per connection at most, with pipelining Overlap."""

SLOWLY = {"replyDelay": 0.004}
"""A relay that takes its time, so that a small campaign lasts long enough to be disturbed."""


def rows(workspace: Workspace, statement: str, *params: object) -> list[TupleRow]:
    with psycopg.connect(workspace.database) as connection:
        return connection.execute(statement.encode(), params).fetchall()


def unknowns(workspace: Workspace) -> Counter[str]:
    """How often nobody knew, by address."""
    found = rows(
        workspace,
        "SELECT r.address, d.unknowns FROM fullsend.delivery AS d JOIN fullsend.recipient AS r USING (campaign_id, seq)"
        " WHERE d.unknowns > 0",
    )
    return Counter(dict(found))


def prepared(workspace: Workspace, *, resends: int = 1, **smtp: object) -> tuple[list[str], Sink]:
    people = workspace.recipients(RECIPIENTS)
    sink = workspace.sink(SLOWLY)
    workspace.campaign(
        sink.port,
        smtp={"pipelining": "Overlap", **smtp},
        transport={"limits": {"connections": CONNECTIONS}},
        spec={
            "senders": {"maxPods": 2},
            "retry": {"minBackoff": "1s", "maxBackoff": "2s", "maxUnknownResends": resends},
        },
    )
    return people, sink


def accepted(workspace: Workspace) -> int:
    found = rows(workspace, "SELECT coalesce(sum(accepted), 0) FROM fullsend.counter")
    return int(found[0][0])


def disturbed(workspace: Workspace, how: signal.Signals, times: int, dice: random.Random) -> int:
    """Runs the campaign to its end, with a signal to a random sender at random moments; returns how many hit."""
    hits = 0
    with workspace.running() as run:
        next_at = 0.0
        while run.poll() is None:
            senders = workspace.senders()
            if senders and hits < times and accepted(workspace) > 20 and time.monotonic() >= next_at:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(senders), how)
                    hits += 1
                next_at = time.monotonic() + dice.uniform(0.2, 1.2)
            time.sleep(dice.uniform(0.02, 0.1))
        assert run.returncode == 0, (workspace.folder / "run.log").read_text()
    return hits


def nobody_missed_and_every_copy_named(workspace: Workspace, people: list[str], sink: Sink) -> None:
    copies, named = sink.copies(), unknowns(workspace)
    assert [who for who in people if not copies[who]] == []
    assert {who: n for who, n in copies.items() if n > 1 + named[who]} == {}
    [[holds]] = rows(workspace, "SELECT (proof ->> 'holds')::boolean FROM fullsend.campaign")
    assert holds


def test_senders_killed_at_random_moments_miss_nobody_and_every_second_copy_is_named(workspace: Workspace) -> None:
    people, sink = prepared(workspace, resends=5)  # should every kill hit the same recipient, none is held
    hits = disturbed(workspace, signal.SIGKILL, 5, random.Random(7))
    assert hits >= 3
    nobody_missed_and_every_copy_named(workspace, people, sink)
    a_session = rows(workspace, "SELECT session_id, count(*) FROM fullsend.attempt WHERE state = 'unknown' GROUP BY 1")
    assert all(count <= K * CONNECTIONS for _, count in a_session)
    assert unknowns(workspace).total() <= hits * K * CONNECTIONS


def test_senders_told_to_stop_at_random_moments_leave_no_doubt_and_no_second_copy(workspace: Workspace) -> None:
    people, sink = prepared(workspace)
    assert disturbed(workspace, signal.SIGTERM, 6, random.Random(8)) >= 3
    assert unknowns(workspace) == {}
    assert sink.copies() == dict.fromkeys(people, 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_killed_or_interrupted_goes_on_with_the_same_command(
    workspace: Workspace, how: signal.Signals
) -> None:
    people, sink = prepared(workspace)
    with workspace.running() as run:
        eventually("a third of the mail", 60, lambda: accepted(workspace) > RECIPIENTS // 3)
        run.send_signal(how)
        run.wait(60)
    if how is signal.SIGTERM:
        assert run.returncode == 130
        assert sum(sink.copies().values()) == accepted(workspace) < RECIPIENTS
    done = workspace.run()
    assert done.code == 0, done.err
    if how is signal.SIGTERM:
        assert sink.copies() == dict.fromkeys(people, 1)
    nobody_missed_and_every_copy_named(workspace, people, sink)


def test_a_sender_frozen_past_its_lease_does_no_harm_when_it_wakes(workspace: Workspace) -> None:
    people, sink = prepared(workspace)
    with workspace.running() as run:
        eventually("some mail", 60, lambda: accepted(workspace) > RECIPIENTS // 6)
        frozen = workspace.senders()[0]
        os.kill(frozen, signal.SIGSTOP)
        try:
            time.sleep(0.3)
            # Its heart-beat is made old by hand: a lease lasts a minute.
            eventually("the frozen sender's heart-beat stands still", 10, lambda: _aged(workspace))
            eventually("its session is ended by others", 30, lambda: _fenced(workspace))
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert run.wait(120) == 0, (workspace.folder / "run.log").read_text()
    nobody_missed_and_every_copy_named(workspace, people, sink)
    assert unknowns(workspace).total() <= K * CONNECTIONS


def _aged(workspace: Workspace) -> bool:
    with psycopg.connect(workspace.database, autocommit=True) as connection:
        changed = connection.execute(
            "UPDATE fullsend.session SET heartbeat_at = heartbeat_at - interval '2 minutes'"
            " WHERE ended_at IS NULL AND fenced_at IS NULL"
            " AND heartbeat_at < clock_timestamp() - interval '1.5 seconds'"
        )
        return changed.rowcount == 1


def _fenced(workspace: Workspace) -> bool:
    return bool(rows(workspace, "SELECT FROM fullsend.session WHERE end_reason = 'lease expired'"))


def _frozen_database(workspace: Workspace) -> Callable[[], None]:
    """Takes the whole ledger away (its servers' processes are stopped) until the result is called."""
    pids = [pid for (pid,) in rows(workspace, "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^fullsend'")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    return thaw


def test_a_ledger_that_stands_still_for_a_while_costs_time_and_nobody(workspace: Workspace) -> None:
    people, sink = prepared(workspace)
    with workspace.running() as run:
        eventually("some mail", 60, lambda: accepted(workspace) > RECIPIENTS // 6)
        thaw = _frozen_database(workspace)
        time.sleep(2)
        thaw()
        assert run.wait(120) == 0, (workspace.folder / "run.log").read_text()
    assert unknowns(workspace) == {}
    assert sink.copies() == dict.fromkeys(people, 1)


def test_senders_whose_ledger_connections_are_cut_again_and_again_lose_nothing(workspace: Workspace) -> None:
    people, sink = prepared(workspace)
    dice = random.Random(9)
    with workspace.running() as run:
        while run.poll() is None:
            time.sleep(dice.uniform(0.05, 0.5))
            if accepted(workspace):
                with contextlib.suppress(psycopg.OperationalError):
                    rows(
                        workspace,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                        " AND datname = current_database() AND application_name ~ '^fullsend-(send|flush)'"
                        " ORDER BY random() LIMIT 2",
                    )
    assert run.returncode == 0, (workspace.folder / "run.log").read_text()
    assert unknowns(workspace) == {}
    assert sink.copies() == dict.fromkeys(people, 1)


def test_senders_that_outlive_a_killed_run_end_in_order_when_told_to(workspace: Workspace) -> None:
    prepared(workspace)
    with workspace.running() as run:
        eventually("some mail", 60, lambda: accepted(workspace) > 100)
        run.kill()
        run.wait(10)
        left = workspace.senders()
        assert left, "senders outlive a killed run and go on by themselves"
        for pid in left:
            os.kill(pid, signal.SIGTERM)
        eventually("the senders end", 30, lambda: not workspace.senders())
    [[open_sessions]] = rows(workspace, "SELECT count(*) FROM fullsend.session WHERE ended_at IS NULL")
    assert open_sessions == 0
