"""What the message compiler is given: one frozen value with everything a campaign says about its message.

It stands between the resources a user declares and the bytes that are sent, so that the compiler neither knows how
manifests are spelt nor where an attachment's bytes came from. Every field is already resolved: no references, no
defaults left to be looked up.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MessageClass = Literal["Marketing", "Transactional"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file that goes with every message. ``inline`` ones are referred to from the HTML as ``cid:<content_id>``."""

    name: str
    content_type: str
    data: bytes = field(repr=False)
    inline: bool = False
    content_id: str = ""


@dataclass(frozen=True, slots=True)
class MessageSource:
    """The message before compilation. ``subject``, ``text``, ``html``, the values of ``headers``, ``unsubscribe_url``
    and ``unsubscribe_mailto`` are jinja2 templates; everything else is literal. "" means "not given"."""

    campaign: str
    class_: MessageClass
    from_address: str
    subject: str
    from_name: str = ""
    reply_to: str = ""
    reply_to_name: str = ""
    text: str = ""
    html: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    list_id: str = ""
    unsubscribe_url: str = ""
    unsubscribe_mailto: str = ""
    one_click: bool = True
    feedback_id: str = ""


def source_to_json(source: MessageSource) -> dict[str, Any]:
    """The source as JSON-able values, for the way into the resource-limited compiler process."""
    values: dict[str, Any] = {
        name: getattr(source, name) for name in MessageSource.__slots__ if name not in ("headers", "attachments")
    }
    values["headers"] = dict(source.headers)
    values["attachments"] = [
        {
            "name": attachment.name,
            "content_type": attachment.content_type,
            "data": base64.b64encode(attachment.data).decode("ascii"),
            "inline": attachment.inline,
            "content_id": attachment.content_id,
        }
        for attachment in source.attachments
    ]
    return values


def source_from_json(values: Mapping[str, Any]) -> MessageSource:
    """The inverse of ``source_to_json``."""
    attachments = tuple(
        Attachment(**{**attachment, "data": base64.b64decode(attachment["data"])})
        for attachment in values["attachments"]
    )
    return MessageSource(**{**values, "attachments": attachments})
