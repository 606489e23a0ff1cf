"""From the ledger's rows and JSON documents to the plain values of ``ledger.view``, and back.

JSON is used inside the database where one statement answers with several lists; times in it are ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fullsend.ledger.view import (
    Acknowledged,
    Blocked,
    BreakerState,
    BreakerView,
    Counts,
    OutletView,
    PlanState,
    PlanView,
    Proof,
    ReopenRequest,
    SessionView,
)
from fullsend.states import DeliveryState, SessionId


def time_of(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).astimezone(UTC)


def _known_time(value: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC)


def counts_of(document: Mapping[str, Any]) -> Counts:
    """Every state is present; sums over no rows are null."""
    return Counts({state: int(document.get(state) or 0) for state in DeliveryState})


def counts_to_json(counts: Counts) -> dict[str, int]:
    return {state.value: counts[state] for state in DeliveryState}


def plan_of(row: Mapping[str, Any]) -> PlanView:
    """From a plan's row as JSON (``to_jsonb``)."""
    return PlanView(
        generation=row["generation"],
        state=PlanState(row["state"]),
        heartbeat_at=_known_time(row["heartbeat_at"]),
        rows_read=row["rows_read"],
        inserted=row["inserted"],
        duplicates=row["duplicates"],
        invalid=row["invalid"],
        suppressed=row["suppressed"],
        digest=str(row["digest"]),
        render_checked=row["render_checked"],
        render_failed=row["render_failed"],
        sealed_at=time_of(row["sealed_at"]),
        reason=row["reason"],
        message=row["message"],
    )


def session_of(row: Mapping[str, Any]) -> SessionView:
    return SessionView(
        id=SessionId(row["id"]),
        wave=row["wave"],
        holder=row["holder"],
        started_at=_known_time(row["started_at"]),
        heartbeat_at=_known_time(row["heartbeat_at"]),
        expired=row["expired"],
        connections=row["connections"],
        starved_at=time_of(row["starved_at"]),
        reply_ms=row["reply_ms"],
    )


def outlet_of(row: Mapping[str, Any]) -> OutletView:
    return OutletView(
        connections=row["connections"],
        learned=row["learned"],
        learned_at=time_of(row["learned_at"]),
        try_more_at=time_of(row["try_more_at"]),
        message=row["message"] or "",
    )


def reopen_of(row: Mapping[str, Any] | None) -> ReopenRequest | None:
    if row is None:
        return None
    return ReopenRequest(
        id=row["id"],
        states=tuple(DeliveryState(state) for state in row["states"]),
        requested_at=_known_time(row["requested_at"]),
        done_at=time_of(row["done_at"]),
        reopened=row["reopened"],
    )


def breaker_of(document: Mapping[str, Any]) -> BreakerView:
    return BreakerView(
        state=BreakerState(document.get("state", BreakerState.CLOSED)),
        failures=document.get("failures", 0),
        connections=document.get("connections"),
        reason=document.get("reason", ""),
        message=document.get("message", ""),
        since=time_of(document.get("since")),
        next_probe_at=time_of(document.get("next_probe_at")),
        halt_id=document.get("halt_id", ""),
        needs_person=document.get("needs_person", False),
        blocked=tuple(Blocked(**{**one, "since": _known_time(one["since"])}) for one in document.get("blocked", ())),
        acknowledged=tuple(Acknowledged(**one) for one in document.get("acknowledged", ())),
    )


def breaker_to_json(view: BreakerView) -> dict[str, Any]:
    return {
        "state": view.state.value,
        "failures": view.failures,
        "connections": view.connections,
        "reason": view.reason,
        "message": view.message,
        "since": None if view.since is None else view.since.isoformat(),
        "next_probe_at": None if view.next_probe_at is None else view.next_probe_at.isoformat(),
        "halt_id": view.halt_id,
        "needs_person": view.needs_person,
        "blocked": [{**asdict(one), "since": one.since.isoformat()} for one in view.blocked],
        "acknowledged": [asdict(one) for one in view.acknowledged],
    }


def proof_of(document: Mapping[str, Any] | None) -> Proof | None:
    if document is None:
        return None
    return Proof(
        at=_known_time(document["at"]),
        counts=counts_of(document["counts"]),
        rows=document["rows"],
        digest=document["digest"],
        holds=document["holds"],
        differences=tuple(document["differences"]),
        revision=document.get("revision", 0),
    )


def proof_to_json(proof: Proof) -> dict[str, Any]:
    return {
        "at": proof.at.isoformat(),
        "counts": counts_to_json(proof.counts),
        "rows": proof.rows,
        "digest": proof.digest,
        "holds": proof.holds,
        "differences": list(proof.differences),
        "revision": proof.revision,
    }
