"""`Campaign`: one message to one audience, once.

Invariant: a Marketing campaign without a way out for its recipients (RFC 8058 one-click, List-Id, a visible link) is
refused before anything is planned. The campaign's own rules are here; the ones that need other objects in `resolve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from fullsend.resources.base import (
    Bool,
    Duration,
    Fault,
    Int,
    Model,
    Name,
    NameRef,
    Percent,
    Rate,
    Time,
    matching,
    parse_duration,
    positive,
)
from fullsend.resources.pods import PodSettings
from fullsend.resources.template import MessageFields, shows

CAMPAIGN_NAME_LIMIT = 52
"""Longest name of a Campaign: Job names add at most 11 of their 63 characters. CronJob has the same limit."""

FROM_TEMPLATE = ("text", "html", "attachments")
"""Parts of a message that a campaign cannot replace where it names a MailTemplate."""


Url = Annotated[str, matching(r"^https?://[^\r\n\x00]+$", "is not a URL that begins with https://", 2000)]
Mailto = Annotated[str, matching(r"^mailto:[^\s<>,]+@[^\s<>,]+$", "is not a mailto: URL", 500)]
ListId = Annotated[
    str, matching(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$", "is not a list id such as news.mail.example (RFC 2919)", 255)
]
Word = Annotated[str, matching(r"^[-._A-Za-z0-9]+$", "is not an id: letters, digits, '-', '_' and '.'", 64)]


class CampaignClass(StrEnum):
    """Whether recipients may say no: it decides what a message must carry."""

    MARKETING = "Marketing"
    TRANSACTIONAL = "Transactional"


class ReopenState(StrEnum):
    """Ended states that may be retried by name."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    UNRENDERABLE = "unrenderable"
    HELD = "held"
    CANCELLED = "cancelled"


