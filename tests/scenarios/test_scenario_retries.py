"""Tried again: when, how often, by whom, and until when. Each recipient on a clock of their own."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from fullsend.ledger.database import Database
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Fault, Faults, Rule
from fullsend.sender.verdict import JITTER
from support import ledger_worlds as world
from support.sender_world import Place, S, place, until
from support.sink_account import EVERYBODY_ONCE, account
from support.workspace import Workspace, eventually


class Watching(MailSink):
    """Keeps when each recipient was named in a RCPT."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tried_at: dict[str, list[float]] = defaultdict(list)

    def tried(self, address: str) -> None:
        super().tried(address)
        self.tried_at[address].append(time.monotonic())

    def gaps(self) -> list[list[float]]:
        """Seconds between the tries of each recipient."""
        return [[b - a for a, b in itertools.pairwise(at)] for at in self.tried_at.values()]


async def test_greylisting_passes_and_each_recipient_waits_for_themselves(postgres_dsn: str, ledger: Database):
    """60 people, each put off three times by greylisting, with a backoff of 0.8 s that doubles up to 1.6 s.

    Fullsend: nobody is tried sooner than promised; the wait doubles up to its cap, and jitter spreads it upward.
    """
    rule = Rule(fault=Fault.GREYLIST, times=3)
    async with Watching(faults=Faults(rules=(rule,))) as sink:
        retry = {"min_backoff": 0.8, "max_backoff": 1.6}
        here = await place(postgres_dsn, ledger, sink, 60, retry=retry)
        async with here.sender() as sender:
            await until(lambda: _all_wait(here))
            waits = await world.sql(ledger, "SELECT extract(epoch FROM due_at - updated_at) FROM fullsend.delivery")
            await sender.ends()
        while (await here.view()).counts.open:
            await here.run()
        assert await here.count(S.ACCEPTED) == 60
        assert sorted(sink.count(f"user{n}@example.com") for n in range(1, 61)) == [1] * 60
        assert [len(gaps) for gaps in sink.gaps()] == [3] * 60
        for first, second, third in sink.gaps():
            assert first >= 0.8
            assert second >= 1.6
            assert third >= 1.6
    shortest, longest = float(min(waits)[0]), float(max(waits)[0])
    assert shortest >= 0.8
    assert longest <= 0.8 * (1 + JITTER) + 0.01
    assert longest - shortest > 0.5 * 0.8 * JITTER


async def _all_wait(here: Place) -> bool:
    return await here.count(S.DEFERRED) == 60


async def test_a_mailbox_that_stays_full(postgres_dsn: str, ledger: Database):
    """One of 40 mailboxes is full each time, longer than `expireAfter`.

    Fullsend: tried again until the time counted from its first failure is over, then `expired`, with the last reply.
    """
    rule = Rule(fault=Fault.MAILBOX_FULL, match="user9@*")
    async with Watching(faults=Faults(rules=(rule,))) as sink:
        retry = {"min_backoff": 0.4, "max_backoff": 0.4, "expire_after": 2.0}
        here = await place(postgres_dsn, ledger, sink, 40, retry=retry)
        while (await here.view()).counts.open:
            await here.run()
        tries = sink.tried_at["user9@example.com"]
        assert len(tries) >= 3
        assert 2.0 <= tries[-1] - tries[0] < 2.0 + 0.4 * (1 + JITTER) + 2.0
        assert await here.count(S.EXPIRED) == 1
        assert sink.accepted == await here.count(S.ACCEPTED) == 39
        [(code, text)] = await world.sql(
            ledger, "SELECT code, text FROM fullsend.attempt WHERE state = 'expired' AND charged"
        )
        assert (code, text) == (452, "mailbox full")


def test_a_deadline_passes_while_people_wait(workspace: Workspace):
    """Half of 40 people are greylisted beyond `schedule.deadline`.

    Fullsend: they are `expired` at the deadline, by name; the campaign has failed by them, and says so.
    """
    people = workspace.recipients(40)
    sink = workspace.sink({"rules": [{"fault": "Greylist", "match": "user00002*", "times": 100}]})
    deadline = datetime.now(UTC) + timedelta(seconds=12)
    workspace.campaign(
        sink.port,
        spec={
            "schedule": {"deadline": deadline.isoformat()},
            "retry": {"minBackoff": "1h", "maxBackoff": "1h", "expireAfter": "72h"},
        },
    )
    done = workspace.run()
    assert done.code == 4, done.out
    late = [who for who in people if who.startswith("user00002")]
    assert account([who for who in people if who not in late], sink) == EVERYBODY_ONCE
    missing = workspace.fullsend("missing", "launch").out.splitlines()[1:]
    assert sorted(line.split(",")[0] for line in missing) == late
    assert all(",expired,DeadlinePassed," in line for line in missing)
    assert datetime.now(UTC) >= deadline


