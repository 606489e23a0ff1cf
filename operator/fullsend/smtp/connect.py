"""From settings to a session that may submit: connect, greeting, EHLO, TLS, EHLO again, AUTH, take-over.

aiosmtplib does the handshake, step by step so that every failure has its stage; then ``transport.set_protocol`` hands
the connection to our own protocol. Invariants: only what the EHLO after TLS offers counts; plaintext that came before
TLS is discarded; a password goes over an unencrypted connection only where ``Tls.OFF`` asks for one. Every failure is a
``RelayError`` whose text says what to do; no message was touched.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Awaitable
from typing import NoReturn, TypeVar, cast

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol

from fullsend.errors import RelayError
from fullsend.smtp.outcome import RelayRefused
from fullsend.smtp.reply import Reply
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining, RelayMemory, RelaySettings, Tls
from fullsend.smtp.tls import client_context, explain

T = TypeVar("T")

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")
"""In order of preference under TLS; without it CRAM-MD5, which does not show the password, goes first."""

_MECHANISM_UNKNOWN = frozenset({500, 501, 502, 504})  # offered but not carried out: the next one may work


async def connect(settings: RelaySettings, memory: RelayMemory | None = None) -> Session:
    """A session ready to submit. Raises RelayError; its stage is ``connect``, ``banner``, ``ehlo``, ``starttls`` (any
    TLS) or ``auth``. A negative reply of the relay's is a RelayRefused, which has the reply."""
    context = client_context(settings)
    sock, address = await _open(settings)
    relay = f"{settings.host}[{address}]:{settings.port}"
    try:
        client = aiosmtplib.SMTP(
            hostname=settings.server_name or settings.host,
            sock=sock,
            use_tls=settings.tls is Tls.IMPLICIT,
            start_tls=False,
            tls_context=context,
            local_hostname=settings.helo_name or _own_name(sock),
            timeout=settings.timeouts.reply,
        )
    except ValueError as error:
        sock.close()
        raise RelayError("ehlo", f"{relay}: smtp.heloName {settings.helo_name!r} can't be used: {error}") from error
    handshake = _Handshake(settings, client, relay)
    try:
        await handshake.greet()
        await handshake.ehlo()
        if context is not None and settings.tls is not Tls.IMPLICIT:
            await handshake.starttls()
        if settings.username:
            await handshake.authenticate()
        return handshake.take_over(memory)
    except BaseException:
        transport = client.transport
        client.close()
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()  # close() would wait for a TLS goodbye from a relay that may be dead
        raise


async def _open(settings: RelaySettings) -> tuple[socket.socket, str]:
    """A connected socket and its address. Our own, not aiosmtplib's: its implicit TLS can't check another name than
    the host it connects to, and a refused address must not be mistaken for a failed handshake."""
    loop = asyncio.get_running_loop()
    where = f"{settings.host}:{settings.port}"
    try:
        async with asyncio.timeout(settings.timeouts.connect):
            found = await loop.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise RelayError("connect", f"{where}: the name was not resolved in time: check DNS") from None
    except (OSError, UnicodeError) as error:
        raise RelayError("connect", f"{where}: the name can't be resolved ({error}): check smtp.host") from error
    failures = []
    for family, kind, protocol, _, address in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failures.append(str(error))
            continue
        sock.setblocking(False)
        try:
            # Each address its share: one that swallows packets must not keep the next from being tried.
            async with asyncio.timeout(settings.timeouts.connect / len(found)):
                await loop.sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            failures.append(f"{address[0]} did not answer within {settings.timeouts.connect / len(found):g} s")
        except OSError as error:
            failures.append(f"{address[0]}: {os.strerror(error.errno) if error.errno else error}")
        except BaseException:
            sock.close()
            raise
        else:
            return sock, str(address[0])
        sock.close()
    text = f"{where}: no connection ({'; '.join(failures)}): check host, port and firewalls, and that the relay runs"
    raise RelayError("connect", text)


def _own_name(sock: socket.socket) -> str:
    """The host name where it is a full one, else the address literal that RFC 5321 section 4.1.3 asks for then."""
    name = socket.gethostname()
    if "." in name.strip(".") and name.isascii():
        return name
    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"


