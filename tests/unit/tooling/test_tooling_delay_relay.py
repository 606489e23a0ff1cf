"""The delay relay adds latency and nothing else."""

from __future__ import annotations

import asyncio
import os

import pytest

from support.delay_relay import DelayRelay

DELAY = 0.03


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_a_round_trip_takes_twice_the_delay_and_a_long_line_is_full() -> None:
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, DelayRelay("127.0.0.1", server.sockets[0].getsockname()[1], delay=DELAY) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        before = loop.time()
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        assert 2 * DELAY <= loop.time() - before < 2 * DELAY + 0.5
        before = loop.time()
        data = os.urandom(3_000_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        assert loop.time() - before < 46 * 2 * DELAY  # one round trip per chunk would take longer
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_where_nobody_listens_the_connection_ends() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with DelayRelay("127.0.0.1", port, delay=0) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await reader.read() == b""
        writer.close()


async def test_a_lost_connection_is_lost_on_the_other_side_too() -> None:
    gone = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""
        gone.set()
        writer.close()

    server = await asyncio.start_server(watch, "127.0.0.1", 0)
    async with server, DelayRelay("127.0.0.1", server.sockets[0].getsockname()[1], delay=DELAY) as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.transport.abort()
        async with asyncio.timeout(5):
            await gone.wait()


@pytest.mark.parametrize("delay", [0.0, DELAY])
async def test_ending_the_relay_ends_its_connections(delay: float) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        async with DelayRelay("127.0.0.1", server.sockets[0].getsockname()[1], delay=delay) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"ping")
            await reader.readexactly(4)
        assert await reader.read() == b""
        writer.close()
