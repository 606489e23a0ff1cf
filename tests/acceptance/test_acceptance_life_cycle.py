"""Held back, let go in part, ended early, interrupted, and kept apart: who has been sent to is never in doubt."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from support.workspace import Workspace, declared, eventually


def campaign(name: str, audience: str = "people", *, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    message = {"from": {"address": "desk@sender.example"}, "subject": name, "text": "Dear {{ email }}"}
    common = {
        "class": "Transactional",
        "audiences": [{"name": audience}],
        "transportRef": {"name": "relay"},
        "message": message,
        "senders": {"maxPods": 1},
        "retry": {"minBackoff": "1s", "maxBackoff": "1s"},
    }
    return declared("Campaign", name, {**common, **spec}, namespace=namespace)


def relay(port: int, *, namespace: str = "default") -> dict[str, Any]:
    smtp = {"host": "127.0.0.1", "port": port, "tls": "Disabled"}
    return declared("MailTransport", "relay", {"smtp": smtp, "limits": {"connections": 2}}, namespace=namespace)


def people(name: str = "people", file: str = "people.csv", *, namespace: str = "default") -> dict[str, Any]:
    return declared("Audience", name, {"csv": {"file": file}}, namespace=namespace)


def outcomes(workspace: Workspace) -> tuple[int, dict[str, tuple[int, str]], dict[str, dict[str, int]], dict[str, str]]:
    """Exit code of a run; then of each campaign its code and reason, its counts, and its message."""
    done = workspace.run()
    results = {result["campaign"]: result for result in done.result}
    return (
        done.code,
        {name: (result["exitCode"], result["reason"]) for name, result in results.items()},
        {
            name: {state: count for state, count in result["report"]["counts"].items() if count}
            for name, result in results.items()
        },
        {name: result["message"] for name, result in results.items()},
    )


def test_campaigns_stop_where_they_are_told_to_and_go_on_when_they_may(workspace: Workspace):
    workspace.recipients(12)
    sink = workspace.sink()
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    common = (relay(sink.port), people())
    late = campaign("late", schedule={"deadline": past})
    never = campaign("never", cancel=True)
    workspace.write(
        *common,
        late,
        never,
        campaign("held", suspend=True),
        campaign("rollout", rollout={"first": 5}),
        campaign("half", rollout={"first": 5}),
    )
    code, ended, counts, messages = outcomes(workspace)
    assert code == 5
    assert ended == {
        "default/late": (4, "Failed"),
        "default/never": (4, "Cancelled"),
        "default/held": (5, "Suspended"),
        "default/rollout": (5, "AwaitingApproval"),
        "default/half": (5, "AwaitingApproval"),
    }
    assert counts == {
        "default/late": {"expired": 12},
        "default/never": {},
        "default/held": {"pending": 12},
        "default/rollout": {"accepted": 5, "pending": 7},
        "default/half": {"accepted": 5, "pending": 7},
    }
    assert "12 expired" in messages["default/late"]
    assert "spec.suspend" in messages["default/held"]
    assert "spec.rollout.approved" in messages["default/rollout"]
    missing = workspace.fullsend("missing", "late").out.splitlines()[1:]
    assert len(missing) == 12
    assert all(",expired,DeadlinePassed," in line for line in missing)

    workspace.write(
        *common,
        late,
        never,
        campaign("held", schedule={"deadline": later}),
        campaign("rollout", rollout={"first": 5, "approved": True}),
        campaign("half", rollout={"first": 5}, cancel=True),
    )
    code, ended, counts, messages = outcomes(workspace)
    assert code == 4
    assert ended == {
        "default/late": (4, "Failed"),
        "default/never": (4, "Cancelled"),
        "default/held": (0, "Complete"),
        "default/rollout": (0, "Complete"),
        "default/half": (4, "Cancelled"),
    }
    assert counts["default/half"] == {"accepted": 5, "cancelled": 7}
    assert counts["default/rollout"] == {"accepted": 12}
    copies = sink.copies()
    assert len(copies) == 12
    assert copies.total() == 12 + 12 + 5


def test_a_campaign_that_waits_for_its_time_says_when_it_begins_and_begins_then(workspace: Workspace):
    workspace.recipients(3)
    sink = workspace.sink()
    start = datetime.now(UTC) + timedelta(seconds=6)
    workspace.write(relay(sink.port), people(), campaign("soon", schedule={"startAt": start.isoformat()}))
    with workspace.running() as run:
        eventually("that it waits", 20, lambda: "schedule.startAt" in workspace.said())
        assert not sink.entries()
        assert run.wait(60) == 0, workspace.said()
    assert datetime.now(UTC) >= start
    assert sink.copies().total() == 3


def test_namespaces_are_apart_and_excluded_people_get_nothing(workspace: Workspace):
    sink = workspace.sink()
    workspace.csv([(f"user{number}@example.com",) for number in range(6)], header="email")
    workspace.csv([("USER0@example.com",), ("user1@example.com",)], header="email", file="staff.csv")
    workspace.csv([(f"user{number}@example.com",) for number in range(8)], header="email", file="everybody.csv")
    workspace.write(
        relay(sink.port),
        people(),
        people("staff", "staff.csv"),
        people("everybody", "everybody.csv"),
        campaign("first", exclude=[{"audienceRef": {"name": "staff"}}]),
        campaign("second", "everybody", exclude=[{"ledgerKey": "first"}]),
        relay(sink.port, namespace="other"),
        people(namespace="other"),
        campaign("first", namespace="other"),
    )
    code, ended, counts, messages = outcomes(workspace)
    assert code == 0, (ended, messages)
    assert counts == {
        "default/first": {"accepted": 4, "suppressed": 2},
        "default/second": {"accepted": 2, "suppressed": 6},
        "other/first": {"accepted": 6},
    }
    assert sink.copies() == {
        **{f"user{number}@example.com": 1 for number in (0, 1)},
        **{f"user{number}@example.com": 2 for number in (2, 3, 4, 5)},
        **{f"user{number}@example.com": 1 for number in (6, 7)},
    }
    assert "Excluded" in workspace.fullsend("why", "second", "user3@example.com").out
    elsewhere = workspace.fullsend("report", "second", "-n", "other")
    assert elsewhere.code == 2
    assert "it has: first" in elsewhere.err


def test_ctrl_c_leaves_no_doubt_about_anybody_and_the_same_command_goes_on(workspace: Workspace):
    addresses = workspace.recipients(80)
    sink = workspace.sink({"replyDelay": 0.04})
    workspace.write(relay(sink.port), people(), campaign("launch"))
    with workspace.running() as run:
        eventually("some of them sent", 60, lambda: len(sink.entries()) >= 10)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
    said = workspace.said()
    assert "Interrupted" in said
    assert "Run the same command again to go on" in said
    assert "Traceback" not in said
    assert not workspace.senders()
    report = workspace.fullsend("report", "launch", "-o", "json").result
    counts = report["counts"]
    assert 10 <= counts["accepted"] < 80
    assert counts["unknown"] == counts["armed"] == counts["claimed"] == counts["held"] == 0
    missing = workspace.fullsend("missing", "launch").out.splitlines()[1:]
    assert len(missing) == report["missing"] == 80 - counts["accepted"]
    assert workspace.run().code == 0
    assert sink.copies() == dict.fromkeys(addresses, 1)


def test_a_run_that_was_killed_is_taken_over_by_the_next_and_two_at_once_do_not_meet(workspace: Workspace):
    addresses = workspace.recipients(60)
    sink = workspace.sink({"replyDelay": 0.05})
    workspace.write(relay(sink.port), people(), campaign("launch"))
    with workspace.running() as first:
        eventually("some of them sent", 60, lambda: len(sink.entries()) >= 5)
        with workspace.running() as second:
            eventually("that another runs it", 30, lambda: "LedgerKeyOwnedElsewhere" in workspace.said())
            first.kill()
            first.wait(10)
            assert second.wait(90) == 0, workspace.said()
    assert sink.copies() == dict.fromkeys(addresses, 1)
