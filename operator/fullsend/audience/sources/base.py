"""What every audience source gives: rows in chunks, or a SourceError. Nothing in between.

The invariant: a source never skips what it can't read. A row it can read is given, even when its address is unusable
(that is the planner's to count); a row it can't read ends the plan with its number.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NewType, Protocol, TypeAlias

from fullsend.errors import SourceError

Status = NewType("Status", str)
ELIGIBLE: Final = Status("")

CHUNK_ROWS: Final = 5_000
"""Rows handed on at once: a few MB of Python objects, and one transaction of the ledger."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as the source has it. ``status`` is "" or why this person must not be mailed (a CamelCase reason)."""

    address: str
    variables: Mapping[str, Any]
    row: int
    status: Status = ELIGIBLE


Chunks: TypeAlias = AsyncGenerator[Sequence[SourceRow], None]


class Source(Protocol):
    """``chunks`` starts at the beginning each time it is called. Raises SourceError. ``notes``: what a person should
    know about how it was read, once it was."""

    @property
    def notes(self) -> Sequence[str]: ...

    def chunks(self) -> Chunks: ...


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where a job finds what its campaign names: secrets and config maps as ``<name>/<key>``, files below base_dir."""

    secrets_dir: Path
    config_dir: Path
    base_dir: Path

    def secret(self, name: str, key: str) -> str:
        path = self.secrets_dir / name / key
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError("SecretMissing", f"Secret {name} has no readable key {key!r} ({_why(error)})") from None

    def config(self, name: str, key: str) -> Path:
        path = self.config_dir / name / key
        if not path.is_file():
            raise SourceError("ConfigMapMissing", f"ConfigMap {name} has no key {key!r}")
        return path

    def claim(self, name: str, path: str) -> Path:
        """A file of a volume claim; the claims are mounted side by side below base_dir."""
        return self.file(f"{name}/{path}")

    def file(self, name: str) -> Path:
        path = self.base_dir / name
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise SourceError("FileMissing", f"{path} {what}")
        return path


async def in_thread(chunks: Iterable[Sequence[SourceRow]]) -> Chunks:
    """A blocking reader's chunks, read in a thread, so that heart-beats go on while a slow disk is read."""
    iterator: Iterator[Sequence[SourceRow]] = iter(chunks)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk


def find_column(wanted: str, columns: Sequence[str], where: str) -> int:
    """The position of the address column: the exact name, or the only one that differs by case alone."""
    if wanted in columns:
        return columns.index(wanted)
    alike = [position for position, name in enumerate(columns) if name.casefold() == wanted.casefold()]
    if len(alike) == 1:
        return alike[0]
    named = [name for name in columns if name]
    text = f"{where} has no column {wanted!r}"
    if any("@" in name for name in named):
        # Not shown: what looks like people's data must not end up in a status or a log.
        text += "; its first row looks like data: a header row with the names of the columns is required"
    else:
        text += f"; its columns are {', '.join(named) or '(none)'}"
        if close := _close_to(wanted, named):
            text += f"; did you mean {close!r}?"
    raise SourceError("MissingColumn", text)


_ALIASES: Final = ("e-mail", "email address", "e-mail address", "email_address", "emailaddress", "mail", "address")


def _close_to(wanted: str, columns: Sequence[str]) -> str:
    by_name = {name.casefold(): name for name in columns}
    for alias in _ALIASES if wanted.casefold() == "email" else ():
        if alias in by_name:
            return by_name[alias]
    close = difflib.get_close_matches(wanted.casefold(), list(by_name), n=1)
    return by_name[close[0]] if close else ""


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "it is not UTF-8 text"
