"""A relay that is away, refuses for now, or refuses everybody: it costs time, and nobody."""

from __future__ import annotations

import time
from typing import Any

from support.sink_account import EVERYBODY_ONCE, account
from support.workspace import Finished, Workspace, eventually

COUNTED = ("accepted", "rejected", "expired", "held", "unknown")


def counts(done: Finished) -> dict[str, int]:
    found: dict[str, int] = done.result[0]["report"]["counts"]
    return {state: found[state] for state in COUNTED if found[state]}


def test_relay_that_refuses_connections_and_comes_back(workspace: Workspace):
    """E. 20,000 people, 3 connections; the relay refuses four dials in the middle, then is back.

    Listmonk 3.0.0: each failed dial leaks a slot of the pool: 0 sent, "running" for ever, even with the server back.
    Fullsend: there is no pool to run dry: it connects less and less often, and sends on as soon as it can.
    """
    people = workspace.recipients(20_000)
    first = workspace.sink()
    workspace.campaign(first.port, transport={"limits": {"connections": 3}})
    with workspace.running() as run:
        eventually("some of them sent", 60, lambda: first.entries())
        first.stop()
        time.sleep(1.2)
        second = workspace.sink(port=first.port)
        assert run.wait(240) == 0, workspace.said()
    assert 0 < len(first.entries()) < 20_000
    found = account(people, first, second)
    assert not found.missed
    assert not found.strangers
    report = workspace.fullsend("report", "launch", "-o", "json").result
    assert sum(found.again.values()) - len(found.again) <= report["duplicatesPossible"] <= 6
    assert report["counts"]["accepted"] == 20_000


def test_refused_for_now_at_every_stage(workspace: Workspace):
    """F. 1,000 people; 9% of them draw 451 twice before 250, at RCPT, DATA or after the dot; and so does MAIL.

    Listmonk 3.0.0: finished at 914: a reply is an error, and an error is never tried again.
    Fullsend: refused for now is due later; all 1,000 are accepted, each once.
    """
    people = workspace.recipients(1000)
    later = {"fault": "Reply", "reply": "451 try again later", "times": 2}
    at_mail = {**later, "stage": "Mail"}
    sink = workspace.sink(
        {"rules": [at_mail, *({**later, "stage": s, "share": "3%"} for s in ("Rcpt", "Data", "Dot"))]}
    )
    workspace.campaign(sink.port, spec={"retry": {"minBackoff": "1s", "maxBackoff": "1s"}})
    done = workspace.run(timeout=90)
    assert done.code == 0, done.err
    assert account(people, sink) == EVERYBODY_ONCE
    assert counts(done) == {"accepted": 1000}


def test_everybody_refused_at_mail_for_now(workspace: Workspace):
    """G. 500 people, and 451 to every MAIL FROM; the threshold of failures is larger than the list.

    Listmonk 3.0.0: finished at 0 of 500: errors are counted after the worker is released, and never tried again.
    Fullsend: it is the relay's trouble: nobody is charged; the run ends with what to mend, and the next one sends.
    """
    people = workspace.recipients(500)
    refusing = workspace.sink({"rules": [{"fault": "Reply", "stage": "Mail", "reply": "451 come back later"}]})
    workspace.campaign(refusing.port, spec={"failurePolicy": {"maxRejected": "100%", "minSample": 1000}})
    done = workspace.run()
    assert done.code == 3, done.out
    assert done.result[0]["report"]["missing"] == 500
    assert counts(done) == {}
    assert "come back later" in done.result[0]["message"]
    story = workspace.fullsend("why", "launch", people[0], "-o", "json").result
    assert not any(attempt["charged"] for attempt in story["attempts"])
    refusing.stop()
    sink = workspace.sink(port=refusing.port)
    again = workspace.run()
    assert again.code == 0, again.out
    assert account(people, refusing, sink) == EVERYBODY_ONCE


def test_failure_threshold_larger_than_the_audience(workspace: Workspace):
    """300 people, some with mailboxes that do not exist, and a `failurePolicy` whose sample is never reached.

    Fullsend: the threshold only ever stops; it ends nothing. Who is refused is `rejected` by name, the others get it.
    """
    people = workspace.recipients(300)
    sink = workspace.sink(
        {"rules": [{"fault": "UnknownMailbox", "match": "user0002*"}, {"fault": "Greylist", "share": "50%"}]}
    )
    workspace.campaign(
        sink.port,
        spec={
            "failurePolicy": {"maxRejected": "1%", "minSample": 100_000},
            "retry": {"minBackoff": "1s", "maxBackoff": "1s"},
        },
    )
    done = workspace.run()
    assert done.code == 0, done.out
    gone = [who for who in people if who.startswith("user0002")]
    assert account([who for who in people if who not in gone], sink) == EVERYBODY_ONCE
    assert counts(done) == {"accepted": 200, "rejected": 100}


def _acknowledged(done: Finished) -> dict[str, Any]:
    [_, halt, *_] = done.result[0]["message"].partition("acknowledgedHalt to ")[2].split('"')
    return {"acknowledgedHalt": halt}


def test_relay_access_denied_for_everybody(workspace: Workspace):
    """A relay that answers every RCPT with "554 5.7.1 relay access denied".

    Fullsend: halts before the list is burned; nobody is rejected for it. A person mends the relay, acknowledges the
    halt by its id, and everybody gets it.
    """
    people = workspace.recipients(400)
    denying = workspace.sink("relay-denied")
    workspace.campaign(denying.port)
    done = workspace.run()
    assert done.code == 3, done.out
    [result] = done.result
    assert counts(done) == {}
    assert result["report"]["missing"] == 400
    denying.stop()
    sink = workspace.sink(port=denying.port)
    assert workspace.run().code == 3, "a relay that was mended is no acknowledgement"
    assert sink.copies() == {}
    workspace.campaign(sink.port, spec=_acknowledged(done))
    again = workspace.run()
    assert again.code == 0, again.out
    assert account(people, denying, sink) == EVERYBODY_ONCE
