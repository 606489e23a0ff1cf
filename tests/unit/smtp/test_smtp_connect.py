"""Every way a relay can keep a session from starting has its stage, its code and a sentence that says what to do."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
import uvloop

from fullsend.errors import RelayError
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outgoing, RelayRefused
from fullsend.smtp.settings import Pipelining, RelayMemory, RelaySettings, Timeouts, Tls
from support.scripted_smtp import EHLO, NOTHING, Say, Script, ScriptedServer, say

PATIENT = Timeouts(10, 10, 10, 10, 10, 10)  # for a machine with other work to do
QUICK = Timeouts(10, banner=0.4, reply=0.4)  # where the relay falls silent
OFFERING_TLS = say("250-x", "250-STARTTLS", "250 PIPELINING")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "localhost", **options: datetime) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def patience(said: Say) -> Timeouts:
    return QUICK if said.after == "hang" or said.pause else PATIENT


def settings(server: ScriptedServer, tls: Tls = Tls.OFF, **options: object) -> RelaySettings:
    given = RelaySettings("127.0.0.1", server.port, tls, timeouts=PATIENT)
    return replace(given, **options)  # type: ignore[arg-type]


async def failure(given: RelaySettings) -> RelayError:
    async with asyncio.timeout(15):
        with pytest.raises(RelayError) as caught:
            await connect(given)
    await asyncio.sleep(0)
    assert f"{given.host}" in str(caught.value)
    assert given.password not in str(caught.value) or not given.password
    return caught.value


# --- No connection, no greeting -------------------------------------------------------------------------------------


async def test_a_refused_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = await failure(RelaySettings("127.0.0.1", free.getsockname()[1], Tls.OFF, timeouts=PATIENT))
    assert error.stage == "connect"
    assert "refused" in str(error)
    assert "check host, port" in str(error)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "bad..name"])
async def test_a_name_that_does_not_resolve(host: str) -> None:
    error = await failure(RelaySettings(host, 25, Tls.OFF, timeouts=PATIENT))
    assert error.stage == "connect"
    assert "smtp.host" in str(error)


async def test_the_second_address_is_tried_when_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer() as server:
        loop = asyncio.get_running_loop()

        async def two(*_: object, **__: object) -> list[object]:
            dead, live = ("127.0.0.2", server.port), ("127.0.0.1", server.port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (dead, live)]

        monkeypatch.setattr(loop, "getaddrinfo", two)
        session = await connect(replace(settings(server), host="two.example"))
        assert session.relay == f"two.example[127.0.0.1]:{server.port}"
        session.abort()


async def test_an_address_that_swallows_packets_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer() as server:
        loop = asyncio.get_running_loop()
        reach = loop.sock_connect

        async def two(*_: object, **__: object) -> list[object]:
            dead, live = ("127.0.0.2", server.port), ("127.0.0.1", server.port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (dead, live)]

        async def swallow(sock: socket.socket, address: tuple[str, int]) -> None:
            await (asyncio.sleep(60) if address[0] == "127.0.0.2" else reach(sock, address))

        monkeypatch.setattr(loop, "getaddrinfo", two)
        monkeypatch.setattr(loop, "sock_connect", swallow)
        started = loop.time()
        session = await connect(settings(server, timeouts=replace(PATIENT, connect=1)))
        assert loop.time() - started < 0.95
        session.abort()


@pytest.mark.parametrize(
    ("banner", "code", "words"),
    [
        (Say(b"", after="hang"), None, "no greeting within"),
        (Say(b"", after="close"), None, "closed the connection before greeting"),
        (say("HTTP/1.1 400 Bad Request"), None, "does not speak SMTP"),
        (say("SSH-2.0-OpenSSH_9.2"), None, "does not speak SMTP"),
        (say(b"\x00\x00\x00\r\n"), None, "does not speak SMTP"),
        (say(b"220 " + b"x" * 100_000), None, "does not speak SMTP"),
        (say(b"220-x\r\n" * 20_000), None, "does not speak SMTP"),
        (say("220 " + "slow" * 40, fragment=1, pause=0.02), None, "no greeting within"),
        (say("554 5.7.1 go away"), 554, "it does not take mail from this address"),
        (say("421 4.3.2 too many connections", after="close"), 421, "it may work later"),
        (say("450 not now"), 450, "it may work later"),
        (say("250 confused"), 250, "greets with 250"),
    ],
)
async def test_a_greeting_that_is_none(banner: Say, code: int | None, words: str) -> None:
    async with ScriptedServer(Script(banner=banner)) as server:
        error = await failure(settings(server, timeouts=patience(banner)))
    assert (error.stage, error.code) == ("banner", code)
    assert words in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 2000
    assert isinstance(error, RelayRefused) is (code is not None)


@pytest.mark.parametrize(
    ("ehlo", "code"),
    [
        (Say(b"", after="hang"), None),
        (Say(b"", after="close"), None),
        (Say(b"", after="reset"), None),
        (say("421 bye", after="close"), 421),
        (say("garbage"), None),
        (say("250-x", fragment=1, pause=0.1), None),
    ],
)
async def test_a_relay_that_breaks_at_ehlo(ehlo: Say, code: int | None) -> None:
    async with ScriptedServer(Script(ehlo=ehlo)) as server:
        error = await failure(settings(server, timeouts=patience(ehlo)))
    assert (error.stage, error.code) == ("ehlo", code)


async def test_a_relay_that_knows_only_helo_serves_plain_mail_in_lock_step() -> None:
    async with ScriptedServer(Script(ehlo=say("502 what?"))) as server:
        session = await connect(settings(server))
        assert session.pipelining is Pipelining.OFF
        assert isinstance(await session.submit(Outgoing("a@b.c", "d@e.f", b"x\r\n")), Accepted)
        session.abort()
    async with ScriptedServer(Script(ehlo=say("502 what?"))) as server:
        error = await failure(settings(server, username="u", password="secret"))
        assert (error.stage, error.code) == ("ehlo", 502)


async def test_a_helo_name_that_is_none_is_said() -> None:
    async with ScriptedServer() as server:
        error = await failure(settings(server, helo_name="two words"))
        assert error.stage == "ehlo"
        assert "smtp.heloName" in str(error)


async def test_without_a_full_host_name_the_address_literal_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "fullsend-sender-abc12")
    async with ScriptedServer() as server:
        (await connect(settings(server))).abort()
        await asyncio.sleep(0.01)
        (await connect(settings(server, helo_name="mail.a.example"))).abort()
        await asyncio.sleep(0.01)
        assert [connection.commands[0] for connection in server.connections] == [
            "EHLO [127.0.0.1]",
            "EHLO mail.a.example",
        ]


# --- TLS ------------------------------------------------------------------------------------------------------------


async def test_starttls_that_is_wanted_and_not_offered() -> None:
    async with ScriptedServer() as server:
        error = await failure(settings(server, Tls.STARTTLS))
    assert error.stage == "starttls"
    assert "does not offer STARTTLS" in str(error)
    assert "smtp.tls" in str(error)


@pytest.mark.parametrize(
    ("answer", "code"), [(say("454 4.7.0 not now"), 454), (say("501 no"), 501), (Say(b"", after="hang"), None)]
)
async def test_starttls_that_is_refused(answer: Say, code: int | None) -> None:
    async with ScriptedServer(Script(ehlo=OFFERING_TLS, starttls=answer)) as server:
        error = await failure(settings(server, Tls.STARTTLS, timeouts=patience(answer)))
    assert (error.stage, error.code) == ("starttls", code)


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
@pytest.mark.parametrize(
    ("name", "valid", "trusted", "words"),
    [
        ("other.example", True, True, "is not for 'localhost'"),
        ("localhost", False, True, "has expired"),
        ("localhost", True, False, "smtp.caSecretRef"),
    ],
)
async def test_a_wrong_certificate(
    authority: trustme.CA, tls: Tls, name: str, valid: bool, trusted: bool, words: str
) -> None:
    now = datetime.now(UTC)
    dates = {} if valid else {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=1)}
    server = ScriptedServer(
        Script(ehlo=OFFERING_TLS), tls=server_tls(authority, name, **dates), implicit=tls is Tls.IMPLICIT
    )
    ca = {"ca_data": pem(authority)} if trusted else {}
    async with server:
        error = await failure(settings(server, tls, server_name="localhost", **ca))
    assert error.stage == "starttls"
    assert words in str(error)


async def test_opportunistic_takes_any_certificate_and_none(authority: trustme.CA) -> None:
    tls = server_tls(authority, "other.example")
    for script, encrypted in ((Script(ehlo=OFFERING_TLS), True), (Script(), False)):
        async with ScriptedServer(script, tls=tls) as server:
            session = await connect(settings(server, Tls.OPPORTUNISTIC))
            assert server.connections[0].tls is encrypted
            session.abort()
            await asyncio.sleep(0.01)
    refusing = Script(ehlo=OFFERING_TLS, starttls=say("454 4.7.0 not now"))
    async with ScriptedServer(refusing) as server:
        (await connect(settings(server, Tls.OPPORTUNISTIC))).abort()
        assert not server.connections[0].tls


async def test_the_wrong_kind_of_tls_says_which_is_right(authority: trustme.CA) -> None:
    async with ScriptedServer() as server:
        error = await failure(settings(server, Tls.IMPLICIT))
        assert error.stage == "starttls"
        assert "smtp.tls: StartTLS" in str(error)
    async with ScriptedServer(tls=server_tls(authority), implicit=True) as server:
        error = await failure(settings(server, Tls.STARTTLS, timeouts=QUICK))
        assert error.stage == "banner"
        assert "smtp.tls: Implicit" in str(error)


@pytest.mark.parametrize("ca", ["not pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_authorities_that_are_none_are_said(ca: str) -> None:
    async with ScriptedServer() as server:
        with pytest.raises(RelayError, match="caSecretRef") as caught:
            await connect(settings(server, Tls.STARTTLS, ca_data=ca))
        assert caught.value.stage == "starttls"
        with pytest.raises(RelayError, match="missing"):
            await connect(settings(server, Tls.STARTTLS, ca_file=Path("/nowhere/missing.crt")))


async def test_what_is_injected_before_tls_is_discarded(authority: trustme.CA) -> None:
    """RFC 3207 section 4.2, and the injections of 2021: neither replies nor extensions from before TLS count."""
    injected = say("220 go", "250-evil", "250-PIPELINING", "250-SIZE 7", "250 AUTH LOGIN")
    script = Script(
        ehlo=[say("250-x", "250-PIPELINING", "250 STARTTLS"), say("250-x", "250 SIZE 99")], starttls=injected
    )
    async with ScriptedServer(script, tls=server_tls(authority)) as server:
        session = await connect(settings(server, Tls.STARTTLS, server_name="localhost", ca_data=pem(authority)))
        assert session.capabilities == {"SIZE": "99"}
        assert session.size_limit == 99
        assert session.pipelining is Pipelining.OFF
        assert isinstance(await session.submit(Outgoing("a@b.c", "d@e.f", b"x\r\n")), Accepted)
        session.abort()
        await asyncio.sleep(0.01)


# --- AUTH -----------------------------------------------------------------------------------------------------------


def offering(*mechanisms: str) -> Say:
    return say("250-x", "250-PIPELINING", f"250 AUTH {' '.join(mechanisms)}")


PLAIN = "AUTH PLAIN " + base64.b64encode(b"\0ursula\0s3cret").decode()
CREDENTIALS = {"username": "ursula", "password": "s3cret"}


async def test_plain_login_and_cram_md5() -> None:
    plain = Script(ehlo=offering("LOGIN", "PLAIN", "CRAM-MD5"))
    async with ScriptedServer(plain) as server:
        (await connect(settings(server, auth_mechanism="plain", **CREDENTIALS))).abort()
        assert server.connections[0].commands[-1] == PLAIN
    login = Script(ehlo=offering("LOGIN"), auth=[say("334 UGFzc3dvcmQ6"), say("235 ok")])
    async with ScriptedServer(login) as server:
        (await connect(settings(server, **CREDENTIALS))).abort()
        assert server.connections[0].commands[-1] == base64.b64encode(b"s3cret").decode()
    cram = Script(ehlo=offering("PLAIN", "CRAM-MD5"), auth=[say("334 PDEyMz4="), say("235 ok")])
    async with ScriptedServer(cram) as server:
        (await connect(settings(server, **CREDENTIALS))).abort()
        commands = server.connections[0].commands
        assert commands[-2] == "AUTH CRAM-MD5"  # in the clear, the one that does not show the password
        assert base64.b64decode(commands[-1]).startswith(b"ursula ")


async def test_a_mechanism_that_is_offered_and_unknown_is_followed_by_the_next() -> None:
    script = Script(ehlo=offering("LOGIN", "PLAIN"), auth=[say("504 5.5.4 unrecognized"), say("235 ok")])
    async with ScriptedServer(script) as server:
        (await connect(settings(server, **CREDENTIALS))).abort()
        assert server.connections[0].commands[-1] == PLAIN


async def test_wrong_credentials_are_tried_once() -> None:
    script = Script(ehlo=offering("PLAIN", "LOGIN"), auth=say("535 5.7.8 authentication failed"))
    async with ScriptedServer(script) as server:
        error = await failure(settings(server, **CREDENTIALS))
        assert (error.stage, error.code) == ("auth", 535)
        assert "credentialsSecretRef" in str(error)
        assert sum(command.startswith("AUTH") for command in server.connections[0].commands) == 1


@pytest.mark.parametrize(
    "auth", [Say(b"", after="hang"), Say(b"", after="close"), say("nonsense"), say("235-", "550 x")]
)
async def test_a_relay_that_breaks_at_auth(auth: Say) -> None:
    async with ScriptedServer(Script(ehlo=offering("PLAIN"), auth=auth)) as server:
        assert (await failure(settings(server, timeouts=patience(auth), **CREDENTIALS))).stage == "auth"


async def test_no_auth_and_no_common_mechanism_are_said() -> None:
    async with ScriptedServer() as server:
        error = await failure(settings(server, **CREDENTIALS))
        assert "offers no AUTH" in str(error)
    async with ScriptedServer(Script(ehlo=offering("GSSAPI", "XOAUTH2"))) as server:
        error = await failure(settings(server, **CREDENTIALS))
        assert "GSSAPI XOAUTH2" in str(error)
    async with ScriptedServer(Script(ehlo=offering("LOGIN"))) as server:
        error = await failure(settings(server, auth_mechanism="PLAIN", **CREDENTIALS))
        assert "PLAIN is wanted" in str(error)


async def test_a_password_is_not_sent_in_the_clear_by_chance() -> None:
    async with ScriptedServer(Script(ehlo=offering("PLAIN"))) as server:
        error = await failure(settings(server, Tls.OPPORTUNISTIC, **CREDENTIALS))
        assert error.stage == "auth"
        assert "in the clear" in str(error)
        assert not any("AUTH" in command for command in server.connections[0].commands)


def test_a_password_is_in_no_repr() -> None:
    assert "s3cret" not in repr(RelaySettings("h", 25, username="u", password="s3cret", ca_data="s3cret"))


# --- Taking over ----------------------------------------------------------------------------------------------------


async def test_a_relay_that_says_too_much_after_the_greeting_is_not_used() -> None:
    """Also the proof that aiosmtplib still keeps what it has read too much where we look for it."""
    for extra in ("250 surplus", "421 4.3.2 bye", "half a li"):
        script = Script(ehlo=say(*EHLO, extra if extra[0] != "h" else extra.encode()))
        async with ScriptedServer(script) as server:
            if extra[0] == "h":  # half a line: seen as soon as the rest comes
                session = await connect(settings(server))
                assert not isinstance(await session.submit(Outgoing("a@b.c", "d@e.f", b"x\r\n")), Accepted)
                session.abort()
            else:
                assert "not usable after the greeting" in str(await failure(settings(server)))


async def test_pipelining_is_only_what_is_offered_and_asked_for() -> None:
    for ehlo, asked, got in (
        (say(*EHLO), Pipelining.OVERLAP, Pipelining.OVERLAP),
        (say(*EHLO), Pipelining.GROUP, Pipelining.GROUP),
        (say(*EHLO), Pipelining.OFF, Pipelining.OFF),
        (say("250-x", "250 pipelining"), Pipelining.OVERLAP, Pipelining.OVERLAP),
        (say("250 x"), Pipelining.OVERLAP, Pipelining.OFF),
    ):
        async with ScriptedServer(Script(ehlo=ehlo)) as server:
            session = await connect(settings(server, pipelining=asked))
            assert session.pipelining is got
            session.abort()
            await asyncio.sleep(0)


@pytest.mark.parametrize(("size", "limit"), [("SIZE 1000", 1000), ("SIZE", None), ("SIZE 0", None), ("SIZE x", None)])
async def test_size_is_read_with_tolerance(size: str, limit: int | None) -> None:
    async with ScriptedServer(Script(ehlo=say("250-x", f"250 {size}"))) as server:
        session = await connect(settings(server))
        assert session.size_limit == limit
        session.abort()
        await asyncio.sleep(0)


def run_on(loop_factory: Callable[[], asyncio.AbstractEventLoop], tls: Tls, authority: trustme.CA) -> None:
    async def deliver() -> None:
        script = Script(ehlo=[OFFERING_TLS, offering("PLAIN")] if tls is Tls.STARTTLS else offering("PLAIN"))
        body = b"".join(b"%07d %s\r\n" % (number, b"x" * 60) for number in range(30_000))
        async with ScriptedServer(script, tls=server_tls(authority), implicit=tls is Tls.IMPLICIT) as server:
            session = await connect(
                settings(server, tls, server_name="localhost", ca_data=pem(authority), **CREDENTIALS)
            )
            letters = [Outgoing("a@b.c", f"{number}@e.f", b"x\r\n") for number in range(20)]
            letters[7] = Outgoing("a@b.c", "long@e.f", body)
            for message, following in zip(letters, [*letters[1:], None], strict=True):
                assert isinstance(await session.submit(message, following), Accepted)
            assert session.delivered == 20
            await session.quit()
            assert server.contents == [letter.data for letter in letters]
            await asyncio.sleep(0.02)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(deliver())


@pytest.mark.parametrize("tls", [Tls.OFF, Tls.STARTTLS, Tls.IMPLICIT])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_transport_changes_hands_on_either_loop(
    loop: Callable[[], asyncio.AbstractEventLoop], tls: Tls, authority: trustme.CA
) -> None:
    run_on(loop, tls, authority)


async def test_cancelling_a_connect_leaves_no_connection() -> None:
    async with ScriptedServer(Script(banner=NOTHING)) as server:
        attempt = asyncio.create_task(connect(replace(settings(server), timeouts=Timeouts())))
        await asyncio.sleep(0.05)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        started = time.monotonic()
        while any(task.get_coro().__name__ == "_accept" for task in asyncio.all_tasks()):  # type: ignore[union-attr]
            assert time.monotonic() - started < 2
            await asyncio.sleep(0.01)


async def test_memory_is_by_relay() -> None:
    memory = RelayMemory()
    async with ScriptedServer() as one, ScriptedServer() as other:
        memory.fall_back(settings(one), "garbage")
        for server, mode in ((one, Pipelining.OFF), (other, Pipelining.OVERLAP)):
            session = await connect(settings(server), memory)
            assert session.pipelining is mode
            session.abort()
            await asyncio.sleep(0)
