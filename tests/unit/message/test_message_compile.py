"""Whatever is wrong with a message is found before the first recipient, all of it at once."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes
from email.policy import SMTP

import pytest

from fullsend.errors import InvalidInput, LedgerError
from fullsend.message.compile import compile_message
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.compose import Composer
from fullsend.message.declared import source_from_content
from fullsend.message.source import Attachment, MessageSource, source_from_json, source_to_json
from fullsend.resources.fingerprint import content_from_json

MARKETING = MessageSource(
    campaign="spring",
    class_="Marketing",
    from_address="news@example.com",
    from_name="Example News",
    subject="Hello {{ name }}",
    text="Hello {{ name }}\n{{ unsubscribe_url }}\n",
    html='<p>Hello {{ name }}</p><a href="{{ unsubscribe_url }}">Unsubscribe</a>',
    list_id="news.example.com",
    unsubscribe_url="https://example.com/u?t={{ token }}",
)
RECEIPT = MessageSource(
    campaign="receipt", class_="Transactional", from_address="shop@example.com", subject="Receipt", text="Thank you.\n"
)
LOGO = Attachment("logo.png", "image/png", b"\x89PNG", inline=True, content_id="logo")


def problems(source: MessageSource) -> dict[str, str]:
    with pytest.raises(InvalidInput) as invalid:
        compile_message(source)
    return {problem.where: str(problem) for problem in invalid.value.problems}


def headers(source: MessageSource, **variables: str) -> dict[str, str]:
    composer = Composer(compile_message(source))
    data = composer.compose(Recipient("jane@example.org", "tok1", {"name": "Jane", **variables})).data
    return dict(message_from_bytes(data, policy=SMTP).items())


def test_every_problem_is_reported_at_once() -> None:
    source = replace(
        MARKETING,
        from_address="nobody",
        reply_to="also nobody",
        subject="{{ name",
        text="Hello {{ name|uper }}",
        html="<p>\n{% include 'x' %}",
        headers={"Bcc": "x@example.com", "X Y": "1", "X-A": "1", "x-a": "2"},
        list_id="news",
        feedback_id="a b",
        unsubscribe_url="http://example.com/u",
    )
    assert set(problems(source)) == {
        "message.from.address",
        "message.replyTo",
        "message.subject, line 1",
        "message.text, line 1",
        "message.html, line 2",
        "message.headers.Bcc",
        "message.headers.X Y",
        "message.headers.x-a",
        "unsubscribe.listId",
        "message.feedbackId",
        "unsubscribe.url",
    }


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"subject": " "}, "message.subject", "the subject is missing"),
        ({"text": "", "html": ""}, "message", "neither text nor html"),
        ({"campaign": "a b"}, "campaign", "Message-ID"),
        ({"from_address": "jürgen@example.com"}, "message.from.address", "use an ASCII one"),
        ({"unsubscribe_url": ""}, "unsubscribe", "needs a way to unsubscribe"),
        ({"unsubscribe_url": "https://example.com/u"}, "unsubscribe.url", "the same for everybody"),
        ({"unsubscribe_url": "http://example.com/{{ token }}"}, "unsubscribe.url", "RFC 8058"),
        ({"unsubscribe_url": "ftp://example.com/{{ token }}", "one_click": False}, "unsubscribe.url", "is not a link"),
        ({"unsubscribe_url": "https://example.com/{{ unsubscribe_url }}"}, "unsubscribe.url", "made from itself"),
        ({"unsubscribe_mailto": "u@example.com"}, "unsubscribe.mailto", "does not begin with mailto:"),
        ({"html": "<p>Hello</p>"}, "message.html", "the unsubscribe link is not in it"),
        ({"text": "Hello"}, "message.text", "the unsubscribe link is not in it"),
        (
            {"text": "", "html": '<p title="{{ unsubscribe_url }}">Hello</p>'},
            "message.html",
            "does not show in plain text",
        ),
        ({"attachments": (LOGO,), "html": ""}, "message.attachments[0].inline", "no html part"),
        ({"attachments": (LOGO, LOGO)}, "message.attachments[1].contentId", "used twice"),
        ({"attachments": (replace(LOGO, name="a/b"),)}, "message.attachments[0].name", "not a file name"),
        ({"attachments": (replace(LOGO, name="a\r\nBcc: x"),)}, "message.attachments[0].name", "not a file name"),
        (
            {"attachments": (replace(LOGO, content_id="<x>"),)},
            "message.attachments[0].contentId",
            "cannot be a content id",
        ),
        (
            {"attachments": (replace(LOGO, content_type="png"),)},
            "message.attachments[0].contentType",
            "not a media type",
        ),
        (
            {"attachments": (replace(LOGO, content_type="a/b\r\nBcc: x"),)},
            "message.attachments[0].contentType",
            "not a media",
        ),
        (
            {"attachments": (replace(LOGO, content_type="message/rfc822"),)},
            "message.attachments[0].contentType",
            "be attached",
        ),
        (
            {"attachments": (replace(LOGO, data=b"x" * 20_000_001),)},
            "message.attachments",
            "more than 20,000,000 bytes",
        ),
        ({"html": MARKETING.html + '<img src="cid:nope">'}, "message.html", "cid:nope refers to no inline attachment"),
        ({"text": "x" * 2_000_001}, "message.text", "more than 2,000,000 characters"),
    ],
)
def test_a_message_that_cannot_be_right_is_refused(change: dict[str, object], where: str, what: str) -> None:
    assert what in problems(replace(MARKETING, **change))[where]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "From",
        "bcc",
        "Cc",
        "To",
        "Sender",
        "Reply-To",
        "Return-Path",
        "Received",
        "DKIM-Signature",
        "Content-Type",
        "content-transfer-encoding",
        "Resent-From",
        "ARC-Seal",
        "Message-ID",
        "Date",
        "Subject",
        "List-Unsubscribe",
        "Feedback-ID",
        "Authentication-Results",
        "MIME-Version",
        "Auto-Submitted",
        "Precedence",
        "X:Y",
        "",
        "Ünicode",
        "X\r\nBcc",
    ],
)
def test_headers_that_are_not_the_users_are_refused(name: str) -> None:
    assert f"message.headers.{name}" in problems(replace(MARKETING, headers={name: "x"}))


def test_a_template_that_uses_the_link_of_a_missing_block_is_refused() -> None:
    assert "no unsubscribe block" in problems(replace(RECEIPT, text="{{ unsubscribe_url }}"))["message.text"]


def test_marketing_says_bulk_and_how_to_leave() -> None:
    source = replace(MARKETING, unsubscribe_mailto="mailto:leave@example.com?subject={{ token }}", feedback_id="a:b::c")
    assert headers(source) | {"Date": "", "Content-Type": ""} == {
        "From": "Example News <news@example.com>",
        "List-Id": "<news.example.com>",
        "Feedback-ID": "a:b::c",
        "Precedence": "bulk",
        "MIME-Version": "1.0",
        "To": "jane@example.org",
        "Subject": "Hello Jane",
        "Date": "",
        "Message-ID": "<tok1.spring@example.com>",
        "List-Unsubscribe": "<https://example.com/u?t=tok1>, <mailto:leave@example.com?subject=tok1>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "Content-Type": "",
    }


def test_transactional_says_that_it_was_generated() -> None:
    found = headers(replace(RECEIPT, reply_to="help@exämple.com", reply_to_name="Help, Inc."))
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["Reply-To"] == '"Help, Inc." <help@xn--exmple-cua.com>'
    assert not {"Precedence", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id"} & found.keys()


def test_without_one_click_no_post_is_promised() -> None:
    assert "List-Unsubscribe-Post" not in headers(replace(MARKETING, one_click=False))


def test_the_domain_of_the_message_id_is_an_a_label() -> None:
    source = replace(RECEIPT, from_address="shop@bücher.example")
    assert headers(source)["Message-ID"] == "<tok1.receipt@xn--bcher-kva.example>"


def test_custom_headers_are_templates_and_empty_ones_are_left_out() -> None:
    source = replace(
        MARKETING, headers={"X-Fixed": "a{# no #}b", "X-Name": "{{ name }}", "X-Empty": "{{ '' }}", "X-Blank": " "}
    )
    found = headers(source)
    assert (found["X-Fixed"], found["X-Name"]) == ("ab", "Jane")
    assert not {"X-Empty", "X-Blank"} & found.keys()


def test_required_and_optional_names_of_all_parts_are_collected() -> None:
    source = replace(
        MARKETING,
        subject="{{ a }}{{ email }}{{ campaign }}",
        text="{{ b|default('x') }}{{ c }}{{ unsubscribe_url }}{{ token }}",
        html="{{ b }}{{ d|d('') }}{{ unsubscribe_url }}",
        headers={"X-E": "{{ e }}"},
        unsubscribe_url="https://example.com/{{ f }}",
    )
    compiled = compile_message(source)
    assert compiled.required == ("a", "b", "c", "e", "f")
    assert compiled.optional == ("d",)
    assert Composer(compiled).variables == frozenset("abcef")


def test_a_compiled_message_survives_storage() -> None:
    compiled = compile_message(replace(MARKETING, attachments=(LOGO,), headers={"X-N": "{{ name }}"}))
    data = compiled.to_bytes()
    again = CompiledMessage.from_bytes(data)
    assert again == compiled
    assert again.to_bytes() == data
    recipient = Recipient("jane@example.org", "t", {"name": "Jane"})
    first, second = (Composer(message).compose(recipient).data for message in (compiled, again))
    assert first.partition(b"Date:")[0] == second.partition(b"Date:")[0]


def test_a_newer_format_is_not_guessed_at() -> None:
    data = compile_message(RECEIPT).to_bytes().replace(b'"format":1', b'"format":2')
    with pytest.raises(LedgerError, match="upgrade Fullsend"):
        CompiledMessage.from_bytes(data)


def test_a_source_survives_the_way_into_the_compiler_process() -> None:
    source = replace(MARKETING, attachments=(LOGO,), headers={"X-N": "ü"})
    assert source_from_json(source_to_json(source)) == source


def test_declared_content_becomes_a_source() -> None:
    content = content_from_json(
        {
            "class": "Marketing",
            "message": {
                "from": {"address": "news@example.com", "name": "News"},
                "replyTo": {"address": "help@example.com"},
                "subject": "Hi {{ name }}",
                "html": MARKETING.html,
                "headers": {"X-A": "b"},
                "feedbackId": "a:b:c",
                "attachments": [
                    {"name": "a.txt", "contentType": "text/plain", "data": "aGk="},
                    {
                        "name": "logo.png",
                        "contentType": "image/png",
                        "configMapKeyRef": {"name": "files", "key": "logo.png"},
                        "inline": True,
                        "contentId": "logo",
                    },
                ],
            },
            "audiences": [],
            "exclude": {"audiences": [], "campaigns": []},
            "unsubscribe": {
                "url": "https://example.com/u?t={{ token }}",
                "oneClick": True,
                "listId": "news.example.com",
                "mailto": "mailto:leave@example.com?subject={{token}}",
            },
        }
    )
    with pytest.raises(InvalidInput, match=r"logo\.png"):
        source_from_content(content, "spring", {})
    source = source_from_content(content, "spring", {"logo.png": b"\x89PNG"})
    assert source == MessageSource(
        campaign="spring",
        class_="Marketing",
        from_address="news@example.com",
        from_name="News",
        reply_to="help@example.com",
        subject="Hi {{ name }}",
        html=MARKETING.html,
        headers={"X-A": "b"},
        feedback_id="a:b:c",
        attachments=(Attachment("a.txt", "text/plain", b"hi"), LOGO),
        list_id="news.example.com",
        unsubscribe_url="https://example.com/u?t={{ token }}",
        unsubscribe_mailto="mailto:leave@example.com?subject={{token}}",
        one_click=True,
    )
    compile_message(source)
