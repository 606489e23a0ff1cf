"""What is asked of a pod over its standard input, and how an answer that is not whole is known."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullsend.cli.served import Ending, Request, TornUpload, pieces, receive


@given(st.binary(max_size=200))
def test_a_file_arrives_as_it_was_or_not_at_all(content: bytes) -> None:
    sent = b"".join(pieces(io.BytesIO(content)))
    target = Path(os.devnull)
    receive(io.BytesIO(sent), target)
    for length in range(len(sent)):
        with pytest.raises(TornUpload):
            receive(io.BytesIO(sent[:length]), target)


def test_a_byte_that_changed_on_the_way_is_seen(tmp_path: Path) -> None:
    sent = bytearray(b"".join(pieces(io.BytesIO(b"email\na@example.com\n"))))
    sent[8] ^= 1
    with pytest.raises(TornUpload, match="are not what was sent"):
        receive(io.BytesIO(bytes(sent)), tmp_path / "it")


def serve(mounts: Path, asked: bytes) -> subprocess.CompletedProcess[bytes]:
    """The process that exec starts in a pod."""
    command = [sys.executable, "-m", "fullsend.cli.served", "--mounts", str(mounts)]
    environment = {**os.environ, "HOSTNAME": mounts.name, "TMPDIR": str(mounts)}
    return subprocess.run(command, input=asked, capture_output=True, env=environment, check=False, timeout=60)


def ending(done: subprocess.CompletedProcess[bytes]) -> Ending:
    found = Ending.read(done.stderr.decode().split("\n")[-2])
    assert found is not None
    return found


def test_the_ending_tells_the_commands_exit_code_and_its_whole_answer(tmp_path: Path) -> None:
    done = serve(tmp_path, Request(("report", "--help"), ()).line())
    assert done.returncode == 0
    assert b"Counts by state" in done.stdout
    assert ending(done) == Ending(0, len(done.stdout), hashlib.sha256(done.stdout).hexdigest())


def test_the_namespaces_login_is_read_from_its_file_and_its_lack_is_said(tmp_path: Path) -> None:
    done = serve(tmp_path, Request(("report", "--namespace", "shop"), ("launch",)).line())
    assert ending(done).code == 2
    assert f"{tmp_path}/ledger/dsn cannot be read" in done.stderr.decode()


def test_an_upload_that_breaks_off_imports_nothing(tmp_path: Path) -> None:
    whole = b"".join(pieces(io.BytesIO(b"email\na@example.com\n")))
    request = Request(("audience", "import"), ("readers", "@upload"), upload="people.csv")
    done = serve(tmp_path, request.line() + whole[:-70])
    assert ending(done).code == 1
    assert "the connection broke" in done.stderr.decode()
    assert "Nothing was imported" in done.stderr.decode()
    assert list(tmp_path.glob("*/people.csv")) == []


def test_a_plugin_of_another_time_is_told_so(tmp_path: Path) -> None:
    done = serve(tmp_path, Request(("report",), ("launch",), protocol=99).line())
    assert ending(done).code == 1
    assert "install the plugin in the version of the operator" in done.stderr.decode()


def test_nothing_asked_is_nothing_done(tmp_path: Path) -> None:
    done = serve(tmp_path, b"")
    assert (ending(done).code, done.stdout) == (1, b"")
    assert "no request arrived" in done.stderr.decode()
