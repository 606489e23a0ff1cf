"""What the API server refuses by itself, word by word: what a person reads who has made a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import Api, Refused
from cluster.objects import SPECS, changed, manifest, path
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.campaign import CampaignSpec
from fullsend.resources.problems import check
from fullsend.resources.template import MailTemplateSpec
from fullsend.resources.transport import MailTransportSpec

MODELS = {
    "Campaign": CampaignSpec,
    "Audience": AudienceSpec,
    "MailTemplate": MailTemplateSpec,
    "MailTransport": MailTransportSpec,
}
PDF = {"name": "a.pdf", "contentType": "application/pdf", "data": "aGk="}
TOLD = "Forbidden: comes from the MailTemplate; leave out either this or messageRef"
DURATION = "should match '^([0-9]{1,5}[smhd]){1,4}$'"
SHOW = "Forbidden: must show the unsubscribe link of class Marketing: use {{ unsubscribe_url }} in it"
RESERVED = "Forbidden: a name is reserved: it belongs to fullsend.dev or to Kubernetes"
INLINE = "Required value: is needed for an inline attachment: the HTML part refers to it as cid:<contentId>"
ONE_OF = "needs exactly one of"
REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("Campaign", {"message": None}, "spec: Invalid value: needs message or messageRef"),
    ("Campaign", {"message.from": None}, "spec.message.from: Required value: is required"),
    ("Campaign", {"message.subject": None}, "spec.message.subject: Required value: is required"),
    ("Campaign", {"message.subject": ""}, "spec.message.subject: Required value: is required"),
    ("Campaign", {"message.text": None}, "spec.message: Required value: needs a text or an html part"),
    ("Campaign", {"messageRef": {"name": "t"}}, f"spec.message.text: {TOLD}"),
    (
        "Campaign",
        {"messageRef": {"name": "t"}, "message": {"html": "x", "attachments": [PDF]}},
        f"[spec.message.html: {TOLD}, spec.message.attachments: {TOLD}]",
    ),
    (
        "Campaign",
        {"unsubscribe": None},
        "spec.unsubscribe: Required value: is required for class Marketing: url, oneClick: true and listId",
    ),
    (
        "Campaign",
        {"unsubscribe.oneClick": None},
        "spec.unsubscribe.oneClick: Invalid value: must be true for class Marketing (RFC 8058)",
    ),
    (
        "Campaign",
        {"unsubscribe.listId": None},
        "spec.unsubscribe.listId: Required value: is required for class Marketing (RFC 2919)",
    ),
    (
        "Campaign",
        {"unsubscribe.url": "http://mail.example/{{ token }}"},
        "spec.unsubscribe.url: Invalid value: must begin with https:// when oneClick is true (RFC 8058)",
    ),
    (
        "Campaign",
        {"unsubscribe.url": "https://mail.example/stop"},
        "spec.unsubscribe.url: Invalid value: must name the recipient, for example with {{ token }}",
    ),
    ("Campaign", {"message.text": "Spring."}, f"spec.message.text: {SHOW}"),
    ("Campaign", {"message.html": "<p>Spring.</p>"}, f"spec.message.html: {SHOW}"),
    (
        "Campaign",
        {"audiences": [{"name": "a"}, {"name": "a"}]},
        "spec.audiences: Forbidden: an audience is named twice",
    ),
    (
        "Campaign",
        {"exclude": [{"audienceRef": {"name": "a"}}]},
        "spec.exclude: Forbidden: an audience is also in audiences; nobody would be left of it",
    ),
    ("Campaign", {"exclude": [{}]}, f"spec.exclude[0]: Invalid value: {ONE_OF} audienceRef, ledgerKey"),
    (
        "Campaign",
        {"audiences": []},
        "spec.audiences: Invalid value: 0: spec.audiences in body should have at least 1 items",
    ),
    (
        "Campaign",
        {"schedule": {"startAt": "2026-03-02T00:00:00Z", "deadline": "2026-03-01T00:00:00Z"}},
        "spec.schedule.deadline: Invalid value: must be after startAt",
    ),
    (
        "Campaign",
        {"retry": {"minBackoff": "0s"}},
        "spec.retry.minBackoff: Invalid value: must be longer than zero",
    ),
    (
        "Campaign",
        {"retry": {"minBackoff": "1d", "maxBackoff": "23h59m"}},
        "spec.retry.maxBackoff: Invalid value: must not be shorter than minBackoff",
    ),
    (
        "Campaign",
        {"retry": {"expireAfter": "2 weeks"}},
        f'spec.retry.expireAfter: Invalid value: "2 weeks": spec.retry.expireAfter in body {DURATION}',
    ),
    (
        "Campaign",
        {"retry": {"minBackoff": "-5m"}},
        f'spec.retry.minBackoff: Invalid value: "-5m": spec.retry.minBackoff in body {DURATION}',
    ),
    (
        "Campaign",
        {"limits": {"rates": [{"messages": 1, "per": "0h0m"}]}},
        "spec.limits.rates[0].per: Invalid value: must be longer than zero",
    ),
    (
        "Campaign",
        {"failurePolicy": {"maxRejected": "101%"}},
        'spec.failurePolicy.maxRejected: Invalid value: "101%": spec.failurePolicy.maxRejected in body should match '
        r"'^(100(\.0{1,3})?|[0-9]{1,2}(\.[0-9]{1,3})?)%$'",
    ),
    (
        "Campaign",
        {"senders": {"maxPods": 101}},
        "spec.senders.maxPods: Invalid value: 101: spec.senders.maxPods in body should be less than or equal to 100",
    ),
    (
        "Campaign",
        {"senders": {"pod": {"labels": {"app.kubernetes.io/name": "x"}}}},
        f"spec.senders.pod.labels: {RESERVED}",
    ),
    (
        "Campaign",
        {"senders": {"pod": {"annotations": {"fullsend.dev/x": "x"}}}},
        f"spec.senders.pod.annotations: {RESERVED}",
    ),
    (
        "Campaign",
        {"message.headers": {"Bcc": "all@mail.example"}},
        "spec.message.headers: Forbidden: a header is written by Fullsend or has a field of its own",
    ),
    ("Campaign", {"message.headers": {"a b": "x"}}, "spec.message.headers: Invalid value: a name is not a header name"),
    (
        "Campaign",
        {"message.attachments": [PDF, PDF]},
        "spec.message.attachments: Forbidden: a name is used by an earlier attachment",
    ),
    (
        "Campaign",
        {"message.attachments": [PDF | {"contentId": "c"}, PDF | {"name": "b.pdf", "contentId": "c"}]},
        "spec.message.attachments: Forbidden: a contentId is used by an earlier attachment",
    ),
    (
        "Campaign",
        {"message.attachments": [{"name": "a.pdf", "contentType": "application/pdf"}]},
        f"spec.message.attachments[0]: Invalid value: {ONE_OF} data, configMapKeyRef",
    ),
    ("Campaign", {"message.attachments": [PDF | {"inline": True}]}, f"spec.message.attachments[0].contentId: {INLINE}"),
    ("MailTemplate", {"text": None}, "spec: Required value: needs a text or an html part"),
    (
        "MailTemplate",
        {"headers": {"date": "today"}},
        "spec.headers: Forbidden: a header is written by Fullsend or has a field of its own",
    ),
    ("Audience", {"list": None}, f"spec: Invalid value: {ONE_OF} inline, csv, list, postgres"),
    ("Audience", {"csv": {"file": "a.csv"}}, f"spec: Invalid value: {ONE_OF} inline, csv, list, postgres"),
    ("Audience", {"list": {}}, f"spec.list: Invalid value: {ONE_OF} name, names"),
    ("Audience", {"list": None, "csv": {}}, f"spec.csv: Invalid value: {ONE_OF} configMapKeyRef, file, claim"),
    (
        "Audience",
        {"list": None, "csv": {"claim": {"name": "exports", "path": "june/../../etc/passwd"}}},
        "spec.csv.claim.path: Invalid value: must be relative to the volume, without ..",
    ),
    (
        "Audience",
        {"list": None, "csv": {"claim": {"name": "exports", "path": "/june.csv"}}},
        "spec.csv.claim.path: Invalid value: must be relative to the volume, without ..",
    ),
    (
        "Audience",
        {"list": None, "postgres": {"dsnSecretRef": {"name": "crm"}, "query": "SELECT", "statementTimeout": "0s"}},
        "spec.postgres.statementTimeout: Invalid value: must be longer than zero",
    ),
    (
        "MailTransport",
        {"smtp.tls": "Opportunistic", "smtp.credentialsSecretRef": {"name": "login"}},
        "spec.smtp.tls: Invalid value: may send the password in the clear; with credentialsSecretRef use StartTLS or "
        "Implicit",
    ),
    (
        "MailTransport",
        {"smtp.tls": "Disabled", "smtp.caSecretRef": {"name": "ca"}},
        "spec.smtp.caSecretRef: Forbidden: is of no use with tls Disabled or Opportunistic, which checks no "
        "certificate",
    ),
    (
        "MailTransport",
        {"smtp.timeouts": {"dot": "0s"}},
        "spec.smtp.timeouts.dot: Invalid value: must be longer than zero",
    ),
    (
        "MailTransport",
        {"smtp.port": 0},
        "spec.smtp.port: Invalid value: 0: spec.smtp.port in body should be greater than or equal to 1",
    ),
    (
        "MailTransport",
        {"replyRules": [{"charge": "Sender"}]},
        "spec.replyRules[0]: Invalid value: needs at least one of stage, code, enhanced, pattern",
    ),
]


async def apply(api: Api, document: dict[str, Any]) -> str:
    """The refusal, without the name of the object; "" where it is taken. Nothing is kept."""
    try:
        await api.post(path(document["kind"], "default"), document, dryRun="All", fieldValidation="Strict")
    except Refused as refused:
        _, invalid, why = refused.message.partition(" is invalid: ")
        return why if invalid else refused.message
    return ""


@pytest.mark.parametrize(
    ("kind", "changes", "words"), REFUSALS, ids=lambda value: "" if isinstance(value, dict) else value
)
async def test_the_api_server_refuses(api: Api, kind: str, changes: dict[str, Any], words: str) -> None:
    assert await apply(api, manifest(kind, changes)) == words
    assert check(MODELS[kind], changed(SPECS[kind], changes)).findings, "a run without a cluster takes it"


async def test_a_name_leaves_room_for_the_names_of_jobs(api: Api) -> None:
    assert (await apply(api, manifest("Campaign", name="c" * 53))).startswith(
        "[metadata.name: Too long: may not be more than 52 bytes"
    )
    assert await apply(api, manifest("Campaign", name="a.b")) == (
        "metadata.name: Invalid value: \"a.b\": metadata.name in body should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'"
    )


async def test_a_misspelt_field_is_not_dropped_in_silence(api: Api) -> None:
    assert (await apply(api, manifest("Campaign", {"suspended": True}))).endswith('unknown field "spec.suspended"')


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in SPECS),
        ("Campaign", {"class": "Transactional", "unsubscribe": None, "message.text": "Your receipt."}),
        ("Campaign", {"messageRef": {"name": "t"}, "message": {"subject": "Another"}}),
        ("Campaign", {"retry": {"minBackoff": "1d", "maxBackoff": "23h59m60s"}}),
        ("Campaign", {"retry": {"minBackoff": "90m", "maxBackoff": "7d", "expireAfter": "1h30m"}}),
        ("Campaign", {"message.attachments": [PDF | {"data": "aG\nk=\n"}]}),
        ("Campaign", {"senders": {"pod": {"resources": {"requests": {"cpu": 1, "memory": "256Mi"}}}}}),
        ("Audience", {"list": None, "inline": {"recipients": [{"email": "a@mail.example", "variables": {"n": [1]}}]}}),
        ("MailTransport", {"smtp": {"host": "LOCALHOST", "tls": "Disabled", "credentialsSecretRef": {"name": "x"}}}),
    ],
)
async def test_the_api_server_takes_what_the_models_take(api: Api, kind: str, changes: dict[str, Any]) -> None:
    assert check(MODELS[kind], changed(SPECS[kind], changes)).findings == ()
    assert await apply(api, manifest(kind, changes)) == ""
