"""``fullsend run`` and ``fullsend validate``: manifests in, campaigns to their end."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fullsend.cli.display import display_for
from fullsend.cli.options import Where, output_option, runs, where_options
from fullsend.cli.render import print_report, report_json
from fullsend.errors import InvalidInput, Problem
from fullsend.ledger import reports
from fullsend.ledger.database import Database
from fullsend.ledger.migrate import migrate
from fullsend.ledger.tenants import tenant_access
from fullsend.local.campaign import LocalCampaign
from fullsend.local.mounts import LocalMounts
from fullsend.local.processes import write_private
from fullsend.local.run import Ending, ExitCode, Runner
from fullsend.resources.load import load_manifests
from fullsend.resources.manifests import Manifests
from fullsend.resources.resolve import resolve

log = logging.getLogger(__name__)

paths_argument = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="PATH..."
)


@click.command(short_help="Check manifests; nothing is sent.")
@paths_argument
@runs
async def validate(paths: tuple[Path, ...]) -> None:
    """Check manifests (files or folders) without sending anything; every problem is reported at once."""
    manifests = load_manifests(paths)
    for campaign in manifests.campaigns.values():
        resolve(manifests, campaign)
    counts = {
        "Campaign": len(manifests.campaigns),
        "Audience": len(manifests.audiences),
        "MailTemplate": len(manifests.templates),
        "MailTransport": len(manifests.transports),
    }
    click.echo("valid: " + ", ".join(f"{count} {kind}" for kind, count in counts.items() if count))


@click.command(short_help="Run campaigns on this machine.")
@paths_argument
@where_options
@output_option
@runs
async def run(paths: tuple[Path, ...], where: Where, output: str) -> None:
    """Run the campaigns in these manifests (files or folders) to their end on this machine.

    The same command again goes on where it stopped and never sends anything twice. Exit codes: 0 complete, 1 the ledger
    can't be used, 2 invalid input, 3 halted, 4 failed or cancelled, 5 not finished (suspended, awaiting approval, run
    elsewhere), 130 interrupted.
    """
    sys.exit(await run_to_end(paths, where, output))


Watch = Callable[[Sequence[LocalCampaign]], None]


async def run_to_end(
    paths: Sequence[Path], where: Where, output: str, *, console: Console | None = None, watch: Watch | None = None
) -> ExitCode:
    """What ``fullsend run`` does. ``watch`` is called whenever the display is."""
    manifests = load_manifests(paths)
    if not manifests.campaigns:
        raise InvalidInput([Problem(", ".join(map(str, paths)), "there is no Campaign in these manifests")])
    console = console or Console()
    async with where.dsn() as dsn:
        await migrate(dsn)
        async with _campaigns(manifests, dsn, where.state) as campaigns:
            display = display_for(console, output)

            def shown(now: Sequence[LocalCampaign]) -> None:
                display.show(now)
                if watch is not None:
                    watch(now)

            try:
                endings = await Runner(campaigns, shown).run()
            finally:
                display.close()
            await _conclude(console, campaigns, endings, output)
    return max((ending.code for ending in endings), default=ExitCode.COMPLETE)


@asynccontextmanager
async def _campaigns(manifests: Manifests, dsn: str, state: Path) -> AsyncIterator[Sequence[LocalCampaign]]:
    """Every campaign with a connection of its own, its secrets and config maps laid out, its tenant's DSN in a file."""
    opened: list[Database] = []
    campaigns: list[LocalCampaign] = []
    places: dict[str, tuple[LocalMounts, Path]] = {}
    try:
        for resource in manifests.campaigns.values():
            resolved = resolve(manifests, resource)
            namespace = resolved.namespace
            if namespace not in places:
                mounts = LocalMounts(state, namespace)
                mounts.lay(manifests, namespace)
                dsn_file = state / "ledger" / f"{namespace}.dsn"
                access = await tenant_access(dsn, namespace)
                if not access.isolated:
                    log.warning("no database role of its own for namespace %s: its jobs use the owner's", namespace)
                write_private(dsn_file, access.dsn.encode())
                places[namespace] = (mounts, dsn_file)
            mounts, dsn_file = places[namespace]
            opened.append(await Database.open(dsn, application=f"fullsend-run/{resolved.name}"))
            campaigns.append(LocalCampaign(opened[-1], resolved, state=state, dsn_file=dsn_file, mounts=mounts))
        yield campaigns
    finally:
        for db in opened:
            await db.close()


async def _conclude(
    console: Console, campaigns: Sequence[LocalCampaign], endings: Sequence[Ending], output: str
) -> None:
    results: list[dict[str, Any]] = []
    for campaign, ending in zip(campaigns, endings, strict=True):
        report = None
        if campaign.campaign is not None:
            report = await reports.report(campaign.db, campaign.campaign)
        if output == "json":
            result = {"campaign": campaign.name, "exitCode": ending.code, "reason": ending.reason}
            results.append(result | {"message": ending.message, "report": report_json(report) if report else None})
            continue
        if report is not None and report.view.counts.total:
            print_report(console, report)
        style = "green" if ending.code is ExitCode.COMPLETE else "yellow"
        console.print(f"{campaign.name}: {ending.reason}", style=f"bold {style}", highlight=False)
        if ending.message:
            console.print(ending.message, highlight=False, markup=False, soft_wrap=True)
    if output == "json":
        click.echo(json.dumps(results, indent=2, default=str))
