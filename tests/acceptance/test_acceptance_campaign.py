"""A campaign from manifests to its proof, on the real ledger, with real senders and a real SMTP conversation."""

from __future__ import annotations

from support.workspace import Workspace


def test_everybody_is_accepted_exactly_once(workspace: Workspace):
    people = workspace.recipients(500)
    sink = workspace.sink()
    workspace.campaign(sink.port)
    done = workspace.run()
    assert done.code == 0, done.err
    [result] = done.result
    assert result["report"]["counts"]["accepted"] == 500
    assert result["report"]["missing"] == 0
    assert result["report"]["proof"]["holds"]
    assert sink.copies() == dict.fromkeys(people, 1)


def test_a_second_run_sends_nothing_and_says_so_within_three_seconds(workspace: Workspace):
    workspace.recipients(200)
    sink = workspace.sink()
    workspace.campaign(sink.port)
    assert workspace.run().code == 0
    before = sink.copies()
    again = workspace.run()
    assert again.code == 0
    assert again.seconds < 3
    assert sink.copies() == before


def test_another_message_under_the_same_name_is_refused_with_what_differs(workspace: Workspace):
    workspace.recipients(20)
    sink = workspace.sink()
    workspace.campaign(sink.port)
    assert workspace.run().code == 0
    workspace.campaign(sink.port, message={"subject": "Something else"})
    before = sink.copies()
    done = workspace.run()
    assert done.code == 2
    [result] = done.result
    assert "subject" in result["message"]
    assert "Something else" in result["message"]
    assert sink.copies() == before
