"""pgbouncer in transaction mode before a test's database, as a plain process on a Unix socket.

The binary is the one on the PATH, or Debian's, downloaded and unpacked (not installed: its package would start a
service) where the tests run as root on a machine with apt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_PACKAGES = ("pgbouncer", "libc-ares2", "libevent-2.1-7")
_PORT = 6432  # of a Unix socket in a folder of this process: free by construction


def _binary() -> tuple[str, dict[str, str]]:
    """The program and the environment it needs, or a skip that says why there is none."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found:
        return found, {}
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("pgbouncer is not installed, and without root and apt it cannot be fetched")
    folder = Path(tempfile.gettempdir()) / "fullsend-test-pgbouncer"
    if not (folder / "root/usr/sbin/pgbouncer").exists():
        folder.mkdir(exist_ok=True)
        fetched = subprocess.run(["apt-get", "download", *_PACKAGES], cwd=folder, capture_output=True, check=False)
        if fetched.returncode:
            pytest.skip("pgbouncer is not installed and Debian's package cannot be fetched")
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)
    libraries = ":".join(str(path) for path in (folder / "root/usr/lib").iterdir() if path.is_dir())
    return str(folder / "root/usr/sbin/pgbouncer"), {"LD_LIBRARY_PATH": libraries}


@contextmanager
def pgbouncer(dsn: str, *, pool_size: int) -> Iterator[str]:
    """The DSN of a pooler that hands a server connection out for one transaction at a time."""
    program, environment = _binary()
    target = conninfo_to_dict(dsn)
    folder = Path(tempfile.mkdtemp(prefix="fsb-", dir="/tmp"))
    folder.chmod(0o777)
    (folder / "users.txt").write_text(f'"{target["user"]}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""[databases]
pooled = host={target["host"]} dbname={target["dbname"]} user={target["user"]}
[pgbouncer]
pool_mode = transaction
listen_addr =
unix_socket_dir = {folder}
listen_port = {_PORT}
auth_type = trust
auth_file = {folder}/users.txt
default_pool_size = {pool_size}
query_wait_timeout = 20
"""
    )
    command = [program, "-q", str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        command[1:1] = ["-u", Path(str(target["host"])).owner()]  # it refuses to be root, and must reach the socket
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        pooled = make_conninfo(host=str(folder), port=_PORT, user=target["user"], dbname="pooled")
        _wait(pooled, process)
        yield pooled
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(dsn: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if process.poll() is not None:
            pytest.fail(f"pgbouncer ended with {process.returncode}")
        try:
            psycopg.connect(dsn, prepare_threshold=None, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("pgbouncer does not answer")
