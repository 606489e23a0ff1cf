"""What ``/metrics`` tells Prometheus: the operator's own work, and the campaigns as the ledger counts them.

``TABLE`` is every metric of ours, by name; the docs are printed from it. Campaigns are told by the leader alone, so
that two replicas don't add up, and from the ledger's counters, so that what a finished Job did is not lost.
Invariant: a scrape reads counters, never rows, and at most once in ``KEPT`` seconds; with the database away the
operator's own metrics are still served, and ``fullsend_ledger_up`` is 0.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fullsend import __version__
from fullsend.errors import LedgerError
from fullsend.ledger.figures import CampaignFigures, Figures, TransportFigures
from fullsend.ledger.flush import TOOK_UP_TO
from fullsend.ledger.view import BreakerState
from fullsend.states import DeliveryState

KEPT: Final = 5.0
"""Seconds for which what the ledger said is told again."""

Kind = Literal["counter", "gauge", "histogram", "info"]
_CAMPAIGN: Final = ("namespace", "campaign")
_TRANSPORT: Final = ("namespace", "transport")


@dataclass(frozen=True, slots=True)
class Described:
    """One metric, as its reader sees it. Durations are in seconds, times in seconds since 1970."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The name that prometheus_client wants: it adds the suffix itself."""
        return self.name.removesuffix("_total").removesuffix("_info")


TABLE: Final[Mapping[str, Described]] = {
    each.name: each
    for each in (
        Described(
            "fullsend_campaign_recipients", "gauge", "Recipients of the sealed plan, by state.", (*_CAMPAIGN, "state")
        ),
        Described(
            "fullsend_campaign_missing",
            "gauge",
            "Recipients that are neither accepted nor settled otherwise: 0 in the end.",
            _CAMPAIGN,
        ),
        Described(
            "fullsend_campaign_attempts_total",
            "counter",
            "Attempts, by what came of them: accepted, rejected, deferred, unknown. Their rate is the speed.",
            (*_CAMPAIGN, "outcome"),
        ),
        Described(
            "fullsend_campaign_resent_total",
            "counter",
            "Recipients sent to again after an unknown: second copies are possible.",
            _CAMPAIGN,
        ),
        Described("fullsend_campaign_senders", "gauge", "Senders at work: sessions that have not ended.", _CAMPAIGN),
        Described(
            "fullsend_campaign_oldest_open_seconds",
            "gauge",
            "For how long somebody has been waiting: since the plan was sealed; 0 when nobody is open.",
            _CAMPAIGN,
        ),
        Described(
            "fullsend_campaign_last_settled_timestamp_seconds",
            "gauge",
            "When a recipient last reached an end.",
            _CAMPAIGN,
        ),
        Described("fullsend_campaign_deadline_timestamp_seconds", "gauge", "spec.schedule.deadline.", _CAMPAIGN),
        Described(
            "fullsend_campaign_stopped",
            "gauge",
            "1 while senders are told to stop, whatever for: no attempt is to be expected.",
            _CAMPAIGN,
        ),
        Described(
            "fullsend_campaign_breaker_state",
            "gauge",
            "1 for the state that the breaker is in: closed, reduced, probing, halted.",
            (*_CAMPAIGN, "state"),
        ),
        Described(
            "fullsend_campaign_halted",
            "gauge",
            "1 while halted, with the reason; person is true where only a person can end it.",
            (*_CAMPAIGN, "reason", "person"),
        ),
        Described(
            "fullsend_campaign_proof_holds",
            "gauge",
            "1 where the last proof holds, 0 where the ledger contradicts itself; absent before the first.",
            _CAMPAIGN,
        ),
        Described(
            "fullsend_campaign_condition",
            "gauge",
            "1 for each condition of the Campaign's status that is True, with its reason (docs/conditions.md).",
            (*_CAMPAIGN, "type", "reason"),
        ),
        Described(
            "fullsend_campaign_info",
            "info",
            "What a campaign is called in the ledger, what it sends through and how far it is.",
            (*_CAMPAIGN, "ledger_key", "transport", "phase"),
        ),
        Described(
            "fullsend_transport_connections",
            "gauge",
            "SMTP connections that senders have open, all campaigns together.",
            _TRANSPORT,
        ),
        Described(
            "fullsend_transport_connections_allowed",
            "gauge",
            "limits.connections of the transport, while a campaign is under way.",
            _TRANSPORT,
        ),
        Described(
            "fullsend_transport_connections_learned",
            "gauge",
            'How many connections the relay has said it takes ("too many"), where it has.',
            _TRANSPORT,
        ),
        Described(
            "fullsend_transport_attempt_duration_seconds",
            "histogram",
            "From handing a message to a connection to the relay's last reply to it.",
            _TRANSPORT,
        ),
        Described("fullsend_campaigns", "gauge", "Campaigns that the ledger keeps, by phase.", ("phase",)),
        Described("fullsend_ledger_up", "gauge", "1 where the ledger answered the last question of a scrape."),
        Described("fullsend_is_leader", "gauge", "1 on the replica that reconciles and tells of campaigns."),
        Described(
            "fullsend_reconcile_total",
            "counter",
            "Looks at objects, by what came of them: changed, unchanged, failed.",
            ("result",),
        ),
        Described("fullsend_reconcile_duration_seconds", "histogram", "How long a look at an object takes."),
        Described("fullsend_reconcile_queue", "gauge", "Objects whose look waits for its turn."),
        Described("fullsend_api_requests_total", "counter", "Requests to the API server, watches apart.", ("method",)),
        Described("fullsend_build_info", "info", "The version of this operator.", ("version",)),
    )
}


disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter, which nobody asked for


def _own(name: str) -> tuple[str, str, tuple[str, ...]]:
    described = TABLE[name]
    return described.base, described.help, described.labels


IS_LEADER: Final = Gauge(*_own("fullsend_is_leader"))
RECONCILED: Final = Counter(*_own("fullsend_reconcile_total"))
RECONCILE_SECONDS: Final = Histogram(
    *_own("fullsend_reconcile_duration_seconds"), buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
)
RECONCILE_QUEUE: Final = Gauge(*_own("fullsend_reconcile_queue"))
API_REQUESTS: Final = Counter(*_own("fullsend_api_requests_total"))
_BUILD: Final = Info("fullsend_build", TABLE["fullsend_build_info"].help)
_BUILD.info({"version": __version__})

Ask = Callable[[], Awaitable[Figures]]
Conditions = Callable[[], Iterable[tuple[str, str, Mapping[str, str]]]]
"""Namespace, name and the reasons of what is True, by type; empty while another replica leads."""


class Exposition:
    """The body of a scrape. ``ask`` reads the ledger; it is not called while another replica leads."""

    def __init__(self, ask: Ask, conditions: Conditions, *, leads: Callable[[], bool]) -> None:
        self._ask = ask
        self._conditions = conditions
        self._leads = leads
        self._said: Figures | None = None
        self._said_at = 0.0

    async def body(self) -> bytes:
        """Prometheus' text format."""
        ledger = CollectorRegistry()
        ledger.register(_Families((*await self._families(), _of_conditions(self._conditions()))))
        return generate_latest(REGISTRY) + generate_latest(ledger)

    async def _families(self) -> Iterator[Metric]:
        if not self._leads():
            self._said = None
            return iter(())
        if self._said is None or time.monotonic() - self._said_at > KEPT:
            try:
                self._said = await self._ask()
            except LedgerError:
                self._said = None
            self._said_at = time.monotonic()
        if self._said is None:
            return iter([_one("fullsend_ledger_up", 0)])
        return families(self._said)


class _Families(Collector):
    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        return iter(self._found)


def families(figures: Figures) -> Iterator[Metric]:
    """What the ledger counts, as Prometheus' families."""
    yield _one("fullsend_ledger_up", 1)
    phases = _gauge("fullsend_campaigns")
    for phase, count in figures.phases.items():
        phases.add_metric([phase.value], count)
    yield phases
    yield from _of_campaigns(figures.campaigns)
    yield from _of_transports(figures.transports)


