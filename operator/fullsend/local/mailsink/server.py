"""The mail sink as an object: an SMTP server that takes everything, or misbehaves exactly as told.

    async with MailSink(faults=PRESETS["realistic"]) as sink:
        ...                       # send to 127.0.0.1, sink.port
        sink.count("a@b.example")

``faults`` may be replaced at any time and holds from the next command on. A message is counted and handed to the
stores before its final dot is answered, so what a client was told is never more than what was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from fullsend.local.mailsink.connection import Connection
from fullsend.local.mailsink.faults import Faults, Rule
from fullsend.local.mailsink.stores import FLUSH_EVERY, Delivery, Log, Memory, Store, delivery_of

MAX_SIZE = 50_000_000


class MailSink:
    """``memory``: remember deliveries for assertions ("content", "envelopes", or "" for a sink that runs for long).

    ``tls`` offers STARTTLS, or with ``implicit_tls`` speaks TLS from the first byte. ``credentials`` (user, password)
    makes AUTH PLAIN or LOGIN a must. ``port`` 0 takes a free one, and keeps it over ``stop_listening``/``listen``.
    ``log`` is told of every trouble that is made and of every end of a connection.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
        stores: Sequence[Store] = (),
        log: Log | None = None,
        memory: str = "content",
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        credentials: tuple[str, str] | None = None,
        pipelining: bool = True,
        max_size: int = MAX_SIZE,
        hostname: str = "sink.example",
    ) -> None:
        self.host = host
        self.port = port
        self.faults = faults or Faults()
        self.tls = tls
        self.credentials = credentials
        self.max_size = max_size
        self.hostname = hostname.encode()
        self.accepted = 0
        self.connections_made = 0
        self.peak_connections = 0
        self._implicit_tls = implicit_tls
        self._pipelining = pipelining
        self._memory = Memory(content=memory == "content") if memory else None
        self._stores: tuple[Store, ...] = (*stores, self._memory) if self._memory else tuple(stores)
        self._log = log
        self._tries: Counter[str] = Counter()
        self._hits: Counter[tuple[Rule, str]] = Counter()
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flushing: asyncio.TimerHandle | None = None

    # -- running ------------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        context = self.tls if self._implicit_tls else None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), self.host, self.port, ssl=context, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """From now on connections are refused; those that are open stay."""
        if self._server:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    def drop_connections(self) -> None:
        """Close every connection without a word, as a crash of the relay would."""
        for connection in tuple(self._open):
            connection.abort()

    async def close(self) -> None:
        await self.stop_listening()
        self.drop_connections()
        for task in tuple(self._tasks):
            task.cancel()  # a TLS handshake that nobody finishes
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for _ in range(3):  # until the event loop has closed the sockets
            await asyncio.sleep(0)
        if self._flushing:
            self._flushing.cancel()
        for store in self._stores:
            store.close()
        if self._log:
            self._log.close()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- what tests ask -----------------------------------------------------------------------------------------------

    @property
    def deliveries(self) -> list[Delivery]:
        """Everything that was taken, in order; the sink must have a ``memory``."""
        return self._memory.deliveries if self._memory else []

    def count(self, recipient: str) -> int:
        """How many copies this recipient got."""
        return self._memory.by_recipient[recipient.lower()] if self._memory else 0

    def tries(self, recipient: str) -> int:
        """How often this recipient was named in a RCPT."""
        return self._tries[recipient.lower()]

    @property
    def connections(self) -> int:
        return len(self._open)

    # -- what connections tell ----------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> int:
        self._open.add(connection)
        self.connections_made += 1
        self.peak_connections = max(self.peak_connections, len(self._open))
        return self.connections_made

    def closed(self, connection: Connection) -> None:
        if connection in self._open and self._log:
            self._log.write(connection.number, ended=connection.ending)
            self._flush_soon()
        self._open.discard(connection)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tried(self, address: str) -> None:
        if self._memory:
            self._tries[address.lower()] += 1

    def due(self, rule: Rule, address: str) -> bool:
        """Whether this try of the address still meets the rule's trouble."""
        times = rule.effect.times
        return times is None or self._hits[rule, address.lower()] < times

    def hit(self, rule: Rule, address: str) -> None:
        if rule.effect.times is not None:
            self._hits[rule, address.lower()] += 1

    def tell(self, connection: Connection, rule: Rule, address: str, reply: str) -> None:
        """``reply`` is what was answered, "" for nothing."""
        if self._log:
            effect = rule.effect
            self._log.write(connection.number, address=address, stage=effect.stage, action=effect.action, reply=reply)
            self._flush_soon()

    def take(self, content: bytes, mail_from: str, recipients: tuple[str, ...], connection: int, replied: bool) -> None:
        self.accepted += 1
        if not self._stores:
            return
        delivery = delivery_of(
            content, mail_from=mail_from, recipients=recipients, connection=connection, replied=replied
        )
        for store in self._stores:
            store.add(delivery)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        for store in self._stores:
            store.flush()
        if self._log:
            self._log.flush()

    def greeting(self, *, secure: bool) -> list[bytes]:
        offers = [self.hostname + b" at your service"]
        if self._pipelining:
            offers.append(b"PIPELINING")
        offers += [b"SIZE %d" % self.max_size, b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES"]
        if self.tls and not secure:
            offers.append(b"STARTTLS")
        if self.credentials:
            offers.append(b"AUTH PLAIN LOGIN")
        return [b"250-" + offer for offer in offers[:-1]] + [b"250 " + offers[-1]]
