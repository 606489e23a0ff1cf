"""``fullsend migrate``, ``retry`` and ``purge``: upkeep of a ledger, and of campaigns that have ended."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Final

import click

from fullsend.cli.options import Where, campaign_named, identity_of, namespace_option, runs, where_options
from fullsend.errors import InvalidInput, LedgerUnavailable, Problem
from fullsend.ledger import campaigns
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.migrate import migrate as migrate_ledger
from fullsend.ledger.view import Phase
from fullsend.states import REOPENABLE, DeliveryState

RETRY_EVERY: Final = 2.0
"""Seconds between tries to reach a database that is awaited."""


@click.command(short_help="Install or update the ledger's schema.")
@click.option("--wait", default=0, metavar="SECONDS", help="How long to wait for a database that can't be reached yet.")
@where_options
@runs
async def migrate(wait: int, where: Where) -> None:
    """Install the ledger's schema in a database, or bring it up to date. Safe to run at any time."""
    give_up_at = time.monotonic() + wait
    async with where.dsn() as dsn:
        while True:
            try:
                done = await migrate_ledger(dsn)
                break
            except LedgerUnavailable as error:
                if time.monotonic() >= give_up_at:
                    raise
                click.echo(f"waiting for the database: {error}", err=True)
                await asyncio.sleep(RETRY_EVERY)
    applied = ", ".join(done.applied) or "nothing to do"
    click.echo(f"schema version {done.schema_version}: {applied}")


@click.command(short_help="Reopen recipients by state or address.")
@click.argument("campaign")
@click.option(
    "--state-of",
    "states",
    multiple=True,
    type=click.Choice(sorted(state.value for state in REOPENABLE)),
    help="Reopen the recipients in this state. May be given several times.",
)
@click.option("--address", "addresses", multiple=True, help="Reopen only this recipient. May be given several times.")
@click.option("--ask", is_flag=True, help="Of a cluster's operator: it reopens them within seconds.")
@namespace_option
@where_options
@runs
async def retry(
    campaign: str, states: tuple[str, ...], addresses: tuple[str, ...], ask: bool, namespace: str, where: Where
) -> None:
    """Reopen exactly the recipients named, by state, by address, or by both; then run the campaign again.

    Nobody who was accepted is ever reopened.
    """
    if not states and not addresses:
        raise InvalidInput([Problem("retry", "name whom to retry", "give --state-of or --address")])
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        key = (await installation(db)).hash_key
        hashes = [hash_identity(key, identity_of(address)) for address in addresses]
        wanted = tuple(DeliveryState(state) for state in states) or tuple(sorted(REOPENABLE))
        await campaigns.request_reopen(
            db, found, id=f"cli-{uuid.uuid4().hex[:12]}", states=wanted, identities=hashes or None
        )
        if ask:
            click.echo("asked: the operator reopens them within seconds")
            return
        reopened = await campaigns.carry_out_reopen(db, found)
    click.echo(f"{reopened} reopened" + ("; run the campaign again to send to them" if reopened else ""))


@click.command(short_help="Delete an ended campaign's recipients.")
@click.argument("campaign")
@click.option("--yes", is_flag=True, help="Do not ask.")
@namespace_option
@where_options
@runs
async def purge(campaign: str, yes: bool, namespace: str, where: Where) -> None:
    """Delete the recipients of a campaign that has ended.

    Its key, fingerprint, counts and proof stay for ever, so that it is never sent again.
    """
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        view = await campaigns.observe(db, found, session_lease_seconds=30.0)
        if view.phase not in (Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED):
            raise InvalidInput([Problem(f"{namespace}/{campaign}", f"is {view.phase}; only what has ended is purged")])
        if not yes:
            click.confirm(f"Delete the {view.counts.total} recipients of {namespace}/{campaign}?", abort=True)
        await campaigns.purge(db, found)
    click.echo(f"purged; the ledger keeps the key, the counts and the proof of {namespace}/{campaign}")
