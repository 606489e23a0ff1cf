"""An SMTP client that sends exactly the bytes it is told to: for what a well-behaved library would never send."""

from __future__ import annotations

import asyncio
from typing import Protocol, Self


class Server(Protocol):
    host: str
    port: int


class Client:
    """A raw client: what is written is exactly what is sent, and replies are read whole."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self._server.host, self._server.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, *lines: str | bytes) -> None:
        self.writer.write(b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines))

    async def reply(self) -> str:
        lines = []
        async with asyncio.timeout(5):
            while line := (await self.reader.readline()).decode():
                lines.append(line.rstrip("\r\n"))
                if line[3:4] != "-":
                    return "\n".join(lines)
        raise EOFError

    async def hello(self) -> str:
        assert (await self.reply()).startswith("220 ")
        self.write("EHLO client.example")
        return await self.reply()

    async def ask(self, *lines: str | bytes) -> str:
        self.write(*lines)
        return await self.reply()
