"""The declared kinds: every field explained, every rule held, every schema structural."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from fullsend.resources.base import Fault, Model
from fullsend.resources.campaign import CampaignSpec, ReopenState, Retry, Schedule, Unsubscribe
from fullsend.resources.models import (
    AudienceSpec,
    CampaignStatus,
    Charge,
    MailTemplateSpec,
    MailTransportSpec,
    MessageSpec,
    parse_duration,
    parse_percent,
)
from fullsend.resources.schema import structural_schema
from fullsend.resources.template import BODY_LIMIT, shows
from fullsend.smtp.rules import Charge as SmtpCharge
from fullsend.states import REOPENABLE, DeliveryState

KINDS = (CampaignSpec, AudienceSpec, MailTemplateSpec, MailTransportSpec, CampaignStatus)
STRUCTURAL = {
    "type", "description", "properties", "items", "required", "enum", "default", "format", "pattern", "minimum",
    "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties", "additionalProperties",
}  # fmt: skip


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield f"{path}[]", {"description": "an entry", **schema[inner]}
            yield from fields(schema[inner], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_description_and_says_its_default(kind: type[BaseModel]) -> None:
    for path, field in fields(structural_schema(kind)):
        assert field.get("description", "").endswith((".", "an entry")), path
        default = field.get("default")
        if isinstance(default, dict):
            continue  # a part's: each of its fields says its own
        if kind is not CampaignStatus and default is not None:
            shown = (
                str(default).lower()
                if isinstance(default, bool)
                else f"{default:,}"
                if default == 1e9
                else str(default)
            )
            assert f"Default: {shown}" in field["description"].replace("`", ""), path


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_structural(kind: type[BaseModel]) -> None:
    for path, field in fields(structural_schema(kind)):
        words = {word for word in field if not word.startswith("x-kubernetes-")}
        if field.get("x-kubernetes-int-or-string"):
            assert field["anyOf"] == [{"type": "integer"}, {"type": "string"}]
            continue
        assert "type" in words, path
        assert words <= STRUCTURAL, path


@pytest.mark.parametrize("kind", [CampaignSpec, AudienceSpec, MailTemplateSpec, MailTransportSpec])
def test_every_list_and_text_is_bounded(kind: type[BaseModel]) -> None:
    """CEL rules have a cost estimate, and an unbounded field makes it infinite."""
    for path, field in fields(structural_schema(kind)):
        if field.get("type") == "array":
            assert "maxItems" in field, path
        if field.get("type") == "string" and field.get("description") != "an entry":
            assert "maxLength" in field or "enum" in field or field.get("format") == "date-time", path


def test_the_counters_of_status_are_the_states_of_the_ledger() -> None:
    assert {state.value for state in DeliveryState} < set(CampaignStatus.model_fields)
    status = CampaignStatus()
    assert status.observed_generation == -1
    assert all(getattr(status, state.value) == 0 for state in DeliveryState)


def test_status_written_by_a_later_operator_is_read() -> None:
    status = CampaignStatus.model_validate(
        {
            "accepted": 7,
            "sparkle": 1,
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "Sending", "lastTransitionTime": "2026-06-01T09:00:00Z"}
            ],
        }
    )
    assert (status.accepted, status.conditions[0].status) == (7, "True")
    assert CampaignStatus.model_validate(status.model_dump(mode="json", by_alias=True)) == status


def test_what_can_be_reopened_is_what_the_ledger_can_reopen() -> None:
    assert {state.value for state in ReopenState} == {state.value for state in REOPENABLE}


def test_a_reply_rule_charges_whom_the_classifier_can_charge() -> None:
    assert {charge.value for charge in Charge} == {charge.value for charge in SmtpCharge}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("7d", 604800), ("0s", 0), ("1d2h3m4s", 93784)]
)
def test_a_duration_is_a_row_of_numbers_and_units(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "2 weeks", "1.5h", "5m\n", "5M", "1h1h1h1h1h", "123456s", "٣s"])
def test_anything_else_is_no_duration_for_the_helper_and_the_model_alike(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
    with pytest.raises(ValidationError):
        Retry(min_backoff=text)


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0.3%", 0.003), ("100%", 1.0), ("0%", 0.0), ("99.999%", 0.99999)]
)
def test_a_percentage_is_a_share(text: str, share: float) -> None:
    assert parse_percent(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "101%", "-1%", "5 %", "100.5%", ".5%"])
def test_anything_else_is_no_percentage(text: str) -> None:
    with pytest.raises(ValueError, match="is not a percentage"):
        parse_percent(text)


def problems(kind: type[Model], **raw: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(raw)
    return [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in caught.value.errors()]


MESSAGE = {"from": {"address": "a@mail.example"}, "subject": "s", "html": "{{ unsubscribe_url }}"}
PICTURE = {"name": "a", "contentType": "image/png", "data": "aGk="}
UNSUBSCRIBE = {"url": "https://mail.example/{{ token }}", "oneClick": True, "listId": "news.mail.example"}


def campaign(**changes: Any) -> dict[str, Any]:
    spec = {"audiences": [{"name": "n"}], "transportRef": {"name": "r"}, "message": MESSAGE, "unsubscribe": UNSUBSCRIBE}
    return {key: value for key, value in {**spec, **changes}.items() if value is not None}


def test_a_marketing_campaign_needs_a_way_out() -> None:
    CampaignSpec.model_validate(campaign())
    assert problems(CampaignSpec, **campaign(unsubscribe=None)) == [
        "unsubscribe: is required for class Marketing: url, oneClick: true and listId"
    ]
    assert problems(CampaignSpec, **campaign(unsubscribe={"url": UNSUBSCRIBE["url"]})) == [
        "unsubscribe.oneClick: must be true for class Marketing (RFC 8058)",
        "unsubscribe.listId: is required for class Marketing (RFC 2919)",
    ]


@pytest.mark.parametrize(
    ("bodies", "named"),
    [
        ({"html": "no link"}, ["message.html"]),
        ({"text": "no link", "html": None}, ["message.text"]),
        ({"text": "no link"}, ["message.text"]),
        ({"text": "{{ unsubscribe_url }}", "html": "<!-- {{ unsubscribe_url }} -->"}, ["message.html"]),
        ({"text": "none", "html": "none"}, ["message.text", "message.html"]),
    ],
)
def test_every_body_of_a_marketing_campaign_shows_the_link(bodies: dict[str, Any], named: list[str]) -> None:
    message = {key: value for key, value in {**MESSAGE, **bodies}.items() if value is not None}
    assert [each.split(":")[0] for each in problems(CampaignSpec, **campaign(message=message))] == named


def test_a_transactional_campaign_needs_none_of_it() -> None:
    message = {**MESSAGE, "html": "Your receipt"}
    CampaignSpec.model_validate(campaign(**{"class": "Transactional"}, unsubscribe=None, message=message))


@pytest.mark.parametrize(
    ("template", "seen"),
    [
        ("{{ unsubscribe_url }}", True),
        ("{{unsubscribe_url|e}}", True),
        ("{{- link(unsubscribe_url) -}}", True),
        ("{% set out = unsubscribe_url %}{{ out }}", True),
        ("{{ a }}{{\n unsubscribe_url\n}}", True),
        ("{{ 'it\\'s' ~ unsubscribe_url }}", True),
        ("{% raw %}{{ x }}{% endraw %}{{ unsubscribe_url }}", True),
        ("{# <!-- #}{{ unsubscribe_url }}", True),
        ("<!-- {{ unsubscribe_url }}", False),
        ("{{ 'it\\'s unsubscribe_url' }}", False),
        ("{{ unsubscribe_urls }}", False),
        ("{{ my.unsubscribe_url }}", False),
        ("{{ 'unsubscribe_url' }}", False),
        ("unsubscribe_url", False),
        ("{# {{ unsubscribe_url }} #}", False),
        ("<!-- {{ unsubscribe_url }} -->", False),
        ("{% raw %}{{ unsubscribe_url }}{% endraw %}", False),
        ("{% if unsubscribe_url %}x{% endif %}", False),
    ],
)
def test_a_link_counts_only_where_a_reader_sees_it(template: str, seen: bool) -> None:
    assert shows(template, "unsubscribe_url") is seen


@pytest.mark.parametrize("piece", ["{{", "<!--", "{{ '\\'", "{% raw %}", "{% ", "{#", "{{ x }}", "\\'"])
def test_a_hostile_template_is_looked_at_in_linear_time(piece: str) -> None:
    """Quadratic scanning of half a megabyte would take minutes; this takes a tenth of a second."""
    hostile = (piece * BODY_LIMIT)[:BODY_LIMIT]
    started = time.perf_counter()
    assert not shows(hostile, "unsubscribe_url")
    assert not shows("{{ " + hostile + " }}", "unsubscribe_url")
    assert time.perf_counter() - started < 5


def test_one_click_needs_https_and_a_url_that_knows_the_recipient() -> None:
    assert problems(Unsubscribe, url="http://mail.example/{{ token }}", oneClick=True) == [
        "url: must begin with https:// when oneClick is true (RFC 8058)"
    ]
    assert problems(Unsubscribe, url="https://mail.example/out") == [
        "url: must name the recipient, for example with {{ token }}"
    ]


@pytest.mark.parametrize(
    ("kind", "raw", "problem"),
    [
        (Retry, {"minBackoff": "5h"}, "maxBackoff: must not be shorter than minBackoff (5h)"),
        (Retry, {"minBackoff": "0s"}, "minBackoff: must be longer than zero"),
        (Schedule, {"startAt": "2026-06-01T09:00:00Z", "deadline": "2026-06-01T10:00:00+02:00"},
         "deadline: must be after startAt"),
        (CampaignSpec, campaign(audiences=[{"name": "n"}, {"name": "n"}]), "audiences.1.name: n is named twice"),
        (CampaignSpec, campaign(message=None), ": needs message or messageRef"),
        (CampaignSpec, campaign(message={"html": MESSAGE["html"], "subject": "s"}), "message.from: is required"),
        (CampaignSpec, campaign(exclude=[{}]), "exclude.0: needs exactly one of audienceRef, ledgerKey; found none"),
        (CampaignSpec, campaign(senders={"pod": {"labels": {"fullsend.dev/campaign": "x"}}}),
         "senders.pod.labels.fullsend.dev/campaign: is reserved"),
        (AudienceSpec, {"csv": {"file": "a", "claim": {"name": "b", "path": "c"}}},
         "csv: needs exactly one of configMapKeyRef, file, claim; found file and claim"),
        (AudienceSpec, {"csv": {"claim": {"name": "b", "path": "../c"}}},
         "csv.claim.path: must be relative to the volume, without .."),
        (AudienceSpec, {"list": {"name": "a", "names": ["b"]}},
         "list: needs exactly one of name, names; found name and names"),
        (MessageSpec, {**MESSAGE, "headers": {"Subject": "x"}},
         "headers.Subject: Subject is written by Fullsend or has a field of its own"),
        (MessageSpec, {**MESSAGE, "headers": {"X-A": "x", "x-a": "y"}}, "headers.x-a: is the same header as X-A"),
        (MessageSpec, {**MESSAGE, "attachments": [{**PICTURE, "data": "!"}]},
         "attachments.0.data: is not base64"),
        (MessageSpec, {**MESSAGE, "attachments": [{**PICTURE, "inline": True}]},
         "attachments.0.contentId: is needed for an inline attachment: the HTML part refers to it as cid:<contentId>"),
        (MessageSpec, {"from": MESSAGE["from"], "subject": "s"}, ": needs a text or an html part"),
        (MailTransportSpec, {"smtp": {"host": "h"}, "replyRules": [{"charge": "Sender"}]},
         "replyRules.0: needs at least one of stage, code, enhanced, pattern"),
    ],
)  # fmt: skip
def test_a_rule_across_fields_names_the_field(kind: type[Model], raw: dict[str, Any], problem: str) -> None:
    assert problems(kind, **raw) == [problem]


@pytest.mark.parametrize("tls", ["Disabled", "Opportunistic"])
def test_a_password_is_not_sent_in_the_clear_but_to_this_machine(tls: str) -> None:
    smtp = {"host": "relay.mail.example", "tls": tls, "credentialsSecretRef": {"name": "s"}}
    (problem,) = problems(MailTransportSpec, smtp=smtp)
    assert problem.startswith(f"smtp.tls: {tls} may send the password in the clear")
    for host in ("127.0.0.1", "localhost", "::1"):
        MailTransportSpec.model_validate({"smtp": {**smtp, "host": host}})


def test_a_rule_is_held_however_the_model_is_made() -> None:
    with pytest.raises(ValidationError, match="maxBackoff"):
        Retry(min_backoff="5h")


def test_values_are_frozen_and_never_coerced() -> None:
    retry = Retry()
    with pytest.raises(ValidationError):
        retry.min_backoff = "1s"  # type: ignore[misc]
    for wrong in ("1", True, 1.0):
        with pytest.raises(ValidationError):
            Retry.model_validate({"maxUnknownResends": wrong})


def test_a_fault_is_a_value() -> None:
    assert Fault(("a",), "x") == Fault(("a",), "x")
