"""``kubectl fullsend suspend``, ``resume``, ``approve``, ``cancel`` and ``retry``: a person's wishes, written where the
operator reads them.

Suspending is an annotation: Git, which owns the spec, can't take an emergency stop back. Everything else is a field of
the spec; where Git sets it, the person is told that Git will win.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from fullsend.cli.kubectl.access import Access, Object, access_options, invalid, output_option, where
from fullsend.cli.kubectl.git import warnings

SUSPEND: Final = "fullsend.dev/suspend"  # as in controller.names, whose import would take as long as all the rest
STATES: Final = ("cancelled", "expired", "held", "rejected", "unrenderable")
WENT_BACK: Final = "LedgerWentBack"


@click.command(short_help="Stop sending, now, whatever Git says.")
@click.argument("campaign")
@access_options
@output_option
def suspend(campaign: str, access: Access, output: str) -> None:
    """Stop a campaign within seconds. Planning goes on; nobody is lost; `resume` goes on.

    It sets the annotation fullsend.dev/suspend, which Argo CD and Flux leave alone.
    """
    found = access.campaign(campaign)
    _refuse_finished(found)
    if _annotation(found) == "true":
        _tell(found, output, "is suspended already", {})
        return
    _wish(access, found, output, "suspended", {"metadata": {"annotations": {SUSPEND: "true"}}}, [])


@click.command(short_help="Go on after suspend, or after a halt.")
@click.argument("campaign")
@click.option("--yes", is_flag=True, help="Do not ask, where going on may send again to people who have it.")
@access_options
@output_option
def resume(campaign: str, yes: bool, access: Access, output: str) -> None:
    """Go on: lifts the suspension, and acknowledges the halt that is shown now (mend its cause first)."""
    found = access.campaign(campaign)
    _refuse_finished(found)
    body: dict[str, Any] = {}
    fields: list[str] = []
    done: list[str] = []
    spec, halt = found.get("spec") or {}, (found.get("status") or {}).get("halt")
    if _annotation(found) is not None:
        body["metadata"] = {"annotations": {SUSPEND: None}}
        done.append("no longer suspended")
    if spec.get("suspend"):
        body.setdefault("spec", {})["suspend"] = False
        fields.append("spec.suspend")
        done.append("spec.suspend is false")
    if halt and spec.get("acknowledgedHalt") != halt["id"]:
        click.echo(f"{where(found)} halted: {halt['reason']}: {halt.get('message', '')}", err=True)
        if halt["reason"] == WENT_BACK and not yes:
            click.confirm("Who was sent to since may be sent to again. Go on?", abort=True, err=True)
        body.setdefault("spec", {})["acknowledgedHalt"] = halt["id"]
        fields.append("spec.acknowledgedHalt")
        done.append(f"halt {halt['id']} acknowledged")
    if not done:
        _tell(found, output, "is neither suspended nor halted; `kubectl fullsend status` says what it waits for", {})
        return
    _wish(access, found, output, ", ".join(done), body, fields)


@click.command(short_help="Go on after a small send first.")
@click.argument("campaign")
@access_options
@output_option
def approve(campaign: str, access: Access, output: str) -> None:
    """Go on with everybody else, after spec.rollout.first have been tried."""
    found = access.campaign(campaign)
    _refuse_finished(found)
    rollout = (found.get("spec") or {}).get("rollout")
    if rollout is None:
        raise invalid(where(found), "has no spec.rollout, so there is nothing to approve", "it sends to everybody")
    if rollout.get("approved"):
        _tell(found, output, "is approved already", {})
        return
    _wish(access, found, output, "approved", {"spec": {"rollout": {"approved": True}}}, ["spec.rollout.approved"])


@click.command(short_help="End a campaign for good.")
@click.argument("campaign")
@click.option("--yes", is_flag=True, help="Do not ask.")
@access_options
@output_option
def cancel(campaign: str, yes: bool, access: Access, output: str) -> None:
    """End a campaign for good. Who is still missing becomes `cancelled`; what was sent stays sent."""
    found = access.campaign(campaign)
    _refuse_finished(found)
    if (found.get("spec") or {}).get("cancel"):
        _tell(found, output, "is being cancelled already", {})
        return
    missing = (found.get("status") or {}).get("missing", 0)
    if not yes:
        click.confirm(f"End {where(found)} for good? {missing} people have not got it.", abort=True, err=True)
    _wish(access, found, output, "cancelled", {"spec": {"cancel": True}}, ["spec.cancel"])


@click.command(short_help="Reopen recipients by state or address.")
@click.argument("campaign")
@click.option(
    "--state-of",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Reopen the recipients in this state. May be given several times.",
)
@click.option("--address", "addresses", multiple=True, help="Reopen only this recipient. May be given several times.")
@access_options
@output_option
def retry(campaign: str, states: tuple[str, ...], addresses: tuple[str, ...], access: Access, output: str) -> None:
    """Reopen exactly the recipients named, by state, by address, or by both; they are sent to again.

    Nobody who was accepted is ever reopened.
    """
    if not states and not addresses:
        raise invalid("retry", "name whom to retry", "give --state-of or --address")
    found = access.campaign(campaign)
    if (found.get("spec") or {}).get("cancel"):
        raise invalid(where(found), "has spec.cancel: it would be cancelled again", "set spec.cancel to false first")
    if not addresses:
        body = {"spec": {"reopen": {"id": f"kubectl-{uuid.uuid4().hex[:12]}", "states": list(states)}}}
        _wish(access, found, output, f"to retry: {', '.join(states)}", body, ["spec.reopen"])
        return
    from fullsend.cli.kubectl.asking import ask  # a pod: only who names people needs one

    of_states = [word for state in states for word in ("--state-of", state)]
    of_people = [word for address in addresses for word in ("--address", address)]
    sys.exit(ask(access, found["metadata"]["name"], "retry", ["--ask", *of_states, *of_people]))


def _wish(
    access: Access, found: Object, output: str, done: str, body: Mapping[str, Any], fields: Sequence[str]
) -> None:
    for text in warnings(found, fields):
        click.echo(f"warning: {text}", err=True)
    access.patch_campaign(found["metadata"]["name"], body)
    _tell(found, output, done, body)


def _tell(found: Object, output: str, done: str, changed: Mapping[str, Any]) -> None:
    if output == "json":
        metadata = found["metadata"]
        told = {"namespace": metadata["namespace"], "campaign": metadata["name"], "result": done, "changed": changed}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(f"{where(found)}: {done}")


def _annotation(found: Object) -> str | None:
    value: str | None = (found["metadata"].get("annotations") or {}).get(SUSPEND)
    return value


def _refuse_finished(found: Object) -> None:
    for condition in (found.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Finished" and condition["status"] == "True":
            what = f"has ended: {condition['reason']}"
            raise invalid(where(found), what, "`kubectl fullsend retry` reopens recipients of it")
