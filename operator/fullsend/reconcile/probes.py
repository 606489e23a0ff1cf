"""What to do next about an Audience, a MailTemplate or a MailTransport: probe it, wait, or say what was found.

The same shape as ``decide`` for campaigns, smaller: the wish, the ledger's record of questions and answers, and the Job
of the last question go in; conditions, at most one action and the time of the next look come out. Invariants: an answer
is about one generation of the spec and says nothing of the next; what can't be right without an edit is not tried again
before one; every other failure is, at growing intervals; ``ROWS`` is also what the docs print.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal

from fullsend.ledger.view import ProbeView
from fullsend.reconcile.actions import Emit
from fullsend.reconcile.conditions import Status, trimmed
from fullsend.reconcile.observed import DatabaseFault, DatabaseProblem, JobView
from fullsend.resources.status import Condition, ConditionStatus

SETTLE: Final = timedelta(seconds=5)
"""A spec is left alone for so long before it is probed: a campaign that is applied together with it has its first mail
out by then, and three edits in a row are one probe."""
TURN: Final = timedelta(seconds=2)
"""Until it is asked again whether a probe may start, where enough of them run."""
FIRST_RETRY: Final = timedelta(seconds=10)
LAST_RETRY: Final = timedelta(minutes=10)
"""Between two probes of what is not ready. A probe costs a pod and some CPU seconds."""
WATCH: Final = timedelta(seconds=10)
"""Between two looks at a Job that runs: that its pods can't start wakes nobody."""
RARELY: Final = timedelta(hours=1)

NOT_RUNNING: Final = "ProbeNotRunning"
FAILED: Final = "ProbeFailed"
INVALID: Final = "InvalidSpec"


class Outlook(StrEnum):
    """What has to happen before a probe that found something wrong may find it right."""

    EDIT = "edit"  # of the object itself: nothing else can help
    PERSON = "person"  # somebody mends what it names; tried again
    ITSELF = "itself"  # it may heal by itself; tried again


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found. ``found`` has fields of the object's status, in camelCase."""

    ready: bool
    reason: str
    message: str = ""
    outlook: Outlook = Outlook.PERSON
    found: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "reason": self.reason,
            "message": self.message,
            "outlook": self.outlook.value,
            "found": dict(self.found),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answer:
        """From the ledger, where a tenant's role wrote it: whatever it is, it becomes an answer."""
        reason, message, found = value.get("reason"), value.get("message"), value.get("found")
        if not (isinstance(reason, str) and re.fullmatch("[A-Za-z][A-Za-z0-9]{0,99}", reason)):
            return cls(False, FAILED, "the probe gave an answer that can't be read", Outlook.PERSON)
        outlook = value.get("outlook")
        return cls(
            ready=value.get("ready") is True,
            reason=reason,
            message=message if isinstance(message, str) else "",
            outlook=Outlook(outlook) if outlook in list(Outlook) else Outlook.PERSON,
            found=found if isinstance(found, dict) else {},
        )


class ProbeSituation(StrEnum):
    INVALID = "Invalid"
    LEDGER_AWAY = "LedgerAway"
    PROBING = "Probing"
    NOT_PROBED = "NotProbed"
    READY = "Ready"
    RETRYING = "Retrying"
    NOT_READY = "NotReady"


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """What one situation looks like from outside; ``event`` is emitted when Ready takes on another status or reason."""

    ready: Status
    meaning: str
    reasons: str
    reconciling: bool = False
    stalled: bool = False
    event: Literal["", "Normal", "Warning"] = "Warning"

    @property
    def kstatus(self) -> str:
        if self.stalled:
            return "Failed"
        return "Current" if self.ready == "True" else "InProgress"


