"""The rules across fields, in CEL: what the API server can judge by itself before anybody reconciles.

Each model's ``rules`` has them too, in the same words, and more: what needs a parser, or other objects. Invariants: no
rule refuses what the models accept; and a rule of a whole object is a transition rule, for any other would, tightened
later, block its status writes and the removal of its finalizers. A rule of a part lets pass what a write leaves as it
was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from fullsend.resources.audience import AudienceSpec, ClaimPath, CsvSource, ListSource, PostgresSource
from fullsend.resources.base import Model, Rate
from fullsend.resources.campaign import FROM_TEMPLATE, CampaignSpec, ExcludeItem, Retry, Schedule, Unsubscribe
from fullsend.resources.pods import PodSettings
from fullsend.resources.template import RESERVED_HEADERS, RESERVED_PREFIXES, Attachment, MailTemplateSpec, MessageFields
from fullsend.resources.transport import ReplyRule, SmtpRelay, Timeouts

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"]


@dataclass(frozen=True, slots=True)
class CelRule:
    """``path``: the field that is to blame, from the object the rule is about, such as ``.message.subject``."""

    rule: str
    message: str
    path: str = ""
    reason: Reason = "FieldValueInvalid"

    def to_json(self) -> dict[str, str]:
        words = {"rule": self.rule, "message": self.message, "fieldPath": self.path, "reason": self.reason}
        if self.reason == "FieldValueInvalid":
            del words["reason"]  # it is what the API server assumes
        return {key: word for key, word in words.items() if word}


def exactly_one(*names: str) -> CelRule:
    given = ", ".join(f"has(self.{name})" for name in names)
    return CelRule(f"[{given}].exists_one(given, given)", f"needs exactly one of {', '.join(names)}")


def longer_than_zero(*names: str) -> tuple[CelRule, ...]:
    return tuple(
        CelRule(f"!self.{name}.matches('^(0+[smhd])+$')", "must be longer than zero", f".{name}") for name in names
    )


def seconds(duration: str) -> str:
    """A duration in seconds. CEL's own duration() knows no days and takes "-5m"."""
    unit = "p.endsWith('d') ? 86400 : p.endsWith('h') ? 3600 : p.endsWith('m') ? 60 : 1"
    return f"{duration}.findAll('[0-9]+[smhd]').map(p, int(p.substring(0, p.size() - 1)) * ({unit})).sum()"


def filled(name: str) -> str:
    """That a text field is there and not empty."""
    return f"(has(self.{name}) && self.{name} != '')"


def _message() -> Iterator[CelRule]:
    """A message in place is whole; beside a template it leaves the template's parts alone."""
    yield CelRule("has(self.message) || has(self.messageRef)", "needs message or messageRef")
    in_place = "!has(self.message) || has(self.messageRef)"
    yield CelRule(f"{in_place} || has(self.message.from)", "is required", ".message.from", "FieldValueRequired")
    yield CelRule(f"{in_place} || {filled('message.subject')}", "is required", ".message.subject", "FieldValueRequired")
    yield CelRule(
        f"{in_place} || {filled('message.text')} || {filled('message.html')}",
        "needs a text or an html part",
        ".message",
        "FieldValueRequired",
    )
    for name in FROM_TEMPLATE:
        there = f"self.message.{name}.size() > 0" if name == "attachments" else f"self.message.{name} != ''"
        yield CelRule(
            f"!has(self.messageRef) || !has(self.message) || !has(self.message.{name}) || !({there})",
            "comes from the MailTemplate; leave out either this or messageRef",
            f".message.{name}",
            "FieldValueForbidden",
        )


def _marketing() -> Iterator[CelRule]:
    """What class Marketing owes its recipients."""
    other = "self.class != 'Marketing'"
    yield CelRule(
        f"{other} || has(self.unsubscribe)",
        "is required for class Marketing: url, oneClick: true and listId",
        ".unsubscribe",
        "FieldValueRequired",
    )
    yield CelRule(
        f"{other} || !has(self.unsubscribe) || self.unsubscribe.oneClick",
        "must be true for class Marketing (RFC 8058)",
        ".unsubscribe.oneClick",
    )
    yield CelRule(
        f"{other} || !has(self.unsubscribe) || has(self.unsubscribe.listId)",
        "is required for class Marketing (RFC 2919)",
        ".unsubscribe.listId",
        "FieldValueRequired",
    )
    for name in ("text", "html"):
        yield CelRule(
            f"{other} || has(self.messageRef) || !has(self.message) || !{filled(f'message.{name}')}"
            f" || self.message.{name}.contains('unsubscribe_url')",
            "must show the unsubscribe link of class Marketing: use {{ unsubscribe_url }} in it",
            f".message.{name}",
            "FieldValueForbidden",  # unlike Invalid it does not repeat the whole body
        )


_AUDIENCES = (
    CelRule(
        "self.audiences.all(one, self.audiences.exists_one(other, other.name == one.name))",
        "an audience is named twice",
        ".audiences",
        "FieldValueForbidden",
    ),
    CelRule(
        "!has(self.exclude) || !self.exclude.exists(item, has(item.audienceRef)"
        " && self.audiences.exists(one, one.name == item.audienceRef.name))",
        "an audience is also in audiences; nobody would be left of it",
        ".exclude",
        "FieldValueForbidden",
    ),
)

_BODY = CelRule(f"{filled('text')} || {filled('html')}", "needs a text or an html part", "", "FieldValueRequired")

