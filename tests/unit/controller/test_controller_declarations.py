"""A campaign and what it names, from plain API objects."""

from __future__ import annotations

from typing import Any

from controller_objects import audience, campaign, declared, transport

from fullsend.controller.declarations import references_of


def test_a_whole_campaign_is_resolved_and_has_a_fingerprint() -> None:
    found = declared()
    assert found.resolved is not None
    assert found.desired.problems == ()
    assert found.desired.generation == 3
    assert found.declared().fingerprint


def test_what_is_missing_is_named() -> None:
    found = declared(audience())
    assert found.resolved is None
    assert "no MailTransport relay in namespace shop" in " ".join(found.desired.problems)
    assert found.declared().content is None


def test_a_campaign_that_cannot_be_read_can_still_be_cancelled() -> None:
    found = declared(of=campaign(cancel=True, schedule={"startAt": "soon"}))
    assert found.resolved is None
    assert found.desired.cancel
    assert any("startAt" in problem for problem in found.desired.problems)


def test_the_annotation_stops_what_git_owns() -> None:
    stopped = campaign(metadata={"annotations": {"fullsend.dev/suspend": "true"}}, suspend=False)
    assert declared(of=stopped).desired.suspend
    assert not declared(of=campaign(metadata={"annotations": {"fullsend.dev/suspend": "no"}})).desired.suspend


def test_a_file_on_somebodys_machine_is_no_audience_of_a_cluster() -> None:
    found = declared(audience(csv={"file": "people.csv"}), transport())
    assert any("only for runs without a cluster" in problem for problem in found.desired.problems)


def test_what_the_api_server_adds_does_not_change_the_fingerprint() -> None:
    plain = declared().declared().fingerprint
    dressed = campaign(
        metadata={
            "uid": "another",
            "resourceVersion": "17",
            "managedFields": [{"manager": "kubectl"}],
            "finalizers": ["example.com/x"],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        suspend=False,
        cancel=False,
    )
    dressed["status"] = {"state": "Sending"}
    assert declared(of=dressed).declared().fingerprint == plain


def test_whatever_somebody_wrote_its_references_can_be_told() -> None:
    odd: dict[str, Any] = {"spec": {"audiences": ["x", {"name": "a"}], "exclude": [3], "transportRef": "r"}}
    assert references_of(odd) == {("Audience", "a")}
    assert references_of({"spec": None}) == frozenset()


def test_once_a_plan_is_sealed_its_audience_may_go() -> None:
    whole = declared().declared()
    assert whole.content is not None
    left = declared(transport()).thawed(whole.content, whole.fingerprint)
    assert left.resolved is not None
    assert left.desired.problems == ()
    assert left.desired.control == declared().desired.control
    assert left.declared().fingerprint == whole.fingerprint


def test_without_its_transport_nothing_can_be_sent() -> None:
    whole = declared().declared()
    assert whole.content is not None
    assert declared(audience()).thawed(whole.content, whole.fingerprint).resolved is None
