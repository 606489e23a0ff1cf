"""What a probed object's status takes from an answer, and what its Job is."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from controller_objects import audience, item, transport

from fullsend.controller.jobs import Owner, probe_job
from fullsend.controller.pods import PodImage, probe_needs
from fullsend.controller.probed import declared, next_status, recheck_of
from fullsend.controller.world import PROBES_AT_ONCE, Turns
from fullsend.ledger.view import BreakerState, BreakerView, ProbeView, TransportUse
from fullsend.reconcile.probes import Answer, ProbeDecision, ProbeSeen, ProbeWish, decide_probe
from fullsend.resources.models import AudienceStatus, MailTemplateStatus, MailTransportStatus

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
OWNER = Owner("shop", "it", "0a1b", "MailTransport")


def record(answer: Answer, generation: int = 3) -> ProbeView:
    return ProbeView(1, 7, generation, 0, NOW, 7, generation, NOW, answer.to_json())


def decided(answer: Answer) -> ProbeDecision:
    return decide_probe(ProbeWish(3), ProbeSeen(record=record(answer)), NOW)


def status(before: Any, answer: Answer, *use: TransportUse) -> Any:
    return next_status(before, decided(answer), 3, record(answer), use)


def test_a_probe_fills_in_what_it_found_and_nothing_that_is_not_its_to_say() -> None:
    forged = {
        "relay": "r[192.0.2.7]:25",
        "halt": {"campaign": "x", "reason": "Forged"},
        "conditions": [],
        "observedGeneration": 99,
        "observed_generation": 99,
        "lastProbeTime": "2000-01-01T00:00:00Z",
        "learnedConnections": 5,
        "somethingElse": {},
    }
    told = status(MailTransportStatus(), Answer(True, "Reachable", found=forged))
    assert (told.relay, told.halt, told.observed_generation) == ("r[192.0.2.7]:25", None, 3)
    assert (told.last_probe_time, told.learned_connections, len(told.conditions)) == (NOW, None, 1)


def test_an_answer_of_the_wrong_shape_says_nothing() -> None:
    told = status(MailTemplateStatus(), Answer(True, "Compiled", found={"variables": 7, "text": "Written"}))
    assert (told.variables, told.text, told.state) == ((), "", "Ready")


def test_an_audience_that_cannot_be_read_now_keeps_its_last_count_until_it_is_edited() -> None:
    counted = status(AudienceStatus(), Answer(True, "Counted", found={"lastCount": {"eligible": 5}}))
    assert (counted.last_count.eligible, counted.last_count.time) == (5, NOW)
    away = Answer(False, "DatabaseUnreachable")
    assert status(counted, away).last_count == counted.last_count
    edited = counted.model_copy(update={"observed_generation": 2})
    assert status(edited, away).last_count is None


def test_a_transport_says_what_its_campaigns_have_and_the_newest_halt() -> None:
    def use(name: str, state: BreakerState, hour: int, learned: int | None = None) -> TransportUse:
        breaker = BreakerView(state, reason="CannotConnect", since=NOW.replace(hour=hour))
        return TransportUse(name, breaker, 8, learned)

    told = status(
        MailTransportStatus(),
        Answer(True, "Reachable"),
        use("old", BreakerState.HALTED, 9),
        use("new", BreakerState.HALTED, 11),
        use("slow", BreakerState.REDUCED, 12, learned=3),
    )
    assert (told.campaigns, told.connections, told.learned_connections) == (3, 24, 3)
    assert (told.halt.campaign, told.halt.reason) == ("new", "CannotConnect")


def test_the_same_answer_makes_the_same_status() -> None:
    answer = Answer(True, "Compiled", found={"variables": ["a"], "textBytes": 3})
    once = status(MailTemplateStatus(), answer)
    assert status(once, answer) == once
    assert MailTemplateStatus.model_validate(once.model_dump(mode="json", by_alias=True)) == once


def test_a_probes_job_is_its_objects_ends_by_itself_and_has_no_token() -> None:
    spec, _ = declared(transport(credentialsSecretRef={"name": "login"}))
    assert spec is not None
    job = probe_job(OWNER, 12, 7, 3, probe_needs(spec), PodImage("fullsend:1"))
    assert job["metadata"]["name"] == "it-transport-7"
    assert job["metadata"]["labels"]["fullsend.dev/generation"] == "3"
    assert "fullsend.dev/campaign" not in job["metadata"]["labels"]
    assert job["metadata"]["ownerReferences"][0]["kind"] == "MailTransport"
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 600)
    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["args"][:4] == ["--probe", "12", "--number", "7"]
    assert pod["containers"][0]["resources"]["limits"]["memory"]
    assert "secret-0" in [volume["name"] for volume in pod["volumes"]]


def test_objects_of_different_kinds_may_have_one_name() -> None:
    names = set()
    for kind in ("Audience", "MailTemplate", "MailTransport"):
        owner = Owner("shop", "spring", "0a1b", kind)
        spec, _ = declared(audience())
        assert spec is not None
        names.add(probe_job(owner, 1, 1, 1, probe_needs(spec), PodImage("i"))["metadata"]["name"])
    assert len(names) == 3


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (audience(csv={"file": "people.csv"}), "runs without a cluster"),
        (transport(tls="Sometimes"), "spec.smtp.tls"),
        (item("MailTemplate", "news", {"subject": "x"}), "needs a text or an html part"),
    ],
)
def test_what_a_spec_lacks_is_said_without_a_probe(thing: dict[str, Any], words: str) -> None:
    spec, problems = declared(thing)
    assert spec is None
    assert words in problems


def test_a_good_answer_is_renewed_where_what_it_is_about_may_change_by_itself() -> None:
    def renewed(thing: dict[str, Any]) -> float | None:
        spec, _ = declared(thing)
        assert spec is not None
        again = recheck_of(spec)
        return again.total_seconds() if again is not None else None

    file = {"name": "a", "contentType": "text/plain", "configMapKeyRef": {"name": "files", "key": "a"}}
    assert renewed(transport()) == 3600
    assert renewed(audience(list={"name": "news"})) == 86400
    assert renewed(audience()) is None
    assert renewed(item("MailTemplate", "news", {"text": "x"})) is None
    assert renewed(item("MailTemplate", "news", {"text": "x", "attachments": [file]})) == 86400


def test_probes_take_turns_and_one_that_never_ends_keeps_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, now = Turns(), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number in range(PROBES_AT_ONCE):
        assert turns.free(f"uid-{number}")
        turns.take(f"uid-{number}")
    assert not turns.free("another")
    assert turns.free("uid-0"), "its own turn is its own"
    turns.give_back("uid-1")
    assert turns.free("another")
    turns.take("another")
    now += 60
    assert turns.free("one more")
