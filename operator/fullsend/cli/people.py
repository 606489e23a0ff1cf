"""``fullsend audience``, ``suppress``, ``erase`` and ``export``: people, whatever the campaign."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fullsend.audience.audit import audit as audit_plan
from fullsend.audience.cleaning import clean as clean_source
from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.audience.importing import import_list
from fullsend.audience.plan import top_up as top_up_plan
from fullsend.audience.sources.base import Mounts, Source
from fullsend.audience.sources.csv_file import CsvSource
from fullsend.audience.sources.lists import ListSource
from fullsend.cli.options import (
    Where,
    campaign_named,
    identity_of,
    namespace_option,
    output_option,
    runs,
    where_options,
)
from fullsend.cli.render import time
from fullsend.errors import InvalidInput, Problem
from fullsend.ledger import campaigns, erasure, suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from fullsend.ledger.view import Phase
from fullsend.local.mounts import LocalMounts

ERASED = "erased"
"""The reason under which the keyed hash of an erased person stays suppressed."""


@click.group(short_help="Import, clean and compare lists.")
def audience() -> None:
    """Lists of people: import, clean, and compare with what was planned."""


@audience.command("import", short_help="Import a CSV into a list of ours.")
@click.argument("list_name", metavar="LIST")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--opt-in", type=click.Choice(["single", "double"]), help="For a new list: what makes a member eligible.")
@click.option("--column", default="email", show_default=True, help="The column with the address.")
@namespace_option
@where_options
@output_option
@runs
async def import_(
    list_name: str, file: Path, opt_in: str | None, column: str, namespace: str, where: Where, output: str
) -> None:
    """Import a CSV into one of our own lists; made if it is new.

    Columns status, consent_at, consent_source and consent_ip are consent; the others become variables. A person who has
    unsubscribed or is blocked stays so, whatever the file says.
    """
    async with where.open() as db:
        double = None if opt_in is None else opt_in == "double"
        done = await import_list(db, namespace, list_name, CsvSource(file, column), double_opt_in=double)
    _tell(asdict(done), output)


@audience.command(short_help="Rows that can't be mailed, and why.")
@click.argument("name", metavar="FILE|LIST")
@click.option("--column", default="email", show_default=True, help="The column with the address, of a file.")
@click.option("--to", "target", type=click.File("w", encoding="utf-8"), default="-", help="Where the CSV goes.")
@namespace_option
@where_options
@runs
async def clean(name: str, column: str, target: Any, namespace: str, where: Where) -> None:
    """Find the rows of a CSV file or a list that can't be mailed, and why, by the planner's own rules.

    Nothing is changed; the findings are a CSV, the counts go to standard error.
    """
    async with _source(name, column, namespace, where) as source:
        found = await clean_source(source, target)
    click.echo(", ".join(f"{count} {what}" for what, count in asdict(found).items()), err=True)


@asynccontextmanager
async def _source(name: str, column: str, namespace: str, where: Where) -> AsyncIterator[Source]:
    if Path(name).is_file():
        yield CsvSource(Path(name), column)
        return
    async with where.open() as db:
        yield ListSource(db, namespace, (name,), frozenset({name}))


@audience.command(short_help="Compare a sealed plan with its source.")
@click.argument("campaign")
@click.option(
    "--base-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="The folder of the campaign's manifest, for CSV files. Default: the current one.",
)
@click.option("--top-up", is_flag=True, help="Add who has come since to the plan. Nobody is planned twice.")
@namespace_option
@where_options
@output_option
@runs
async def audit(campaign: str, base_dir: Path, top_up: bool, namespace: str, where: Where, output: str) -> None:
    """Compare a campaign's sealed plan with today's source: who has come, gone or changed."""
    mounts = LocalMounts(where.state, namespace)
    files = Mounts(mounts.secrets_dir, mounts.config_dir, base_dir.absolute())
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        seen = await audit_plan(db, found, tenant=namespace, mounts=files)
        _tell(asdict(seen), output)
        if top_up:
            view = await campaigns.observe(db, found, session_lease_seconds=60.0)
            if view.phase is not Phase.SENDING:
                what = f"is {view.phase}; only a campaign that is sending or suspended is topped up"
                how = f"mail who came later with another campaign that excludes this one (ledgerKey: {campaign})"
                raise InvalidInput([Problem(f"{namespace}/{campaign}", what, how)])
            plan = await top_up_plan(db, found, tenant=namespace, mounts=files)
            click.echo(f"{plan.inserted} added to the plan; run the campaign again to send to them", err=True)


@click.group()
def suppress() -> None:
    """Who must not be mailed, where, and why."""


def _target_options(command: Any) -> Any:
    for option in (
        click.option("--list", "list_name", help="Only for campaigns to this list."),
        click.option("--installation", "everywhere", is_flag=True, help="For all namespaces."),
        namespace_option,
    ):
        command = option(command)
    return command


def _target(namespace: str, list_name: str | None, everywhere: bool) -> Target:
    if everywhere and list_name:
        raise InvalidInput([Problem("--list", "does not go with --installation")])
    if everywhere:
        return Target.installation()
    if list_name:
        return Target(Scope.LIST, namespace, list_name)
    return Target(Scope.TENANT, namespace)


@suppress.command("add", short_help="Suppress people, from now on.")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--reason", default="asked", show_default=True, help="Why, one word.")
@_target_options
@where_options
@runs
async def suppress_add(
    addresses: tuple[str, ...], reason: str, namespace: str, list_name: str | None, everywhere: bool, where: Where
) -> None:
    """Suppress people: honoured by every row armed from now on, in running campaigns too."""
    people = [(address, _usable(address)) for address in addresses]
    async with where.open() as db:
        key = (await installation(db)).hash_key
        entries = [NewSuppression(hash_identity(key, identity), address, reason, "cli") for address, identity in people]
        added = await suppressions.add(db, _target(namespace, list_name, everywhere), entries)
    click.echo(f"{added} added, {len(entries) - added} were suppressed already")


@suppress.command("remove")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--reason", default=None, help="Lift only the suppressions for this reason. Default: all.")
@_target_options
@where_options
@runs
async def suppress_remove(
    addresses: tuple[str, ...],
    reason: str | None,
    namespace: str,
    list_name: str | None,
    everywhere: bool,
    where: Where,
) -> None:
    """Lift suppressions; says how many there were."""
    target = _target(namespace, list_name, everywhere)
    async with where.open() as db:
        key = (await installation(db)).hash_key
        for address in addresses:
            lifted = await suppressions.remove(db, target, hash_identity(key, identity_of(address)), reason=reason)
            click.echo(f"{address}: {lifted} lifted")


@suppress.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--column", default="email", show_default=True, help="The column with the address.")
@click.option("--reason", default="imported", show_default=True, help="Why, where the file has no column `reason`.")
@_target_options
@where_options
@output_option
@runs
async def suppress_import(
    file: Path,
    column: str,
    reason: str,
    namespace: str,
    list_name: str | None,
    everywhere: bool,
    where: Where,
    output: str,
) -> None:
    """Suppress everybody in a CSV file. Unusable addresses are counted and named; they can't be mailed anyway."""
    target = _target(namespace, list_name, everywhere)
    read = added = 0
    invalid: list[str] = []
    async with where.open() as db:
        key = (await installation(db)).hash_key
        async for chunk in CsvSource(file, column).chunks():
            entries = []
            for row in chunk:
                read += 1
                try:
                    found = normalise(row.address)
                except InvalidAddress:
                    invalid.append(f"row {row.row}: {row.address[:100]}")
                    continue
                why = str(row.variables.get("reason") or reason)
                entries.append(NewSuppression(hash_identity(key, found.identity), found.wire, why, file.name))
            added += await suppressions.add(db, target, entries)
    known = read - added - len(invalid)
    _tell({"rows": read, "added": added, "known": known, "invalid": len(invalid)}, output)
    for line in invalid[:20]:
        click.echo(f"unusable {line}", err=True)


