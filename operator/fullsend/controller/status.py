"""The status subresource: written once a look, whole, and only if it says something new.

Invariant: what a person or a tool acts on (a condition, the state, a halt, an end) is written at once; numbers that
only move are written at most every ``PROGRESS_EVERY``, so that a campaign of millions costs the API server no more than
a small one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from fullsend.resources.status import CampaignStatus, StatusModel

PROGRESS_EVERY: Final = timedelta(seconds=10)

_MOVING: Final = (
    *("rate_per_second", "revision", "next_attempt_time", "limited_by"),
    *("pending", "claimed", "armed", "deferred", "unknown", "missing"),
    *("accepted", "rejected", "suppressed", "expired", "unrenderable", "held", "cancelled"),
)


S = TypeVar("S", bound=StatusModel)


def read_status(model: type[S], item: Mapping[str, Any]) -> S:
    """The status on the object; one that somebody made unreadable counts as none."""
    try:
        return model.model_validate(item.get("status") or {})
    except ValidationError:
        return model()


def worth_writing(before: CampaignStatus, after: CampaignStatus, since_written: timedelta | None) -> bool:
    """``since_written``: how long ago this process wrote it; None where it has not."""
    if after == before:
        return False
    if since_written is None or since_written >= PROGRESS_EVERY:
        return True
    return bool(_standing(after) != _standing(before))


def _standing(status: CampaignStatus) -> Any:
    return status.model_dump(exclude=set(_MOVING))


def status_patch(uid: str, status: StatusModel) -> Mapping[str, Any]:
    """A merge patch that makes the status what it is here: lists are replaced, and a null removes what no longer is.
    The uid keeps it from an object that was made anew under the same name."""
    return {"metadata": {"uid": uid}, "status": status.model_dump(mode="json", by_alias=True)}
