"""What runs in the pod of ``kubectl fullsend``: the ``fullsend`` command, for a person who has no way to the ledger.

The pod's own process (``--hold``) waits and does nothing. The command comes by exec: what is asked, and the file that
is imported, over its standard input, the answer over its standard output, so that neither a person's address nor an
answer is ever in an argument, an object of the API, an audit log or the pod's log. Invariants: a file that did not
arrive whole is not looked at; an answer that did not arrive whole is known to be torn, by its length and digest in the
last line of standard error.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

PROTOCOL: Final = 1
"""Of request, upload and ending. A pod's image may be older or newer than the plugin."""
MARK: Final = "\x1efullsend "
"""Begins the line that ends standard error."""
PIECE: Final = 1 << 18
UPLOAD: Final = "@upload"
START_WITHIN: Final = 180.0
"""Seconds in which somebody must ask after the pod has started."""
LOOK_EVERY: Final = 0.5


class TornUpload(Exception):
    """The stream ended before its end, or is not what was sent."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command of ``fullsend`` with its options, and its ``operands``, which may look like options. ``upload``: the
    name of the file that follows and stands for the operand UPLOAD, or "". ``columns`` and ``color`` are those of the
    terminal that shows the answer."""

    command: tuple[str, ...]
    operands: tuple[str, ...]
    upload: str = ""
    columns: int = 80
    color: bool = False
    protocol: int = PROTOCOL

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, stream: BinaryIO) -> Self:
        """Raises ValueError, with words for a person, where it can't be understood."""
        try:
            asked = json.loads(stream.readline())
        except ValueError as error:
            raise ValueError(f"no request arrived: {error}") from error
        if asked.get("protocol") != PROTOCOL:
            raise ValueError(
                "kubectl fullsend and the image that runs in the cluster don't understand each other; "
                "install the plugin in the version of the operator"
            )
        return cls(**{**asked, "command": tuple(asked["command"]), "operands": tuple(asked["operands"])})


@dataclass(frozen=True, slots=True)
class Ending:
    """How the command ended, and what it has written to standard output."""

    code: int
    length: int
    digest: str

    def line(self) -> str:
        return f"\n{MARK}{json.dumps(asdict(self))}\n"

    @classmethod
    def read(cls, line: str) -> Self | None:
        """None for a line of the command's own."""
        return cls(**json.loads(line[len(MARK) :])) if line.startswith(MARK) else None


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """A file as it goes over the wire: each piece with its length, at last the digest of all."""
    seen = hashlib.sha256()
    while piece := source.read(PIECE):
        seen.update(piece)
        yield b"%d\n" % len(piece)
        yield piece
    yield b"0\n"
    yield seen.hexdigest().encode() + b"\n"


def receive(stream: BinaryIO, target: Path) -> None:
    """What ``pieces`` sent, into a file. Raises TornUpload."""
    seen = hashlib.sha256()
    with target.open("wb") as file:
        while length := _length(stream.readline()):
            piece = stream.read(length)
            if len(piece) != length:
                raise TornUpload(f"the connection broke after {file.tell() + len(piece)} bytes")
            seen.update(piece)
            file.write(piece)
        if stream.readline() != seen.hexdigest().encode() + b"\n":
            raise TornUpload(f"the {file.tell()} bytes that arrived are not what was sent")


def _length(line: bytes) -> int:
    if not line.endswith(b"\n") or not line.strip().isdigit():
        raise TornUpload("the connection broke in the middle of the file")
    return int(line)


class _Counted(io.RawIOBase):
    """Standard output, with the length and the digest of what went through."""

    def __init__(self, to: BinaryIO) -> None:
        self._to = to
        self.length = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        whole = bytes(data)
        self._to.write(whole)
        self._to.flush()
        self.length += len(whole)
        self.digest.update(whole)
        return len(whole)


def serve(mounts: Path) -> None:
    """Reads a request from standard input, carries it out, and tells how it ended."""
    counted = _Counted(sys.stdout.buffer)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(counted, PIECE), encoding="utf-8", newline="")
    try:
        request = Request.read(sys.stdin.buffer)
    except ValueError as error:
        print(f"fullsend: {error}", file=sys.stderr)
        code = 1
    else:
        code = _carry_out(request, mounts)
    sys.stdout.flush()
    sys.stderr.write(Ending(code, counted.length, counted.digest.hexdigest()).line())
    sys.stderr.flush()


def _carry_out(request: Request, mounts: Path) -> int:
    os.environ["COLUMNS"] = str(request.columns)
    if request.color:
        os.environ |= {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    operands = request.operands
    with tempfile.TemporaryDirectory(prefix="fullsend-") as folder:
        if request.upload:
            file = Path(folder) / Path(request.upload).name
            try:
                receive(sys.stdin.buffer, file)
            except (TornUpload, OSError) as error:
                print(f"fullsend: {error}. Nothing was imported; run the same command again.", file=sys.stderr)
                return 1
            operands = tuple(str(file) if word == UPLOAD else word for word in operands)
        return _run([*request.command, "--database", f"@{mounts / 'ledger' / 'dsn'}", "--", *operands])


def _run(arguments: list[str]) -> int:
    from fullsend.cli import main  # not for the process that only waits

    try:
        main(arguments, prog_name="fullsend")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def hold() -> None:
    """Lives as long as somebody asks: until the command that was asked has ended, until nobody comes, until it is told
    to go. A pod whose person has gone does not stay."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a pod ends by nothing else
    lock = _lock()
    try:
        end = time.monotonic() + START_WITHIN
        while not lock.exists():
            if time.monotonic() > end:
                return
            time.sleep(LOOK_EVERY)
        with lock.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH)
    finally:
        lock.unlink(missing_ok=True)


@contextmanager
def _asking() -> Iterator[None]:
    """While this is held, the pod's own process waits."""
    lock = _lock()
    with tempfile.NamedTemporaryFile(dir=lock.parent, delete=False) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        Path(held.name).rename(lock)  # it appears locked
        yield


def _lock() -> Path:
    return Path(tempfile.gettempdir()) / f"fullsend-{os.environ.get('HOSTNAME', '')}.lock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hold", action="store_true", help="wait for somebody to ask")
    parser.add_argument("--mounts", type=Path, required=True, help="where the pod finds ledger/dsn")
    given = parser.parse_args()
    if given.hold:
        hold()
        return
    with _asking():
        serve(given.mounts)


if __name__ == "__main__":
    main()
