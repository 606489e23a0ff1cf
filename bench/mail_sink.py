"""How many messages a second the mail sink takes on one core, so that a sender's figures are not the sink's.

The client is a separate process with plain sockets that pipelines the next message's MAIL, RCPT and DATA behind each
content, and reads replies without parsing them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def send(port: int, messages: int, size: int, done: multiprocessing.Queue[float]) -> None:
    """Several connections in turn, so that the sink always has one to answer while this process writes another."""
    body = (b"Subject: hello\r\nMessage-ID: <bench@example.org>\r\n\r\n" + b"x" * 76 + b"\r\n").ljust(100, b"y")
    body = body[:98] + b"\r\n" + (b"x" * 76 + b"\r\n") * (size // 78)
    envelope = b"MAIL FROM:<a@example.org> SIZE=6000 BODY=8BITMIME\r\nRCPT TO:<b%d@example.net>\r\nDATA\r\n"
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for peer in sockets:
        peer.recv(4096)
        peer.sendall(b"EHLO bench\r\n")
        peer.recv(4096)
        peer.sendall(envelope % 0)
    before = time.monotonic()
    buffers = [b""] * len(sockets)
    for number in range(messages // len(sockets)):
        for peer in sockets:
            peer.sendall(body + b".\r\n" + envelope % number)
        for at, peer in enumerate(sockets):
            while b"354 " not in buffers[at]:
                buffers[at] += peer.recv(65536)
            buffers[at] = b""
    done.put(time.monotonic() - before)


def measure(arguments: list[str], messages: int, size: int) -> None:
    command = [sys.executable, "-m", "fullsend.local.mailsink", "--port", "0", *arguments]
    sink = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert sink.stdout
        found = re.search(r":(\d+)$", sink.stdout.readline().strip())
        assert found
        cpu = psutil.Process(sink.pid)
        start = sum(cpu.cpu_times()[:2])
        done: multiprocessing.Queue[float] = multiprocessing.Queue()
        client = multiprocessing.Process(target=send, args=(int(found[1]), messages, size, done))
        client.start()
        wall = done.get(timeout=300)
        used = sum(cpu.cpu_times()[:2]) - start
        client.join()
    finally:
        sink.terminate()
        sink.wait()
    name = arguments[0] if arguments else "discard"
    print(f"{name:<12} {messages / wall:10,.0f} messages/s {messages / used:10,.0f} per CPU-second")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=5000)
    options = parser.parse_args()
    print(f"{options.messages:,} messages of {options.size:,} bytes, 8 connections, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        measure([], options.messages, options.size)
        measure(["--journal", str(Path(folder, "journal.jsonl"))], options.messages, options.size)
        measure(["--folder", str(Path(folder, "mail"))], options.messages // 10, options.size)


if __name__ == "__main__":
    main()
