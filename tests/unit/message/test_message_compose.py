"""What goes on the wire reads back, in two independent parsers, as what jinja2 rendered."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP, default

import fast_mail_parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fullsend.errors import RenderError
from fullsend.message import compose as compose_module
from fullsend.message.compile import compile_message
from fullsend.message.compiled import Recipient
from fullsend.message.compose import Composed, Composer, preview, uri
from fullsend.message.encoding import quoted_printable
from fullsend.message.headers import collapsed
from fullsend.message.plaintext import text_of
from fullsend.message.source import Attachment, MessageSource

SOURCE = MessageSource(
    campaign="spring",
    class_="Transactional",
    from_address="news@example.com",
    from_name="Example News",
    subject="Hello {{ a }}",
    text="Hello {{ a }}\n",
)
LOGO = Attachment("logo.png", "image/png", bytes(range(256)) * 5, inline=True, content_id="logo@x")
NOTE = Attachment("Jahresbericht für alle.pdf", "application/pdf", b"%PDF" * 500)

FRAGMENTS = [
    "{{ a }}",
    "{{ b }}",
    "{{ a|upper }}",
    "{{ a ~ b }}",
    "{{ '\\r' }}",
    "{{ '\\n.' }}",
    "{{ 'x' * 80 }}",
    "{{ n }}",
    "{{ missing }}",
    "{% for x in items %}{{ x }}\n.{% endfor %}",
    "{% for x in items %}{{ loop.index }}{% else %}none{% endfor %}",
    "{% if a %}yes{% else %}no{% endif %}",
    "{%- if b -%} yes {%- endif -%}",
    "{% set c = a %}{{ c }}",
    "{% set c %}.{{ b }}{% endset %}{{ c }}",
    "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(a) }}{{ m(b) }}",
    "{% filter upper %}x{{ a }}{% endfilter %}",
    "{# comment #}",
    "{% raw %}{{ raw }}{% endraw %}",
    "{% autoescape true %}{{ a }}&{% endautoescape %}",
    "{% block z %}{{ a }}{% endblock %}",
    "{% with d = a %}{{ d }}{% endwith %}",
    "{{ items|join('\\r\\n') }}",
    "{{ a|replace('a', '\\r') }}",
    "{% call k() %}.{{ b }}{% endcall %}",
    "text",
    ".",
    "\n",
    "\n.\n",
    "\r\n..\r\n",
    "From here\n",
    " ",
    "\t\n",
    "=",
    "é",
    "日本語",
    "😀",
    "y" * 200,
    "\u202e",
    "&<>\"'",
]
KEEPER = "{% macro k() %}{{ caller() }}{% endmacro %}"
TEMPLATES = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12).map(
    lambda parts: KEEPER + "".join(part.replace("block z", f"block z{index}") for index, part in enumerate(parts))
)
VALUES = st.text(max_size=60) | st.lists(
    st.sampled_from(
        ["\r", "\n", "\r\n", ".", "\r\n.\r\n", "From ", "=", " ", "a", "é", "\ud83d", "\0", "\u2028", "z" * 90]
    ),
    max_size=12,
).map("".join)


def plain(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def compose(source: MessageSource, **variables: object) -> Composed:
    return Composer(compile_message(source)).compose(Recipient("jane@example.org", "tok1", variables))


def assert_ready_for_smtp(composed: Composed) -> None:
    data = composed.data
    assert data.endswith(b"\r\n")
    assert composed.smtputf8 or data.isascii()
    body = False
    for line in data[:-2].split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        assert not line.startswith(b".")
        body = body or not line
        assert len(line) <= (76 if body else 998)


def read(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert not part.defects
    return message


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    content = part.get_content()
    assert isinstance(content, str)
    assert "\r" not in content.replace("\r\n", "")
    return content.replace("\r\n", "\n")


@settings(max_examples=300, deadline=None)
@given(TEMPLATES, TEMPLATES, VALUES, VALUES, st.lists(VALUES, max_size=3))
@example("{{ a }}{{ b }}", "{{ a }}\n{{ b }}", "\r", "\n", [])
@example(".{{ a }}", "{{ a }}", "\r\n.\r\n", "", [])
def test_what_is_sent_reads_back_as_what_was_rendered(text: str, html: str, a: str, b: str, items: list[str]) -> None:
    source = replace(SOURCE, subject="S {{ a }}", text=text, html=html)
    recipient = Recipient("jane@example.org", "tok1", {"a": a, "b": b, "n": None, "items": items, "missing": 7})
    assert_reads_back(Composer(compile_message(source)), recipient)


EVERYTHING = Composer(
    compile_message(
        replace(SOURCE, subject="S {{ a }}", text=KEEPER + "".join(FRAGMENTS), html=KEEPER + "\n".join(FRAGMENTS))
    )
)


@settings(max_examples=1000, deadline=None)
@given(VALUES, VALUES, st.lists(VALUES, max_size=3))
def test_thousands_of_values_read_back_as_rendered(a: str, b: str, items: list[str]) -> None:
    values = {"a": a, "b": b, "n": None, "items": items, "missing": 7}
    assert_reads_back(EVERYTHING, Recipient("jane@example.org", "tok1", values))


def assert_reads_back(composer: Composer, recipient: Recipient) -> None:
    rendered = composer.render(recipient)
    composed = composer.compose(recipient)
    assert_ready_for_smtp(composed)

    message = read(composed.data)
    assert message["Subject"] == collapsed(f"S {recipient.variables['a']}") == composed.subject == rendered.subject
    assert body(message, "plain") == plain(rendered.text)
    assert body(message, "html") == plain(rendered.html)

    other = fast_mail_parser.parse_email(composed.data)
    assert other.subject == composed.subject
    assert [part.replace("\r\n", "\n") for part in other.text_plain] == [plain(rendered.text)]
    assert [part.replace("\r\n", "\n") for part in other.text_html] == [plain(rendered.html)]


@settings(max_examples=50, deadline=None)
@given(TEMPLATES, VALUES)
def test_the_table_of_static_text_decides_nothing(text: str, a: str) -> None:
    recipient = Recipient(
        "j@example.org", "t", {"a": a, "b": a, "n": None, "items": [a], "missing": 7}, datetime.now(UTC)
    )
    compiled = compile_message(replace(SOURCE, subject="S", text=text))
    with_table, without = Composer(compiled), Composer(compiled)
    without._encoded.clear()
    assert with_table.compose(recipient).data == without.compose(recipient).data


def test_static_text_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Static é\n{% if a %}more static ü {{ a }}{% endif %}{% for x in items %}row: ö{{ x }}\n{% endfor %}"
    composer = Composer(compile_message(replace(SOURCE, subject="S", text=text)))
    seen: list[str] = []

    def spy(chunk: str) -> bytes:
        seen.append(chunk)
        return quoted_printable(chunk)

    monkeypatch.setattr(compose_module, "quoted_printable", spy)
    composer.compose(Recipient("jane@example.org", "t", {"a": "A", "items": [1, 2]}))
    assert seen == ["A", "1", "2"]


@pytest.mark.parametrize(
    "value", ["x" * 1_000_000, "wort für wort\r\n" * 70_000, "日本語" * 100_000, "." * 1_000_000, " " * 300_000]
)
def test_large_bodies_arrive_whole(value: str) -> None:
    composed = compose(replace(SOURCE, subject="S", text="{{ v }}", html="<p>{{ v }}</p>"), v=value)
    assert_ready_for_smtp(composed)
    message = read(composed.data)
    assert body(message, "plain") == plain(value)
    assert body(message, "html") == f"<p>{plain(value)}</p>"


def test_mostly_non_ascii_text_goes_as_base64() -> None:
    composed = compose(replace(SOURCE, text="こんにちは、{{ a }}さん。\n\n.\nFrom here\n" * 20), a="太郎\r\n.\r\n")
    assert_ready_for_smtp(composed)
    message = read(composed.data)
    assert message["Content-Transfer-Encoding"] == "base64"
    assert body(message, "plain") == "こんにちは、太郎\n.\nさん。\n\n.\nFrom here\n" * 20


HTML = '<p>Hi {{ a }}</p><img src="cid:logo@x">'


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({}, ["text/plain"]),
        ({"html": HTML}, ["multipart/alternative", "text/plain", "text/html"]),
        (
            {"html": HTML, "attachments": (LOGO,)},
            ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"],
        ),
        ({"attachments": (NOTE,)}, ["multipart/mixed", "text/plain", "application/pdf"]),
        (
            {"html": HTML, "attachments": (NOTE, LOGO)},
            [
                "multipart/mixed",
                "multipart/alternative",
                "text/plain",
                "multipart/related",
                "text/html",
                "image/png",
                "application/pdf",
            ],
        ),
    ],
)
def test_the_structure_follows_from_the_content(change: dict[str, object], shape: list[str]) -> None:
    source = replace(SOURCE, **change)  # type: ignore[arg-type]
    if "cid:" in source.html and LOGO not in source.attachments:
        source = replace(source, html="<p>Hi {{ a }}</p>")
    composed = compose(source, a="Jane")
    assert_ready_for_smtp(composed)
    message = read(composed.data)
    assert [part.get_content_type() for part in message.walk()] == shape
    assert body(message, "plain") == "Hello Jane\n"
    found = {part.get_filename(): part for part in message.walk() if part.get_filename()}
    for attachment in source.attachments:
        part = found[attachment.name]
        assert part.get_payload(decode=True) == attachment.data
        assert part.get_content_disposition() == ("inline" if attachment.inline else "attachment")
        if attachment.inline:
            assert part["Content-ID"] == "<logo@x>"
    other = fast_mail_parser.parse_email(composed.data)
    assert {attachment.filename: attachment.content for attachment in other.attachments} == {
        attachment.name: attachment.data for attachment in source.attachments
    }


@pytest.mark.parametrize("text", ["--=_0_a", "--", "--=_"])
def test_no_content_can_close_a_part(text: str) -> None:
    source = replace(SOURCE, html="<p>x</p>")
    boundary = read(compose(source, a="x").data).get_boundary()
    value = f"\r\n--{boundary}--\r\n\r\n--{boundary}\r\nContent-Type: text/html\r\n\r\n{text}"
    message = read(compose(replace(source, text="{{ v }}"), a="x", v=value).data)
    assert body(message, "plain") == plain(value)
    assert len(list(message.walk())) == 3


def test_a_value_cannot_become_a_header() -> None:
    source = replace(SOURCE, headers={"X-Name": "{{ a }}"}, subject="Hi {{ a }}")
    data = compose(source, a="x\r\nBcc: victim@example.com\r\n\r\nbody").data
    message = read(data)
    assert "Bcc" not in message
    assert message["Subject"] == "Hi x Bcc: victim@example.com body"
    assert message["X-Name"] == "x Bcc: victim@example.com body"


def test_attempts_share_message_id_and_bytes_but_for_the_date() -> None:
    composer = Composer(compile_message(SOURCE))
    recipient = Recipient("jane@example.org", "k3v9", {"a": "Jane"})
    first = composer.compose(replace(recipient, date=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    second = composer.compose(replace(recipient, date=datetime(2026, 1, 3, 3, 4, 5, tzinfo=UTC)))
    assert first.message_id == second.message_id == "<k3v9.spring@example.com>"
    assert b"Date: Fri, 02 Jan 2026 03:04:05 +0000\r\n" in first.data
    assert first.data.replace(b"Fri, 02", b"Sat, 03") == second.data


def test_the_date_is_that_of_composing() -> None:
    message = read(compose(SOURCE, a="Jane").data)
    assert abs((datetime.now(UTC) - message["Date"].datetime).total_seconds()) < 5
    assert message["Date"].endswith("+0000")


def test_a_non_ascii_local_part_needs_smtputf8_and_a_domain_does_not() -> None:
    composer = Composer(compile_message(SOURCE))
    composed = composer.compose(Recipient("jürgen@bücher.example", "t", {"a": "J"}))
    assert composed.smtputf8
    assert "To: <jürgen@xn--bcher-kva.example>\r\n".encode() in composed.data
    composed = composer.compose(Recipient("jane@bücher.example", "t", {"a": "J"}))
    assert not composed.smtputf8
    assert composed.data.isascii()


def test_long_addresses_and_links_keep_to_the_line_limit() -> None:
    address = f"{'a' * 64}@{'.'.join(['b' * 60] * 4)}"
    source = replace(SOURCE, unsubscribe_url="https://example.com/{{ a }}{{ token }}", subject="S")
    composed = Composer(compile_message(source)).compose(Recipient(address, "t", {"a": "x" * 900}))
    assert_ready_for_smtp(composed)
    assert read(composed.data)["To"].addresses[0].addr_spec == address


@pytest.mark.parametrize(
    ("recipient", "what"),
    [
        (Recipient("jane@example.org", "t", {}), "subject, line 1: 'a' is undefined"),
        (Recipient("nobody", "t", {"a": "x"}), "'nobody' is not an e-mail address"),
        (Recipient("jane@example.org", "t>\r\n", {"a": "x"}), "cannot be part of a Message-ID"),
        (Recipient("jane@example.org", "", {"a": "x"}), "cannot be part of a Message-ID"),
        (Recipient("jane@example.org", "t", {"a": " \r\n "}), "subject: it is empty for this recipient"),
        (Recipient("jane@example.org", "t", {"a": "x" * 20_000}), "subject: more than 10,000 characters"),
    ],
)
def test_a_recipient_without_a_message_is_an_error_with_a_reason(recipient: Recipient, what: str) -> None:
    with pytest.raises(RenderError, match=re.escape(what)):
        Composer(compile_message(replace(SOURCE, subject="{{ a }}", text="{{ a }}"))).compose(recipient)


def test_one_recipients_failure_leaves_the_composer_usable() -> None:
    composer = Composer(compile_message(replace(SOURCE, text="{% for x in items %}{{ x.y }}{% endfor %}")))
    with pytest.raises(RenderError, match="text, line 1: 'int object' has no attribute 'y'"):
        composer.compose(Recipient("jane@example.org", "t", {"a": "x", "items": [1]}))
    with pytest.raises(RenderError, match="text, line 1: more than 10,000,000 characters"):
        composer.compose(Recipient("jane@example.org", "t", {"a": "x", "items": [{"y": "z" * 1_000_000}] * 11}))
    assert composer.compose(Recipient("jane@example.org", "t", {"a": "x", "items": [{"y": 1}]}))


def test_built_in_names_hide_columns_of_the_same_name() -> None:
    source = replace(
        SOURCE,
        subject="S",
        text="{{ email }} {{ token }} {{ campaign }} {{ unsubscribe_url }}",
        unsubscribe_url="https://example.com/{{ token }}",
    )
    evil = {"email": "x", "token": "x", "campaign": "x", "unsubscribe_url": "https://evil.example"}
    assert body(read(compose(source, **evil).data), "plain") == (
        "jane@example.org tok1 spring https://example.com/tok1"
    )


@pytest.mark.parametrize("template", ["{{ email }}", "{{ email|urlencode }}", "{{ '' ~ email }}"])
def test_an_address_in_the_link_is_encoded_once(template: str) -> None:
    source = replace(
        SOURCE, subject="S", text="{{ unsubscribe_url }}", unsubscribe_url=f"https://example.com/?e={template}"
    )
    composed = Composer(compile_message(source)).compose(Recipient("a+b&c@example.org", "t"))
    message = read(composed.data)
    assert body(message, "plain").replace("%40", "@") == "https://example.com/?e=a%2Bb%26c@example.org"
    assert message["List-Unsubscribe"].replace("%40", "@") == "<https://example.com/?e=a%2Bb%26c@example.org>"


@pytest.mark.parametrize(
    ("link", "written"),
    [
        ("https://example.com/a b>c", "https://example.com/a%20b%3Ec"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("mailto:x@example.com?subject=ü", "mailto:x@example.com?subject=%C3%BC"),
        ("https://example.com/\r\nBcc: x", "https://example.com/%0D%0ABcc:%20x"),
        ("https://example.com/\ud83d", "https://example.com/%3F"),
    ],
)
def test_a_link_is_written_in_ascii(link: str, written: str) -> None:
    assert uri(link) == written


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("{{ a }}{{ token }}", "is not a link"),
        ("{{ b }}/{{ token }}", "needs an https link"),
        ("https://example.com/{{ c }}", "more than 958 characters"),
    ],
)
def test_a_link_that_does_not_work_is_an_error(url: str, what: str) -> None:
    source = replace(SOURCE, unsubscribe_url=url)
    with pytest.raises(RenderError, match=what):
        compose(source, a="javascript:", b="http://example.com", c="x" * 1000)


def test_a_preview_shows_what_would_be_sent() -> None:
    compiled = compile_message(replace(SOURCE, html="<p>Hi {{ a }}</p>"))
    seen = preview(compiled, Recipient("jane@example.org", "t", {"a": "<J>"}))
    assert (seen.subject, seen.text, seen.html) == ("Hello <J>", "Hello <J>\n", "<p>Hi &lt;J&gt;</p>")
    assert body(read(seen.eml), "html") == seen.html


PAGE = (
    "<html><head><title>T</title><style>p {}</style></head><body><h1>Hello {{ a }} &amp; all</h1>"
    "<p>One<br>two {{ b }}</p>"
    "<ul><li>{{ a|upper }}</li><li>x</li></ul><table><tr><td>1</td><td>{{ n }}</td></tr></table>"
    '<a href="https://example.com/{{ a }}?b=1&amp;c=2">Link</a> <a href="{{ url }}">{{ url }}</a>{# no #}</body></html>'
)


@pytest.mark.parametrize("a", ["Jane", "AT&T <x>", "日本"])
def test_text_made_from_html_with_expressions_is_a_template(a: str) -> None:
    compiled = compile_message(replace(SOURCE, text="", html=PAGE))
    assert "{{ a|upper }}" in compiled.text
    values = {"a": a, "b": "B", "n": 1, "url": "https://example.com/x"}
    composer = Composer(compiled)
    rendered = composer.render(Recipient("jane@example.org", "t", values))
    expected = text_of(rendered.html).replace("[https://example.com/x](https://example.com/x)", "https://example.com/x")
    text = rendered.text.replace("[https://example.com/x](https://example.com/x)", "https://example.com/x")
    assert text.split() == expected.split()
    assert body(read(composer.compose(Recipient("jane@example.org", "t", values)).data), "plain") == rendered.text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hi</p>{% if a %}<p>{{ a }}</p>{% endif %}", "Hi\n\nJane\n"),
        ("<ul>{% for x in [1, 2] %}<li>{{ x }}</li>{% endfor %}</ul>", "  * 1\n  * 2\n"),
        ("<p>{{ '<b>bold</b>'|safe }} {{ a }}</p>", "bold Jane\n"),
        ("{% raw %}<p>{{ x }}</p>{% endraw %}{{ a }}", "{{ x }}\n\nJane\n"),
        ("<p>&#123;&#123; x &#125;&#125; {{ a }}</p>", "{{ x }} Jane\n"),
        ("<p>\ue000 {{ a }}</p>", "\ue000 Jane\n"),
        ("{% if false %}x{% endif %}", ""),
    ],
)
def test_text_made_from_html_with_statements_is_made_per_recipient(html: str, text: str) -> None:
    source = replace(SOURCE, text="", html=html)
    assert compile_message(source).text == ""
    assert body(read(compose(source, a="Jane").data), "plain") == text


def test_the_standard_librarys_smtp_policy_reads_it_too() -> None:
    message = message_from_bytes(compose(replace(SOURCE, html=PAGE), a="J", b=1, n=2, url="u").data, policy=SMTP)
    assert message.as_bytes().count(b"\r\n") > 10
