"""``fullsend report``, ``missing`` and ``why``: what the ledger knows, from the whole down to one person."""

from __future__ import annotations

import csv
import json
import sys

import click
from rich.console import Console

from fullsend.cli.options import (
    Where,
    campaign_named,
    identity_of,
    namespace_option,
    output_option,
    runs,
    where_options,
)
from fullsend.cli.render import print_report, print_story, report_json, story_json, time
from fullsend.errors import InvalidInput, Problem, RenderError
from fullsend.ledger import campaigns, reports
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.planned import PlannedRecipient, planned_recipient
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.compose import Composer
from fullsend.states import DeliveryState

MISSING_COLUMNS = ("address", "state", "reason", "attempts", "next_attempt", "last_code", "last_text")


@click.command(short_help="Counts, replies, proof and throughput.")
@click.argument("campaign")
@namespace_option
@where_options
@output_option
@runs
async def report(campaign: str, namespace: str, where: Where, output: str) -> None:
    """Counts by state and reason, what the relay said, the proof and the throughput of a campaign."""
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        made = await reports.report(db, found)
    if output == "json":
        click.echo(json.dumps(report_json(made), indent=2))
    else:
        click.echo(f"{namespace}/{campaign}: {made.view.phase.value}")
        print_report(Console(), made)


@click.command(short_help="Who has not been delivered to, and why.")
@click.argument("campaign")
@namespace_option
@where_options
@runs
async def missing(campaign: str, namespace: str, where: Where) -> None:
    """Who has not been delivered to, why, and when the next attempt is: CSV on standard output."""
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        writer = csv.writer(sys.stdout)
        writer.writerow(MISSING_COLUMNS)
        async for row in reports.missing(db, found):
            writer.writerow(
                (
                    row.address or "",
                    row.state.value,
                    row.reason,
                    row.attempts,
                    time(row.next_attempt_at) or "",
                    row.last_code or "",
                    row.last_text,
                )
            )


@click.command(short_help="One recipient's whole story.")
@click.argument("campaign")
@click.argument("address")
@namespace_option
@where_options
@output_option
@runs
async def why(campaign: str, address: str, namespace: str, where: Where, output: str) -> None:
    """One recipient's whole story: where they came from, and every attempt with what the relay said."""
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        hashed = hash_identity((await installation(db)).hash_key, identity_of(address))
        story = await reports.why(db, found, hashed)
        if story is None:
            what = f"{address} is not in the plan of {namespace}/{campaign}"
            raise InvalidInput([Problem("why", what, "`fullsend audience audit` compares it with today's source")])
        frozen = await campaigns.compiled(db, found)
        planned = await planned_recipient(db, found, hashed)
    compiled = CompiledMessage.from_bytes(frozen) if frozen is not None else None
    message_id = compiled.message_id(story.token) if compiled is not None and story.token else ""
    problem = _render_problem(compiled, planned) if story.state is DeliveryState.UNRENDERABLE else ""
    if output == "json":
        click.echo(json.dumps({**story_json(story), "messageId": message_id, "renderProblem": problem}, indent=2))
    else:
        print_story(Console(), story, message_id, problem)


def _render_problem(compiled: CompiledMessage | None, planned: PlannedRecipient | None) -> str:
    """Why the message can't be built for this recipient: it can't be built here either, and says why."""
    if compiled is None or planned is None:
        return ""
    try:
        Composer(compiled).compose(Recipient(planned.address, planned.token, json.loads(planned.variables)))
    except RenderError as error:
        return str(error)
    return ""