@suppress.command("list", short_help="What binds a namespace: CSV.")
@namespace_option
@where_options
@runs
async def suppress_list(namespace: str, where: Where) -> None:
    """What binds a namespace, its own suppressions and the installation's: CSV on standard output."""
    writer = csv.writer(sys.stdout)
    writer.writerow(("address", "scope", "list", "reason", "source", "since"))
    async with where.open() as db:
        async for entry in suppressions.list_suppressions(db, namespace):
            writer.writerow(
                (
                    entry.address or "(erased)",
                    entry.scope.value,
                    entry.list or "",
                    entry.reason,
                    entry.source,
                    time(entry.created_at),
                )
            )


@click.command()
@click.argument("address")
@click.option("--all-namespaces", is_flag=True, help="In the whole installation.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@namespace_option
@where_options
@runs
async def erase(address: str, all_namespaces: bool, yes: bool, namespace: str, where: Where) -> None:
    """Remove a person's data from ledger, lists and texts.

    Counts and proofs stay, and so does a keyed hash of the address, suppressed: the person is not mailed again.
    """
    identity = identity_of(address)
    if not yes:
        click.confirm(f"Erase {address}? This can't be undone.", abort=True)
    tenant = None if all_namespaces else namespace
    async with where.open() as db:
        hashed = hash_identity((await installation(db)).hash_key, identity)
        place = Target.installation() if all_namespaces else Target(Scope.TENANT, namespace)
        # First the suppression: nobody is planned or armed anew while the data goes.
        await suppressions.add(db, place, [NewSuppression(hashed, None, ERASED, "erase")])
        done = await erasure.erase(db, tenant, hashed, identity)
    counts = asdict(done)
    in_flight = counts.pop("in_flight")
    click.echo("erased: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    if in_flight:
        raise InvalidInput([Problem(address, "a message to them is on the wire just now", "erase again in a minute")])


@click.command()
@click.argument("address")
@click.option("--all-namespaces", is_flag=True, help="From the whole installation.")
@namespace_option
@where_options
@runs
async def export(address: str, all_namespaces: bool, namespace: str, where: Where) -> None:
    """Everything that is held about a person, as JSON."""
    async with where.open() as db:
        click.echo(json.dumps(await _held(db, address, None if all_namespaces else namespace), indent=2, default=str))


async def _held(db: Database, address: str, tenant: str | None) -> dict[str, Any]:
    hashed = hash_identity((await installation(db)).hash_key, identity_of(address))
    return await erasure.export(db, tenant, hashed)


def _usable(address: str) -> str:
    try:
        return normalise(address).identity
    except InvalidAddress as error:
        raise InvalidInput([Problem(address, str(error))]) from error


def _tell(facts: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(facts, indent=2))
        return
    for what, value in facts.items():
        name = what.replace("_", " ")
        if isinstance(value, dict):
            click.echo(f"{name}: {value['count']}")
            for example in value["examples"]:
                click.echo(f"  {example}")
        elif isinstance(value, list):
            for example in value:
                click.echo(f"  {example}")
        else:
            click.echo(f"{name}: {value}")
