"""``fullsend postgres`` and ``fullsend migrate --wait``, as a trial's pods run them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from support.mail_servers import free_ports

FULLSEND = [sys.executable, "-m", "fullsend.cli"]
# It may read what root may: this clone and its packages can lie in a folder that is closed to others.
_READS = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
NOBODY = ["setpriv", "--reuid=nobody", "--clear-groups", *_READS, "--"]


class Trial:
    """A folder that the server owns; it isn't root's, who may not run a PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self.password = folder / "password"
        (self.port,) = free_ports(1)
        folder.chmod(0o755)
        self.own(self.folder)
        self.server: subprocess.Popen[str] | None = None

    def start(self, password: str) -> None:
        self.password.write_text(password + "\n")
        self.password.chmod(0o644)
        self.server = subprocess.Popen(self.command(), env=self.environment())

    def own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, "nobody")

    def command(self) -> list[str]:
        where = ["--folder", str(self.folder), "--password-file", str(self.password), "--port", str(self.port)]
        return [*(NOBODY if os.geteuid() == 0 else []), *FULLSEND, "postgres", *where]

    def environment(self) -> dict[str, str]:
        # As in a pod: no folder of the user's own.
        return {name: value for name, value in os.environ.items() if not name.startswith("XDG_")} | {"HOME": "/tmp"}

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.server is not None
        self.server.send_signal(how)
        code = self.server.wait(20)
        self.server = None
        return code

    def dsn(self, password: str) -> str:
        return make_conninfo(
            host="127.0.0.1", port=self.port, user="fullsend", dbname="fullsend", password=password, connect_timeout=5
        )

    def migrate(self, password: str, wait: int) -> subprocess.CompletedProcess[str]:
        command = [*FULLSEND, "migrate", "--wait", str(wait), "--database", self.dsn(password)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def trial() -> Iterator[Trial]:
    # Not tmp_path: its parents are closed to others than their owner.
    with tempfile.TemporaryDirectory(prefix="fullsend-trial-") as folder:
        made = Trial(Path(folder))
        yield made
        if made.server is not None:
            made.stop()


def test_a_trial_has_a_ledger_once_its_database_is_up(trial: Trial) -> None:
    trial.start("it's a \\ secret")
    done = trial.migrate("it's a \\ secret", 60)
    assert done.returncode == 0, done.stderr
    assert "schema version" in done.stdout
    with psycopg.connect(trial.dsn("it's a \\ secret")) as held:  # a client that doesn't leave
        begun = time.monotonic()
        assert trial.stop() == 0
        assert time.monotonic() - begun < 10
        assert held.info.dbname == "fullsend"


def test_the_password_is_the_files_also_after_it_changed_and_nobody_comes_in_without(trial: Trial) -> None:
    trial.start("first")
    assert trial.migrate("first", 60).returncode == 0
    assert trial.stop() == 0
    trial.start("second")
    assert "nothing to do" in trial.migrate("second", 60).stdout
    for wrong in ("first", ""):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(trial.dsn(wrong))


def test_data_of_another_postgresql_are_refused_and_left_alone(trial: Trial) -> None:
    data = trial.folder / "pgdata"
    data.mkdir()
    (data / "PG_VERSION").write_text("14\n")
    trial.password.write_text("x")
    trial.password.chmod(0o644)
    done = subprocess.run(trial.command(), env=trial.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "has data of PostgreSQL 14" in done.stderr
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_a_start_that_was_killed_half_way_is_begun_again(trial: Trial) -> None:
    half = trial.folder / "pgdata.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    trial.own(half)
    trial.start("x")
    assert trial.migrate("x", 60).returncode == 0


def test_a_database_that_never_comes_is_waited_for_no_longer_than_told(trial: Trial) -> None:
    begun = time.monotonic()
    done = trial.migrate("x", 2)
    assert done.returncode == 1
    assert "waiting for the database" in done.stderr
    assert time.monotonic() - begun < 20
