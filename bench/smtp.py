"""How fast the SMTP session hands messages over: per CPU second of the client, and over a line with latency.

    python bench/smtp.py

The relay is Postfix's smtp-sink, extracted from Debian's package, in a process of its own; the latency is that of the
delaying relay in tests/support, also in its own process. 16 connections, ready messages of 5 KB, uvloop. On two
cores, other work going on, the best of three:

             per CPU second  per second  per second at 20 ms
    Off              21,199      11,309                  181
    Group            30,001      10,445                  353
    Overlap          38,464      12,129                  631

Four, two and one round trips a message; without latency the sink is what limits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outgoing
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining, RelaySettings, Tls
from support.mail_servers import Unavailable, extracted, free_ports

CONNECTIONS = 16
DATA = b"Subject: bench\r\n\r\n" + (b"x" * 70 + b"\r\n") * 70


async def send(port: int, mode: Pipelining, messages: int) -> tuple[float, float]:
    """Wall and CPU seconds for ``messages`` over all connections."""
    settings = RelaySettings("127.0.0.1", port, Tls.OFF, mode)
    sessions = [await connect(settings) for _ in range(CONNECTIONS)]

    async def one(session: Session, number: int) -> None:
        letters = [
            Outgoing("news@a.example", f"user{number}-{at}@b.example", DATA) for at in range(messages // CONNECTIONS)
        ]
        for message, following in zip(letters, [*letters[1:], None], strict=True):
            outcome = await session.submit(message, following)
            assert isinstance(outcome, Accepted), outcome

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(session, number) for number, session in enumerate(sessions)))
    spent = time.perf_counter() - wall, time.process_time() - cpu
    for session in sessions:
        session.abort()
    return spent


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the sink does not start")


def main() -> None:
    try:
        root = extracted("postfix")
    except Unavailable as why:
        raise SystemExit(f"not run: {why}") from None
    sink_port, slow_port = free_ports(2)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(root / "usr/lib/postfix")}
    sink = [str(root / "usr/sbin/smtp-sink"), *(["-u", "nobody"] if os.geteuid() == 0 else [])]
    relay = [sys.executable, str(Path(__file__).parent.parent / "tests/support/delay_relay.py")]
    processes = [
        subprocess.Popen([*sink, f"127.0.0.1:{sink_port}", "1000"], env=environment, cwd="/tmp"),
        subprocess.Popen(
            [*relay, "--to", f"127.0.0.1:{sink_port}", "--port", str(slow_port), "--delay", "0.010"],
            stdout=subprocess.DEVNULL,
        ),
    ]
    try:
        wait_for(sink_port)
        wait_for(slow_port)
        print(f"{'':8} {'per CPU second':>15} {'per second':>11} {'per second at 20 ms':>20}")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for mode, messages in ((Pipelining.OFF, 16_000), (Pipelining.GROUP, 32_000), (Pipelining.OVERLAP, 32_000)):
                wall, cpu = min(runner.run(send(sink_port, mode, messages)) for _ in range(3))
                far, _ = runner.run(send(slow_port, mode, 1600))
                print(f"{mode:8} {messages / cpu:15,.0f} {messages / wall:11,.0f} {1600 / far:20,.0f}")
    finally:
        for process in processes:
            process.terminate()
            process.wait(5)


if __name__ == "__main__":
    main()