def test_everybody_has_to_wait(workspace: Workspace):
    """Everybody is greylisted, and due again in ten seconds.

    Fullsend: no sender idles; the status says when it goes on, and then senders start by themselves.
    """
    people = workspace.recipients(30)
    sink = workspace.sink("greylist")
    workspace.campaign(sink.port, spec={"retry": {"minBackoff": "10s", "maxBackoff": "10s"}})
    status_file = workspace.state / "status" / "default" / "launch.json"

    def status() -> dict[str, Any]:
        read: dict[str, Any] = json.loads(status_file.read_text()) if status_file.exists() else {}
        return read

    with workspace.running() as run:
        eventually("that it waits", 60, lambda: status().get("limitedBy") == "Relay" and status().get("deferred") == 30)
        eventually("that no sender is left", 8, lambda: not workspace.senders())
        seen = status()
        goes_on = datetime.fromisoformat(seen["nextAttemptTime"])
        assert 0 < (goes_on - datetime.now(UTC)).total_seconds() < 10 * (1 + JITTER)
        ready = next(each for each in seen["conditions"] if each["type"] == "Ready")
        assert (ready["status"], ready["reason"]) == ("True", "Waiting")
        assert run.wait(60) == 0, workspace.said()
        assert datetime.now(UTC) >= goes_on
    assert account(people, sink) == EVERYBODY_ONCE


def test_nobody_knows_again_and_again(workspace: Workspace):
    """For two of 50 people the relay takes the message and drops the connection: for one of them each time.

    Fullsend: each unknown is sent once more, with the same Message-ID; who is unknown again is `held` for a person.
    """
    people = workspace.recipients(50)
    always, once = people[20], people[30]
    drop = {"fault": "DropAfterDot"}
    sink = workspace.sink({"rules": [{**drop, "match": always}, {**drop, "match": once, "times": 1}]})
    workspace.campaign(sink.port)
    done = workspace.run()
    assert done.code == 4, done.out
    found = account(people, sink)
    assert (found.missed, found.strangers) == (frozenset(), frozenset())
    assert found.again == {always: 2, once: 2}
    for who in (always, once):
        ids = {entry["message_id"] for entry in sink.entries() if who in entry["recipients"]}
        assert len(ids) == 1
    [line] = workspace.fullsend("missing", "launch").out.splitlines()[1:]
    assert line.startswith(f"{always},held,NoReplyAfterContent,2,")
    second_copies = 2
    assert second_copies <= done.result[0]["report"]["duplicatesPossible"] <= 2 * second_copies
    assert done.result[0]["report"]["missing"] == 1


def test_people_who_have_ended_are_retried_by_state_and_by_name(workspace: Workspace):
    """A finished campaign with people rejected and people expired; then `retry` for some of them.

    Fullsend: exactly those are open again, the campaign is visibly incomplete, and nobody else is written to.
    """
    people = workspace.recipients(30)
    gone, full = people[:3], people[3:6]
    rules = [{"fault": "UnknownMailbox", "match": who} for who in gone]
    rules += [{"fault": "MailboxFull", "match": who} for who in full]
    sink = workspace.sink({"rules": rules})
    workspace.campaign(sink.port, spec={"retry": {"minBackoff": "1s", "maxBackoff": "1s", "expireAfter": "2s"}})
    done = workspace.run()
    assert done.code == 4, done.out
    assert account(people[6:], sink) == EVERYBODY_ONCE
    sink.stop()
    mended = workspace.sink(port=sink.port)

    def report() -> Any:
        return workspace.fullsend("report", "launch", "-o", "json").result

    assert report()["phase"] == "failed"
    asked = workspace.fullsend("retry", "launch", "--state-of", "rejected", "--address", gone[1], "--address", full[1])
    assert asked.out.startswith("1 reopened"), asked.out
    again = report()
    assert (again["phase"], again["missing"], again["proof"]) == ("sending", 4, None)
    assert workspace.run().code == 4
    assert account([gone[1]], mended) == EVERYBODY_ONCE
    assert workspace.fullsend("retry", "launch", "--state-of", "expired").out.startswith("3 reopened")
    assert workspace.run().code == 0
    assert account([gone[1], *full], mended) == EVERYBODY_ONCE
    counts = report()["counts"]
    assert (counts["accepted"], counts["rejected"]) == (28, 2)
