"""The protocol that takes a relay's transport over after aiosmtplib's handshake: bytes out, counted replies in.

Invariant: a reply belongs to a command. Every write says how many replies it will cause; a reply nobody is owed (but
for a farewell 421), a line that is none, or the end of the connection is a ``fault``: once, for good, and whoever waits
wakes. Replies that came before the fault stay readable, in order: they are true.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fullsend.smtp.reply import RawReply, Reply, ReplyParser

BLOCK = 262144
"""Bytes of content given to the transport at once; smaller messages go out in one write with what follows them."""


class Wire(asyncio.Protocol):
    """``on_desync`` is told, at most once, when the relay answers out of step."""

    def __init__(self, transport: asyncio.Transport, on_desync: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._on_desync = on_desync
        self._parser = ReplyParser()
        self._owed = 0
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._patience = 0.0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self.replies: deque[RawReply] = deque()
        self.fault = ""
        self.farewell: Reply | None = None  # a 421, whether it answered something or came by itself

    @property
    def over(self) -> bool:
        """Nothing more may be written."""
        return bool(self.fault) or self.farewell is not None or self._transport.is_closing()

    def write(self, data: bytes, replies: int) -> None:
        """The caller has looked at ``over`` in this turn of the loop."""
        self._owed += replies
        self._transport.write(data)

    async def write_content(self, view: memoryview, patience: float) -> None:
        """Hands over a long content but for its last block, as fast as the relay takes it; returns at the first reply
        or fault. One reply, the dot's, is owed from here on, so that a refusal in the middle counts."""
        self._owed += 1
        for start in range(0, len(view), BLOCK):
            while self._paused and not self.replies and not self.over:
                await self._wait(patience, 1)
            if self.replies or self.over:
                return
            self._transport.write(view[start : start + BLOCK])

    async def wait(self, count: int, patience: float) -> None:
        """Until ``count`` replies are readable, or no more will come. ``patience`` (seconds) starts anew at each
        reply: the RFC gives every command its own time-out, and a byte now and then is no progress."""
        while len(self.replies) < count and not self.fault and self.farewell is None:
            await self._wait(patience, count)

    async def _wait(self, patience: float, count: int) -> None:
        waiter = self._waiter = self._loop.create_future()
        self._wanted = count
        self._patience = patience
        self._deadline = self._loop.time() + patience
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)
        try:
            await waiter
        finally:
            self._waiter = None

    def _look_at_the_clock(self) -> None:
        # One lazy timer for all waits: arming one per reply costs more than the reply.
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() >= self._deadline:
            self._break(f"no reply within {self._patience:g} s")
        else:
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self.fault:
            return
        before = len(self.replies)
        for raw in self._parser.feed(data):
            if raw[0] == 421 and self.farewell is None:
                self.farewell = Reply.of(*raw)
            if self._owed:
                self._owed -= 1
                self.replies.append(raw)
            elif self.farewell is None:
                self.desynchronise(f"a reply to no command: {Reply.of(*raw)}")
                return
        if self._parser.violation:
            self.desynchronise(self._parser.violation)
        elif len(self.replies) >= self._wanted or self.farewell is not None:
            self._wake()
        elif len(self.replies) > before:
            self._deadline = self._loop.time() + self._patience

    def eof_received(self) -> bool:
        self._break("the relay closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(f"the connection was lost: {exc}" if exc else "the connection was closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def desynchronise(self, why: str) -> None:
        """Replies can no longer be paired with commands."""
        if not self.fault:
            self._on_desync(why)
        self._break(f"the relay answers out of step: {why}")

    def _break(self, why: str) -> None:
        if not self.fault:
            self.fault = why
            self._transport.abort()
        self._wake()

    def close(self) -> None:
        """At once, without goodbye."""
        self._break("this side closed the connection")
