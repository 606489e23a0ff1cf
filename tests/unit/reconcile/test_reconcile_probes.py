"""What is done next about an Audience, a MailTemplate or a MailTransport, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fullsend.ledger.view import ProbeView
from fullsend.reconcile.observed import DatabaseFault, DatabaseProblem, JobView
from fullsend.reconcile.probes import (
    FIRST_RETRY,
    LAST_RETRY,
    ROWS,
    SETTLE,
    Answer,
    Ask,
    Outlook,
    ProbeDecision,
    ProbeSeen,
    ProbeSituation,
    ProbeWish,
    Run,
    backoff,
    decide_probe,
)

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
GOOD = Answer(True, "Reachable", "it answers")
BAD = Answer(False, "LoginRefused", "535", Outlook.PERSON)


def ago(**past: float) -> datetime:
    return NOW - timedelta(**past)


def record(answer: Answer | None = None, *, at: datetime = NOW, generation: int = 3, **more: Any) -> ProbeView:
    """Question 7 about generation 3, answered or not."""
    asked = ProbeView(id=1, number=7, generation=generation, failures=0, asked_at=at - timedelta(seconds=5))
    if answer is not None:
        told = {"answered_number": 7, "answered_generation": generation, "answered_at": at, "result": answer.to_json()}
        asked = replace(asked, **told)
    return replace(asked, **more)


def job(**more: Any) -> JobView:
    return JobView(
        **{"name": "relay-transport-7", "kind": "probe", "wave": 7, "alive": True, "started_at": NOW, **more}
    )


def decided(wish: ProbeWish | None = None, **seen: Any) -> ProbeDecision:
    return decide_probe(wish or ProbeWish(3, recheck=HOUR), ProbeSeen(**seen), NOW)


def told(decision: ProbeDecision) -> tuple[str, str, set[str]]:
    """The status and reason of Ready, and the types beside it."""
    ready = decision.conditions[0]
    return ready.status.value, ready.reason, {each.type for each in decision.conditions[1:]}


def test_what_was_never_probed_is_probed_once_its_spec_has_settled() -> None:
    early = decided(since=timedelta(seconds=0.5))
    assert (early.action, early.look_again) == (None, SETTLE - timedelta(seconds=0.5))
    assert told(early) == ("Unknown", "Probing", {"Reconciling"})
    assert decided().action == Ask(0)


def test_while_enough_others_are_probed_it_waits_for_its_turn() -> None:
    waiting = decided(free=False)
    assert waiting.action is None
    assert waiting.look_again <= timedelta(seconds=2)


def test_a_question_whose_asker_died_gets_its_job() -> None:
    assert decided(record=record()).action == Run()


def test_a_probe_that_runs_is_waited_for() -> None:
    running = decided(record=record(), job=job())
    assert running.action is None
    assert told(running)[:2] == ("Unknown", "Probing")


def test_a_good_answer_is_ready_and_stays_so_until_it_is_old() -> None:
    fresh = decided(record=record(GOOD, at=ago(minutes=50)))
    assert told(fresh) == ("True", "Reachable", set())
    assert (fresh.action, fresh.look_again) == (None, timedelta(minutes=10))
    assert decided(record=record(GOOD, at=ago(minutes=60))).action == Ask(0)
    assert decided(ProbeWish(3), record=record(GOOD, at=ago(days=900))).action is None


def test_an_old_good_answer_stands_while_it_is_renewed_and_what_keeps_it_is_said() -> None:
    renewed = record(GOOD, at=ago(hours=1), number=8)
    assert told(decided(record=renewed, job=job(wave=8)))[:2] == ("True", "Reachable")
    stuck = decided(record=renewed, job=job(wave=8, problem="exceeded quota"))
    assert told(stuck)[:2] == ("True", "Reachable")
    assert "exceeded quota" in stuck.conditions[0].message


def test_an_answer_about_an_older_spec_says_nothing_of_this_one() -> None:
    edited = decided(ProbeWish(4), record=record(GOOD))
    assert told(edited)[:2] == ("Unknown", "Probing")
    assert edited.action == Ask(0)


def test_a_bad_answer_is_tried_again_ever_more_rarely() -> None:
    soon = decided(record=record(BAD, at=ago(seconds=4)))
    assert told(soon) == ("False", "LoginRefused", {"Stalled"})
    assert (soon.action, soon.look_again) == (None, FIRST_RETRY - timedelta(seconds=4))
    assert decided(record=record(BAD, at=ago(seconds=10))).action == Ask(1)
    assert decided(record=record(BAD, at=ago(seconds=10), failures=1)).action is None
    assert decided(record=record(BAD, at=ago(seconds=20), failures=1)).action == Ask(2)
    assert backoff(1_000_000) == LAST_RETRY


def test_what_only_an_edit_can_help_is_not_tried_before_one() -> None:
    broken = Answer(False, "DoesNotCompile", "line 3", Outlook.EDIT)
    assert decided(record=record(broken, at=ago(days=9))).action is None
    assert decided(ProbeWish(4), record=record(broken, at=ago(days=9))).action == Ask(0)


def test_what_may_heal_by_itself_stalls_nobodys_release() -> None:
    away = Answer(False, "CannotConnect", "refused", Outlook.ITSELF)
    assert told(decided(record=record(away))) == ("False", "CannotConnect", {"Reconciling"})


def test_a_pod_that_does_not_start_or_ends_without_an_answer_is_said_and_tried_again() -> None:
    stuck = decided(record=record(), job=job(problem="ImagePullBackOff: not found"))
    assert told(stuck) == ("False", "ProbeNotRunning", {"Stalled"})
    assert "ImagePullBackOff" in stuck.conditions[0].message
    dead = job(alive=False, exit_code=137, ended_reason="OOMKilled")
    failed = decided(record=record(), job=dead)
    assert told(failed) == ("False", "ProbeFailed", {"Stalled"})
    assert "OOMKilled" in failed.conditions[0].message
    assert failed.action is None
    assert decided(record=record(at=ago(seconds=6)), job=dead).action == Ask(1)


def test_what_was_wrong_stays_said_while_it_is_tried_again() -> None:
    stuck = decided(record=record(), job=job(problem="exceeded quota"))
    again = decided(record=record(failures=1), job=job(), previous=stuck.conditions)
    assert again.conditions == stuck.conditions
    assert again.event is None


def test_a_spec_that_cannot_be_used_is_not_probed() -> None:
    wrong = decided(ProbeWish(3, problems="spec.replyRules[0].pattern: is not a regular expression"))
    assert told(wrong) == ("False", "InvalidSpec", {"Stalled"})
    assert wrong.action is None


def test_without_the_database_what_was_said_stands() -> None:
    away = DatabaseProblem(DatabaseFault.UNREACHABLE, "connection refused")
    known = decided(record=record(GOOD)).conditions
    assert decided(database_problem=away, previous=known).stands
    unknown = decided(database_problem=away)
    assert told(unknown) == ("Unknown", "LedgerUnreachable", {"Reconciling"})
    other_spec = decide_probe(ProbeWish(4), ProbeSeen(database_problem=away, previous=known), NOW)
    assert told(other_spec)[:2] == ("Unknown", "LedgerUnreachable")


def test_events_tell_of_changes_only_and_times_of_transitions_stay() -> None:
    first = decided(record=record(GOOD, at=ago(minutes=1)))
    assert first.event is not None
    assert (first.event.type, first.event.reason) == ("Normal", "Reachable")
    later = decide_probe(
        ProbeWish(3, recheck=HOUR),
        ProbeSeen(record=record(GOOD, at=ago(minutes=1)), previous=first.conditions),
        NOW + timedelta(minutes=5),
    )
    assert later.event is None
    assert later.conditions == first.conditions
    worse = decided(record=record(BAD), previous=first.conditions)
    assert worse.event is not None
    assert worse.event.type == "Warning"


@pytest.mark.parametrize(
    "nonsense",
    [{}, {"reason": 7}, {"reason": "two words", "ready": True}, {"reason": "x" * 101}, {"reason": "Ümläut"}],
)
def test_an_answer_that_is_none_is_a_failed_probe(nonsense: dict[str, Any]) -> None:
    """A tenant's role wrote it."""
    asked = replace(record(GOOD), result=nonsense)
    assert told(decided(record=asked))[:2] == ("False", "ProbeFailed")


def test_an_answer_survives_the_way_through_the_ledger() -> None:
    answer = Answer(False, "SecretMissing", "create it", Outlook.PERSON, {"relay": "r[::1]:25"})
    assert Answer.from_json(answer.to_json()) == answer
    for reason in ("1st", "", "no words", "N" * 101, "Größe", 7):  # the API server would refuse them
        assert Answer.from_json({"reason": reason}).reason == "ProbeFailed"
    odd = Answer.from_json({"reason": "Odd", "outlook": [], "found": 3, "message": None, "ready": "yes"})
    assert (odd.ready, odd.outlook, odd.found, odd.message) == (False, Outlook.PERSON, {}, "")


def test_every_situation_is_what_kstatus_makes_of_it() -> None:
    assert {situation: row.kstatus for situation, row in ROWS.items()} == {
        ProbeSituation.INVALID: "Failed",
        ProbeSituation.LEDGER_AWAY: "InProgress",
        ProbeSituation.PROBING: "InProgress",
        ProbeSituation.NOT_PROBED: "Failed",
        ProbeSituation.READY: "Current",
        ProbeSituation.RETRYING: "InProgress",
        ProbeSituation.NOT_READY: "Failed",
    }
