"""The ``fullsend`` command.

What a subcommand needs is imported when it is called: the operator lives long and need not carry the mail sink, and
``fullsend why`` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

from fullsend import __version__

COMMANDS: Final[Mapping[str, str]] = {
    "run": "fullsend.cli.run",
    "demo": "fullsend.cli.demo",
    "validate": "fullsend.cli.run",
    "report": "fullsend.cli.inspect",
    "missing": "fullsend.cli.inspect",
    "why": "fullsend.cli.inspect",
    "retry": "fullsend.cli.upkeep",
    "preview": "fullsend.cli.message",
    "send-test": "fullsend.cli.message",
    "audience": "fullsend.cli.people",
    "suppress": "fullsend.cli.people",
    "erase": "fullsend.cli.people",
    "export": "fullsend.cli.people",
    "migrate": "fullsend.cli.upkeep",
    "purge": "fullsend.cli.upkeep",
    "operator": "fullsend.cli.operator",
    "mail-sink": "fullsend.local.mailsink.command",
    "postgres": "fullsend.cli.postgres",
}
"""Each subcommand and the module that has it under its own name, with underscores."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="fullsend")
def main() -> None:
    """Bulk mail that can prove nobody was missed."""
