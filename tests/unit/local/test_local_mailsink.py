"""The mail sink takes what a client sends, keeps all of it, and speaks the protocol strictly where it matters."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiosmtplib
import pytest
import trustme

from fullsend.local.mailsink import MailSink
from support.smtp_client import Client

MESSAGE = b"Message-ID: <1@example.org>\r\nSubject: Hello\r\n\r\nHello there.\r\n"


@pytest.fixture
async def sink() -> AsyncIterator[MailSink]:
    async with MailSink() as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def smtp(sink: MailSink, *, use_tls: bool = False, start_tls: bool = False, **options: object) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=sink.host, port=sink.port, use_tls=use_tls, start_tls=start_tls, timeout=5, **options
    )


async def test_a_message_arrives_with_its_envelope_and_every_byte(sink: MailSink) -> None:
    async with smtp(sink) as client:
        await client.sendmail("bounce@example.org", ["ada@example.net", "bob@example.net"], MESSAGE)
    (delivery,) = sink.deliveries
    assert delivery.mail_from == "bounce@example.org"
    assert delivery.recipients == ("ada@example.net", "bob@example.net")
    assert delivery.content == MESSAGE
    assert (delivery.message_id, delivery.subject, delivery.size) == ("<1@example.org>", "Hello", len(MESSAGE))
    assert delivery.replied
    assert (sink.count("ADA@example.net"), sink.count("nobody@example.net")) == (1, 0)


async def test_lines_that_begin_with_a_dot_survive(sink: MailSink) -> None:
    content = b"Subject: dots\r\n\r\n.\r\n..\r\n.hidden\r\n"
    async with smtp(sink) as client:
        await client.sendmail("a@example.org", ["b@example.net"], content)
    assert sink.deliveries[0].content == content


async def test_a_pipelined_group_and_overlapped_content_are_answered_in_order(sink: MailSink) -> None:
    async with Client(sink) as client:
        assert "PIPELINING" in await client.hello()
        envelope = ("MAIL FROM:<a@example.org>", "RCPT TO:<b{}@example.net>", "DATA")
        client.write(*(line.format(0) for line in envelope))
        for number in range(1, 50):
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
            client.write(f"Subject: {number}", "", "text", ".", *(line.format(number) for line in envelope))
            assert (await client.reply()).startswith("250 2.0.0")
    assert [delivery.subject for delivery in sink.deliveries] == [str(number) for number in range(1, 50)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
async def test_where_packets_end_makes_no_difference(sink: MailSink, size: int) -> None:
    bodies = [b"", b"\r\n", b"..\r\n", b"a\r\n..\r\nb\r\n", b"\r\n\r\n..\r\n\r\n", b"x\r\n.. \r\n..\n..\r\n"]
    stream = b"EHLO x\r\n"
    for body in bodies:
        stream += b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n" + body + b".\r\n"
    loop_turns = [stream[at : at + size] for at in range(0, len(stream), size)]
    async with Client(sink) as client:
        for part in loop_turns:
            client.writer.write(part)
            await client.writer.drain()
            await asyncio.sleep(0)
        replies = [(await client.ask("QUIT"))[:3]]
        while replies[-1] != "221":
            replies.append((await client.reply())[:3])
    assert replies == ["220", "250", *["250", "250", "354", "250"] * len(bodies), "221"]
    unstuffed = [b"", b"\r\n", b".\r\n", b"a\r\n.\r\nb\r\n", b"\r\n\r\n.\r\n\r\n", b"x\r\n. \r\n.\n..\r\n"]
    assert [delivery.content for delivery in sink.deliveries] == unstuffed


@pytest.mark.parametrize("ending", [b"\n.\n", b"\r\n.\n", b"\n.\r\n"])
async def test_only_a_dot_between_two_whole_line_ends_ends_the_content(sink: MailSink, ending: bytes) -> None:
    smuggled = b"one" + ending + b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\ntwo\r\n"
    async with Client(sink) as client:
        await client.hello()
        client.write("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>", "DATA")
        for _ in range(3):
            await client.reply()
        assert (await client.ask(smuggled + b".")).startswith("250")
    (delivery,) = sink.deliveries
    assert (delivery.recipients, delivery.content) == (("b@example.net",), smuggled.replace(b"\r\n.", b"\r\n"))


async def test_commands_out_of_order_are_refused(sink: MailSink) -> None:
    async with Client(sink) as client:
        await client.reply()
        assert (await client.ask("MAIL FROM:<a@example.org>")).startswith("503 5.5.1")
        assert (await client.ask("EHLO x")).startswith("250-")
        assert (await client.ask("RCPT TO:<b@example.net>")).startswith("503 5.5.1")
        assert (await client.ask("DATA")).startswith("503 5.5.1")
        assert (await client.ask("MAIL FROM: a@example.org")).startswith("501 5.5.4")
        assert (await client.ask("MAIL FROM:<>")).startswith("250")
        assert (await client.ask("MAIL FROM:<a@example.org>")).startswith("503 5.5.1")
        assert (await client.ask("DATA")).startswith("554 5.5.1")
        assert (await client.ask("RSET")).startswith("250")
        assert (await client.ask("MAIL FROM:<a@example.org>")).startswith("250")
        assert (await client.ask("WHAT")).startswith("500 5.5.1")
        assert (await client.ask("A" * 5000)).startswith("500 5.5.1")
    assert sink.accepted == 0


async def test_a_line_without_end_closes_the_connection(sink: MailSink) -> None:
    async with Client(sink) as client:
        await client.hello()
        client.writer.write(b"A" * 5000)
        assert (await client.reply()).startswith("500 5.5.2")
        assert await client.reader.read() == b""


async def test_addresses_may_be_quoted_and_international(sink: MailSink) -> None:
    async with Client(sink) as client:
        await client.hello()
        for address in ('"a>b"@example.net', "jürgen@example.net"):
            client.write("MAIL FROM:<a@example.org> SMTPUTF8", f"RCPT TO:<{address}> X=Y", "DATA")
            for _ in range(3):
                await client.reply()
            await client.ask("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "", "text", ".")
            assert sink.count(address) == 1
    assert sink.deliveries[-1].subject == "Grüße"


async def test_a_message_over_the_limit_is_refused_when_announced_and_when_sent() -> None:
    async with MailSink(max_size=1000) as sink, Client(sink) as client:
        assert "SIZE 1000" in await client.hello()
        assert (await client.ask("MAIL FROM:<a@example.org> SIZE=1001")).startswith("552 5.3.4")
        for size in (2000, 100_000):
            client.write("MAIL FROM:<a@example.org> SIZE=10", "RCPT TO:<b@example.net>", "DATA")
            for _ in range(3):
                await client.reply()
            for _ in range(size // 100):
                client.write("x" * 98)
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.ask(".")).startswith("552 5.3.4")
        assert (await client.ask("NOOP")).startswith("250")
        assert sink.accepted == 0


async def test_pipelining_is_offered_unless_switched_off() -> None:
    async with MailSink(pipelining=False) as sink, Client(sink) as client:
        offers = await client.hello()
    assert "PIPELINING" not in offers
    for extension in ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE "):
        assert extension in offers
    assert "STARTTLS" not in offers
    assert "AUTH" not in offers


async def test_starttls_then_a_message(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with MailSink(tls=server_tls) as sink:
        async with smtp(sink, start_tls=True, tls_context=client_tls) as client:
            assert client.transport
            assert client.transport.get_extra_info("cipher")
            assert not client.supports_extension("starttls")
            await client.sendmail("a@example.org", ["b@example.net"], MESSAGE)
        assert sink.count("b@example.net") == 1


async def test_tls_from_the_first_byte(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with MailSink(tls=server_tls, implicit_tls=True) as sink:
        async with smtp(sink, use_tls=True, tls_context=client_tls) as client:
            assert not client.supports_extension("starttls")
            await client.sendmail("a@example.org", ["b@example.net"], MESSAGE)
        assert sink.count("b@example.net") == 1


async def test_commands_smuggled_before_the_handshake_are_forgotten(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with MailSink(tls=server_tls) as sink, Client(sink) as client:
        await client.hello()
        assert (await client.ask("STARTTLS", "EHLO evil", "MAIL FROM:<evil@example.org>")).startswith("220")
        await client.writer.start_tls(client_tls, server_hostname="127.0.0.1")
        assert (await client.ask("MAIL FROM:<a@example.org>")).startswith("503 5.5.1 EHLO first")


async def test_a_client_that_does_not_trust_us_leaves_nothing_behind(server_tls: ssl.SSLContext) -> None:
    async with MailSink(tls=server_tls) as sink:
        with pytest.raises(ssl.SSLError):
            await smtp(sink, start_tls=True, tls_context=ssl.create_default_context()).connect()
        async with asyncio.timeout(5):
            while sink.connections:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_with_credentials_only_who_knows_them_may_send(mechanism: str) -> None:
    async with MailSink(credentials=("user", "secret")) as sink:
        async with smtp(sink) as client:
            with pytest.raises(aiosmtplib.SMTPResponseException, match="authentication required"):
                await client.sendmail("a@example.org", ["b@example.net"], MESSAGE)
            authenticate = client.auth_plain if mechanism == "PLAIN" else client.auth_login
            with pytest.raises(aiosmtplib.SMTPAuthenticationError):
                await authenticate("user", "guess")
            await authenticate("user", "secret")
            await client.sendmail("a@example.org", ["b@example.net"], MESSAGE)
        assert sink.accepted == 1


async def test_credentials_may_come_with_the_command() -> None:
    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    async with MailSink(credentials=("user", "secret")) as sink:
        async with Client(sink) as client:
            await client.hello()
            assert (await client.ask("AUTH CRAM-MD5")).startswith("504")
            assert (await client.ask("AUTH PLAIN !!")).startswith("535")
            whole = encoded("\0user\0secret")
            assert (await client.ask(f"AUTH PLAIN {whole}")).startswith("235")
        async with Client(sink) as client:
            await client.hello()
            assert (await client.ask(f"AUTH LOGIN {encoded('user')}")).startswith("334")
            assert (await client.ask(encoded("secret"))).startswith("235")


async def test_a_client_that_never_reads_does_not_fill_our_memory(sink: MailSink) -> None:
    async with Client(sink) as client:
        await client.hello()

        async def flood() -> None:
            while True:
                client.writer.write(b"NOOP\r\n" * 10_000)
                await client.writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), 0.5)
        (connection,) = sink._open
        assert connection.transport
        assert connection.transport.get_write_buffer_size() < 10_000_000


async def test_stopping_refuses_new_connections_and_listening_again_keeps_the_port(sink: MailSink) -> None:
    port = sink.port
    async with Client(sink) as client:
        await client.hello()
        await sink.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(sink.host, port)
        assert (await client.ask("NOOP")).startswith("250")
        sink.drop_connections()
        with pytest.raises((EOFError, ConnectionResetError)):
            await client.reply()
    await sink.listen()
    assert sink.port == port
    async with Client(sink) as client:
        await client.hello()


async def test_envelopes_can_be_kept_without_contents() -> None:
    async with MailSink(memory="envelopes") as sink:
        async with smtp(sink) as client:
            await client.sendmail("a@example.org", ["b@example.net"], MESSAGE)
        (delivery,) = sink.deliveries
        assert (delivery.content, delivery.size, delivery.message_id) == (b"", len(MESSAGE), "<1@example.org>")


def test_the_public_face_is_what_it_says() -> None:
    import fullsend.local.mailsink as face

    assert all(hasattr(face, name) for name in face.__all__)
    assert Path(face.__file__).with_name("__main__.py").is_file()
