"""What the Job, its pods and its events say, as the hint that ``decide`` takes.

Denials by a quota or by pod security show only in a Job's events (FailedCreate), a missing image only in a pod's
status, a sender's last words only in its container's; each ends up in one line of the campaign's status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from fullsend.controller.jobs import NEEDS, TEMPLATE
from fullsend.controller.names import CONTAINER, LABEL_KIND, LABEL_NUMBER
from fullsend.reconcile.observed import JobKind, JobView

Object = Mapping[str, Any]

WORDS: Final = 300
"""Characters of a pod's last words, or of an event, that a status has room for."""
_ENDED: Final = frozenset({"Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"})
_WAITS_NORMALLY: Final = frozenset({"ContainerCreating", "PodInitializing"})


def owned_by(job: Object, uid: str) -> bool:
    """Whether this very campaign object controls the Job; a label alone could be anybody's."""
    owners = job.get("metadata", {}).get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def is_over(job: Object) -> bool:
    return any(each["type"] in _ENDED and each["status"] == "True" for each in _conditions(job))


def is_stopping(job: Object) -> bool:
    return "deletionTimestamp" in job["metadata"]


def mounted(job: Object) -> str:
    """The Secrets its pods have, as ``pods.Needs.text`` wrote them."""
    return str((job["metadata"].get("annotations") or {}).get(NEEDS, ""))


def has_begun(job: Object) -> bool:
    """Whether a pod of it runs or ever ended; one that starts is not known of for a moment."""
    status = job.get("status") or {}
    return any(int(status.get(name) or 0) for name in ("ready", "succeeded", "failed"))


def same_pods(one: Object, other: Object) -> bool:
    """Whether two Jobs were made with the same pods in mind."""
    marks = [(job["metadata"].get("annotations") or {}).get(TEMPLATE) for job in (one, other)]
    return marks[0] == marks[1]


def wants_a_closer_look(job: Object) -> bool:
    """Whether its pods and events are worth a request: it runs fewer pods than it was asked for, or it failed."""
    status = job.get("status") or {}
    if is_over(job):
        return not _succeeded(job)
    return int(status.get("ready") or 0) < int(job["spec"].get("parallelism") or 0)


def job_view(job: Object, pods: Sequence[Object] = (), events: Sequence[Object] = ()) -> JobView:
    """``pods`` and ``events`` are the Job's own, as far as they were asked for."""
    labels = job["metadata"]["labels"]
    over, stopping = is_over(job), is_stopping(job)
    exit_code: int | None = None
    reason = ""
    if over:
        exit_code = 0 if _succeeded(job) else 1
        if exit_code:
            exit_code, reason = _failure(job, pods)
    return JobView(
        name=job["metadata"]["name"],
        kind=cast(JobKind, labels[LABEL_KIND]),
        wave=int(labels[LABEL_NUMBER]),
        alive=not over,
        started_at=when(job["metadata"]["creationTimestamp"]),
        ended_at=_ended_at(job) if over else None,
        exit_code=exit_code,
        ended_reason=reason,
        pods=int(job["spec"].get("parallelism") or 0),
        stopping=stopping,
        problem="" if over or stopping else _problem(job, pods, events),
    )


def _conditions(job: Object) -> Sequence[Object]:
    return (job.get("status") or {}).get("conditions") or ()


def _succeeded(job: Object) -> bool:
    return any(
        each["type"] in ("Complete", "SuccessCriteriaMet") and each["status"] == "True" for each in _conditions(job)
    )


def _ended_at(job: Object) -> datetime | None:
    moments = [
        *((job.get("status") or {}).get(name) for name in ("completionTime",)),
        *(each.get("lastTransitionTime") for each in _conditions(job) if each["type"] in _ENDED),
    ]
    return min((when(moment) for moment in moments if moment), default=None)


def _failure(job: Object, pods: Sequence[Object]) -> tuple[int, str]:
    """The exit code and last words of the pod that failed last; else what the Job says."""
    ends = [(end.get("finishedAt") or "", end) for pod in pods if (end := _terminated(pod)) and end.get("exitCode")]
    if ends:
        _, end = max(ends, key=lambda item: item[0])
        words = _last_line(end.get("message") or "") or str(end.get("reason") or "")
        return int(end["exitCode"]), _short(words)
    said = next((each for each in _conditions(job) if each["type"] in ("Failed", "FailureTarget")), {})
    return 1, _short(": ".join(filter(None, (said.get("reason"), said.get("message")))))


def _terminated(pod: Object) -> Object | None:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container["name"] == CONTAINER:
            return cast("Object | None", container.get("state", {}).get("terminated"))
    return None


def _problem(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> str:
    """Why its pods don't start, or ""."""
    if job["spec"].get("suspend"):
        return "the Job is suspended, by a queue such as Kueue or by hand"
    reasons = [*_stuck(pods)]
    if not (job.get("status") or {}).get("active"):
        # A denial of an hour ago says nothing of pods that were made since.
        denials = [event for event in events if event.get("type") == "Warning"]
        if denials:
            newest = max(denials, key=_event_time)
            reasons.append(_short(f"{newest.get('reason', '')}: {newest.get('message', '')}"))
    return "; ".join(dict.fromkeys(reasons))


def _stuck(pods: Sequence[Object]) -> Iterator[str]:
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") != "Pending":
            continue
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield _short(f"{condition.get('reason', '')}: {condition.get('message', '')}")
        for container in status.get("containerStatuses") or ():
            waiting = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") and waiting["reason"] not in _WAITS_NORMALLY:
                yield _short(f"{waiting['reason']}: {waiting.get('message', '')}")


def _event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"


def when(text: str) -> datetime:
    """A time of the API server."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
