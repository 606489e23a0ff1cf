"""An SMTP server that does exactly what a test tells it: the relay from hell, and the polite one.

A ``Script`` says what is answered to each verb; what it leaves out is answered as a good server would. Each new
connection takes the next script, the last one again and again. What clients sent is kept: commands, contents, and the
chunks in which it came, to prove what was written together.

    refusing = Script(rcpt=[say("550 5.1.1 no such user"), say("250 ok")])
    async with ScriptedServer(refusing) as server:
        ...                                          # connect to 127.0.0.1, server.port
    assert server.connections[0].commands == [...]
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

After = Literal["go on", "close", "reset", "hang", "deaf"]


@dataclass(frozen=True)
class Say:
    """Bytes to send, ``delay`` seconds later, ``fragment`` bytes at a time (0: at once) with ``pause`` between.

    ``after``: go on; close (FIN); reset (RST); hang (read on, say nothing more, ever); deaf (not even read).
    """

    data: bytes
    delay: float = 0.0
    fragment: int = 0
    pause: float = 0.0
    after: After = "go on"


def say(*lines: str | bytes, delay: float = 0.0, fragment: int = 0, pause: float = 0.0, after: After = "go on") -> Say:
    """Each of ``lines`` gets its CRLF; bytes are sent as they are."""
    data = b"".join(line if isinstance(line, bytes) else line.encode() + b"\r\n" for line in lines)
    return Say(data, delay, fragment, pause, after)


NOTHING = Say(b"")

Answer = Say | Callable[[str], Say]
Answers = Answer | Sequence[Answer]
"""One answer for all, or one each time, the last one again and again; a callable gets the command line."""

EHLO = ("250-scripted.example", "250-PIPELINING", "250-SIZE 10000000", "250-8BITMIME", "250 ENHANCEDSTATUSCODES")


GOOD = {
    "banner": say("220 scripted.example ESMTP"),
    "ehlo": say(*EHLO),
    "helo": say("250 scripted.example"),
    "starttls": say("220 2.0.0 go ahead"),
    "auth": say("235 2.7.0 welcome"),
    "mail": say("250 2.1.0 ok"),
    "rcpt": say("250 2.1.5 ok"),
    "data": say("354 go ahead"),
    "dot": say("250 2.0.0 queued"),
    "rset": say("250 2.0.0 flushed"),
    "quit": say("221 2.0.0 bye", after="close"),
    "other": say("502 5.5.2 what?"),
}


@dataclass(frozen=True)
class Script:
    """What is left out (None) is answered as in ``GOOD``."""

    banner: Answers | None = None
    ehlo: Answers | None = None
    helo: Answers | None = None
    starttls: Answers | None = None
    auth: Answers | None = None
    mail: Answers | None = None
    rcpt: Answers | None = None
    data: Answers | None = None
    content: Answers | None = None  # said when the first line of the content has come
    dot: Answers | None = None
    rset: Answers | None = None
    quit: Answers | None = None
    other: Answers | None = None
    unasked: Answers | None = None  # said half a second after the greeting


@dataclass
class Connection:
    commands: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    tls: bool = False
    ended: bool = False


class ScriptedServer:
    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None, implicit: bool = False) -> None:
        self.scripts = scripts or (Script(),)
        self.connections: list[Connection] = []
        self.port = 0
        self._tls = tls
        self._implicit = implicit
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def contents(self) -> list[bytes]:
        return [content for connection in self.connections for content in connection.contents]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._tls if self._implicit else None, limit=1 << 22
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        script = self.scripts[min(len(self.connections), len(self.scripts) - 1)]
        connection = Connection(tls=self._implicit)
        self.connections.append(connection)
        try:
            await _Conversation(script, connection, reader, writer, self._tls).run()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            connection.ended = True
            writer.transport.abort()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await writer.wait_closed()


class _Over(Exception):
    pass


class _Conversation:
    def __init__(
        self,
        script: Script,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._script = script
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._tls = tls
        self._buffer = b""
        self._used: dict[str, int] = {}

    async def run(self) -> None:
        with contextlib.suppress(_Over):
            await self._answer("banner", "")
            unasked = asyncio.create_task(self._interject())
            try:
                while line := await self._line():
                    await self._command(line.decode("utf-8", "replace").rstrip("\r\n"))
            finally:
                unasked.cancel()
                with contextlib.suppress(asyncio.CancelledError, _Over, ConnectionError):
                    await unasked

    async def _interject(self) -> None:
        await asyncio.sleep(0.5)
        await self._answer("unasked", "")

    async def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if not await self._read():
                return b""
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    async def _read(self) -> bool:
        chunk = await self._reader.read(1 << 20)
        if chunk:
            self._connection.chunks.append(chunk)
            self._buffer += chunk
        return bool(chunk)

    async def _command(self, line: str) -> None:
        self._connection.commands.append(line)
        verb = line[:4].upper().rstrip()
        if line.upper() == "STARTTLS":
            said = await self._answer("starttls", line)
            if said.data.startswith(b"220"):
                assert self._tls
                await self._writer.start_tls(self._tls)
                self._connection.tls = True
            return
        name = verb.lower() if verb.lower() in Script.__dataclass_fields__ else "other"
        said = await self._answer(name, line)
        if name == "auth":
            while said.data.startswith(b"334"):
                self._connection.commands.append((await self._line()).decode().rstrip("\r\n"))
                said = await self._answer("auth", line)
        if name == "data" and b"354" in said.data:
            await self._content()

    async def _content(self) -> None:
        if not self._buffer:
            await self._read()
        if not self._buffer.startswith(b".\r\n"):
            await self._answer("content", "")
        while not (self._buffer.startswith(b".\r\n") or b"\r\n.\r\n" in self._buffer):
            if not await self._read():
                return
        if self._buffer.startswith(b".\r\n"):
            content, self._buffer = b"", self._buffer[3:]
        else:
            content, _, self._buffer = self._buffer.partition(b"\r\n.\r\n")
            content += b"\r\n"
        self._connection.contents.append(content)
        await self._answer("dot", "")

    async def _answer(self, name: str, line: str) -> Say:
        answers = getattr(self._script, name)
        if answers is None:
            answers = GOOD.get(name, NOTHING)
        if isinstance(answers, Sequence):
            used = self._used.get(name, 0)
            self._used[name] = used + 1
            answer = answers[min(used, len(answers) - 1)]
        else:
            answer = answers
        said = answer(line) if callable(answer) else answer
        if said.delay:
            await asyncio.sleep(said.delay)
        step = said.fragment or len(said.data) or 1
        for start in range(0, len(said.data), step):
            self._writer.write(said.data[start : start + step])
            await self._writer.drain()
            if said.fragment:
                await asyncio.sleep(said.pause)
        match said.after:
            case "close":
                self._writer.close()
                raise _Over
            case "reset":
                self._writer.transport.abort()
                raise _Over
            case "hang":
                while await self._read():
                    pass
                raise _Over
            case "deaf":
                self._writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.Event().wait()
            case "go on":
                pass
        return said
