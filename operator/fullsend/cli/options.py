"""What the commands share: where the ledger is, how output looks, how errors end.

The operator has these options too and lives long: what only some commands need is imported where they need it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

from fullsend.errors import FullsendError, InvalidInput, LedgerUnavailable, Problem
from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.states import CampaignId

P = ParamSpec("P")
R = TypeVar("R")

EXIT_INVALID = 2
EXIT_BROKEN = 1


def default_state() -> Path:
    """One place a user, wherever the command is run: a state folder that moved with the working directory would
    forget who has been mailed."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "fullsend"


@dataclass(frozen=True, slots=True)
class Where:
    """Where the ledger is. ``database`` is a libpq connection string or URL, ``@file`` for one that is read from a file
    (so that a password is in no argument), or "" for the embedded PostgreSQL under ``state``."""

    database: str
    state: Path

    @asynccontextmanager
    async def dsn(self) -> AsyncIterator[str]:
        if self.database.startswith("@"):
            path = Path(self.database[1:])
            try:
                yield path.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InvalidInput([Problem("--database", f"{path} cannot be read: {error.strerror}")]) from error
        elif self.database:
            yield self.database
        else:
            from fullsend.local.postgres import EmbeddedPostgres

            server = EmbeddedPostgres(self.state)
            dsn = server.start()
            try:
                yield dsn
            finally:
                server.stop()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Database]:
        """The ledger. The embedded one's schema is brought up to date first; another database is not ours to change
        in passing (``fullsend migrate`` and ``fullsend run`` do)."""
        async with self.dsn() as dsn:
            if not self.database:
                from fullsend.ledger.migrate import migrate

                await migrate(dsn)
            db = await Database.open(dsn, application="fullsend")
            try:
                yield db
            finally:
                await db.close()


def where_options(command: Callable[..., R]) -> Callable[..., R]:
    """``--database`` and ``--state``, given to the command as one ``where``."""

    @click.option(
        "--database",
        default="",
        metavar="URL",
        help="The ledger's PostgreSQL: a URL, a libpq string, or @FILE that holds one. Default: an embedded one.",
    )
    @click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Folder for the embedded PostgreSQL, logs and status. Default: ~/.local/state/fullsend.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, database: str, state: Path | None, **kwargs: Any) -> R:
        return command(*args, where=Where(database, (state or default_state()).absolute()), **kwargs)

    return wrapped


namespace_option = click.option("--namespace", "-n", default="default", show_default=True, help="The tenant.")
output_option = click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the output."
)


async def campaign_named(db: Database, namespace: str, name: str) -> CampaignId:
    """Raises InvalidInput that says which campaigns there are."""
    campaign = await campaigns.find(db, namespace, name)
    if campaign is None:
        known = ", ".join(sorted(entry.key for entry in await campaigns.list_campaigns(db, namespace))) or "none"
        raise InvalidInput([Problem(f"{namespace}/{name}", "the ledger has no such campaign", f"it has: {known}")])
    return campaign


def runs(command: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    """Runs an async command; its errors become a message and an exit code, never a traceback."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        async def body() -> R:
            return await command(*args, **kwargs)

        try:
            return asyncio.run(body())
        except FullsendError as error:
            fail(error)

    return wrapped


def fail(error: FullsendError) -> NoReturn:
    problems = error.problems if isinstance(error, InvalidInput) else ()
    if len(problems) > 1:
        click.echo(f"fullsend: {len(problems)} problems, and nothing was done:", err=True)
        for problem in problems:
            click.echo(f"  {problem}", err=True)
    else:
        click.echo(f"fullsend: {error}", err=True)
    if isinstance(error, LedgerUnavailable):
        click.echo(
            "Check that PostgreSQL runs and that --database names it, then run the same command again.", err=True
        )
    sys.exit(EXIT_INVALID if isinstance(error, InvalidInput) else EXIT_BROKEN)


def identity_of(address: str) -> str:
    """The identity of an address as typed, as the planner would make it, also of one that can't be used."""
    from fullsend.audience.identity import InvalidAddress, normalise
    from fullsend.audience.intake import unusable_identity
    from fullsend.audience.sources.base import SourceRow

    try:
        return normalise(address).identity
    except InvalidAddress:
        return unusable_identity(SourceRow(address, {}, 0), "")
