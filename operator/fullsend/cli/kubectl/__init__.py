"""``kubectl fullsend``: campaigns of a cluster, for a person who has kubectl and no way to the database.

kubectl itself speaks to the cluster (``access``): whatever a user's kubeconfig can, proxies and logins included, works
here, and the user's own rights are what limits it. Each subcommand is imported when it is called, so that ``--help``
answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

from fullsend import __version__

COMMANDS: Final[Mapping[str, str]] = {
    "status": "status",
    "report": "asking",
    "missing": "asking",
    "why": "asking",
    "preview": "asking",
    "send-test": "asking",
    "retry": "wishes",
    "suspend": "wishes",
    "resume": "wishes",
    "approve": "wishes",
    "cancel": "wishes",
    "import": "asking",
}
"""Each subcommand and the module of this package that has it under its own name, with underscores."""

SHORT: Final[Mapping[str, str]] = {
    "status": "How it goes, why, and what to do.",
    "report": "Counts, replies, proof and throughput.",
    "missing": "Who has not been delivered to, and why.",
    "why": "One recipient's whole story.",
    "preview": "What one recipient gets.",
    "send-test": "Send the message to a few of your own.",
    "retry": "Reopen recipients by state or address.",
    "suspend": "Stop sending, now, whatever Git says.",
    "resume": "Go on after suspend, or after a halt.",
    "approve": "Go on after a small send first.",
    "cancel": "End a campaign for good.",
    "import": "Import a CSV into a list.",
}
"""The list of commands is shown without importing them."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"fullsend.cli.kubectl.{COMMANDS[cmd_name]}")
        command = getattr(module, {"import": "import_"}.get(cmd_name, cmd_name.replace("-", "_")))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, SHORT[name]) for name in COMMANDS])


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="kubectl fullsend")
def group() -> None:
    """Bulk mail that can prove nobody was missed: campaigns of a cluster."""


def main() -> None:
    group(prog_name="kubectl fullsend")
