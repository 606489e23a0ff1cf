"""When a status is written, and what is sent for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fullsend.controller.status import read_status, status_patch, worth_writing
from fullsend.resources.status import CampaignStatus, Condition, ConditionStatus, Halt

AT = datetime(2026, 6, 1, tzinfo=UTC)
JUST_NOW = timedelta(seconds=1)


def ready(reason: str) -> tuple[Condition, ...]:
    return (Condition(type="Ready", status=ConditionStatus.TRUE, reason=reason, last_transition_time=AT),)


def test_an_unchanged_status_is_never_written() -> None:
    status = CampaignStatus(total=3, conditions=ready("Sending"))
    assert not worth_writing(status, status.model_copy(), timedelta(hours=1))
    assert not worth_writing(status, status.model_copy(), None)


def test_numbers_that_move_are_written_every_ten_seconds() -> None:
    before, after = CampaignStatus(total=3, pending=3), CampaignStatus(total=3, pending=1, accepted=2)
    assert not worth_writing(before, after, JUST_NOW)
    assert worth_writing(before, after, timedelta(seconds=10))
    assert worth_writing(before, after, None)


def test_a_condition_is_written_at_once() -> None:
    before, after = CampaignStatus(conditions=ready("Sending")), CampaignStatus(conditions=ready("Waiting"))
    assert worth_writing(before, after, JUST_NOW)


def test_a_status_survives_the_way_to_the_api_server_and_back() -> None:
    status = CampaignStatus(total=3, conditions=ready("Sending"), completion_time=AT, halt=Halt(id="x", reason="R"))
    sent = status_patch("u", status)["status"]
    assert (
        read_status(CampaignStatus, {"status": {name: value for name, value in sent.items() if value is not None}})
        == status
    )


def test_what_no_longer_is_is_removed_by_a_null() -> None:
    patch = status_patch("u", CampaignStatus())
    assert patch["metadata"] == {"uid": "u"}
    assert patch["status"]["halt"] is None
    assert patch["status"]["conditions"] == []


def test_a_status_that_somebody_broke_counts_as_none() -> None:
    assert read_status(CampaignStatus, {"status": {"total": "many"}}) == CampaignStatus()
    assert read_status(CampaignStatus, {}) == CampaignStatus()