_MESSAGE_FIELDS = (
    CelRule(
        f"!has(self.headers) || self.headers.all(name, !(name.lowerAscii() in {sorted(RESERVED_HEADERS)}"
        f" || name.lowerAscii().matches('^({'|'.join(RESERVED_PREFIXES)})')))",
        "a header is written by Fullsend or has a field of its own",
        ".headers",
        "FieldValueForbidden",
    ),
    CelRule(
        "!has(self.headers) || self.headers.all(name, name.matches('^[!-9;-~]{1,76}$'))",
        "a name is not a header name",
        ".headers",
    ),
    CelRule(
        "!has(self.attachments) || self.attachments.all(one,"
        " self.attachments.exists_one(other, other.name == one.name))",
        "a name is used by an earlier attachment",
        ".attachments",
        "FieldValueForbidden",
    ),
    CelRule(
        "!has(self.attachments) || self.attachments.all(one, !has(one.contentId)"
        " || self.attachments.exists_one(other, has(other.contentId) && other.contentId == one.contentId))",
        "a contentId is used by an earlier attachment",
        ".attachments",
        "FieldValueForbidden",
    ),
)

_RESERVED_PREFIX = "^[^/]*(fullsend[.]dev|kubernetes[.]io|k8s[.]io)/"
_IN_THE_CLEAR = "self.tls in ['Disabled', 'Opportunistic']"

RULES: Mapping[type[Model], tuple[CelRule, ...]] = {
    Rate: longer_than_zero("per"),
    CampaignSpec: (*_message(), *_marketing(), *_AUDIENCES),
    ExcludeItem: (exactly_one("audienceRef", "ledgerKey"),),
    Unsubscribe: (
        CelRule(
            "!self.oneClick || self.url.startsWith('https://')",
            "must begin with https:// when oneClick is true (RFC 8058)",
            ".url",
        ),
        CelRule("self.url.contains('{{')", "must name the recipient, for example with {{ token }}", ".url"),
    ),
    Schedule: (
        CelRule(
            "!has(self.startAt) || !has(self.deadline) || self.deadline > self.startAt",
            "must be after startAt",
            ".deadline",
        ),
    ),
    Retry: (
        *longer_than_zero("minBackoff", "expireAfter"),
        CelRule(
            f"{seconds('self.maxBackoff')} >= {seconds('self.minBackoff')}",
            "must not be shorter than minBackoff",
            ".maxBackoff",
        ),
    ),
    PodSettings: tuple(
        CelRule(
            f"!has(self.{name}) || !self.{name}.exists(key, key.matches('{_RESERVED_PREFIX}'))",
            "a name is reserved: it belongs to fullsend.dev or to Kubernetes",
            f".{name}",
            "FieldValueForbidden",
        )
        for name in ("labels", "annotations")
    ),
    AudienceSpec: (exactly_one("inline", "csv", "list", "postgres"),),
    CsvSource: (exactly_one("configMapKeyRef", "file", "claim"),),
    ClaimPath: (
        CelRule(
            "!self.path.startsWith('/') && !self.path.matches('(^|/)[.][.](/|$)')",
            "must be relative to the volume, without ..",
            ".path",
        ),
    ),
    ListSource: (exactly_one("name", "names"),),
    PostgresSource: longer_than_zero("statementTimeout"),
    MessageFields: _MESSAGE_FIELDS,
    MailTemplateSpec: (*_MESSAGE_FIELDS, _BODY),
    Attachment: (
        exactly_one("data", "configMapKeyRef"),
        CelRule(
            "!self.inline || has(self.contentId)",
            "is needed for an inline attachment: the HTML part refers to it as cid:<contentId>",
            ".contentId",
            "FieldValueRequired",
        ),
    ),
    Timeouts: longer_than_zero("connect", "reply", "dot"),
    SmtpRelay: (
        CelRule(
            f"!has(self.credentialsSecretRef) || !({_IN_THE_CLEAR}) || self.host.lowerAscii() == 'localhost'"
            " || self.host.startsWith('127.') || self.host == '::1'",
            "may send the password in the clear; with credentialsSecretRef use StartTLS or Implicit",
            ".tls",
        ),
        CelRule(
            f"!has(self.caSecretRef) || !({_IN_THE_CLEAR})",
            "is of no use with tls Disabled or Opportunistic, which checks no certificate",
            ".caSecretRef",
            "FieldValueForbidden",
        ),
    ),
    ReplyRule: (
        CelRule(
            "has(self.stage) || has(self.code) || has(self.enhanced) || (has(self.pattern) && self.pattern != '')",
            "needs at least one of stage, code, enhanced, pattern",
        ),
    ),
}
"""By model; a subclass has rules of its own, not those of its base."""

FROZEN = ("class", "message", "messageRef", "audiences", "exclude", "unsubscribe")
"""Fields of a campaign that say who gets what. Once the plan is sealed the ledger's copy is what counts."""


def _unchanged(name: str) -> str:
    here, before = f"self.spec.{name}", f"oldSelf.spec.{name}"
    return f"(has({here}) ? has({before}) && {here} == {before} : !has({before}))"


def campaign_transitions() -> Iterator[CelRule]:
    """Rules of a whole Campaign. A courtesy: a status that was cleared, or an object that was deleted and made anew,
    gets past them. The fingerprint in the ledger is what holds."""

    def key(of: str) -> str:
        return f"(has({of}.spec.ledgerKey) ? {of}.spec.ledgerKey : {of}.metadata.name)"

    yield CelRule(
        f"{key('self')} == {key('oldSelf')}",
        "cannot be edited: it says which campaign this is in the ledger",
        ".spec.ledgerKey",
        "FieldValueForbidden",
    )
    sealed = "has(oldSelf.status) && has(oldSelf.status.plan) && oldSelf.status.plan.state == 'sealed'"
    for name in FROZEN:
        yield CelRule(
            f"!({sealed}) || {_unchanged(name)}",
            "cannot be edited once the plan is sealed: make another Campaign",
            f".spec.{name}",
            "FieldValueForbidden",
        )
