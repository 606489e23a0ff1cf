"""What can become of one submission. Expected things are values; the caller matches on the four outcomes.

Invariant (design: no silent miss, few unknowns): ``Accepted`` only on the relay's positive reply to the final dot;
``Unsent`` only while no byte of the content was written; everything between is ``Unknown`` unless a reply decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fullsend.errors import RelayError
from fullsend.smtp.reply import Reply


class Stage(StrEnum):
    """Where in a transaction a reply belongs. ``CONNECT`` is all outside of one: banner, EHLO, TLS, AUTH, idle."""

    CONNECT = "CONNECT"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "DOT"


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """One message for one recipient. ``data`` has CRLF line ends throughout, the last line included; compared by
    identity, because a message written ahead must be submitted as the same object."""

    sender: str
    recipient: str
    data: bytes
    smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The relay took responsibility; ``reply`` often carries its queue id."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """The first failing reply in MAIL, RCPT, DATA, dot order. The content was not accepted.

    ``connection_lost``: the connection is gone as well. ``local``: the relay was never asked, because it had already
    said what it can't take (SIZE, SMTPUTF8) or because the address can't be put into a command.
    """

    stage: Stage
    reply: Reply
    connection_lost: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True)
class Unsent:
    """No content was written for this message: its row is untouched and may go at once, on another connection.

    ``reply`` is the 421 that ended the connection, where there was one; ``stage`` how far the envelope had come, so
    that a caller can notice one address at which every connection breaks.
    """

    why: str
    reply: Reply | None = None
    stage: Stage = Stage.CONNECT


@dataclass(frozen=True, slots=True)
class Unknown:
    """Content was, or may have been, on the wire and no reply decided: nobody knows."""

    why: str


Outcome = Accepted | Refused | Unsent | Unknown


class RelayRefused(RelayError):
    """A relay's negative reply to banner, EHLO, STARTTLS or AUTH; ``reply`` can be classified at ``Stage.CONNECT``."""

    def __init__(self, stage: str, message: str, reply: Reply) -> None:
        super().__init__(stage, message, reply.code)
        self.reply = reply
