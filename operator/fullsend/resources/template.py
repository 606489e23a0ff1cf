"""The message: `MailTemplate`, and the message a campaign carries itself.

Invariant: what reaches the composer is a `MessageSpec`, whole and typed, wherever its parts were written. Templates
are jinja2 text here and nothing more: they are looked at lexically, never compiled (that happens in a limited Job).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from fullsend.resources.base import Address, Bool, ConfigMapKeyRef, Fault, Line, Model, matching

BODY_LIMIT = 524_288
"""Characters of one body: with both bodies and an attachment an object stays within etcd's 1.5 MB."""

RESERVED_HEADERS = frozenset(
    {
        "from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version", "return-path",
        "received", "received-spf", "authentication-results", "dkim-signature", "domainkey-signature", "dkim-filter",
        "list-unsubscribe", "list-unsubscribe-post", "list-id", "feedback-id", "auto-submitted", "precedence",
        "delivered-to", "x-original-to", "envelope-to",
    }
)  # fmt: skip
"""Header fields that Fullsend writes, that have a field of their own, or that only a relay may write. Lower case."""
RESERVED_PREFIXES = ("content-", "resent-", "arc-")
"""Headers with a field of their own, or that only the composer or the relay may write."""

HeaderName = Annotated[str, matching(r"^[!-9;-~]+$", "is not a header name", 76)]  # RFC 5322, section 3.6.8
MediaType = Annotated[
    str,
    matching(r"^[a-z]+/[A-Za-z0-9][-A-Za-z0-9.+_]*(; ?[-a-z]+=[^;\s]+)*$", "is not a type such as image/png", 127),
]
FileName = Annotated[str, matching(r"^[^/\\\r\n\x00]+$", "is not a file name: no folder, one line", 255)]
ContentId = Annotated[str, matching(r"^[-A-Za-z0-9._@]+$", "is not a content id: letters, digits, '-._@'", 128)]
FeedbackId = Annotated[
    str, matching(r"^[-A-Za-z0-9._]*(:[-A-Za-z0-9._]*){0,3}$", "is not up to four words with colons between", 127)
]
Body = Annotated[str, StringConstraints(max_length=BODY_LIMIT)]
BASE64 = r"^[A-Za-z0-9+/\s]*={0,2}\s*$"
"""For the API server, whose `format: byte` would refuse the line breaks that `base64` writes."""


class Mailbox(Model):
    """An address with the name a reader sees."""

    address: Address = Field(description="The address, such as `news@mail.example`.")
    name: Line | None = Field(default=None, description="Name shown beside the address. Any Unicode text on one line.")


class Attachment(Model):
    """A file that every recipient gets, the same for all. Exactly one of `data` and `configMapKeyRef`."""

    name: FileName = Field(description="File name shown to the reader, without a folder.")
    content_type: MediaType = Field(description="Media type, such as `application/pdf` or `image/png`.")
    data: Annotated[str, StringConstraints(max_length=1_048_576)] | None = Field(
        default=None, description="The content, in base64.", json_schema_extra={"pattern": BASE64}
    )
    config_map_key_ref: ConfigMapKeyRef | None = Field(
        default=None, description="The key of a ConfigMap (`data` or `binaryData`) that holds the content."
    )
    inline: Bool = Field(
        default=False,
        description="Shown inside the HTML part, where it refers to `cid:<contentId>`, rather than listed as a "
        "file. Default: false.",
    )
    content_id: ContentId | None = Field(
        default=None, description="Content-ID without angle brackets. Needed when `inline` is true."
    )

    def rules(self) -> Iterator[Fault]:
        yield from self.exactly_one("data", "config_map_key_ref")
        if self.inline and self.content_id is None:
            yield Fault(
                ("contentId",), "is needed for an inline attachment: the HTML part refers to it as cid:<contentId>"
            )
        if self.data is not None and decode_base64(self.data) is None:
            yield Fault(("data",), "is not base64")


