"""Sets and maps of identities that don't fit into memory: SQLite's private temporary database, which lives in memory
while it is small and in an unnamed file of the temporary folder when it isn't.

Ten million excluded people are a gigabyte as a Python set; here they take the page cache below, whatever their number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

_CACHE_KIB: Final = 16_384
_TURN: Final = 500  # identities looked up in one query; SQLite allows 32,766 parameters


class IdentitySpool:
    """Identity hashes, each with a small value; the first value put in for a hash stays."""

    def __init__(self) -> None:
        # "" is SQLite's name for a private, temporary, on-disk database. Reading happens in the thread that opened it.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE spool (hash BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self.empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def put(self, entries: Iterable[tuple[bytes, bytes]]) -> int:
        """How many of the hashes were new."""
        added = self._database.executemany("INSERT OR IGNORE INTO spool VALUES (?, ?)", entries).rowcount
        self.empty = self.empty and added == 0
        return added

    def find(self, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those hashes that are in here."""
        found: dict[bytes, bytes] = {}
        if self.empty:
            return found
        for start in range(0, len(hashes), _TURN):
            turn = hashes[start : start + _TURN]
            marks = ",".join("?" * len(turn))
            found.update(self._database.execute(f"SELECT hash, value FROM spool WHERE hash IN ({marks})", turn))  # noqa: S608 (only question marks)
        return found

    def remove(self, hashes: Iterable[bytes]) -> None:
        self._database.executemany("DELETE FROM spool WHERE hash = ?", ((hash_,) for hash_ in hashes))

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM spool").fetchone()[0])

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._database.execute("SELECT hash, value FROM spool ORDER BY hash"))
