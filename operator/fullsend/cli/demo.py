"""``fullsend demo``: a whole campaign before your eyes, against a relay that misbehaves, with a sender killed in the
middle. Everything is real but the recipients: the ledger, the senders, the SMTP conversation, the kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click
from rich.console import Console

from fullsend.cli.options import Where, runs
from fullsend.cli.run import run_to_end
from fullsend.errors import FullsendError, InvalidInput, Problem
from fullsend.local.campaign import LocalCampaign
from fullsend.local.run import ExitCode

SAMPLES = Path("manifests/demo")
PORT = 2525  # the one that the sample's transport names
KILL_AT = 0.4
"""Share of the recipients after which a sender is killed: in the middle, by any clock."""


class Killer:
    """Sends SIGKILL to one sender, once, in the middle of the first campaign."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = False

    def watch(self, campaigns: Sequence[LocalCampaign]) -> None:
        for campaign in campaigns:
            status = campaign.status
            senders = [job for job in campaign.jobs.all if job.kind == "send" and job.alive]
            if self._done or not senders or status.accepted < KILL_AT * max(1, status.total):
                continue
            self._done = True
            os.kill(senders[0].pid, signal.SIGKILL)
            self._console.print(
                f"kill -9 {senders[0].pid}  # {senders[0].name}, in the middle, without a warning",
                style="bold red",
                highlight=False,
            )


@asynccontextmanager
async def _mail_sink(folder: Path) -> AsyncIterator[None]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError as error:
            what = f"port {PORT} is in use; the sample's transport sends there"
            raise InvalidInput([Problem("demo", what, "stop what listens there")]) from error
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "fullsend.local.mailsink",
        *("--port", str(PORT), "--folder", str(folder / "mail"), "--journal", str(folder / "mail.jsonl")),
        *("--faults", "realistic"),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise FullsendError("the mail sink did not start; its message is above")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _seen_at_the_relay(folder: Path) -> str:
    copies: Counter[str] = Counter()
    with (folder / "mail.jsonl").open(encoding="utf-8") as journal:
        for line in journal:
            copies.update(json.loads(line)["recipients"])
    twice = sum(count - 1 for count in copies.values())
    return f"the relay has mail for {len(copies)} recipients, {twice} of them copies of one whose reply was lost"


@click.command(short_help="A whole campaign on this machine.")
@click.argument("samples", type=click.Path(path_type=Path, exists=True), default=SAMPLES)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    help="Where the demo keeps its ledger and the mail; emptied at the start.",
)
@runs
async def demo(samples: Path, folder: Path) -> None:
    """Run the sample campaign against a misbehaving mail sink, and kill a sender in the middle."""
    sys.exit(await run_demo(Console(), samples, folder))


async def run_demo(console: Console, samples: Path, folder: Path) -> ExitCode:
    """The demo, on any console; ``folder`` is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    state = folder / "state"
    async with _mail_sink(folder):
        watch = Killer(console).watch
        code = await run_to_end([samples], Where("", state.absolute()), "text", console=console, watch=watch)
    console.print(_seen_at_the_relay(folder), highlight=False, soft_wrap=True)
    console.print(f"read it: {folder / 'mail'} (an .eml file each), {folder / 'mail.jsonl'}", highlight=False)
    console.print(f"ask on:  .venv/bin/fullsend report spring-launch --state {state}", highlight=False, soft_wrap=True)
    return code
