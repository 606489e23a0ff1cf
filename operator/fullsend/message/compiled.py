"""The compiled message: what the ledger freezes and every sender reads. Plain JSON; nothing in it can run by loading.

It holds the templates' sources, not jinja2's code: a sender builds the functions at start in some milliseconds, and
a new release of jinja2 or Python cannot make a stored message unreadable. Everything the same for everybody (fixed
header fields, the MIME skeleton, attachments) is bytes already.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fullsend.errors import LedgerError
from fullsend.message.structure import BodyPart


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom a message is for. ``token`` is the delivery's, the same at every attempt; ``address`` a wire address."""

    address: str
    token: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    date: datetime | None = None
    """The Date field; by default the time of composing."""


FORMAT = 1
"""Raised when an older program could not send a message compiled by a newer one."""


@dataclass(frozen=True, slots=True)
class CompiledMessage:
    """``segments`` and ``parts`` alternate: the bytes around the bodies. ``text`` is "" where each recipient's plain
    text is made from the rendered HTML. ``required`` are the names every recipient must have."""

    campaign: str
    domain: str
    subject: str
    text: str
    html: str
    unsubscribe_url: str
    unsubscribe_mailto: str
    one_click: bool
    headers: tuple[tuple[str, str], ...]
    head: bytes = field(repr=False)
    segments: tuple[bytes, ...] = field(repr=False)
    parts: tuple[BodyPart, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]

    def message_id(self, token: str) -> str:
        """The Message-ID of a recipient's message: the same at every attempt."""
        return f"<{token}.{self.campaign}@{self.domain}>"

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal messages give equal bytes."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "campaign": self.campaign,
            "domain": self.domain,
            "subject": self.subject,
            "text": self.text,
            "html": self.html,
            "unsubscribe_url": self.unsubscribe_url,
            "unsubscribe_mailto": self.unsubscribe_mailto,
            "one_click": self.one_click,
            "headers": [list(header) for header in self.headers],
            "head": base64.b64encode(self.head).decode("ascii"),
            "segments": [base64.b64encode(segment).decode("ascii") for segment in self.segments],
            "parts": [[part.name, part.encoding] for part in self.parts],
            "required": list(self.required),
            "optional": list(self.optional),
        }
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> CompiledMessage:
        """Raises LedgerError for a format this program does not know."""
        values = json.loads(data)
        if values.pop("format") != FORMAT:
            raise LedgerError(
                "this message was compiled in a format this version of Fullsend cannot send; upgrade Fullsend to the"
                " version that planned the campaign"
            )
        return cls(
            **values
            | {
                "headers": tuple((name, value) for name, value in values["headers"]),
                "head": base64.b64decode(values["head"]),
                "segments": tuple(base64.b64decode(segment) for segment in values["segments"]),
                "parts": tuple(BodyPart(name, encoding) for name, encoding in values["parts"]),
                "required": tuple(values["required"]),
                "optional": tuple(values["optional"]),
            }
        )
