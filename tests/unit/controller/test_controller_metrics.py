"""What a scrape says, read back by Prometheus' own parser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fullsend.controller import metrics
from fullsend.controller.metrics import TABLE, Exposition
from fullsend.errors import LedgerUnavailable
from fullsend.ledger.figures import CampaignFigures, Figures, TransportFigures
from fullsend.ledger.flush import TOOK_UP_TO
from fullsend.ledger.view import BreakerState, BreakerView, Counts, Phase
from fullsend.states import DeliveryState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALTED = BreakerView(state=BreakerState.HALTED, reason="TooManyRejected", needs_person=True)
FIGURES = Figures(
    campaigns=(
        CampaignFigures(
            tenant="shop",
            name="spring",
            ledger_key="spring-1",
            transport="relay",
            phase=Phase.SENDING,
            stopped=True,
            counts=Counts({DeliveryState.ACCEPTED: 7, DeliveryState.PENDING: 3}),
            attempts={"accepted": 7, "rejected": 0, "deferred": 2, "unknown": 0},
            duplicates_possible=1,
            senders=2,
            breaker=HALTED,
            now=NOW,
            open_since=NOW - timedelta(minutes=5),
            last_settled_at=NOW - timedelta(minutes=1),
            deadline=NOW + timedelta(hours=1),
            proof_holds=False,
        ),
    ),
    transports=(
        TransportFigures("shop", "relay", connections=8, allowed=16, learned=9, took_ms=4200, took=(5, *[0] * 11, 2)),
    ),
    phases={Phase.SENDING: 1, Phase.COMPLETE: 12},
)


async def said() -> Figures:
    return FIGURES


def conditions() -> list[tuple[str, str, dict[str, str]]]:
    return [("shop", "spring", {"Halted": "TooManyRejected", "Stalled": "TooManyRejected"})]


async def scraped(exposition: Exposition) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and sorted labels; a series that is there twice is an error."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families((await exposition.body()).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


CAMPAIGN = (("campaign", "spring"), ("namespace", "shop"))


def labels(**more: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((*CAMPAIGN, *more.items())))


async def test_a_scrape_of_the_leader_tells_the_campaigns() -> None:
    found = await scraped(Exposition(said, conditions, leads=lambda: True))
    assert found[("fullsend_ledger_up", ())] == 1
    assert found[("fullsend_campaign_recipients", labels(state="accepted"))] == 7
    assert found[("fullsend_campaign_recipients", labels(state="armed"))] == 0
    assert found[("fullsend_campaign_missing", CAMPAIGN)] == 3
    assert found[("fullsend_campaign_attempts_total", labels(outcome="deferred"))] == 2
    assert found[("fullsend_campaign_oldest_open_seconds", CAMPAIGN)] == 300
    assert found[("fullsend_campaign_halted", labels(reason="TooManyRejected", person="true"))] == 1
    assert found[("fullsend_campaign_breaker_state", labels(state="halted"))] == 1
    assert found[("fullsend_campaign_breaker_state", labels(state="closed"))] == 0
    assert found[("fullsend_campaign_proof_holds", CAMPAIGN)] == 0
    assert found[("fullsend_campaign_deadline_timestamp_seconds", CAMPAIGN)] == (NOW + timedelta(hours=1)).timestamp()
    assert found[("fullsend_campaign_info", labels(ledger_key="spring-1", transport="relay", phase="sending"))] == 1
    assert found[("fullsend_campaigns", (("phase", "complete"),))] == 12
    assert found[("fullsend_campaign_condition", labels(type="Halted", reason="TooManyRejected"))] == 1


async def test_the_durations_are_a_histogram_that_ends_with_all() -> None:
    found = await scraped(Exposition(said, conditions, leads=lambda: True))
    name, key = "fullsend_transport_attempt_duration_seconds", (("namespace", "shop"), ("transport", "relay"))
    for bound in TOOK_UP_TO:
        assert found[(f"{name}_bucket", tuple(sorted((*key, ("le", str(bound))))))] == 5
    assert found[(f"{name}_bucket", tuple(sorted((*key, ("le", "+Inf")))))] == 7
    assert found[(f"{name}_count", key)] == 7
    assert found[(f"{name}_sum", key)] == pytest.approx(4.2)


async def test_every_metric_of_ours_is_in_the_table_and_every_one_in_the_table_is_told() -> None:
    metrics.API_REQUESTS.labels("GET").inc()
    metrics.RECONCILED.labels("changed").inc()
    body = (await Exposition(said, conditions, leads=lambda: True).body()).decode()
    told = {f.name: f for f in text_string_to_metric_families(body) if f.name.startswith("fullsend_")}
    assert set(told) == {each.base if each.kind != "info" else each.name for each in TABLE.values()}
    for each in TABLE.values():
        family = told[each.base if each.kind != "info" else each.name]
        assert family.documentation == each.help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(each.labels), each.name


async def test_a_replica_that_does_not_lead_asks_nobody_and_tells_of_no_campaign() -> None:
    async def never() -> Figures:
        raise AssertionError("asked")

    found = await scraped(Exposition(never, tuple, leads=lambda: False))
    assert ("fullsend_is_leader", ()) in found
    assert not [name for name, _ in found if name.startswith("fullsend_campaign")]


async def test_with_the_ledger_away_the_rest_is_still_told() -> None:
    async def away() -> Figures:
        raise LedgerUnavailable("no route")

    found = await scraped(Exposition(away, tuple, leads=lambda: True))
    assert found[("fullsend_ledger_up", ())] == 0
    assert ("fullsend_is_leader", ()) in found
    assert not [name for name, _ in found if name.startswith("fullsend_campaign")]


async def test_many_scrapes_ask_the_ledger_once() -> None:
    asked = 0

    async def count() -> Figures:
        nonlocal asked
        asked += 1
        return FIGURES

    exposition = Exposition(count, tuple, leads=lambda: True)
    for _ in range(5):
        await exposition.body()
    assert asked == 1