class _Handshake:
    def __init__(self, settings: RelaySettings, client: aiosmtplib.SMTP, relay: str) -> None:
        self._settings = settings
        self._client = client
        self._relay = relay
        self._encrypted = settings.tls is Tls.IMPLICIT

    async def greet(self) -> None:
        """Implicit TLS, where that is wanted, and the banner."""
        client, timeouts = self._client, self._settings.timeouts
        try:
            await client.connect(timeout=timeouts.banner)
        except aiosmtplib.SMTPConnectTimeoutError as error:
            if client.transport is None and self._encrypted and "ready" not in str(error):
                self._fail("starttls", f"the TLS handshake took more than {timeouts.banner:g} s", error)
            hint = "" if self._encrypted else ": a port that speaks TLS at once (465) needs smtp.tls: Implicit"
            self._fail("banner", f"no greeting within {timeouts.banner:g} s{hint}", error)
        except aiosmtplib.SMTPResponseException as error:
            self._refused("banner", "greets with", error)
        except aiosmtplib.SMTPConnectError as error:
            cause = error.__cause__
            if self._encrypted and not isinstance(cause, aiosmtplib.SMTPServerDisconnected):
                raise RelayError("starttls", explain(cause or error, self._settings, self._relay)) from error
            self._fail("banner", "closed the connection before greeting: it may refuse this address", error)
        except (aiosmtplib.SMTPException, OSError) as error:
            self._fail("banner", f"gave no greeting ({error})", error)

    async def ehlo(self) -> None:
        client = self._client
        try:
            await self._step("ehlo", "EHLO", client.ehlo())
        except RelayRefused as refused:
            # A relay of before 1995 may still do for plain mail.
            if refused.code == 421 or self._settings.tls is Tls.STARTTLS or self._settings.username:
                raise
            await self._step("ehlo", "HELO", client.helo())

    async def starttls(self) -> None:
        client, settings = self._client, self._settings
        if not client.supports_extension("starttls"):
            if settings.tls is Tls.OPPORTUNISTIC:
                return
            self._fail(
                "starttls",
                "does not offer STARTTLS: use its submission port (587), or smtp.tls: Implicit on 465; smtp.tls: "
                "Disabled is for a relay on a trusted network",
            )
        try:
            await client.starttls(timeout=settings.timeouts.reply)
        except aiosmtplib.SMTPTimeoutError as error:
            self._fail("starttls", f"the TLS handshake took more than {settings.timeouts.reply:g} s", error)
        except aiosmtplib.SMTPResponseException as error:
            if settings.tls is Tls.OPPORTUNISTIC and error.code in (454, 502, 503):
                return
            self._refused("starttls", "answers STARTTLS with", error)
        except aiosmtplib.SMTPServerDisconnected as error:
            self._fail("starttls", "closed the connection during the TLS handshake", error)
        except (ssl.SSLError, ssl.CertificateError, OSError) as error:
            raise RelayError("starttls", explain(error, settings, self._relay)) from error
        self._encrypted = True
        await self.ehlo()

    async def authenticate(self) -> None:
        client, settings = self._client, self._settings
        offered = [name.upper() for name in client.server_auth_methods]
        if not self._encrypted and settings.tls is not Tls.OFF:
            self._fail("auth", "offers no TLS, and a password is not sent in the clear: use smtp.tls: StartTLS")
        if not offered:
            hint = "" if self._encrypted else ", perhaps only after TLS: set smtp.tls"
            self._fail("auth", f"offers no AUTH{hint}; or leave smtp.credentialsSecretRef out if it needs none")
        wanted: tuple[str, ...] = MECHANISMS if self._encrypted else MECHANISMS[::-1]
        if settings.auth_mechanism:
            wanted = (settings.auth_mechanism.upper(),)
        usable = [name for name in wanted if name in offered and name in MECHANISMS]
        if not usable:
            self._fail("auth", f"offers AUTH {' '.join(offered)}, and {' or '.join(wanted)} is wanted")
        methods = {"PLAIN": client.auth_plain, "LOGIN": client.auth_login, "CRAM-MD5": client.auth_crammd5}
        for name in usable:
            try:
                await self._step("auth", f"AUTH {name}", methods[name](settings.username, settings.password))
            except RelayRefused as refused:
                if refused.code not in _MECHANISM_UNKNOWN or name == usable[-1]:
                    raise
            else:
                return

    def take_over(self, memory: RelayMemory | None) -> Session:
        client, settings = self._client, self._settings
        transport, protocol = client.transport, client.protocol
        if transport is None or protocol is None or transport.is_closing():
            self._fail("auth" if settings.username else "ehlo", "closed the connection after the greeting")
        capabilities = {key.upper(): value for key, value in client.esmtp_extensions.items()}
        pipelining = settings.pipelining
        if "PIPELINING" not in capabilities or (memory is not None and memory.why_lock_step(settings)):
            pipelining = Pipelining.OFF
        session = Session(
            cast(asyncio.Transport, transport),
            relay=self._relay,
            capabilities=capabilities,
            pipelining=pipelining,
            timeouts=settings.timeouts,
            on_desync=lambda why: memory.fall_back(settings, why) if memory is not None else None,
            leftover=_leftover(protocol),
        )
        if not session.usable:
            why = session.why_unusable
            session.abort()
            self._fail("auth" if settings.username else "ehlo", f"is not usable after the greeting: {why}")
        return session

    async def _step(self, stage: str, command: str, doing: Awaitable[T]) -> T:
        try:
            return await doing
        except aiosmtplib.SMTPTimeoutError as error:
            self._fail(stage, f"no reply to {command} within {self._settings.timeouts.reply:g} s", error)
        except aiosmtplib.SMTPResponseException as error:
            self._refused(stage, f"answers {command} with", error)
        except (aiosmtplib.SMTPException, OSError, UnicodeError) as error:
            self._fail(stage, f"closed the connection at {command} ({error})", error)

    def _refused(self, stage: str, verb: str, error: aiosmtplib.SMTPResponseException) -> NoReturn:
        if not 200 <= error.code <= 599:
            said = Reply.of(0, error.message).text[:200]
            self._fail(stage, f"does not speak SMTP ({said}): check smtp.host and smtp.port", error)
        reply = Reply.of(error.code, error.message)
        hint = ""
        if stage == "auth" and reply.code in (535, 534, 530, 538):
            hint = ": check username and password in smtp.credentialsSecretRef, and that the account may use SMTP"
        elif stage == "banner" and reply.code >= 500:
            hint = ": it does not take mail from this address"
        elif reply.code // 100 == 4:
            hint = ": it may work later"
        raise RelayRefused(stage, f"{self._relay}: {verb} {reply}{hint}", reply) from error

    def _fail(self, stage: str, text: str, cause: BaseException | None = None) -> NoReturn:
        raise RelayError(stage, f"{self._relay}: {text}") from cause


def _leftover(protocol: SMTPProtocol) -> bytes:
    """What aiosmtplib had read beyond the last reply: unsolicited by any command, so the session will refuse it.

    The buffer is private to aiosmtplib (5.1); a test with a relay that says too much holds us to it.
    """
    return bytes(protocol._buffer)
