"""What becomes of a message that the sink took: a journal line, a file to look at, a value for a test to assert on.

A message counts as delivered from the moment its final dot was read, whether or not the client was told: a store is
written in that order, and what is buffered is flushed by the server at least every ``FLUSH_EVERY`` seconds and when
it ends, so that only a sink killed outright can lose journal lines.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path
from typing import Protocol, TextIO

FLUSH_EVERY = 0.2

_HEADER = {
    name: re.compile(rb"^" + name + rb":[ \t]*([^\r]*(?:\r\n[ \t][^\r]*)*)", re.IGNORECASE | re.MULTILINE)
    for name in (b"Message-ID", b"Subject")
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that was taken. ``replied`` is false where the client was never told."""

    at: datetime
    mail_from: str
    recipients: tuple[str, ...]
    connection: int
    size: int  # bytes, as on the wire but without the dots that transparency adds
    replied: bool
    message_id: str
    raw_subject: str
    content: bytes = field(repr=False)

    @property
    def subject(self) -> str:
        if "=?" not in self.raw_subject:
            return self.raw_subject
        try:
            return str(make_header(decode_header(self.raw_subject)))
        except (HeaderParseError, LookupError, UnicodeError):
            return self.raw_subject


def header(content: bytes, name: bytes) -> str:
    """One unfolded header field of a message, "" where it has none."""
    end = content.find(b"\r\n\r\n")
    found = _HEADER[name].search(content, 0, len(content) if end < 0 else end + 2)
    return " ".join(found[1].decode("utf-8", "replace").split()) if found else ""


class Store(Protocol):
    def add(self, delivery: Delivery) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Memory:
    """For tests in the same process. Without ``content`` only the envelopes are kept."""

    def __init__(self, *, content: bool) -> None:
        self._content = content
        self.deliveries: list[Delivery] = []
        self.by_recipient: Counter[str] = Counter()

    def add(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery if self._content else replace(delivery, content=b""))
        self.by_recipient.update(recipient.lower() for recipient in delivery.recipients)

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is open: what was kept stays readable."""


class Journal:
    """One JSON object a line, in the order of arrival; appended to what an earlier run left."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._lines: list[str] = []

    def add(self, delivery: Delivery) -> None:
        entry = {
            "time": delivery.at.isoformat(timespec="milliseconds"),
            "mail_from": delivery.mail_from,
            "recipients": list(delivery.recipients),
            "message_id": delivery.message_id,
            "subject": delivery.subject,
            "bytes": delivery.size,
            "connection": delivery.connection,
            "replied": delivery.replied,
            "sha256": hashlib.sha256(delivery.content).hexdigest(),
        }
        self._lines.append(json.dumps(entry, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        if self._lines:
            self._file.write("".join(self._lines))
            self._file.flush()
            self._lines.clear()

    def close(self) -> None:
        self.flush()
        self._file.close()


def read_journal(path: Path) -> Iterator[dict[str, object]]:
    """The entries of a journal; a last line that was torn by a kill is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


class Log:
    """What the sink did to its clients: a JSON line for each trouble it made and for each connection that ended.

    Beside the journal, so that what a client claims (a refusal, a lost connection) can be held against what happened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, connection: int, **what: str) -> None:
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "connection": connection, **what}
        self._file.write(json.dumps(entry, ensure_ascii=True) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Folder:
    """Files that a person can open: ``DIR/000/000017_ada@example.org.eml``, and ``DIR/index.tsv`` to find them by.

    A thousand files a subfolder, numbered on from what an earlier run left. The envelope is added on top, as a mail
    server does at final delivery (RFC 5321, section 4.4). Beyond ``first`` messages nothing more is stored.
    """

    SHARD = 1000

    def __init__(self, path: Path, *, first: int | None = None) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._first = first
        self._index: TextIO = (path / "index.tsv").open("a+", encoding="utf-8")
        self._index.seek(0)
        lines = sum(1 for _ in self._index)
        if not lines:
            self._index.write("file\ttime\trecipient\tsubject\n")
        self._number = max(0, lines - 1)
        self._waiting: list[Delivery] = []

    def add(self, delivery: Delivery) -> None:
        if self._first is None or self._number + len(self._waiting) < self._first:
            self._waiting.append(delivery)

    def flush(self) -> None:
        for delivery in self._waiting:
            self._write(delivery)
        self._waiting.clear()
        self._index.flush()

    def _write(self, delivery: Delivery) -> None:
        self._number += 1
        shard = f"{self._number // self.SHARD:03}"
        recipient = delivery.recipients[0]
        # An address may hold "/", and be longer than a file name may.
        safe = re.sub(r"[^\w.@+=-]", "_", recipient, flags=re.ASCII)[:100]
        name = f"{shard}/{self._number:06}_{safe}.eml"
        if self._number % self.SHARD == 0 or self._number == 1 or not (self._path / shard).is_dir():
            (self._path / shard).mkdir(exist_ok=True)
        to = "".join(f"Delivered-To: {recipient}\r\n" for recipient in delivery.recipients)
        top = f"Return-Path: <{delivery.mail_from}>\r\n{to}".encode()
        (self._path / name).write_bytes(top + delivery.content)
        subject = re.sub(r"[\t\r\n]", " ", delivery.subject)
        self._index.write(f"{name}\t{delivery.at.isoformat(timespec='milliseconds')}\t{recipient}\t{subject}\n")

    def close(self) -> None:
        self.flush()
        self._index.close()


def delivery_of(
    content: bytes, *, mail_from: str, recipients: tuple[str, ...], connection: int, replied: bool
) -> Delivery:
    return Delivery(
        at=datetime.now(UTC),
        mail_from=mail_from,
        recipients=recipients,
        connection=connection,
        size=len(content),
        replied=replied,
        message_id=header(content, b"Message-ID"),
        raw_subject=header(content, b"Subject"),
        content=content,
    )
