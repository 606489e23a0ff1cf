"""How many senders a campaign needs now, and how soon again after they died.

Invariants: no pod is started that has nothing to send; live ledger sessions count, jobs are hints of sessions to come;
senders that die without progress are started at most every ``RESTART_LAST``, from facts that any operator sees alike
(the jobs that ended since the ledger last settled a row), not from a counter in somebody's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fullsend.ledger.view import Counts, LedgerView, PlanState
from fullsend.reconcile import breaker
from fullsend.reconcile.actions import EnsureSenders, StartPlan
from fullsend.reconcile.observed import Desired, JobView, Observed
from fullsend.states import DeliveryState

ROWS_PER_POD = 1000
"""A pod takes a second or two to start; in that time one that runs sends about this many."""
RESTART_FIRST = timedelta(seconds=5)
RESTART_LAST = timedelta(minutes=5)
CLEAN_RESTARTS = 3
"""Waves that ended in order without settling a row (everybody was asked to wait) before they are held to be a loop."""
FAILING = 3
"""Sender jobs that died in a row without progress before the campaign says so."""
START_GRACE = timedelta(minutes=2)
"""A pod that has no session by then has not started: an image, a quota, an admission policy."""
KNOWN_GRACE = timedelta(seconds=10)
"""The same where it is known why: a first "not yet" that heals by itself is no news."""
PROMISE = timedelta(minutes=5)
"""So long a job is believed to bring its pods (a node may have to be added first); after that only sessions count, for
a pod on a dead or frozen node looks alive for ever. A job that is known to wait (for a place, an image, a quota) is
believed for as long as it does: another would only wait behind it."""
PLAN_LEASE = timedelta(seconds=60)
"""A plan without a heart-beat for this long has no reader any more."""
PLAN_RETRY_FIRST = timedelta(seconds=15)
PLAN_RETRY_LAST = timedelta(minutes=15)
PLAN_FAILING = 2
"""Plan attempts that failed in a row before a person is asked; the attempts go on."""


def eligible(counts: Counts) -> int:
    """Recipients the campaign is for: neither suppressed nor unusable."""
    return counts.total - counts[DeliveryState.SUPPRESSED] - counts[DeliveryState.INVALID]


def sendable(desired: Desired, view: LedgerView) -> int:
    """Rows nobody holds that may be sent now (due ones are counted up to 10,000 by the ledger)."""
    pending = view.counts[DeliveryState.PENDING]
    if desired.fresh_limit is not None:
        # The ledger's first N are the first N that were eligible at the seal, whatever became of them since.
        sealed = view.plan
        unfit = sealed.suppressed + sealed.invalid if sealed is not None else 0
        tried = view.counts.total - unfit - pending
        pending = max(0, min(pending, desired.fresh_limit - tried))
    return pending + view.due_now


def wanted(desired: Desired, view: LedgerView, now: datetime) -> int:
    """How many senders the work that nobody holds could use, within pods and connections."""
    connections = breaker.allowed_connections(view.breaker, now)
    most = min(desired.max_pods, desired.connections if connections is None else min(desired.connections, connections))
    return max(0, min(most, -(-sendable(desired, view) // ROWS_PER_POD)))


def live_sessions(view: LedgerView) -> int:
    return sum(not session.expired for session in view.sessions)


def ensure_senders(desired: Desired, observed: Observed, view: LedgerView, now: datetime) -> EnsureSenders | None:
    """The wave to start, or None when enough senders live or are on their way, or it is too soon."""
    missing = wanted(desired, view, now) - _covered(observed, view, now)
    if missing <= 0 or now < restart_at(observed, view, now):
        return None
    jobs = {job.wave for job in observed.jobs if job.kind == "send"}
    used = view.wave == 0 or view.wave in jobs or any(session.wave == view.wave for session in view.sessions)
    return EnsureSenders(pods=missing, wave=view.wave, new_wave=used)


def _covered(observed: Observed, view: LedgerView, now: datetime) -> int:
    """Senders that live or will: per wave its live sessions or, while its job is young, the pods it was asked for."""
    sessions = _live_by_wave(view)
    pods: Counter[int] = Counter()
    for job in observed.alive_jobs("send"):
        if _promises(job, now):
            pods[job.wave] += job.pods
    return sum(max(sessions[wave], pods[wave]) for wave in sessions.keys() | pods.keys())


def lost_waves(observed: Observed, view: LedgerView, now: datetime) -> tuple[int, ...]:
    """Waves whose jobs are neither young nor have a live session: to be stopped before others take their place."""
    sessions = _live_by_wave(view)
    old = (job.wave for job in observed.alive_jobs("send") if not _promises(job, now))
    return tuple(sorted({wave for wave in old if not sessions[wave]}))


def _promises(job: JobView, now: datetime) -> bool:
    return job.problem != "" or now - job.started_at < PROMISE


def _live_by_wave(view: LedgerView) -> Counter[int]:
    return Counter(session.wave for session in view.sessions if not session.expired)


@dataclass(frozen=True, slots=True)
class Deaths:
    """Sender jobs that ended since the last progress. ``last`` is the newest that failed."""

    failed: int
    clean: int
    last_end: datetime | None
    last: JobView | None


def deaths(observed: Observed, view: LedgerView, now: datetime) -> Deaths:
    since = view.last_settled_at
    ended = [
        job
        for job in observed.jobs
        if job.kind == "send" and not job.alive and not job.stopping and (since is None or _end(job, now) > since)
    ]
    failed = [job for job in ended if job.failed]
    return Deaths(
        failed=len(failed),
        clean=len(ended) - len(failed),
        last_end=max((_end(job, now) for job in ended), default=None),
        last=max(failed, key=lambda job: (_end(job, now), job.name), default=None),
    )


def restart_at(observed: Observed, view: LedgerView, now: datetime) -> datetime:
    """The earliest time for another wave."""
    seen = deaths(observed, view, now)
    count = seen.failed + max(0, seen.clean - CLEAN_RESTARTS)
    if seen.last_end is None or count == 0:
        return now
    return seen.last_end + _doubling(RESTART_FIRST, RESTART_LAST, count)


def senders_failing(observed: Observed, view: LedgerView, now: datetime) -> str:
    """Why senders die again and again, or "" when they don't."""
    seen = deaths(observed, view, now)
    if seen.failed < FAILING or seen.last is None:
        return ""
    how = seen.last.ended_reason or f"exit code {seen.last.exit_code}"
    return f"{seen.failed} sender jobs ended without progress; the last one ({seen.last.name}): {how}"


