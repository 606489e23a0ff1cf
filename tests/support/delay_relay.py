"""A TCP relay that adds a fixed delay each way, for latency where the kernel has no netem.

Bytes keep their order and are never held longer than the delay: throughput is that of a long line, not of a slow one.

    async with DelayRelay("127.0.0.1", sink.port, delay=0.010) as relay:   # 20 ms a round trip
        ...                                                               # connect to 127.0.0.1, relay.port

By itself: python tests/support/delay_relay.py --to 127.0.0.1:2525 --port 2526 --delay 0.010
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK = 1 << 16
WINDOW = 256  # chunks on their way; beyond it the reader waits, as a full TCP window would make it


class DelayRelay:
    def __init__(self, host: str, port: int, *, delay: float, listen_port: int = 0) -> None:
        self._target = (host, port)
        self._delay = delay
        self.port = listen_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, far_writer))
                both.create_task(self._carry(far_reader, writer))
        finally:
            for side in (writer, far_writer):
                side.close()
                with contextlib.suppress(OSError):
                    await side.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. A lost connection arrives at the other side as the end of its stream, late as all else."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW)

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()

        async def collect() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    data = b""
                await under_way.put((loop.time() + self._delay, data))

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(collect())
                both.create_task(deliver())
        except* OSError:
            pass  # the receiver is gone; the other direction learns it by itself


async def serve(host: str, port: int, listen_port: int, delay: float) -> None:
    async with DelayRelay(host, port, delay=delay, listen_port=listen_port) as relay:
        print(f"delay relay listening on 127.0.0.1:{relay.port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, required=True, help="seconds added each way")
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(host, int(port), options.port, options.delay))


if __name__ == "__main__":
    main()