_S = ProbeSituation
ROWS: Mapping[ProbeSituation, ProbeRow] = {
    _S.INVALID: ProbeRow(
        "False", "the spec can't be used as it is; probed after an edit", f"`{INVALID}`", stalled=True
    ),
    _S.LEDGER_AWAY: ProbeRow(
        "Unknown",
        "not probed yet, and the database can't be used; what was found before stays so",
        ", ".join(f"`{fault.value}`" for fault in DatabaseFault),
        reconciling=True,
        event="",
    ),
    _S.PROBING: ProbeRow("Unknown", "a probe is about to start, or runs", "`Probing`", reconciling=True, event=""),
    _S.NOT_PROBED: ProbeRow(
        "False",
        "the probe's pod does not start (quota, pod security, image) or ended without an answer; tried again",
        f"`{NOT_RUNNING}`, `{FAILED}`",
        stalled=True,
    ),
    _S.READY: ProbeRow("True", "found fit for use", "`Counted`, `Compiled`, `Reachable`", event="Normal"),
    _S.RETRYING: ProbeRow(
        "False",
        "what it names does not answer now; probed again by itself",
        "`DatabaseUnreachable`, `CannotConnect`, `GreetingRefused`, `LoginRefusedForNow` ...",
        reconciling=True,
    ),
    _S.NOT_READY: ProbeRow(
        "False",
        "a person must mend it, or what it names; probed again after an edit, and by itself unless only an edit helps",
        "`DoesNotCompile`, `DoesNotRender`, `LoginRefused`, `TlsFailed`, `SecretMissing`, `MissingColumn` ...",
        stalled=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Ask:
    """Put a new question into the ledger, then run a Job for it."""

    failures: int


@dataclass(frozen=True, slots=True)
class Run:
    """Make the Job of the last question: whoever asked it died before."""


@dataclass(frozen=True, slots=True)
class ProbeWish:
    """One object as declared. ``problems``: what is wrong with its spec by itself. ``recheck``: how old a good answer
    may become; None: it stays true until the next edit."""

    generation: int
    problems: str = ""
    recheck: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ProbeSeen:
    """``job`` is that of the last question. ``since``: for how long this generation has been seen. ``free``: another
    probe may start now. ``previous``: the conditions last written."""

    record: ProbeView | None = None
    job: JobView | None = None
    database_problem: DatabaseProblem | None = None
    since: timedelta = SETTLE
    free: bool = True
    previous: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeDecision:
    """``answer`` is None while there is none for this generation. ``stands``: nothing new can be said, so the status is
    left as it is."""

    situation: ProbeSituation
    answer: Answer | None
    conditions: tuple[Condition, ...]
    action: Ask | Run | None
    event: Emit | None
    look_again: timedelta
    stands: bool = False


def decide_probe(wish: ProbeWish, seen: ProbeSeen, now: datetime) -> ProbeDecision:
    """``now`` is the database's clock."""
    before = next((each for each in seen.previous if each.type == "Ready"), None)
    told = before if before is not None and before.observed_generation == wish.generation else None
    if wish.problems:
        return _decision(_S.INVALID, INVALID, wish.problems, wish, seen, now, None, None, RARELY)
    if seen.database_problem is not None:
        if told is not None and told.status is not ConditionStatus.UNKNOWN:
            situation = _S.READY if told.status is ConditionStatus.TRUE else _S.NOT_READY
            return ProbeDecision(situation, None, seen.previous, None, None, WATCH, stands=True)
        fault, text = seen.database_problem.fault.value, seen.database_problem.message
        return _decision(_S.LEDGER_AWAY, fault, text, wish, seen, now, None, None, WATCH)
    action, again = _next(wish, seen, now)
    trouble = _trouble(wish, seen)
    answer = _answer(wish, seen.record)
    if answer is not None:
        not_ready = _S.RETRYING if answer.outlook is Outlook.ITSELF else _S.NOT_READY
        situation = _S.READY if answer.ready else not_ready
        text = f"{answer.message}; the latest probe: {trouble[1]}" if trouble is not None else answer.message
        return _decision(situation, answer.reason, text, wish, seen, now, answer, action, again)
    if trouble is not None:
        return _decision(_S.NOT_PROBED, *trouble, wish, seen, now, None, action, again)
    if seen.record is not None and seen.record.failures and told is not None and told.reason in (NOT_RUNNING, FAILED):
        # The next try is under way: what was wrong stays said until it is known to be over.
        return _decision(_S.NOT_PROBED, told.reason, told.message, wish, seen, now, None, action, again)
    return _decision(_S.PROBING, "Probing", "a probe of it is under way", wish, seen, now, None, action, again)


def backoff(failures: int) -> timedelta:
    return min(LAST_RETRY, FIRST_RETRY * (1 << min(failures, 10)))


def _answer(wish: ProbeWish, record: ProbeView | None) -> Answer | None:
    if record is None or record.answered_at is None or record.answered_generation != wish.generation:
        return None
    return Answer.from_json(record.result)


def _next(wish: ProbeWish, seen: ProbeSeen, now: datetime) -> tuple[Ask | Run | None, timedelta]:
    """The one action, if any, and when to look again at the latest."""
    record, job = seen.record, seen.job
    if record is None or record.generation != wish.generation:
        if seen.since < SETTLE:
            return None, SETTLE - seen.since
        return _if_free(seen, Ask(0))
    if not record.answered:
        if job is None:
            return _if_free(seen, Run())
        if job.alive:
            return None, WATCH
        return _when(record.asked_at + backoff(record.failures), Ask(record.failures + 1), seen, now)
    answer = Answer.from_json(record.result)
    assert record.answered_at is not None, "the last question is answered"
    if answer.ready:
        if wish.recheck is None:
            return None, RARELY
        return _when(record.answered_at + wish.recheck, Ask(0), seen, now)
    if answer.outlook is Outlook.EDIT:
        return None, RARELY
    return _when(record.answered_at + backoff(record.failures), Ask(record.failures + 1), seen, now)


def _when(due: datetime, action: Ask, seen: ProbeSeen, now: datetime) -> tuple[Ask | Run | None, timedelta]:
    return _if_free(seen, action) if now >= due else (None, due - now)


def _if_free(seen: ProbeSeen, action: Ask | Run) -> tuple[Ask | Run | None, timedelta]:
    return (action, WATCH) if seen.free else (None, TURN)


def _trouble(wish: ProbeWish, seen: ProbeSeen) -> tuple[str, str] | None:
    """Why the last question of this generation has no answer, where that is known: a reason and a text."""
    record, job = seen.record, seen.job
    if record is None or job is None or record.answered or record.generation != wish.generation:
        return None
    if job.alive:
        return (NOT_RUNNING, f"its pod does not start: {job.problem}") if job.problem else None
    words = job.ended_reason or "without a word"
    return FAILED, f"Job {job.name} ended without an answer (exit code {job.exit_code}): {words}"


def _decision(
    situation: ProbeSituation,
    reason: str,
    message: str,
    wish: ProbeWish,
    seen: ProbeSeen,
    now: datetime,
    answer: Answer | None,
    action: Ask | Run | None,
    again: timedelta,
) -> ProbeDecision:
    row = ROWS[situation]
    judged: list[tuple[str, Status]] = [("Ready", row.ready)]
    if row.reconciling:
        judged.append(("Reconciling", "True"))
    if row.stalled:
        judged.append(("Stalled", "True"))
    before = {each.type: each for each in seen.previous}
    conditions = tuple(
        Condition(
            type=type_,
            status=ConditionStatus(status),
            reason=reason,
            message=trimmed(message),
            last_transition_time=before[type_].last_transition_time
            if type_ in before and before[type_].status.value == status
            else now,
            observed_generation=wish.generation,
        )
        for type_, status in judged
    )
    was = before.get("Ready")
    changed = was is None or (was.status, was.reason) != (conditions[0].status, reason)
    event = Emit(row.event, reason, message) if row.event and changed else None
    return ProbeDecision(situation, answer, conditions, action, event, again)


def probe_table() -> Iterator[tuple[str, ...]]:
    """The table for the docs: a header, then a row a situation."""
    yield ("State", "Meaning", "Conditions", "kstatus")
    for situation, row in ROWS.items():
        shown = [f"Ready={row.ready} ({row.reasons})"]
        shown += ["Reconciling=True"] if row.reconciling else []
        shown += ["Stalled=True"] if row.stalled else []
        yield (situation.value, row.meaning, ", ".join(shown), row.kstatus)


assert ROWS.keys() == set(ProbeSituation)
