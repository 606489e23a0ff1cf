"""Whether the watches see what is there: a watch that went silent looks like a quiet cluster.

Once a minute the metadata of everything watched is listed. An object whose version a watch has not brought wakes whom
it concerns at once, and if the watch still hasn't brought it two minutes later it counts as stuck. While the API server
is away nothing can be said of a watch, so nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

EVERY: Final = 60.0
"""Seconds between two lists."""
OVERDUE: Final = 120.0
"""Seconds within which a watch that works has brought a change."""


@dataclass(slots=True)
class WatchAudit:
    """What one watch has brought, against what a list found."""

    _versions: dict[str, str] = field(default_factory=dict)
    _owed: dict[str, float] = field(default_factory=dict)

    def brought(self, metadata: Mapping[str, Any], *, gone: bool = False) -> None:
        """The watch has told of this object."""
        uid = metadata["uid"]
        self._owed.pop(uid, None)
        if gone:
            self._versions.pop(uid, None)
        else:
            self._versions[uid] = metadata["resourceVersion"]

    def listed(self, objects: list[Mapping[str, Any]], now: float) -> list[Mapping[str, Any]]:
        """Compare with a list of metadata; returns the objects that the watch hasn't told of (as they are now).
        ``now`` is a monotonic clock's."""
        here = {metadata["uid"]: metadata for metadata in objects}
        news = [metadata for uid, metadata in here.items() if self._versions.get(uid) != metadata["resourceVersion"]]
        changed = {metadata["uid"] for metadata in news} | (self._versions.keys() - here.keys())
        self._owed = {uid: self._owed.get(uid, now) for uid in changed}
        return news

    def overdue(self, now: float) -> bool:
        return any(now - since >= OVERDUE for since in self._owed.values())
