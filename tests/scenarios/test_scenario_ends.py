"""How campaigns end: each end with its proof, or with the counts that forbid one."""

from __future__ import annotations

from typing import Any

from support.sink_account import EVERYBODY_ONCE, account
from support.workspace import Workspace, declared


def _campaign(name: str, relay: str, **spec: Any) -> dict[str, Any]:
    message = {"from": {"address": "desk@sender.example"}, "subject": name, "text": "Dear {{ name }}"}
    return declared(
        "Campaign",
        name,
        {
            "class": "Transactional",
            "audiences": [{"name": "people"}],
            "transportRef": {"name": relay},
            "message": message,
            "senders": {"maxPods": 1},
            "retry": {"minBackoff": "1s", "maxBackoff": "1s", "expireAfter": "1s"},
            **spec,
        },
    )


def _relay(name: str, port: int) -> dict[str, Any]:
    smtp = {"host": "127.0.0.1", "port": port, "tls": "Disabled"}
    return declared("MailTransport", name, {"smtp": smtp, "limits": {"connections": 2}})


def test_complete_failed_halted_and_cancelled(workspace: Workspace):
    """Five campaigns to 30 people each: over a good relay, with unknown mailboxes, with full ones, over a relay
    that refuses the sender, and cancelled in a rollout.

    Fullsend: Complete has a proof that holds over all rows; the others say by count who is missing, and claim nothing.
    """
    people = workspace.recipients(30)
    # A mailbox that does not exist is suppressed for the whole namespace: no other campaign may count on it.
    others = workspace.recipients(30, domain="other.example", file="others.csv")
    sinks = {
        "all": workspace.sink(),
        "some": workspace.sink({"rules": [{"fault": "UnknownMailbox", "match": others[4]}]}),
        "full": workspace.sink({"rules": [{"fault": "MailboxFull", "match": people[5]}]}),
        "blocked": workspace.sink("blocked"),
        "rollout": workspace.sink(),
    }
    common = (
        declared("Audience", "people", {"csv": {"file": "people.csv"}}),
        declared("Audience", "others", {"csv": {"file": "others.csv"}}),
        *(_relay(name, sink.port) for name, sink in sinks.items()),
    )
    kept = [_campaign(name, name) for name in ("all", "full", "blocked")]
    kept.append(_campaign("some", "some", audiences=[{"name": "others"}]))
    workspace.write(*common, *kept, _campaign("rollout", "rollout", rollout={"first": 10}))
    assert workspace.run().code == 5
    workspace.write(*common, *kept, _campaign("rollout", "rollout", rollout={"first": 10}, cancel=True))
    done = workspace.run()
    results = {result["campaign"].removeprefix("default/"): result for result in done.result}
    ends = {name: (result["exitCode"], result["reason"]) for name, result in results.items()}
    assert ends == {
        "all": (0, "Complete"),
        "some": (0, "Complete"),
        "full": (4, "Failed"),
        "blocked": (3, "Halted"),
        "rollout": (4, "Cancelled"),
    }
    reports = {name: result["report"] for name, result in results.items()}
    missing = {name: report["missing"] for name, report in reports.items()}
    assert missing == {"all": 0, "some": 0, "full": 1, "blocked": 30, "rollout": 20}
    # The rows agree with the seal also where somebody is missing; only that nobody is makes a campaign complete.
    proved = {name: (report["proof"] or {}).get("holds") for name, report in reports.items()}
    assert proved == {"all": True, "some": True, "full": True, "blocked": None, "rollout": True}
    assert reports["some"]["counts"]["rejected"] == 1
    assert reports["full"]["counts"]["expired"] == 1
    assert reports["rollout"]["counts"]["cancelled"] == 20
    assert reports["blocked"]["breaker"]["needsPerson"]
    assert account(people, sinks["all"]) == EVERYBODY_ONCE
    assert account([who for who in others if who != others[4]], sinks["some"]) == EVERYBODY_ONCE
    assert account([who for who in people if who != people[5]], sinks["full"]) == EVERYBODY_ONCE
    assert account([], sinks["blocked"]) == EVERYBODY_ONCE
    assert sinks["rollout"].copies().total() == 10
