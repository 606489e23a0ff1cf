"""The session against the servers people have: Postfix, Exim and aiosmtpd, in every mode they offer."""

from __future__ import annotations

import asyncio
import mailbox
import ssl
from collections.abc import Iterator, Sequence

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from aiosmtpd.smtp import Session as AiosmtpdSession

from fullsend.errors import RelayError
from fullsend.smtp.classify import classify, classify_reply
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outcome, Outgoing, Refused, Stage, Unsent
from fullsend.smtp.rules import Charge
from fullsend.smtp.settings import Pipelining, RelayMemory, RelaySettings, Tls
from support.mail_servers import Server, Unavailable, exim, postfix

BODY = b"Message-ID: <%d@a.example>\r\nSubject: %d\r\n\r\nhello\r\n.\r\n..two dots\r\n.end\r\n"
each_mode = pytest.mark.parametrize("mode", Pipelining)


def letter(number: int, local: str = "ursula", body: bytes = b"") -> Outgoing:
    return Outgoing("news@a.example", f"{local}{number}@b.example", BODY % (number, number) + body)


def settings(server: Server, tls: Tls, mode: Pipelining, *, username: str = "", mechanism: str = "") -> RelaySettings:
    return RelaySettings(
        "localhost",
        server.tls_port if tls is Tls.IMPLICIT else server.port,
        tls,
        mode,
        username=username,
        password="s3cret" if username else "",
        ca_data=server.ca,
        auth_mechanism=mechanism,
    )


async def send_all(given: RelaySettings, letters: Sequence[Outgoing]) -> tuple[list[Outcome], RelayMemory]:
    memory = RelayMemory()
    session = await connect(given, memory)
    outcomes = [
        await session.submit(message, following)
        for message, following in zip(letters, [*letters[1:], None], strict=True)
    ]
    await session.quit()
    assert not memory.why_lock_step(given)
    return outcomes, memory


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def a_postfix(authority: trustme.CA) -> Iterator[Server]:
    try:
        with postfix(
            authority, smtpd_soft_error_limit="4", smtpd_hard_error_limit="6", smtpd_junk_command_limit="9"
        ) as server:
            yield server
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def an_exim(authority: trustme.CA) -> Iterator[Server]:
    try:
        with exim(authority) as server:
            yield server
    except Unavailable as why:
        pytest.skip(str(why))


# --- Postfix --------------------------------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("tls", [Tls.OFF, Tls.STARTTLS, Tls.IMPLICIT])
async def test_postfix_takes_every_message_in_every_mode(a_postfix: Server, tls: Tls, mode: Pipelining) -> None:
    outcomes, _ = await send_all(settings(a_postfix, tls, mode), [letter(number) for number in range(20)])
    ids = {outcome.reply.text.split()[-1] for outcome in outcomes if isinstance(outcome, Accepted)}
    assert len(ids) == 20
    for queue_id in ids:
        assert "(b.example)" in a_postfix.log_text(f"{queue_id}: removed")


@each_mode
async def test_postfix_delivers_the_good_between_the_bad(a_postfix: Server, mode: Pipelining) -> None:
    letters = [letter(0), letter(1, "bad"), letter(2), letter(3, "grey"), letter(4)]
    outcomes, _ = await send_all(settings(a_postfix, Tls.OFF, mode), letters)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted, Refused, Accepted]
    bad, grey = outcomes[1], outcomes[3]
    assert isinstance(bad, Refused)
    assert isinstance(grey, Refused)
    verdict = classify(bad)
    assert (verdict.charge, verdict.permanent, verdict.feeds_suppression) == (Charge.RECIPIENT, True, True)
    verdict = classify(grey)
    assert (verdict.charge, verdict.permanent, verdict.reason) == (Charge.RECIPIENT, False, "Greylisted")


@each_mode
async def test_a_run_of_bad_addresses_meets_postfix_error_limit_and_goes_on(
    a_postfix: Server, mode: Pipelining
) -> None:
    """Postfix counts RCPT and DATA refusals: the connection ends early, the rows don't suffer for it."""
    letters = [letter(number, "bad" if number % 7 else "ursula") for number in range(28)]
    given, done, connections = settings(a_postfix, Tls.OFF, mode), list[Outcome](), 0
    while len(done) < len(letters):
        connections += 1
        assert connections < 20
        session = await connect(given)
        while session.usable and len(done) < len(letters):
            here = len(done)
            outcome = await session.submit(letters[here], letters[here + 1] if here + 1 < len(letters) else None)
            if isinstance(outcome, Unsent):
                assert outcome.reply is not None
                verdict = classify_reply(outcome.stage, outcome.reply)
                assert (verdict.charge, verdict.reason) == (Charge.CONNECTION, "TooManyErrors")
                break
            done.append(outcome)
        session.abort()
    assert connections > 1
    for number, outcome in enumerate(done):
        assert isinstance(outcome, Refused if number % 7 else Accepted)


