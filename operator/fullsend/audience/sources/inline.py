"""Recipients written into the Audience itself: small by nature, since a manifest is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fullsend.audience.sources.base import Chunks, SourceRow


@dataclass(frozen=True, slots=True)
class InlineSource:
    """``recipients`` are (address, variables) in the order of the manifest."""

    recipients: Sequence[tuple[str, Mapping[str, Any]]]
    notes: list[str] = field(default_factory=list)

    async def chunks(self) -> Chunks:
        if self.recipients:
            yield [
                SourceRow(address, variables, row) for row, (address, variables) in enumerate(self.recipients, start=1)
            ]
