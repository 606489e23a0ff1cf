"""``fullsend preview`` and ``send-test``: the real message, before everybody gets it."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path

import click

from fullsend.audience.identity import InvalidAddress, normalise
from fullsend.cli.options import Where, campaign_named, identity_of, namespace_option, runs, where_options
from fullsend.errors import FullsendError, InvalidInput, Problem
from fullsend.ledger import campaigns
from fullsend.ledger.control import Control
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.planned import PlannedRecipient, planned_recipient
from fullsend.local.mounts import LocalMounts
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.compose import Composer
from fullsend.message.compose import preview as rendered_for
from fullsend.sender.relay import settings_for
from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outcome, Outgoing, Refused, Unknown, Unsent
from fullsend.states import CampaignId

NOT_PLANNED = "has no sealed plan yet: run it, with `suspend: true` to send nothing"
TEST_MARK = "[TEST] "
TEST_HEADER = ("X-Fullsend-Test", "yes")


async def _planned(
    db: Database, found: CampaignId, where: str, address: str | None
) -> tuple[CompiledMessage, PlannedRecipient]:
    compiled = await campaigns.compiled(db, found)
    if compiled is None:
        raise InvalidInput([Problem(where, NOT_PLANNED)])
    identity = None
    if address is not None:
        identity = hash_identity((await installation(db)).hash_key, identity_of(address))
    recipient = await planned_recipient(db, found, identity)
    if recipient is None:
        raise InvalidInput([Problem(where, f"{address or 'anybody'} who could be mailed is not in the plan")])
    return CompiledMessage.from_bytes(compiled), recipient


@click.command()
@click.argument("campaign")
@click.option("--for", "address", help="The recipient to render for. Default: the first of the plan.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["eml", "html", "text"]),
    default="eml",
    show_default=True,
    help="The whole message as it goes on the wire, or one of its parts.",
)
@namespace_option
@where_options
@runs
async def preview(campaign: str, address: str | None, form: str, namespace: str, where: Where) -> None:
    """Show exactly what one recipient gets. The campaign must be planned; a suspended one is."""
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        compiled, planned = await _planned(db, found, f"{namespace}/{campaign}", address)
    shown = rendered_for(compiled, Recipient(planned.address, planned.token, json.loads(planned.variables)))
    if form == "eml":
        click.echo(shown.eml, nl=False)
    else:
        click.echo(shown.html if form == "html" else shown.text)


@click.command("send-test", short_help="Send the message to a few of your own.")
@click.argument("campaign")
@click.option("--to", "addresses", multiple=True, required=True, help="Who gets the test. May be given several times.")
@click.option("--for", "address", help="The recipient whose data to use. Default: the first of the plan.")
@click.option("--mounts", type=click.Path(path_type=Path), hidden=True, help="Where a pod finds its Secrets.")
@namespace_option
@where_options
@runs
async def send_test(
    campaign: str,
    addresses: tuple[str, ...],
    address: str | None,
    mounts: Path | None,
    namespace: str,
    where: Where,
) -> None:
    """Send the real message to a few people of yours, over the campaign's relay, marked as a test.

    Tests are outside the counts; their unsubscribe links carry a token that is nobody's.
    """
    wires = [_wire(to) for to in addresses]
    async with where.open() as db:
        found = await campaign_named(db, namespace, campaign)
        compiled, planned = await _planned(db, found, f"{namespace}/{campaign}", address)
        view = await campaigns.observe(db, found, session_lease_seconds=60.0)
    if not view.control:
        raise InvalidInput([Problem(f"{namespace}/{campaign}", "does not know its relay yet: run it first")])
    relay = Control.from_json(view.control).relay
    marked = replace(compiled, subject=TEST_MARK + compiled.subject, headers=(*compiled.headers, TEST_HEADER))
    composer = Composer(marked)
    secrets_dir = LocalMounts(where.state, namespace).secrets_dir if mounts is None else mounts / "secrets"
    session = await connect(settings_for(relay, secrets_dir))
    failed = 0
    try:
        for wire in wires:
            token = f"test-{secrets.token_hex(8)}"
            composed = composer.compose(Recipient(wire, token, json.loads(planned.variables)))
            outgoing = Outgoing(relay.return_path, wire, composed.data, composed.smtputf8)
            outcome = await session.submit(outgoing)
            failed += not isinstance(outcome, Accepted)
            click.echo(f"{wire}: {_said(outcome)}")
    finally:
        await session.quit()
    if failed:
        raise FullsendError(f"{failed} of {len(wires)} tests were not accepted")


def _wire(address: str) -> str:
    try:
        return normalise(address).wire
    except InvalidAddress as error:
        raise InvalidInput([Problem(f"--to {address}", str(error))]) from error


def _said(outcome: Outcome) -> str:
    match outcome:
        case Accepted(reply):
            return f"accepted: {reply}"
        case Refused(stage, reply):
            return f"refused at {stage}: {reply}"
        case Unsent(why) | Unknown(why):
            return why
