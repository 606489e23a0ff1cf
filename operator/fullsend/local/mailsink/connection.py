"""One connection of the mail sink: the dialogue of RFC 5321, and the troubles that were laid out for it.

What was read when a message's final dot arrives is kept before it is answered, or left unanswered on purpose.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from fullsend.local.mailsink.faults import Action, Banner, Rule, Stage
from fullsend.local.mailsink.wire import Reading, Wire

if TYPE_CHECKING:
    from fullsend.local.mailsink.server import MailSink


class Ending(StrEnum):
    """How a connection ended."""

    QUIT = "Quit"  # as it should
    DROPPED = "Dropped"  # by this side
    LOST = "Lost"  # by the other side, without a word


@dataclass(slots=True)
class Transaction:
    mail_from: str
    recipients: list[str]
    later: tuple[Rule, str] | None = None  # trouble at DATA or after, and the recipient who brought it


class Connection(Wire):
    def __init__(self, sink: MailSink) -> None:
        super().__init__(max_size=sink.max_size)
        self._sink = sink
        self.number = 0
        self.ending = Ending.LOST
        self._greeted = False
        self._secure = False
        self._authenticated = False
        self._next_line: Callable[[bytes], None] | None = None  # the rest of an AUTH dialogue
        self._transaction: Transaction | None = None
        self._messages = 0
        self._errors = 0
        self._commands: dict[bytes, Callable[[bytes], None]] = {
            b"EHLO": self._ehlo,
            b"HELO": self._helo,
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"RSET": self._rset,
            b"NOOP": lambda _: self.reply(b"250 2.0.0 OK"),
            b"VRFY": lambda _: self.reply(b"252 2.0.0 try it"),
            b"QUIT": self._quit,
            b"STARTTLS": self._starttls,
            b"AUTH": self._auth,
        }

    def on_connect(self) -> None:
        assert self.transport is not None
        self._secure = self.transport.get_extra_info("sslcontext") is not None
        self.number = self._sink.opened(self)
        faults = self._sink.faults
        match faults.banner:
            case Banner.NORMAL if (
                faults.max_connections is not None and self._sink.connections > faults.max_connections
            ):
                self.reply(b"421 4.7.0 too many connections from your address", then=self.drop)
            case Banner.NORMAL:
                self.reply(b"220 " + self._sink.hostname + b" ESMTP Fullsend mail sink")
            case Banner.SILENT:
                self.reading = Reading.NOTHING
            case Banner.HTTP:
                self.reply(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n", then=self.drop)
            case other:
                assert_never(other)

    def on_disconnect(self) -> None:
        self._sink.closed(self)

    def drop(self) -> None:
        self._ended(Ending.DROPPED)
        super().drop()

    def abort(self) -> None:
        self._ended(Ending.DROPPED)
        super().abort()

    def _ended(self, how: Ending) -> None:
        """The first word on it counts: a client that has said QUIT is not dropped."""
        if self.ending is Ending.LOST and self.is_open:
            self.ending = how

    def reply_delay(self) -> float:
        return self._sink.faults.reply_delay

    def on_line(self, line: bytes) -> None:
        if self._next_line:
            take, self._next_line = self._next_line, None
            take(line)
            return
        command = self._commands.get(line.split(b" ", 1)[0].upper())
        if command:
            command(line)
        else:
            self._refuse(b"500 5.5.1 command not recognised")

    def _refuse(self, line: bytes, *, delay: float = 0.0) -> bytes:
        """A negative reply that counts as an error of the client; returns what is answered."""
        self._errors += 1
        limit = self._sink.faults.errors_per_connection
        if limit is not None and self._errors > limit:
            line, delay = b"421 4.7.0 " + self._sink.hostname + b" Error: too many errors", 0.0
        self.reply(line, delay=delay, then=self.drop if line.startswith(b"421") else None)
        return line

    # -- trouble ------------------------------------------------------------------------------------------------------

    def _meets(self, stage: Stage) -> bool:
        """Whether trouble was laid out for this stage; if so it has now happened, instead of the usual answer."""
        transaction = self._transaction
        if not transaction or not transaction.later:
            return False
        rule, recipient = transaction.later
        if rule.effect.stage is not stage:
            return False
        transaction.later = None
        self._happen(rule, recipient)
        return True

    def _happen(self, rule: Rule, address: str) -> None:
        self._sink.hit(rule, address)
        line = rule.effect.reply.encode("utf-8", "surrogateescape")
        answer = line
        match rule.effect.action:
            case Action.REPLY if line[:1] in (b"2", b"3"):
                self.reply(line, delay=rule.delay)
            case Action.REPLY:
                answer = self._refuse(line, delay=rule.delay)
            case Action.DELAY:
                answer = b"250 2.0.0 OK: taken, at last"
                self.reply(answer, delay=rule.delay)
            case Action.DROP:
                self.after(rule.delay, self.drop)
            case Action.SILENCE:
                self.reading = Reading.NOTHING
            case Action.ENDLESS:
                self.babble(line)
            case other:
                assert_never(other)
        self._sink.tell(self, rule, address, answer.decode("utf-8", "replace"))

    # -- commands -----------------------------------------------------------------------------------------------------

    def _ehlo(self, _line: bytes) -> None:
        self._greeted, self._transaction = True, None
        self.reply(b"\r\n".join(self._sink.greeting(secure=self._secure)))

    def _helo(self, _line: bytes) -> None:
        self._greeted, self._transaction = True, None
        self.reply(b"250 " + self._sink.hostname)

    def _mail(self, line: bytes) -> None:
        faults = self._sink.faults
        address, parameters = _path(line[4:], b" FROM:")
        limit = faults.messages_per_connection
        if address is None:
            self._refuse(b"501 5.5.4 syntax: MAIL FROM:<address>")
        elif not self._greeted:
            self._refuse(b"503 5.5.1 EHLO first")
        elif self._transaction:
            self._refuse(b"503 5.5.1 nested MAIL")
        elif self._sink.credentials and not self._authenticated:
            self._refuse(b"530 5.7.0 authentication required")
        elif limit is not None and self._messages >= limit:
            self.reply(b"421 4.7.0 too many messages on this connection", then=self.drop)
        elif _announced_size(parameters) > self._sink.max_size:
            self._refuse(b"552 5.3.4 message too big")
        elif (rule := faults.rule_for(address, at_mail=True)) and self._sink.due(rule, address):
            if rule.effect.reply.startswith("2"):
                self._transaction = Transaction(address, [])
            self._happen(rule, address)
        else:
            self._transaction = Transaction(address, [])
            self.reply(b"250 2.1.0 OK")

    def _rcpt(self, line: bytes) -> None:
        address, _ = _path(line[4:], b" TO:")
        transaction = self._transaction
        if not address:
            self._refuse(b"501 5.5.4 syntax: RCPT TO:<address>")
            return
        if not transaction:
            self._refuse(b"503 5.5.1 MAIL first")
            return
        self._sink.tried(address)
        rule = self._sink.faults.rule_for(address, at_mail=False)
        if rule and not self._sink.due(rule, address):
            rule = None
        at_once = rule is not None and rule.effect.stage is Stage.RCPT
        if rule is None or not at_once or (rule.effect.action is Action.REPLY and rule.effect.reply.startswith("2")):
            transaction.recipients.append(address)
        if rule and at_once:
            self._happen(rule, address)
        else:
            if rule and not transaction.later:
                transaction.later = (rule, address)
            self.reply(b"250 2.1.5 OK")

    def _data(self, _line: bytes) -> None:
        # A refused DATA leaves the transaction as it is: the next MAIL needs an RSET before it, as at Postfix.
        if not self._transaction:
            self._refuse(b"503 5.5.1 MAIL first")
        elif not self._transaction.recipients and not self._sink.faults.data_without_recipients:
            self._refuse(b"554 5.5.1 no valid recipients")
        elif not self._meets(Stage.DATA):
            self.reading = Reading.CONTENT
            self.reply(b"354 end with CRLF.CRLF")

    def on_first_content(self) -> None:
        self._meets(Stage.CONTENT)

    def on_content(self, content: bytes | None) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        if not transaction.recipients:
            self._refuse(b"554 5.5.1 no valid recipients")
            return
        if content is None:
            self._refuse(b"552 5.3.4 message too big")
            return
        self._messages += 1
        rule, address = transaction.later or (None, "")
        effect = rule.effect if rule else None
        if effect is None or effect.action is not Action.REPLY or effect.reply.startswith("2"):
            replied = effect is None or effect.action in (Action.REPLY, Action.DELAY)
            recipients = tuple(transaction.recipients)
            self._sink.take(_unstuffed(content), transaction.mail_from, recipients, self.number, replied)
        if rule:
            self._happen(rule, address)
        else:
            self.reply(b"250 2.0.0 OK: taken as %d" % self._sink.accepted)

    def _quit(self, _line: bytes) -> None:
        self._ended(Ending.QUIT)
        self.reply(b"221 2.0.0 bye", then=self.drop)

    def _rset(self, _line: bytes) -> None:
        self._transaction = None
        self.reply(b"250 2.0.0 OK")

    # -- TLS and authentication ---------------------------------------------------------------------------------------

    def _starttls(self, _line: bytes) -> None:
        if self._sink.tls is None or self._secure:
            self._refuse(b"502 5.5.1 not offered")
        else:
            self.reply(b"220 2.0.0 go ahead", then=self._begin_tls)

    def _begin_tls(self) -> None:
        assert self._sink.tls is not None
        self._transaction, self._greeted, self._authenticated, self._secure = None, False, False, True
        self._sink.spawn(self.begin_tls(self._sink.tls))

    def _auth(self, line: bytes) -> None:
        mechanism, _, initial = line[4:].strip().partition(b" ")
        match mechanism.upper(), bool(initial):
            case _ if not self._sink.credentials:
                self._refuse(b"502 5.5.1 not offered")
            case b"PLAIN", True:
                self._plain(initial)
            case b"PLAIN", False:
                self._ask(b"", self._plain)
            case b"LOGIN", True:
                self._login_user(initial)
            case b"LOGIN", False:
                self._ask(b"Username:", self._login_user)
            case _:
                self._refuse(b"504 5.5.4 mechanism not offered")

    def _ask(self, what: bytes, take: Callable[[bytes], None]) -> None:
        self._next_line = take
        self.reply(b"334 " + base64.b64encode(what))

    def _plain(self, line: bytes) -> None:
        _, _, rest = _decoded(line).partition(b"\0")
        user, _, password = rest.partition(b"\0")
        self._check(user, password)

    def _login_user(self, line: bytes) -> None:
        user = _decoded(line)
        self._ask(b"Password:", lambda answer: self._check(user, _decoded(answer)))

    def _check(self, user: bytes, password: bytes) -> None:
        assert self._sink.credentials is not None
        name, secret = self._sink.credentials
        good = hmac.compare_digest(user, name.encode()) & hmac.compare_digest(password, secret.encode())
        self._authenticated = good
        if good:
            self.reply(b"235 2.7.0 welcome")
        else:
            self._refuse(b"535 5.7.8 wrong user name or password")


def _decoded(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return b""


def _unstuffed(content: bytes) -> bytes:
    """Without the dots that transparency added (RFC 5321 section 4.5.2)."""
    if content.startswith(b"."):
        content = content[1:]
    return content.replace(b"\r\n.", b"\r\n") if b"\r\n." in content else content


def _announced_size(parameters: bytes) -> int:
    for parameter in parameters.upper().split():
        name, _, value = parameter.partition(b"=")
        if name == b"SIZE" and value.isdigit():
            return int(value)
    return 0


def _path(argument: bytes, keyword: bytes) -> tuple[str | None, bytes]:
    """The address and the parameters of `` FROM:<a@b> SIZE=1``; None where the syntax is wrong."""
    if argument[: len(keyword)].upper() != keyword:
        return None, b""
    path = argument[len(keyword) :].lstrip()
    end = path.find(b">")
    if b'"' in path:  # a quoted local part may hold ">"
        end = path.find(b">", path.rfind(b'"'))
    if not path.startswith(b"<") or end < 0:
        return None, b""
    return path[1:end].decode("utf-8", "surrogateescape"), path[end + 1 :]