def _of_campaigns(campaigns: Sequence[CampaignFigures]) -> Iterator[Metric]:
    recipients, missing = _gauge("fullsend_campaign_recipients"), _gauge("fullsend_campaign_missing")
    attempts, resent = _counter("fullsend_campaign_attempts_total"), _counter("fullsend_campaign_resent_total")
    senders, oldest = _gauge("fullsend_campaign_senders"), _gauge("fullsend_campaign_oldest_open_seconds")
    settled = _gauge("fullsend_campaign_last_settled_timestamp_seconds")
    deadline = _gauge("fullsend_campaign_deadline_timestamp_seconds")
    stopped, state = _gauge("fullsend_campaign_stopped"), _gauge("fullsend_campaign_breaker_state")
    halted, holds = _gauge("fullsend_campaign_halted"), _gauge("fullsend_campaign_proof_holds")
    described = TABLE["fullsend_campaign_info"]
    info = InfoMetricFamily(described.base, described.help, labels=())
    for each in campaigns:
        key = [each.tenant, each.name]
        for delivery_state in DeliveryState:
            recipients.add_metric([*key, delivery_state.value], each.counts[delivery_state])
        missing.add_metric(key, each.counts.missing)
        for outcome, count in each.attempts.items():
            attempts.add_metric([*key, outcome], count)
        resent.add_metric(key, each.duplicates_possible)
        senders.add_metric(key, each.senders)
        oldest.add_metric(key, (each.now - each.open_since).total_seconds() if each.open_since is not None else 0)
        if each.last_settled_at is not None:
            settled.add_metric(key, each.last_settled_at.timestamp())
        if each.deadline is not None:
            deadline.add_metric(key, each.deadline.timestamp())
        stopped.add_metric(key, each.stopped)
        for breaker_state in BreakerState:
            state.add_metric([*key, breaker_state.value], each.breaker.state is breaker_state)
        if each.breaker.state is BreakerState.HALTED:
            halted.add_metric([*key, each.breaker.reason, str(each.breaker.needs_person).lower()], 1)
        if each.proof_holds is not None:
            holds.add_metric(key, each.proof_holds)
        values = (*key, each.ledger_key, each.transport, each.phase.value)
        info.add_metric((), dict(zip(described.labels, values, strict=True)))
    yield from (recipients, missing, attempts, resent, senders, oldest, settled, deadline)
    yield from (stopped, state, halted, holds, info)


def _of_conditions(conditions: Iterable[tuple[str, str, Mapping[str, str]]]) -> Metric:
    found = _gauge("fullsend_campaign_condition")
    for namespace, name, true in conditions:
        for type_, reason in true.items():
            found.add_metric([namespace, name, type_, reason], 1)
    return found


def _of_transports(transports: Sequence[TransportFigures]) -> Iterator[Metric]:
    connections = _gauge("fullsend_transport_connections")
    allowed = _gauge("fullsend_transport_connections_allowed")
    learned = _gauge("fullsend_transport_connections_learned")
    described = TABLE["fullsend_transport_attempt_duration_seconds"]
    took = HistogramMetricFamily(described.name, described.help, labels=described.labels)
    for each in transports:
        key = [each.tenant, each.transport]
        connections.add_metric(key, each.connections)
        if each.allowed is not None:
            allowed.add_metric(key, each.allowed)
        if each.learned is not None:
            learned.add_metric(key, each.learned)
        if each.took:
            took.add_metric(key, buckets=list(_cumulated(each.took)), sum_value=each.took_ms / 1000)
    yield from (connections, allowed, learned, took)


def _cumulated(took: Sequence[int]) -> Iterator[tuple[str, float]]:
    so_far = 0
    for bound, count in zip((*map(str, TOOK_UP_TO), "+Inf"), took, strict=True):
        so_far += count
        yield bound, so_far


def _gauge(name: str) -> GaugeMetricFamily:
    described = TABLE[name]
    return GaugeMetricFamily(described.name, described.help, labels=described.labels)


def _counter(name: str) -> CounterMetricFamily:
    described = TABLE[name]
    return CounterMetricFamily(described.base, described.help, labels=described.labels)


def _one(name: str, value: float) -> GaugeMetricFamily:
    described = TABLE[name]
    return GaugeMetricFamily(described.name, described.help, value=value)
