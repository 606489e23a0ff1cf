"""The ``fullsend`` command."""

from __future__ import annotations

import click

from fullsend import __version__
from fullsend.cli.demo import demo
from fullsend.cli.inspect import missing, report, why
from fullsend.cli.message import preview, send_test
from fullsend.cli.operator import operator
from fullsend.cli.people import audience, erase, export, suppress
from fullsend.cli.run import run, validate
from fullsend.cli.upkeep import migrate, purge, retry
from fullsend.local.mailsink.command import mail_sink


@click.group()
@click.version_option(__version__, prog_name="fullsend")
def main() -> None:
    """Bulk mail that can prove nobody was missed."""


for _command in (
    run,
    demo,
    validate,
    report,
    missing,
    why,
    retry,
    preview,
    send_test,
    audience,
    suppress,
    erase,
    export,
    migrate,
    purge,
    operator,
    mail_sink,
):
    main.add_command(_command)
