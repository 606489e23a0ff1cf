"""One Audience, MailTemplate or MailTransport in a cluster: collect, decide, write the status once, act.

What it says is tenant input, so it is only read here; a Job of its namespace tries it (``fullsend.probe``) and answers
in the ledger. Invariants: what this object remembers only saves requests; a quiet one makes no request at all (events,
and the audit behind them, say what changes), and asks the ledger a few times an hour.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from fullsend.controller.api import Object
from fullsend.controller.declarations import plain
from fullsend.controller.jobs import Owner, probe_job
from fullsend.controller.jobviews import is_stopping
from fullsend.controller.names import Kind
from fullsend.controller.notices import tell
from fullsend.controller.owned_jobs import OwnedJobs
from fullsend.controller.pods import Probed, probe_needs
from fullsend.controller.status import read_status, status_patch
from fullsend.controller.wakes import Cause
from fullsend.controller.world import Looked, Reference, World
from fullsend.errors import LedgerError
from fullsend.ledger import probes
from fullsend.ledger.view import BreakerState, ProbeView, TransportUse
from fullsend.reconcile.observed import DatabaseProblem, JobView
from fullsend.reconcile.probes import (
    FAILED,
    Ask,
    ProbeDecision,
    ProbeSeen,
    ProbeWish,
    Run,
    decide_probe,
)
from fullsend.resources.document import Document
from fullsend.resources.load import assemble
from fullsend.resources.models import (
    AudienceSpec,
    AudienceStatus,
    MailTemplateSpec,
    MailTemplateStatus,
    MailTransportSpec,
    MailTransportStatus,
    TransportHalt,
)
from fullsend.shell.keeper import problem_of

Status = AudienceStatus | MailTemplateStatus | MailTransportStatus

MODELS: Final[Mapping[str, type[Status]]] = {
    "Audience": AudienceStatus,
    "MailTemplate": MailTemplateStatus,
    "MailTransport": MailTransportStatus,
}
_OURS: Final = frozenset(
    {"observed_generation", "state", "conditions", "last_probe_time", "campaigns", "connections", "halt"}
    | {"learned_connections"}
)
"""Fields that no probe fills in: a tenant's role wrote its answer."""
IN_USE: Final = timedelta(minutes=1)
"""Between two looks at what the senders of a transport have."""
CHANGING: Final = 10.0
"""Seconds between two writes of what only moves."""


