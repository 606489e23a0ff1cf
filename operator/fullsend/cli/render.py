"""Reports for people and for programs: the same facts as text and as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from fullsend.ledger.reports import Report, Story
from fullsend.states import OPEN, SETTLED, UNDELIVERED, DeliveryState

_GROUPS = (("settled", SETTLED), ("open", OPEN), ("undelivered", UNDELIVERED))


def report_json(report: Report) -> dict[str, Any]:
    """A stable shape for scripts; counts of every state, also when zero."""
    view = report.view
    plan, proof = view.plan, view.proof
    return {
        "phase": view.phase.value,
        "total": view.counts.total,
        "missing": view.counts.missing,
        "counts": {state.value: view.counts[state] for state in DeliveryState},
        "reasons": [
            {"state": entry.state.value, "reason": entry.reason, "count": entry.count} for entry in report.reasons
        ],
        "replies": [
            {
                "state": entry.state.value,
                "code": entry.code,
                "enhanced": entry.enhanced,
                "text": entry.text,
                "count": entry.count,
            }
            for entry in report.replies
        ],
        "plan": plan
        and {
            "generation": plan.generation,
            "state": plan.state.value,
            "rowsRead": plan.rows_read,
            "inserted": plan.inserted,
            "duplicates": plan.duplicates,
            "invalid": plan.invalid,
            "suppressed": plan.suppressed,
            "renderChecked": plan.render_checked,
            "renderFailed": plan.render_failed,
            "digest": plan.digest,
            "reason": plan.reason,
            "message": plan.message,
        },
        "proof": proof
        and {
            "time": time(proof.at),
            "holds": proof.holds,
            "rows": proof.rows,
            "digest": proof.digest,
            "differences": list(proof.differences),
        },
        "duplicatesPossible": view.duplicates_possible,
        "breaker": {
            "state": view.breaker.state.value,
            "reason": view.breaker.reason,
            "message": view.breaker.message,
            "haltId": view.breaker.halt_id,
            "needsPerson": view.breaker.needs_person,
        },
        "nextAttemptTime": time(view.next_due_at),
        "firstAcceptedTime": time(report.first_accepted_at),
        "lastAcceptedTime": time(report.last_accepted_at),
        "messagesPerSecond": report.messages_per_second and round(report.messages_per_second, 1),
    }


def print_report(console: Console, report: Report) -> None:
    """Counts by state and reason, what relays said, the plan, the proof and the throughput."""
    view = report.view
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_row("total", str(view.counts.total), "")
    for group, states in _GROUPS:
        for state in DeliveryState:
            if state in states and (view.counts[state] or state in _ALWAYS):
                table.add_row(state.value, str(view.counts[state]), group)
                for entry in report.reasons:
                    if entry.state is state and entry.reason and state is not DeliveryState.ACCEPTED:
                        table.add_row("", str(entry.count), entry.reason)
    table.add_row("missing", str(view.counts.missing), "open + undelivered", style="bold")
    console.print(table)
    _print_replies(console, report)
    if (plan := view.plan) is not None:
        text = f"plan: {plan.rows_read} rows read, {plan.duplicates} duplicates, {plan.invalid} invalid"
        console.print(
            f"{text}, {plan.suppressed} suppressed; {plan.render_checked} renderings tried",
            highlight=False,
            soft_wrap=True,
        )
    if view.duplicates_possible:
        console.print(
            f"{view.duplicates_possible} sent again after nobody could know; they may have two copies", highlight=False
        )
    if report.messages_per_second:
        console.print(f"throughput: {report.messages_per_second:.0f} messages/s", highlight=False)
    if (proof := view.proof) is not None:
        verdict = "holds" if proof.holds else "does NOT hold: " + "; ".join(proof.differences)
        console.print(
            f"proof of {time(proof.at)}: {proof.rows} rows, digest {proof.digest}: {verdict}",
            style="green" if proof.holds else "red",
            highlight=False,
            soft_wrap=True,
        )


_ALWAYS = frozenset(
    {DeliveryState.ACCEPTED, DeliveryState.REJECTED, DeliveryState.SUPPRESSED, DeliveryState.INVALID}
) | {DeliveryState.UNKNOWN}


def _print_replies(console: Console, report: Report) -> None:
    told = [entry for entry in report.replies if entry.state is not DeliveryState.ACCEPTED and entry.text]
    if not told:
        return
    console.print("what the relay said last:", highlight=False)
    for entry in told:
        reply = " ".join(filter(None, (str(entry.code or ""), entry.enhanced, entry.text)))
        console.print(f"  {entry.count:>6} {entry.state.value}: {reply}", highlight=False, markup=False, soft_wrap=True)


def story_json(story: Story) -> dict[str, Any]:
    return {
        "seq": story.seq,
        "address": story.address,
        "source": story.source,
        "sourceRow": story.source_row,
        "sourceStatus": story.source_status,
        "plan": story.generation,
        "state": story.state.value,
        "reason": story.reason,
        "since": time(story.since),
        "unknowns": story.unknowns,
        "nextAttemptTime": time(story.next_attempt_at),
        "messageToken": story.token,
        "attempts": [
            {
                "attempt": attempt.attempt,
                "armed": time(attempt.armed_at),
                "recorded": time(attempt.recorded_at),
                "state": attempt.state.value,
                "reason": attempt.reason,
                "charged": attempt.charged,
                "contentSent": attempt.content_sent,
                "stage": attempt.stage,
                "code": attempt.code,
                "enhanced": attempt.enhanced,
                "text": attempt.text,
                "relay": attempt.relay,
                "tookMs": attempt.took_ms,
            }
            for attempt in story.attempts
        ],
        "suppressions": [
            {
                "scope": suppression.scope.value,
                "list": suppression.list,
                "reason": suppression.reason,
                "source": suppression.source,
                "since": time(suppression.created_at),
            }
            for suppression in story.suppressions
        ],
    }


def print_story(console: Console, story: Story, message_id: str, render_problem: str) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    line(f"{story.address or '(erased)'}: {story.state.value}" + (f" ({story.reason})" if story.reason else ""))
    status = f", there: {story.source_status}" if story.source_status else ""
    line(f"  from {story.source}, row {story.source_row}{status}; plan {story.generation}, number {story.seq}")
    line(f"  Message-ID {message_id or '(erased)'}")
    if render_problem:
        line(f"  the message can't be built: {render_problem}")
    for suppression in story.suppressions:
        where = f"list {suppression.list}" if suppression.list else suppression.scope.value
        line(f"  suppressed ({where}) since {time(suppression.created_at)}: {suppression.reason} {suppression.source}")
    for attempt in story.attempts:
        reply = " ".join(filter(None, (str(attempt.code or ""), attempt.enhanced, attempt.text)))
        line(
            f"  attempt {attempt.attempt} {time(attempt.armed_at)}: {attempt.state.value} ({attempt.reason}) at "
            f"{attempt.stage or '-'} by {attempt.relay or '-'}: {reply or '-'}"
            + (" [charged]" if attempt.charged else "")
        )
    if story.next_attempt_at is not None:
        line(f"  next attempt {time(story.next_attempt_at)}")


def time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z") if moment is not None else None