def senders_not_starting(observed: Observed, view: LedgerView, now: datetime) -> str:
    """Why jobs have no live session by now, or ""."""
    waves = {session.wave for session in view.sessions}
    stuck = [
        job
        for job in observed.alive_jobs("send")
        if job.wave not in waves and now - job.started_at >= (KNOWN_GRACE if job.problem else START_GRACE)
    ]
    if not stuck:
        return ""
    job = min(stuck, key=lambda job: (job.started_at, job.name))
    return f"job {job.name} has no running sender: {job.problem or 'its pods have not started'}"


def start_plan(observed: Observed, view: LedgerView, now: datetime) -> StartPlan | None:
    """A plan attempt, if none is under way and the last failure is long enough ago."""
    if observed.alive_jobs("plan") or planning_runs(view, now):
        return None
    jobs = [job for job in observed.jobs if job.kind == "plan"]
    generation = view.plan.generation if view.plan is not None else 0
    attempts = max(generation, *(job.wave for job in jobs)) if jobs else generation
    if attempts and now < plan_retry_at(observed, view, now):
        return None
    return StartPlan(attempt=attempts + 1)


def planning_runs(view: LedgerView, now: datetime) -> bool:
    return view.plan is not None and view.plan.state is PlanState.RUNNING and now - view.plan.heartbeat_at < PLAN_LEASE


def plan_retry_at(observed: Observed, view: LedgerView, now: datetime) -> datetime:
    ends = [_end(job, now) for job in observed.jobs if job.kind == "plan" and not job.alive]
    if view.plan is not None:
        ends.append(view.plan.heartbeat_at)
    failures = plan_failures(observed, view)
    if not ends or failures == 0:
        return now
    return max(ends) + _doubling(PLAN_RETRY_FIRST, PLAN_RETRY_LAST, failures)


def plan_failures(observed: Observed, view: LedgerView) -> int:
    """Attempts that came to nothing: in the ledger, or dead before they got there."""
    jobs = sum(job.kind == "plan" and not job.alive for job in observed.jobs)
    generations = view.plan.generation if view.plan is not None and view.plan.state is not PlanState.RUNNING else 0
    return max(jobs, generations)


def planning_stalled(observed: Observed, view: LedgerView) -> bool:
    """A person should look at why the audience can't be read."""
    return plan_failures(observed, view) >= PLAN_FAILING


def _end(job: JobView, now: datetime) -> datetime:
    """When a job ended; a clock ahead of the ledger's must not hold the next start up."""
    return min(job.ended_at or job.started_at, now)


def _doubling(first: timedelta, last: timedelta, count: int) -> timedelta:
    return min(last, first * (1 << min(count - 1, 16)))


def earliest(moments: Iterable[datetime | None]) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
