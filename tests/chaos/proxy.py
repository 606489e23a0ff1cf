"""A TCP proxy before PostgreSQL that cuts connections at moments that matter.

It reads the frontend protocol far enough to know a commit when it sees one: a Sync after a unit of pipelined statements
(the end of an implicit transaction), or a simple query COMMIT. No TLS. Each cut is ordered by ``cut`` and happens at
the next commit of a connection whose application name begins as asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

READY = b"Z\x00\x00\x00\x05"
"""ReadyForQuery, but for its last byte, the transaction's state."""

CHUNK = 1 << 16


class Cut(StrEnum):
    """Where a connection is cut, seen from a transaction."""

    MIDDLE = "in the middle of a transaction"  # the statements go out, the commit does not
    DOUBT = "after COMMIT, before its answer"  # committed, and the client is never told
    RACE = "with COMMIT under way"  # nobody waits for the server: it may commit or not
    STALL = "after COMMIT, silent for a while"  # committed; the connection hangs, then it is cut


STALLED = 2.0
"""Seconds for which a stalled connection says nothing."""


@dataclass(slots=True)
class Order:
    cut: Cut
    application: str


class CuttingProxy:
    """Listens on 127.0.0.1 and forwards to PostgreSQL's Unix socket. ``cuts`` counts what was carried out."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: list[Order] = []
        self._refusing = False
        self.port = 0
        self.cuts: dict[Cut, int] = dict.fromkeys(Cut, 0)

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, cut: Cut, application: str) -> None:
        self._orders.append(Order(cut, application))

    def cut_all(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    def refuse(self) -> None:
        """From now on nobody gets through, and those who had are cut."""
        self._refusing = True
        self.cut_all()

    def admit(self) -> None:
        self._refusing = False

    # -- one connection -----------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far: asyncio.StreamWriter | None = None
        try:
            if not self._refusing:
                back, far = await asyncio.open_unix_connection(str(self._socket), limit=CHUNK)
                await self._carry(reader, writer, back, far)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # either side is gone, or both are to go
        finally:
            for side in (writer, far):
                if side is not None:
                    side.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        far: asyncio.StreamWriter,
    ) -> None:
        length = await reader.readexactly(4)
        start = await reader.readexactly(struct.unpack("!I", length)[0] - 4)
        far.write(length + start)
        fields = start[4:].split(b"\0")
        names = dict(zip(fields[::2], fields[1::2], strict=False))
        application = names.get(b"application_name", b"").decode()
        answers = asyncio.create_task(self._answers(back, writer))
        explicit = False  # between BEGIN and its end a Sync commits nothing
        try:
            while True:
                kind = await reader.readexactly(1)
                length = await reader.readexactly(4)
                body = await reader.readexactly(struct.unpack("!I", length)[0] - 4)
                ends = kind == b"Q" and body.upper().startswith((b"COMMIT", b"ROLLBACK"))
                commits = (kind == b"S" and not explicit) or (ends and body.upper().startswith(b"COMMIT"))
                explicit = (explicit or (kind == b"Q" and body.upper().startswith(b"BEGIN"))) and not ends
                order = self._order(application) if commits else None
                if order is not None:
                    answers.cancel()
                    await asyncio.gather(answers, return_exceptions=True)
                    await self._carry_out(order.cut, kind + length + body, back, far)
                    self.cuts[order.cut] += 1
                    return
                far.write(kind + length + body)
                await far.drain()
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)

    def _order(self, application: str) -> Order | None:
        for order in self._orders:
            if application.startswith(order.application):
                self._orders.remove(order)
                return order
        return None

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await back.read(CHUNK):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()  # ends the other direction too: its read fails

    async def _carry_out(self, cut: Cut, commit: bytes, back: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        """What the server has answered by now may be lost too: the client learns nothing more on this connection."""
        if cut is Cut.MIDDLE:
            await far.drain()
            return
        far.write(commit)
        await far.drain()
        if cut is Cut.RACE:
            return
        tail = b""
        while not tail.startswith(READY):
            data = await back.read(CHUNK)
            if not data:
                return
            tail = (tail + data)[-len(READY) - 1 :]
        if cut is Cut.STALL:
            await asyncio.sleep(STALLED)
