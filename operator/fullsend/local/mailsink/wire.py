"""Lines, contents and replies on one connection of the mail sink, without knowing what they mean.

Everything a client pipelined is answered from one ``data_received`` with one write, which is what makes the sink fast.
Invariant: a late reply stops the parser until it is out, so replies never change places. Only CRLF.CRLF ends a content.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, cast

END = b"\r\n.\r\n"
LINE_LIMIT = 4096  # RFC 5321 section 4.5.3.1.4 asks for 512, extensions for more


class Reading(Enum):
    LINES = auto()
    CONTENT = auto()
    NOTHING = auto()  # closed, or silent for good


class Wire(asyncio.Protocol, ABC):
    """To be given a meaning by ``Connection``: ``on_connect``, ``on_line``, ``on_content`` and the rest."""

    def __init__(self, *, max_size: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.reading = Reading.LINES
        self._max_size = max_size
        self._input = b""
        self._output: list[bytes] = []
        self._content = bytearray()
        self._oversize = False
        self._held = False  # a late reply is on its way
        self._writable = True

    # -- what a subclass makes of it ----------------------------------------------------------------------------------

    @abstractmethod
    def on_connect(self) -> None:
        """Before anything was read."""

    @abstractmethod
    def on_disconnect(self) -> None:
        """May be called more than once."""

    @abstractmethod
    def on_line(self, line: bytes) -> None:
        """A line without its end."""

    @abstractmethod
    def on_first_content(self) -> None:
        """Some of the content has arrived."""

    @abstractmethod
    def on_content(self, content: bytes | None) -> None:
        """The whole content, dots still stuffed; None where it was larger than the limit."""

    @abstractmethod
    def reply_delay(self) -> float:
        """Seconds before every reply."""

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.on_connect()
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.reading = Reading.NOTHING
        self.on_disconnect()

    def pause_writing(self) -> None:
        """The client does not read its replies: stop reading its commands."""
        self._writable = False
        if self.transport:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        if self.is_open and self.transport:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.reading is Reading.NOTHING:
            return
        self._input = self._input + data if self._input else data
        if not self._held:
            self._parse()

    # -- parsing ------------------------------------------------------------------------------------------------------

    def _parse(self) -> None:
        data, at = self._input, 0
        self._input = b""
        while not self._held and self.reading is not Reading.NOTHING and at < len(data):
            if self.reading is Reading.CONTENT:
                at = self._take_content(data, at)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                if len(data) - at > LINE_LIMIT:
                    self.reply(b"500 5.5.2 line too long", then=self.drop)
                break
            line = data[at:end].rstrip(b"\r")
            at = end + 1
            self.on_line(line)
        if self.reading is not Reading.NOTHING:
            self._input = data[at:]
        self._write()

    def _take_content(self, data: bytes, at: int) -> int:
        """Read content from ``data`` at ``at``; returns where the next command begins."""
        self.on_first_content()
        if self.reading is not Reading.CONTENT:
            return len(data)
        if not self._content:
            # The usual case: the content is here as a whole, and nothing but itself is copied.
            if data.startswith(b".\r\n", at):
                self._end_content(b"")
                return at + 3
            end = data.find(END, at)
            if end >= 0:
                self._end_content(data[at : end + 2])
                return end + len(END)
            self._content += data[at:]
        else:
            known = max(0, len(self._content) - len(END) + 1)
            self._content += data[at:]
            if known == 0 and self._content.startswith(b".\r\n"):
                end, after = 0, 3
            else:
                end = self._content.find(END, known)
                after = end + len(END)
                end = end + 2 if end >= 0 else -1
            if end >= 0:
                rest = len(self._content) - after
                self._end_content(bytes(self._content[:end]))
                return len(data) - rest
        if len(self._content) > self._max_size:
            self._oversize = True
            del self._content[: -len(END)]
        return len(data)

    def _end_content(self, content: bytes) -> None:
        too_big = self._oversize or len(content) > self._max_size
        self._content.clear()
        self._oversize = False
        self.reading = Reading.LINES
        self.on_content(None if too_big else content)

    # -- replies ------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def reply(self, line: bytes, *, delay: float = 0.0, then: Callable[[], None] | None = None) -> None:
        def act() -> None:
            self._output.append(line)
            if then:
                then()

        self.after(delay + self.reply_delay(), act)

    def after(self, delay: float, act: Callable[[], None]) -> None:
        """Do something now or late; nothing more is parsed in between."""
        if not delay:
            act()
            return
        self._held = True
        self._write()
        self.loop.call_later(delay, self._release, act)

    def _release(self, act: Callable[[], None]) -> None:
        self._held = False
        if self.is_open:
            act()
            self._parse()

    def babble(self, line: bytes) -> None:
        """Write a line for ever, as fast as the client reads it."""
        self.reading = Reading.NOTHING
        if not self.is_open or not self.transport:
            return
        self._write()
        if self._writable:
            self.transport.write((line + b"\r\n") * 1000)
        self.loop.call_later(0.01, self.babble, line)

    def _write(self) -> None:
        if self._output and self.is_open and self.transport:
            self._output.append(b"")
            self.transport.write(b"\r\n".join(self._output))
            self._output.clear()

    def drop(self) -> None:
        """Close the connection; what was answered before still goes out."""
        self._write()
        self.reading = Reading.NOTHING
        if self.transport:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection at once, as a crash would."""
        self.reading = Reading.NOTHING
        if self.transport:
            self.transport.abort()

    def begin_tls(self, context: ssl.SSLContext) -> Coroutine[Any, Any, None]:
        """Forget what is buffered: sent before the handshake, it must not be obeyed (RFC 3207 section 4.2).

        What is returned must be run: it shakes hands.
        """
        assert self.transport is not None
        self._write()
        self.reading = Reading.NOTHING
        self.transport.pause_reading()
        return self._shake_hands(self.transport, context)

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        # The client's first line may be here before start_tls has returned.
        self._input, self._held, self.reading = b"", True, Reading.LINES
        secured = None
        with contextlib.suppress(OSError, EOFError):  # the client went away, or does not trust us (an ssl.SSLError)
            secured = await self.loop.start_tls(transport, self, context, server_side=True)
        self._held = False
        if secured is None or secured.is_closing():
            # Before the handshake is done the event loop does not tell of a lost connection.
            transport.abort()
            self.connection_lost(None)
            return
        self.transport = secured
        self._parse()
