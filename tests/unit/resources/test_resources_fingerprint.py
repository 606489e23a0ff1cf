"""The fingerprint follows what a campaign means: not how it is written, and not what may be edited as it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fullsend.errors import InvalidInput
from fullsend.resources.documents import read_documents
from fullsend.resources.fingerprint import content_from_json, differences, fingerprint, frozen_content
from fullsend.resources.load import load_manifests
from fullsend.resources.manifests import Manifests
from fullsend.resources.resolve import ResolvedCampaign, resolve
from support.manifest_texts import AUDIENCE, CAMPAIGN, TRANSPORT

Load = Callable[..., Manifests]


def resolved(load: Load, *texts: str) -> ResolvedCampaign:
    manifests = load(*texts)
    (campaign,) = manifests.campaigns.values()
    return resolve(manifests, campaign)


def content(
    load: Load, campaign: str = CAMPAIGN, audience: str = AUDIENCE, transport: str = TRANSPORT
) -> dict[str, Any]:
    return frozen_content(resolved(load, audience, transport, campaign))


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    "campaign",
    [
        edited(CAMPAIGN, "spec:\n", "spec:\n  class: Marketing\n  suspend: false\n  exclude: []\n  messageRef: null\n"),
        edited(
            CAMPAIGN,
            "    oneClick: true\n    listId: news.mail.example\n",
            "    listId: 'news.mail.example'\n    oneClick: true\n",
        ),
        edited(CAMPAIGN, "subject: Hello {{ first_name }}", 'subject: "Hello {{ first_name }}"'),
        edited(CAMPAIGN, "html: <p>", "headers: {}\n    attachments: []\n    html: <p>"),
        edited(
            CAMPAIGN,
            '    html: <p>Hello</p><a href="{{ unsubscribe_url }}">Unsubscribe</a>\n',
            '    html: >-\n      <p>Hello</p><a\n      href="{{ unsubscribe_url }}">Unsubscribe</a>\n',
        ),
    ],
    ids=["defaults spelled out", "key order", "quotes", "empty collections", "folded text"],
)
def test_the_way_it_is_written_does_not_count(load: Load, campaign: str) -> None:
    assert fingerprint(content(load, campaign)) == fingerprint(content(load))


def test_yaml_and_json_have_one_fingerprint(load: Load, tmp_path: Path) -> None:
    wanted = fingerprint(content(load))
    items = [item.value for item in read_documents([tmp_path / "all.yaml"])[0]]
    (tmp_path / "all.json").write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items[::-1]}, indent=1))
    manifests = load_manifests([tmp_path / "all.json"])
    assert fingerprint(frozen_content(resolve(manifests, manifests.campaigns["default", "spring"]))) == wanted


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("metadata: {name: spring}", "metadata: {name: summer}"),
        ("spec:\n", "spec:\n  suspend: true\n  schedule: {startAt: '2026-06-01T09:00:00Z'}\n  rollout: {first: 5}\n"),
        ("spec:\n", "spec:\n  senders: {maxPods: 9}\n  retry: {maxUnknownResends: 3}\n  acknowledgedHalt: x\n"),
        (
            "spec:\n",
            "spec:\n  limits: {rates: [{messages: 1, per: 1s}]}\n  ttlSecondsAfterFinished: 5\n  cancel: true\n",
        ),
        ("spec:\n", "spec:\n  failurePolicy: {maxRejected: 50%}\n  completion: {tolerate: {held: 1%}}\n"),
    ],
)
def test_what_may_be_edited_does_not_count(load: Load, old: str, new: str) -> None:
    assert fingerprint(content(load, edited(CAMPAIGN, old, new))) == fingerprint(content(load))


def test_the_order_of_exclusions_does_not_count_but_that_of_audiences_does(load: Load) -> None:
    """The first of two rows of one person wins, so the order of audiences decides who gets which variables."""
    other = AUDIENCE.replace("newsletter", "other")
    texts = (AUDIENCE, other, TRANSPORT)
    both = [
        edited(CAMPAIGN, "[{name: newsletter}]", f"[{{name: {a}}}, {{name: {b}}}]")
        for a, b in (("newsletter", "other"), ("other", "newsletter"))
    ]
    one, two = (fingerprint(frozen_content(resolved(load, *texts, text))) for text in both)
    assert one != two
    more = (*texts, AUDIENCE.replace("newsletter", "third"))
    without = [
        edited(
            CAMPAIGN,
            "spec:\n",
            "spec:\n  exclude: ["
            + ", ".join(f"{{audienceRef: {{name: {name}}}}}" for name in names)
            + ", {ledgerKey: winter}]\n",
        )
        for names in (("other", "third"), ("third", "other"))
    ]
    one, two = (fingerprint(frozen_content(resolved(load, *more, text))) for text in without)
    assert one == two


def test_the_transport_does_not_count(load: Load) -> None:
    other = edited(TRANSPORT, "smtp.mail.example", "other.mail.example, port: 25")
    assert fingerprint(content(load, transport=other)) == fingerprint(content(load))


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("spec:\n", "spec:\n  class: Transactional\n", "spec.class: was 'Marketing', now 'Transactional'"),
        ("Hello {{", "Dear {{", "spec.message.subject: was 'Hello {{ first_name }}', now 'Dear {{ first_name }}'"),
        ("name: Meadow", "name: Pond", "spec.message.from.name: was 'Meadow', now 'Pond'"),
        (
            "    subject",
            "    text: '{{ unsubscribe_url }}'\n    subject",
            "spec.message.text: was not set, now '{{ unsubscribe_url }}'",
        ),
        (", name: Meadow", "", "spec.message.from.name: was 'Meadow', now not set"),
        (
            "u?t=",
            "out?t=",
            "spec.unsubscribe.url: was 'https://mail.example/u?t={{ token }}', "
            "now 'https://mail.example/out?t={{ token }}'",
        ),
        ("spec:\n", "spec:\n  exclude: [{ledgerKey: winter}]\n", 'spec.exclude.campaigns: was [], now ["winter"]'),
    ],
)
def test_what_is_frozen_counts_and_is_named(load: Load, old: str, new: str, difference: str) -> None:
    before, after = content(load), content(load, edited(CAMPAIGN, old, new))
    assert fingerprint(before) != fingerprint(after)
    assert differences(before, after) == [difference]


def test_a_changed_audience_is_named_without_showing_anybody(load: Load) -> None:
    before = content(load)
    more = edited(AUDIENCE, "      - {email", "      - {email: åsa@mail.example}\n      - {email")
    (line,) = differences(before, content(load, audience=more))
    assert line == "spec.audiences[newsletter].spec.inline.recipients: changed (1 recipients before, 2 recipients now)"
    renamed = content(load, edited(CAMPAIGN, "newsletter", "news"), edited(AUDIENCE, "newsletter", "news"))
    assert differences(before, renamed) == ["spec.audiences: newsletter is gone", "spec.audiences: news is new"]


def test_a_long_text_is_shown_around_what_changed(load: Load) -> None:
    long = "x" * 300
    before = content(load, edited(CAMPAIGN, "<p>Hello", f"<p>{long} spring {long}"))
    after = content(load, edited(CAMPAIGN, "<p>Hello", f"<p>{long} summer {long}"))
    (line,) = differences(before, after)
    assert "spring" in line
    assert "summer" in line
    assert len(line) < 200


def test_same_content_has_no_differences(load: Load) -> None:
    assert differences(content(load), content(load)) == []


def test_frozen_content_survives_json_whole(load: Load) -> None:
    staff = AUDIENCE.replace("newsletter", "staff").replace("first_name: Zoë", "first_name: null, tags: [a, {b: null}]")
    campaign = edited(CAMPAIGN, "spec:\n", "spec:\n  exclude: [{audienceRef: {name: staff}}, {ledgerKey: winter}]\n")
    whole = resolved(load, AUDIENCE, staff, TRANSPORT, campaign)
    frozen = content_from_json(json.loads(json.dumps(frozen_content(whole))))
    assert frozen.class_ is whole.spec.class_
    assert frozen.message == whole.message
    assert frozen.audiences == whole.audiences
    assert frozen.excludes == whole.excludes
    assert frozen.exclude_campaigns == whole.exclude_campaigns
    assert frozen.unsubscribe == whole.spec.unsubscribe


def test_content_of_a_later_version_is_refused_by_field(load: Load) -> None:
    later = content(load)
    later["message"]["sparkle"] = True
    with pytest.raises(InvalidInput, match=r"ledger, message\.sparkle: is not a field here"):
        content_from_json(later)


def test_the_parts_and_the_digest_are_pinned(load: Load) -> None:
    """A change here makes every running campaign a different one: it needs a new API version."""
    whole = content(load)
    assert sorted(whole) == ["audiences", "class", "exclude", "message", "unsubscribe"]
    assert fingerprint(whole) == "8aaf420b06730d77601d424ceab3766bb6654cef3a3b6553ab6d767e9783bcef"