class ProbedObject:
    """Reconciles one object; a new object of the same name is another one."""

    def __init__(self, world: World, kind: Kind, owner: Owner) -> None:
        self.owner = owner
        self.written_version = ""
        self.mood = ("", "")
        self._world = world
        self._kind = kind
        self._jobs = OwnedJobs(world.cluster, world.secrets, owner, world.instance)
        self._object: Object | None = None
        self._problems = ""
        self._recheck: timedelta | None = None
        self._seen: tuple[int, float] = (0, 0.0)  # a generation, and since when it has been seen
        self._written_at = 0.0

    @property
    def name(self) -> str:
        return f"{self.owner.kind} {self.owner.namespace}/{self.owner.name}"

    @property
    def references(self) -> frozenset[Reference]:
        return frozenset()

    @property
    def ledger_key(self) -> tuple[str, str]:
        return self.owner.namespace, ""

    async def let_go(self) -> None:
        """The object is gone, and its Jobs with it."""
        self._world.turns.give_back(self.owner.uid)
        async with self._world.connections.quick.take() as db:
            await probes.forget(db, self.owner.namespace, self.owner.uid)

    # -- one look -------------------------------------------------------------------------------------------------

    async def look(self, causes: frozenset[Cause]) -> Looked | None:
        """None once the object is gone. Raises ApiError; ledger trouble is part of what is looked at."""
        if self._object is None or Cause.OBJECT in causes:
            await self._read()
        item = self._object
        if item is None:
            return None
        if "deletionTimestamp" in item["metadata"]:
            return Looked(timedelta(minutes=1), changed=False)
        # First the Jobs: one that has ended has answered before.
        if Cause.JOB in causes or self._jobs.outdated(float("inf")):
            await self._jobs.read()
        jobs = await self._jobs.views()
        now, record, problem, use = await self._ledger()
        generation = int(item["metadata"].get("generation", 1))
        if self._seen[0] != generation:
            self._seen = (generation, time.monotonic())
        turns = self._world.turns
        if record is None or record.answered:
            turns.give_back(self.owner.uid)
        previous = read_status(MODELS[self.owner.kind], item)
        seen = ProbeSeen(
            record=record,
            job=_job_of(jobs, record),
            database_problem=problem,
            since=timedelta(seconds=time.monotonic() - self._seen[1]),
            free=turns.free(self.owner.uid),
            previous=previous.conditions,
        )
        decision = decide_probe(ProbeWish(generation, self._problems, self._recheck), seen, now)
        if not decision.stands:
            await self._tell(previous, decision, generation, record, use)
        await self._tidy(record, jobs)
        changed = await self._act(decision, record, generation)
        again = min(decision.look_again, IN_USE) if use else decision.look_again
        return Looked(again, changed)

    async def _read(self) -> Object | None:
        """The whole object. What is kept of it is little: a template may have half a megabyte."""
        found = await self._world.cluster.find(self._kind, self.owner.namespace, self.owner.name)
        if found is None or found["metadata"]["uid"] != self.owner.uid:
            self._object = None
            return None
        self._object = _slim(found)
        spec, self._problems = declared({**found, "kind": self.owner.kind})
        self._recheck = recheck_of(spec) if spec is not None else None
        return found

    async def _ledger(
        self,
    ) -> tuple[datetime, ProbeView | None, DatabaseProblem | None, tuple[TransportUse, ...]]:
        use: tuple[TransportUse, ...] = ()
        try:
            async with self._world.connections.quick.take() as db:
                now, record = await probes.observe(db, self.owner.namespace, self.owner.uid)
                if self.owner.kind == "MailTransport":
                    use = await probes.transport_use(db, self.owner.namespace, self.owner.name)
                return now, record, None, use
        except LedgerError as error:
            return datetime.now(UTC), None, problem_of(error), use

    # -- telling --------------------------------------------------------------------------------------------------

    async def _tell(
        self,
        previous: Status,
        decision: ProbeDecision,
        generation: int,
        record: ProbeView | None,
        use: tuple[TransportUse, ...],
    ) -> None:
        status = next_status(previous, decision, generation, record, use)
        moving = {"connections", "campaigns", "learned_connections"}
        if status == previous:
            return
        only_moved = status.model_dump(exclude=moving) == previous.model_dump(exclude=moving)
        if only_moved and time.monotonic() - self._written_at < CHANGING:
            return  # the next look, a minute later at most, says it
        patch = status_patch(self.owner.uid, status)
        written = await self._world.cluster.merge(
            self._kind, self.owner.namespace, self.owner.name, patch, sub="status"
        )
        self._written_at = time.monotonic()
        self.written_version = written["metadata"]["resourceVersion"]
        self._object = _slim(written)
        if decision.event is not None:
            await tell(self._world.cluster, self.owner, decision.event, self._world.instance)

    # -- acting ---------------------------------------------------------------------------------------------------

    async def _tidy(self, record: ProbeView | None, jobs: tuple[JobView, ...]) -> None:
        """Jobs of questions that are answered, or that nobody asks any more. A failed one stays, for its log, until
        the next question."""
        current = record.number if record is not None else 0
        for view in jobs:
            job = (self._jobs.by_name or {}).get(view.name)
            if job is None or is_stopping(job) or record is None:
                continue
            if view.wave != current or (record.answered and not view.alive):
                await self._jobs.delete(job)

    async def _act(self, decision: ProbeDecision, record: ProbeView | None, generation: int) -> bool:
        """True where there is something new to look at."""
        if decision.action is None:
            return False
        found = await self._read()
        if found is None or int(found["metadata"].get("generation", 1)) != generation:
            return True
        spec, _ = declared({**found, "kind": self.owner.kind})
        if spec is None:
            return True
        self._world.turns.take(self.owner.uid)
        question = await self._question(decision.action, record, generation, found["spec"])
        if question is None:
            return True
        job = probe_job(self.owner, *question, generation, probe_needs(spec), self._world.image)
        await self._jobs.make(job)
        return False

    async def _question(
        self, action: Ask | Run, record: ProbeView | None, generation: int, content: Mapping[str, Any]
    ) -> tuple[int, int] | None:
        """Row and number of the question to run a Job for; None where another operator has asked meanwhile."""
        if isinstance(action, Run):
            assert record is not None, "only a question that was asked is run"
            return record.id, record.number
        async with self._world.connections.quick.take() as db:
            return await probes.ask(
                db,
                self.owner.namespace,
                self.owner.uid,
                kind=self.owner.kind,
                name=self.owner.name,
                generation=generation,
                failures=action.failures,
                known=record.number if record is not None else 0,
                content=content,
            )


