"""``fullsend postgres``: the ledger's database of a trial, as a process."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fullsend.cli.options import fail
from fullsend.errors import FullsendError
from fullsend.local.served_postgres import ServedPostgres


@click.command()
@click.option("--folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where the data lie.")
@click.option(
    "--password-file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file with the password of the user fullsend, who owns everything.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5432, show_default=True, help="Port to listen on.")
def postgres(folder: Path, password_file: Path, host: str, port: int) -> None:
    """Serve a PostgreSQL for a trial: one process, no copies, no backups.

    Not as root. For anything that matters, use a PostgreSQL that somebody looks after.
    """
    try:
        server = ServedPostgres(folder, password_file.read_text(encoding="utf-8").strip())
        server.prepare()
    except FullsendError as error:
        fail(error)
    sys.exit(server.serve(host, port))