class ExcludeItem(Model):
    """People to leave out. Exactly one of `audienceRef` and `ledgerKey`."""

    audience_ref: NameRef | None = Field(default=None, description="Everybody in this Audience.")
    ledger_key: Name | None = Field(
        default=None,
        description="Everybody in the plan of the campaign with this ledger key (its name, unless it sets "
        "`ledgerKey`), in the same namespace.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from self.exactly_one("audience_ref", "ledger_key")


class Unsubscribe(Model):
    """The way out that recipients get: List-Unsubscribe and List-Id headers, and `unsubscribe_url` in templates."""

    url: Url = Field(
        description="Where a person unsubscribes, a jinja2 template such as `https://mail.example/u?t={{ token }}`. "
        "Templates use it as `unsubscribe_url`. It must name the recipient. GET must not unsubscribe; POST must, "
        "without cookies (RFC 8058)."
    )
    one_click: Bool = Field(
        default=False,
        description="The URL takes an RFC 8058 POST; the message says so in List-Unsubscribe-Post. Needs https. "
        "Marketing needs it. Default: false.",
    )
    list_id: ListId | None = Field(
        default=None,
        description="List-Id of the list (RFC 2919), such as `news.mail.example`. Marketing needs it. Default: no "
        "header.",
    )
    mailto: Mailto | None = Field(
        default=None,
        description="A second way out by mail, a jinja2 template without spaces, such as "
        "`mailto:leave@mail.example?subject={{token}}`. Default: none.",
    )

    def rules(self) -> Iterator[Fault]:
        if self.url and self.one_click and not self.url.startswith("https://"):
            yield Fault(("url",), "must begin with https:// when oneClick is true (RFC 8058)", ("url",))
        if self.url and "{{" not in self.url:
            yield Fault(("url",), "must name the recipient, for example with {{ token }}", ("url",))


class Schedule(Model):
    """When sending may begin and must end."""

    start_at: Time | None = Field(
        default=None, description="Nothing is sent before this time (RFC 3339 with a time zone). Default: at once."
    )
    deadline: Time | None = Field(
        default=None,
        description="Who has not been delivered to by this time becomes `expired` (RFC 3339 with a time zone). "
        "Default: none.",
    )

    def rules(self) -> Iterator[Fault]:
        if self.start_at and self.deadline and self.deadline <= self.start_at:
            yield Fault(("deadline",), "must be after startAt")


class Rollout(Model):
    """A small send first."""

    first: Int = Field(ge=1, le=1_000_000_000, description="Recipients who get the message before it is approved.")
    approved: Bool = Field(default=False, description="Set to true to go on with everybody else. Default: false.")


class Senders(Model):
    """How many pods send, and what they need."""

    max_pods: Int = Field(
        default=2,
        ge=1,
        le=100,
        description="Sender pods at most (processes, in a run without a cluster). Limits hold over all of them. "
        "Default: 2.",
    )
    pod: PodSettings = Field(default_factory=PodSettings, description="Resources, scheduling and labels of the pods.")


class Retry(Model):
    """What follows a failure of one recipient that may pass."""

    min_backoff: Duration = Field(
        default="15m",
        description="Wait after the first such failure; it doubles each time, with jitter upward. Default: `15m`.",
    )
    max_backoff: Duration = Field(default="4h", description="Longest wait between two attempts. Default: `4h`.")
    expire_after: Duration = Field(
        default="72h", description="Counted from a recipient's first failure; then `expired`. Default: `72h`."
    )
    max_unknown_resends: Int = Field(
        default=1,
        ge=0,
        le=10,
        description="Times a message is sent again, with the same Message-ID, when nobody knows whether the relay "
        "took it; then `held`. Default: 1.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from positive(self, "min_backoff", "expire_after")
        if parse_duration(self.max_backoff) < parse_duration(self.min_backoff):
            yield Fault(
                ("maxBackoff",),
                f"must not be shorter than minBackoff ({self.min_backoff})",
                ("maxBackoff", "minBackoff"),
            )


class CampaignLimits(Model):
    """Limits of this campaign, beside those of its transport."""

    rates: tuple[Rate, ...] = Field(
        default=(), max_length=8, description="All of them hold, over all senders. Default: no limit."
    )


class FailurePolicy(Model):
    """When refusals stop the campaign."""

    max_rejected: Percent = Field(
        default="5%",
        description="Share of `rejected` in accepted and rejected beyond which the campaign is Halted, such as "
        "`5%` or `0.3%`. Default: `5%`.",
    )
    min_sample: Int = Field(
        default=200,
        ge=1,
        le=1_000_000_000,
        description="Accepted and rejected recipients before the share is judged. Default: 200.",
    )


class Tolerate(Model):
    """Shares of the eligible recipients that may stay undelivered, by state."""

    expired: Percent = Field(default="0%", description="Time ran out. Default: `0%`.")
    unrenderable: Percent = Field(default="0%", description="The message could not be built for them. Default: `0%`.")
    held: Percent = Field(default="0%", description="Unknown more often than may be resent. Default: `0%`.")


class Completion(Model):
    """When the campaign counts as complete."""

    tolerate: Tolerate = Field(default_factory=Tolerate, description="What may stay undelivered. Default: nobody.")


class Reopen(Model):
    """A request to retry recipients who have ended undelivered or rejected. Carried out once for each `id`."""

    id: Word = Field(description="Any word, not used before for this campaign. A new one is a new request.")
    states: tuple[ReopenState, ...] = Field(
        min_length=1,
        max_length=5,
        description="Whom to retry: `rejected`, `expired`, `unrenderable`, `held`, `cancelled`.",
    )


class CampaignSpec(Model):
    """One message to one audience, once. What the plan freezes (class, message, audiences, exclude, unsubscribe,
    ledgerKey) cannot be edited later; the rest can, while the campaign runs."""

    class_: CampaignClass = Field(
        default=CampaignClass.MARKETING,
        description="`Marketing` needs the unsubscribe block and a visible link; `Transactional` (a receipt, a "
        "notice that is owed) does not. Default: `Marketing`.",
    )
    suspend: Bool = Field(
        default=False, description="Plan and count, but send nothing; senders stop within seconds. Default: false."
    )
    cancel: Bool = Field(
        default=False,
        description="End the campaign for good; who is still missing becomes `cancelled`. Default: false.",
    )
    ledger_key: Name | None = Field(
        default=None,
        description="Identity of this campaign in the ledger. The same key never sends twice to anybody. Cannot be"
        " edited. Default: the name.",
    )
    audiences: tuple[NameRef, ...] = Field(
        min_length=1, max_length=64, description="Audiences that get the message. A person in several gets it once."
    )
    exclude: tuple[ExcludeItem, ...] = Field(
        default=(), max_length=64, description="People to leave out. Default: nobody."
    )
    message_ref: NameRef | None = Field(
        default=None,
        description="The MailTemplate to send. `message` may then set who it is from, the subject and headers; "
        "text, html and attachments are the template's.",
    )
    message: MessageFields | None = Field(
        default=None, description="The message, in place; or, beside `messageRef`, what differs from the template."
    )
    unsubscribe: Unsubscribe | None = Field(
        default=None, description="The way out that recipients get. Marketing needs it. Default: none."
    )
    transport_ref: NameRef = Field(description="The MailTransport that carries the message.")
    schedule: Schedule = Field(default_factory=Schedule, description="When sending may begin and must end.")
    rollout: Rollout | None = Field(default=None, description="A small send first. Default: everybody at once.")
    senders: Senders = Field(default_factory=Senders, description="How many pods send, and what they need.")
    retry: Retry = Field(default_factory=Retry, description="What follows a failure that may pass.")
    limits: CampaignLimits = Field(default_factory=CampaignLimits, description="Limits of this campaign.")
    failure_policy: FailurePolicy = Field(default_factory=FailurePolicy, description="When refusals stop the campaign.")
    completion: Completion = Field(default_factory=Completion, description="When the campaign counts as complete.")
    acknowledged_halt: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        default=None,
        description="The `status.halt.id` of a halt that a person has looked at: sending resumes. Default: none.",
    )
    reopen: Reopen | None = Field(default=None, description="Retry recipients who have ended. Default: nobody.")
    ttl_seconds_after_finished: Int | None = Field(
        default=None,
        ge=0,
        le=2_147_483_647,
        description="Seconds after the end before the Campaign object is deleted; the ledger keeps what it knows. "
        "Default: never.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from self._message_rules()
        yield from self._unsubscribe_rules()
        names = [audience.name for audience in self.audiences or ()]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Fault(("audiences", index, "name"), f"{name} is named twice", ("audiences",))
        for index, item in enumerate(self.exclude or ()):
            if item.audience_ref is not None and item.audience_ref.name in names:
                what = f"{item.audience_ref.name} is also in audiences; nobody would be left of it"
                yield Fault(("exclude", index, "audienceRef", "name"), what, ("exclude", "audiences"))

    def _message_rules(self) -> Iterator[Fault]:
        if self.message is None:
            if self.message_ref is None:
                yield Fault((), "needs message or messageRef", ("message", "messageRef"))
            return
        about = ("message", "messageRef")
        if self.message_ref is None:
            for name in ("from", "subject"):
                if not getattr(self.message, "from_" if name == "from" else name):
                    yield Fault(("message", name), "is required", about)
            if not self.message.text and not self.message.html:
                yield Fault(("message",), "needs a text or an html part", about)
        else:
            for name in FROM_TEMPLATE:
                if getattr(self.message, name):
                    what = f"comes from the MailTemplate {self.message_ref.name}; leave out either this or messageRef"
                    yield Fault(("message", name), what, about)

    def _unsubscribe_rules(self) -> Iterator[Fault]:
        about = ("class", "unsubscribe")
        if self.class_ is CampaignClass.MARKETING:
            way = self.unsubscribe
            if way is None:
                what = "is required for class Marketing: url, oneClick: true and listId"
                yield Fault(("unsubscribe",), what, about)
                return
            if not way.one_click:
                yield Fault(("unsubscribe", "oneClick"), "must be true for class Marketing (RFC 8058)", about)
            if way.list_id is None:
                yield Fault(("unsubscribe", "listId"), "is required for class Marketing (RFC 2919)", about)
            if self.message is not None and self.message_ref is None:
                for fault in visible_way_out(self.message):
                    yield Fault(("message", *fault.path), fault.what, ("class", "message"))


def visible_way_out(message: MessageFields) -> Iterator[Fault]:
    """The rule of class Marketing that every body a recipient may read shows the unsubscribe link. A text part that
    is absent is made from the HTML part, with its links."""
    for name in ("text", "html"):
        body = getattr(message, name)
        if body and not shows(body, "unsubscribe_url"):
            what = "must show the unsubscribe link of class Marketing: use {{ unsubscribe_url }} in it"
            yield Fault((name,), what, (name,))