def _slim(item: Object) -> Object:
    metadata = {
        name: item["metadata"][name] for name in ("uid", "generation", "deletionTimestamp") if name in item["metadata"]
    }
    return {"metadata": metadata, "status": item.get("status") or {}}


def declared(item: Object) -> tuple[Probed | None, str]:
    """The typed spec, or what is wrong with it."""
    kind, namespace, name = item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]
    manifests, problems = assemble([Document(None, 1, plain(item))])
    held = {"Audience": manifests.audiences, "MailTemplate": manifests.templates}.get(kind, manifests.transports)
    resource = held.get((namespace, name))
    if resource is None or problems:
        return None, "; ".join(str(problem) for problem in problems) or f"the {kind} cannot be read"
    spec = resource.spec
    assert isinstance(spec, AudienceSpec | MailTemplateSpec | MailTransportSpec), "one of its kind"
    if isinstance(spec, AudienceSpec) and spec.csv is not None and spec.csv.file is not None:
        return None, "spec.csv.file is for runs without a cluster: use configMapKeyRef or claim"
    return spec, ""


def _job_of(jobs: tuple[JobView, ...], record: ProbeView | None) -> JobView | None:
    return next((job for job in jobs if record is not None and job.wave == record.number and not job.stopping), None)


def recheck_of(spec: Probed) -> timedelta | None:
    """How old a good answer may become."""
    match spec:
        case MailTransportSpec():
            return timedelta(hours=1)
        case AudienceSpec():
            return timedelta(days=1) if spec.inline is None else None
        case MailTemplateSpec() if any(each.config_map_key_ref for each in spec.attachments):
            return timedelta(days=1)
        case _:
            return None


def next_status(
    previous: Status,
    decision: ProbeDecision,
    generation: int,
    record: ProbeView | None,
    use: tuple[TransportUse, ...],
) -> Status:
    """The whole status: what the last answer found, and what is ours to say."""
    model = type(previous)
    status = previous if previous.observed_generation == generation else model()
    if decision.answer is not None and record is not None and record.answered_at is not None:
        status = _found(status, decision.answer.found, record.answered_at, ready=decision.answer.ready)
    ours: dict[str, Any] = {
        "observed_generation": generation,
        "state": decision.situation.value,
        "conditions": decision.conditions,
    }
    if isinstance(status, MailTransportStatus):
        ours |= _in_use(use)
        if decision.answer is not None and record is not None:
            ours["last_probe_time"] = record.answered_at
    return status.model_copy(update=ours)


def _found(status: Status, found: Mapping[str, Any], at: datetime, *, ready: bool) -> Status:
    """An audience that can't be read now keeps its last count; what no longer holds of the others goes."""
    model = type(status)
    if isinstance(status, AudienceStatus):
        if not ready:
            return status
        found = {**found, "lastCount": {**_object(found.get("lastCount")), "time": at}}
    kept = {name: value for name, value in found.items() if name not in _aliases(model)}
    try:
        return model.model_validate(kept)
    except ValidationError:
        return model()


def _aliases(model: type[Status]) -> set[str]:
    """Both spellings of the fields that are not a probe's to fill in."""
    return {spelt for name, field in model.model_fields.items() if name in _OURS for spelt in (name, field.alias or "")}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _in_use(use: tuple[TransportUse, ...]) -> dict[str, Any]:
    halted = [each for each in use if each.breaker.state is BreakerState.HALTED]
    newest = max(halted, key=lambda each: each.breaker.since or datetime.min.replace(tzinfo=UTC), default=None)
    return {
        "campaigns": len(use),
        "connections": sum(each.connections for each in use),
        "learned_connections": min((each.learned for each in use if each.learned is not None), default=None),
        "halt": TransportHalt(
            campaign=newest.campaign,
            reason=newest.breaker.reason or FAILED,
            message=newest.breaker.message,
            since=newest.breaker.since,
        )
        if newest is not None
        else None,
    }
