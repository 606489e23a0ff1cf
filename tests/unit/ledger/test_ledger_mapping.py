"""Values survive the way into the database's JSON and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from psycopg import errors as pg

from fullsend.errors import LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger.database import translate, utc, with_defaults
from fullsend.ledger.mapping import (
    breaker_of,
    breaker_to_json,
    counts_of,
    counts_to_json,
    proof_of,
    proof_to_json,
    time_of,
)
from fullsend.ledger.view import BreakerState, BreakerView, Proof
from fullsend.states import DeliveryState

NOW = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)


def test_a_breaker_and_a_proof_come_back_as_they_were() -> None:
    breaker = BreakerView(BreakerState.HALTED, 3, 2, "Reason", "why", NOW, NOW, "h1", needs_person=True)
    assert breaker_of(breaker_to_json(breaker)) == breaker
    assert breaker_of({}) == BreakerView()
    proof = Proof(NOW, counts_of({"accepted": 3}), 3, "-12345678901234567890", holds=False, differences=("a", "b"))
    assert proof_of(proof_to_json(proof)) == proof
    assert proof_of(None) is None


def test_counts_name_every_state() -> None:
    counts = counts_of({"pending": 2, "accepted": None})
    assert counts.total == 2
    assert counts_to_json(counts) == {state.value: 2 if state == "pending" else 0 for state in DeliveryState}


def test_times_are_utc_whatever_zone_they_came_in() -> None:
    vienna = NOW.astimezone(timezone(timedelta(hours=2)))
    assert utc(vienna).tzinfo is UTC
    assert time_of(vienna.isoformat()) == NOW
    assert time_of(None) is None


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (pg.AdminShutdown(), LedgerUnavailable),
        (pg.DiskFull(), LedgerUnavailable),
        (pg.DeadlockDetected(), LedgerUnavailable),
        (pg.QueryCanceled(), LedgerUnavailable),
        (pg.ReadOnlySqlTransaction(), LedgerUnavailable),
        (pg.UndefinedTable(), SchemaMismatch),
        (pg.UndefinedColumn(), SchemaMismatch),
        (pg.UniqueViolation(), LedgerError),
    ],
)
def test_drivers_errors_become_the_ledgers(error: pg.Error, becomes: type[LedgerError]) -> None:
    assert type(translate(error)) is becomes


def test_a_dsn_keeps_its_own_time_outs() -> None:
    dsn = with_defaults("host=/tmp connect_timeout=3", "x")
    assert "connect_timeout=3" in dsn
    assert "tcp_user_timeout=25000" in dsn
    assert "application_name=x" in dsn
