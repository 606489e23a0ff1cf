"""`MailTransport`: a relay, how to speak to it, and what it allows.

Invariant: a password never goes over a connection that may be in the clear, but to this very machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from fullsend.resources.base import (
    Bool,
    Duration,
    Fault,
    Host,
    Int,
    Model,
    Name,
    Rate,
    SecretRef,
    matching,
    positive,
)

Enhanced = Annotated[
    str, matching(r"^[45](\.[0-9]{1,3}){0,2}$", "is not a refusal's enhanced status code, such as 5.7.26, 4.7 or 5", 9)
]
Pattern = Annotated[str, matching(r"^[^\r\n\x00]*$", "must be one line", 200)]


class TlsMode(StrEnum):
    """When the connection is encrypted. The word is ``Disabled``, not "Off": kubectl reads a bare ``Off`` as false."""

    DISABLED = "Disabled"
    OPPORTUNISTIC = "Opportunistic"
    START_TLS = "StartTLS"
    IMPLICIT = "Implicit"


class Pipelining(StrEnum):
    """How many commands are on the wire before their replies are read (RFC 2920)."""

    DISABLED = "Disabled"
    GROUP = "Group"
    OVERLAP = "Overlap"


class AuthMechanism(StrEnum):
    PLAIN = "PLAIN"
    LOGIN = "LOGIN"
    CRAM_MD5 = "CRAM-MD5"


class Stage(StrEnum):
    """The command whose reply a rule is about; ``DOT`` is the end of the content."""

    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "DOT"


class Charge(StrEnum):
    """Whose failure a refusal is."""

    RECIPIENT = "Recipient"
    TRANSPORT = "Transport"
    SENDER = "Sender"
    MESSAGE = "Message"
    CONNECTION = "Connection"


class Timeouts(Model):
    """How long the relay may take. The defaults are those of RFC 5321, section 4.5.3.2."""

    connect: Duration = Field(default="30s", description="To accept the connection and finish TLS. Default: `30s`.")
    reply: Duration = Field(default="5m", description="To answer one command. Default: `5m`.")
    dot: Duration = Field(
        default="10m",
        description="To answer the end of the content. Too short a time makes deliveries unknown. Default: `10m`.",
    )

    def rules(self) -> Iterator[Fault]:
        yield from positive(self, "connect", "reply", "dot")


class SmtpRelay(Model):
    """An SMTP relay and how to speak to it."""

    host: Host = Field(description="Host name or IP address of the relay.")
    port: Int = Field(default=587, ge=1, le=65535, description="TCP port. Default: 587.")
    tls: TlsMode = Field(
        default=TlsMode.START_TLS,
        description="`StartTLS` (needed, certificate checked), `Implicit` (TLS from the first byte, usually port 465), "
        "`Opportunistic` (if offered, certificate not checked) or `Disabled`. Default: `StartTLS`.",
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret of type `fullsend.dev/smtp-credentials` with the keys `username` and `password`. "
        "Default: no login.",
    )
    ca_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret of type `fullsend.dev/smtp-ca` whose key `ca.crt` holds the certificates (PEM) to "
        "trust. Default: the system's.",
    )
    server_name: Host | None = Field(default=None, description="Name the relay's certificate is for. Default: `host`.")
    helo_name: Host | None = Field(default=None, description="Name given in EHLO. Default: the sender's host name.")
    auth_mechanism: AuthMechanism | None = Field(
        default=None, description="`PLAIN`, `LOGIN` or `CRAM-MD5`. Default: the best that the relay offers."
    )
    pipelining: Pipelining = Field(
        default=Pipelining.OVERLAP,
        description="`Overlap` (the next envelope goes out with this content; two messages a connection may be "
        "unknown after a crash), "
        "`Group` (an envelope in one write; one message) or `Disabled`. Used only if the relay offers PIPELINING. "
        "Default: `Overlap`.",
    )
    verp: Bool = Field(
        default=False,
        description="Give every recipient a return path of its own, so that bounces name the recipient. Default: "
        "false.",
    )
    timeouts: Timeouts = Field(default_factory=Timeouts, description="How long the relay may take.")

    def rules(self) -> Iterator[Fault]:
        clear = self.tls in (TlsMode.DISABLED, TlsMode.OPPORTUNISTIC)
        if self.credentials_secret_ref is not None and clear and not is_loopback(self.host or ""):
            yield Fault(
                ("tls",),
                f"{self.tls.value} may send the password in the clear; with credentialsSecretRef use StartTLS or "
                "Implicit",
                ("tls", "host", "credentialsSecretRef"),
            )
        if self.ca_secret_ref is not None and clear:
            yield Fault(
                ("caSecretRef",),
                f"is of no use with tls {self.tls.value}, which checks no certificate",
                ("tls", "caSecretRef"),
            )


class TransportLimits(Model):
    """What the relay allows. The limits hold over all sender pods together."""

    connections: Int = Field(
        default=16,
        ge=1,
        le=1000,
        description="SMTP connections, over all campaigns that use it and all their senders. Fewer are used where the "
        "relay says that it takes no more. Default: 16.",
    )
    messages_per_connection: Int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Messages before a connection is closed and opened anew. Default: 0, no limit.",
    )
    rates: tuple[Rate, ...] = Field(
        default=(),
        max_length=8,
        description="Rates of this transport, over all campaigns that use it. All of them hold. Default: no limit.",
    )
    pool: Name | None = Field(
        default=None,
        description="Transports with the same pool, in any namespace, share `connections` and `rates`. Give them the "
        "same in each. Default: not shared.",
    )


class ReplyRule(Model):
    """How to judge a refusal, before the built-in classification. The first rule that matches decides. All criteria
    that are given must match; at least one must be given."""

    stage: Stage | None = Field(
        default=None,
        description="Only replies to this command: `MAIL`, `RCPT`, `DATA` or `DOT` (the end of the content). "
        "Default: any.",
    )
    code: Int | None = Field(default=None, ge=400, le=599, description="Only this reply code. Default: any.")
    enhanced: Enhanced | None = Field(
        default=None,
        description="Only this enhanced status code or what it begins, such as `5.7.26` or `4.7`. Default: any.",
    )
    pattern: Pattern = Field(
        default="",
        description="Regular expression (Python syntax, case-insensitive) found anywhere in the reply's text. "
        "Default: any text.",
    )
    charge: Charge = Field(
        description="Whose failure it is: `Recipient` (this mailbox), `Transport` (the relay; nobody is charged), "
        "`Sender` (our From or reputation; "
        "halts), `Message` (the content) or `Connection` (reconnect and go on)."
    )
    permanent: Bool | None = Field(
        default=None,
        description="Whether trying again is useless. A permanent failure of the recipient is `rejected`. Default: "
        "as the reply code says (5xx is).",
    )

    def rules(self) -> Iterator[Fault]:
        if self.stage is None and self.code is None and self.enhanced is None and not self.pattern:
            yield Fault(
                (), "needs at least one of stage, code, enhanced, pattern", ("stage", "code", "enhanced", "pattern")
            )
        if self.pattern:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                yield Fault(("pattern",), f"is not a regular expression: {error}", ("pattern",))


class MailTransportSpec(Model):
    """A relay and what it allows. Campaigns name it in `transportRef`."""

    smtp: SmtpRelay = Field(description="The relay.")
    limits: TransportLimits = Field(default_factory=TransportLimits, description="What the relay allows.")
    reply_rules: tuple[ReplyRule, ...] = Field(
        default=(),
        max_length=64,
        description="How to judge this relay's refusals, where the built-in classification is wrong.",
    )


def is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or host.startswith("127.") or host == "::1"