class MessageFields(Model):
    """The parts of a message, each optional: a template and a campaign may each give some of them."""

    from_: Mailbox | None = Field(default=None, description="Author of the message, in the From header.")
    reply_to: Mailbox | None = Field(default=None, description="Where replies go. Default: the From address.")
    return_path: Address | None = Field(
        default=None,
        description="Envelope sender, where bounces go. Default: the From address.",
    )
    subject: Line | None = Field(
        default=None, description="Subject, a jinja2 template on one line. Variables are the recipient's columns."
    )
    text: Body | None = Field(
        default=None, description="Plain text part, a jinja2 template. Default: made from the HTML part."
    )
    html: Body | None = Field(
        default=None,
        description="HTML part, a jinja2 template; variables are escaped. Default: the message has a text part only.",
    )
    headers: dict[HeaderName, Line] = Field(
        default_factory=dict,
        max_length=50,
        description="Further headers, name to value; values are jinja2 templates on one line. "
        "Headers that have a field of their own, or that only Fullsend writes, are refused.",
    )
    attachments: tuple[Attachment, ...] = Field(default=(), max_length=20, description="Files for every recipient.")
    feedback_id: FeedbackId | None = Field(
        default=None,
        description="Feedback-ID header (Gmail's complaint statistics), up to four parts with colons between. "
        "Default: no header.",
    )

    def rules(self) -> Iterator[Fault]:
        seen: dict[str, str] = {}
        for name in self.headers:
            lower = name.lower()
            if lower in RESERVED_HEADERS or lower.startswith(RESERVED_PREFIXES):
                yield Fault(("headers", name), f"{name} is written by Fullsend or has a field of its own")
            if lower in seen:
                yield Fault(("headers", name), f"is the same header as {seen[lower]}")
            seen[lower] = name
        for field, key in (("name", "name"), ("content_id", "contentId")):
            values = [getattr(item, field) for item in self.attachments]
            for index, value in enumerate(values):
                if value is not None and value in values[:index]:
                    yield Fault(("attachments", index, key), f"{value!r} is used by an earlier attachment")


class MailTemplateSpec(MessageFields):
    """A message that several campaigns may use. A campaign names it in `messageRef`."""

    def rules(self) -> Iterator[Fault]:
        yield from super().rules()
        yield from needs_body(self)


class MessageSpec(MessageFields):
    """The message a campaign sends, whole: what the composer is given."""

    from_: Mailbox = Field(description="Author of the message, in the From header.")
    subject: Line = Field(description="Subject, a jinja2 template on one line.")

    def rules(self) -> Iterator[Fault]:
        yield from super().rules()
        yield from needs_body(self)


def needs_body(message: MessageFields) -> Iterator[Fault]:
    if not message.text and not message.html:
        yield Fault((), "needs a text or an html part", ("text", "html"))


def decode_base64(text: str) -> bytes | None:
    """The bytes, or None where it is not base64. Line breaks are allowed, as in a Secret."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


_OPENING = re.compile(r"\{\{|\{%|\{#|<!--")
_CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}", "<!--": "-->"}
_END_RAW = re.compile(r"\{%-?\s*endraw")


def shows(template: str, variable: str) -> bool:
    """Whether a template puts this variable where a reader can see it: not in a comment, not as quoted text.

    One pass, linear in the template's length: this runs on whatever a tenant wrote.
    """
    word = re.compile(rf"(?<![\w.]){re.escape(variable)}\b")
    at = 0
    while opening := _OPENING.search(template, at):
        kind = opening.group()
        end = template.find(_CLOSING[kind], opening.end())
        if end < 0:
            return False
        at = end + len(_CLOSING[kind])
        inside = template[opening.end() : end]
        first = inside.strip("-+ \t\r\n").partition(" ")[0] if kind == "{%" else ""
        if (kind == "{{" or first == "set") and word.search(_without_literals(inside)):
            return True
        if first == "raw":
            after = _END_RAW.search(template, at)
            at = after.start() if after else len(template)
    return False


def _without_literals(expression: str) -> str:
    kept: list[str] = []
    quote = ""
    escaped = False
    for character in expression:
        if not quote:
            quote = character if character in "'\"" else ""
            kept.append(" " if quote else character)
        elif escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == quote:
            quote = ""
    return "".join(kept)