@each_mode
async def test_postfix_refuses_what_is_too_large_and_fullsend_knows_before(
    authority: trustme.CA, mode: Pipelining
) -> None:
    try:
        with postfix(authority, message_size_limit="20000") as server:
            given = settings(server, Tls.OFF, mode)
            outcomes, _ = await send_all(
                given, [letter(0), letter(1, body=b"x" * 70 + b"\r\n" + b"y\r\n" * 9000), letter(2)]
            )
            assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted]
            refused = outcomes[1]
            assert isinstance(refused, Refused)
            assert refused.local
            assert classify(refused).charge is Charge.MESSAGE
    except Unavailable as why:
        pytest.skip(str(why))


@each_mode
async def test_postfix_on_full_disk_is_the_transports_trouble(authority: trustme.CA, mode: Pipelining) -> None:
    """queue_minfree beyond any disk: 452 4.3.1 to MAIL, and every row stays untouched."""
    try:
        with postfix(authority, queue_minfree="9223372036854775807") as server:
            outcomes, _ = await send_all(settings(server, Tls.OFF, mode), [letter(0), letter(1)])
            for outcome in outcomes:
                assert isinstance(outcome, Refused)
                assert outcome.stage is Stage.MAIL
                assert (classify(outcome).charge, classify(outcome).reason) == (Charge.TRANSPORT, "RelayStorage")
    except Unavailable as why:
        pytest.skip(str(why))


# --- Exim -----------------------------------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("tls", [Tls.OFF, Tls.STARTTLS, Tls.IMPLICIT])
async def test_exim_delivers_every_message_whole_and_once(an_exim: Server, tls: Tls, mode: Pipelining) -> None:
    base = 1000 * (1 + list(Pipelining).index(mode)) + 100 * list(Tls).index(tls)
    letters = [letter(base + number, "bad" if number == 3 else "ursula") for number in range(8)]
    outcomes, _ = await send_all(settings(an_exim, tls, mode), letters)
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 3 + [Refused] + [Accepted] * 4
    wanted = {letter.data.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1]: 0 for letter in letters}
    assert len(wanted) == 1  # the bodies are alike; the subjects tell them apart
    subjects = [str(base + number) for number in range(8) if number != 3]
    for outcome in outcomes:
        if isinstance(outcome, Accepted):
            an_exim.log_text(f"{outcome.reply.text.removeprefix('OK id=')} Completed")
    found = [message for message in mailbox.Maildir(an_exim.folder / "mail") if message["Subject"] in subjects]
    assert sorted(str(message["Subject"]) for message in found) == subjects
    assert {bytes(message.get_payload(decode=True)) for message in found} == set(wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("mechanism", ["", "PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.IMPLICIT])
async def test_exim_authenticates_by_each_mechanism(an_exim: Server, tls: Tls, mechanism: str) -> None:
    given = settings(an_exim, tls, Pipelining.OVERLAP, username="ursula", mechanism=mechanism)
    outcomes, _ = await send_all(given, [letter(90), letter(91)])
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert f"A={(mechanism or 'PLAIN').replace('-MD5', '').lower()}:ursula" in an_exim.log_text("A=")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
async def test_exim_refuses_wrong_credentials(an_exim: Server, mechanism: str) -> None:
    given = settings(an_exim, Tls.STARTTLS, Pipelining.OVERLAP, username="mallory", mechanism=mechanism)
    with pytest.raises(RelayError) as caught:
        await connect(given)
    assert (caught.value.stage, caught.value.code) == ("auth", 535)


async def test_exim_offers_passwords_only_after_tls(an_exim: Server) -> None:
    given = settings(an_exim, Tls.OFF, Pipelining.OFF, username="ursula", mechanism="PLAIN")
    with pytest.raises(RelayError, match="CRAM-MD5, and PLAIN is wanted"):
        await connect(given)


# --- aiosmtpd -------------------------------------------------------------------------------------------------------


class Keeper:
    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes]] = []

    async def handle_DATA(self, server: SMTP, session: AiosmtpdSession, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.kept.append((envelope.rcpt_tos[0], envelope.content))
        return "250 2.0.0 kept"


@each_mode
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_aiosmtpd_without_pipelining_is_served_in_lock_step(
    authority: trustme.CA, mode: Pipelining, mechanism: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    keeper = Keeper()

    def authenticate(server: object, session: object, envelope: object, name: str, data: object) -> AuthResult:
        good = getattr(data, "login", b"") == b"ursula" and getattr(data, "password", b"") == b"s3cret"
        return AuthResult(success=good, handled=good)

    def serve() -> SMTP:
        return SMTP(
            keeper,
            hostname="127.0.0.1",
            tls_context=context,
            require_starttls=True,
            authenticator=authenticate,
            auth_required=True,
            loop=asyncio.get_running_loop(),
        )

    # Without aiosmtpd's controller, which leaves its transports open behind it.
    async with await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        given = RelaySettings(
            "localhost",
            port,
            Tls.STARTTLS,
            mode,
            username="ursula",
            password="s3cret",
            ca_data=authority.cert_pem.bytes().decode(),
            auth_mechanism=mechanism,
        )
        session = await connect(given)
        assert session.pipelining is Pipelining.OFF
        letters = [letter(number) for number in range(5)]
        for message, following in zip(letters, [*letters[1:], None], strict=True):
            assert isinstance(await session.submit(message, following), Accepted)
        await session.quit()
        assert keeper.kept == [(letter.recipient, letter.data) for letter in letters]
        await asyncio.sleep(0.1)
