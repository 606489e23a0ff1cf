"""``kubectl fullsend report``, ``missing``, ``why``, ``preview``, ``send-test`` and ``import``: what needs the ledger.

Each is the ``fullsend`` command of the same name, run in a pod of the campaign's namespace under the namespace's own
database role, with the answer streamed back. Invariant: an answer that did not arrive whole is never taken for one
(exit code 1 and a word about it), and a file is imported only after all of it has arrived.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import click

from fullsend.cli.kubectl.access import Access, Object, access_options, failure, invalid, output_option
from fullsend.cli.kubectl.pod import ended_because, running, served, tool_pod
from fullsend.cli.served import PIECE, UPLOAD, Ending, Request, pieces
from fullsend.controller.names import MOUNTS, POD_SETTINGS
from fullsend.controller.pod_settings import read_pod_settings
from fullsend.controller.pods import Needs
from fullsend.errors import FullsendError
from fullsend.resources.pods import PodSettings

DEADLINE: Final = 3600
"""Seconds a pod may take to answer: a report of ten million rows takes minutes."""
IMPORT_DEADLINE: Final = 12 * 3600
"""Of a file of any size over any line."""
ENDED: Final = "command terminated with exit code"
KUBECTLS: Final = ("Error from server", "error: ", ENDED)
"""How lines begin that kubectl itself says. The command in the pod always ends with 0."""
CREDENTIALS: Final = (("credentialsSecretRef", ("username", "password")), ("caSecretRef", ("ca.crt",)))
"""Of a MailTransport: which keys of its Secrets a test message needs, as a sender does."""


@click.command(short_help="Counts, replies, proof and throughput.")
@click.argument("campaign")
@access_options
@output_option
def report(campaign: str, access: Access, output: str) -> None:
    """Counts by state and reason, what the relay said, the proof and the throughput of a campaign."""
    sys.exit(ask(access, campaign, "report", ["--output", output]))


@click.command(short_help="Who has not been delivered to, and why.")
@click.argument("campaign")
@access_options
def missing(campaign: str, access: Access) -> None:
    """Who has not been delivered to, why, and when the next attempt is: CSV on standard output."""
    sys.exit(ask(access, campaign, "missing", []))


@click.command(short_help="One recipient's whole story.")
@click.argument("campaign")
@click.argument("address")
@access_options
@output_option
def why(campaign: str, address: str, access: Access, output: str) -> None:
    """One recipient's whole story: where they came from, and every attempt with what the relay said."""
    sys.exit(ask(access, campaign, "why", ["--output", output], address))


@click.command(short_help="What one recipient gets.")
@click.argument("campaign")
@click.option("--for", "address", help="The recipient to render for. Default: the first of the plan.")
@click.option("--format", "form", type=click.Choice(["eml", "html", "text"]), default="eml", show_default=True)
@access_options
def preview(campaign: str, address: str | None, form: str, access: Access) -> None:
    """Show exactly what one recipient gets. The campaign must be planned; a suspended one is."""
    sys.exit(ask(access, campaign, "preview", ["--format", form, *_for(address)]))


@click.command("send-test", short_help="Send the message to a few of your own.")
@click.argument("campaign")
@click.option("--to", "addresses", multiple=True, required=True, help="Who gets the test. May be given several times.")
@click.option("--for", "address", help="The recipient whose data to use. Default: the first of the plan.")
@access_options
def send_test(campaign: str, addresses: tuple[str, ...], address: str | None, access: Access) -> None:
    """Send the real message to a few people of yours, over the campaign's relay, marked as a test."""
    to = [word for each in addresses for word in ("--to", each)]
    sys.exit(ask(access, campaign, "send-test", [*to, *_for(address), "--mounts", MOUNTS], with_transport=True))


@click.command("import", short_help="Import a CSV into a list.")
@click.argument("list_name", metavar="LIST")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--opt-in", type=click.Choice(["single", "double"]), help="For a new list: what makes a member eligible.")
@click.option("--column", default="email", show_default=True, help="The column with the address.")
@access_options
@output_option
def import_(list_name: str, file: BinaryIO, opt_in: str | None, column: str, access: Access, output: str) -> None:
    """Import a CSV, from a file or standard input, into one of the namespace's own lists; made if it is new.

    Nothing is imported before all of the file has arrived. An import that was broken off may be repeated: it goes on
    where it was, and takes back no one's no.
    """
    if file.isatty():
        raise invalid("import", "there is no file to read", "name one, or pipe a CSV into it")
    found = access.find(configmap=POD_SETTINGS)
    options = [*(("--opt-in", opt_in) if opt_in else ()), "--column", column, "--output", output]
    name = Path(file.name).name if isinstance(file.name, str) and file.name != "<stdin>" else "stdin.csv"
    command = ["audience", "import", *options]
    sys.exit(_asked(access, found, "import", command, (list_name, UPLOAD), upload=(name, file)))


def ask(
    access: Access, campaign: str, command: str, options: Sequence[str], *people: str, with_transport: bool = False
) -> int:
    """Runs ``fullsend command`` about a campaign in a pod; its exit code. The campaign's object may be gone: the ledger
    still knows its name."""
    found = access.find(campaign=campaign, configmap=POD_SETTINGS)
    spec = found["campaign"].get("spec") or {} if "campaign" in found else {}
    needs = Needs()
    if with_transport and (transport := (spec.get("transportRef") or {}).get("name")):
        found |= access.find(mailtransport=transport)
        needs = _transport_needs(found.get("mailtransport", {}))
    if "campaign" not in found:
        click.echo(f"there is no campaign {campaign} in the cluster; the ledger is asked for it by this name", err=True)
    key = spec.get("ledgerKey") or campaign
    return _asked(access, found, command, [command, *options], (key, *people), needs=needs, wishes=_wishes(spec))


def _asked(
    access: Access,
    found: dict[str, Object],
    name: str,
    command: Sequence[str],
    operands: Sequence[str],
    *,
    needs: Needs | None = None,
    wishes: PodSettings | None = None,
    upload: tuple[str, BinaryIO] | None = None,
) -> int:
    if "configmap" not in found:
        what = f"there is no ConfigMap {POD_SETTINGS}: the operator has not made the ledger known here"
        fix = "it does so with the first campaign, audience or transport that it looks after in this namespace"
        raise invalid(f"namespace {access.namespace}" if access.namespace else "this namespace", what, fix)
    settings = found["configmap"]
    pod = tool_pod(
        name,
        found.get("campaign"),
        read_pod_settings(settings),
        needs or Needs(),
        wishes or PodSettings(),
        deadline=IMPORT_DEADLINE if upload else DEADLINE,
    )
    request = Request(
        (*command, "--namespace", settings["metadata"]["namespace"]),
        tuple(operands),
        upload=upload[0] if upload else "",
        columns=shutil.get_terminal_size().columns,
        color=sys.stdout.isatty() and "NO_COLOR" not in os.environ,
    )
    with running(access, pod) as made:
        return converse(access, made, request, upload[1] if upload else None)


def converse(access: Access, name: str, request: Request, upload: BinaryIO | None) -> int:
    """Sends the request and the file, passes the answer on; the command's exit code. Raises FullsendError where the
    answer is torn."""
    process = subprocess.Popen(  # noqa: S603 - the user's own kubectl
        served(access, name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    problems: list[BaseException] = []
    last: list[Ending] = []
    failures: list[str] = []
    threads = [
        threading.Thread(target=_say, args=(process.stdin, request, upload, problems), daemon=True),
        threading.Thread(target=_listen, args=(process.stderr, last, failures), daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        length, digest = 0, hashlib.sha256()
        while piece := os.read(process.stdout.fileno(), PIECE):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            length += len(piece)
            digest.update(piece)
        process.wait()
        threads[1].join()
    finally:
        process.kill()
        process.wait()
    if problems:
        raise FullsendError(f"the file can't be read: {problems[0]}. Nothing was imported") from problems[0]
    if not last and failures:
        raise failure(
            "".join(failures).replace(ENDED, f"pod {name} can't answer; is its image of this version? {ENDED}")
        )
    if not last:
        raise FullsendError(_broken(access, name, upload is not None))
    if (last[0].length, last[0].digest) != (length, digest.hexdigest()):
        what = f"the answer is torn: {length} of {last[0].length} bytes arrived"
        raise FullsendError(f"{what}; don't use it, run the same command again")
    return last[0].code


def _say(stdin: BinaryIO, request: Request, upload: BinaryIO | None, problems: list[BaseException]) -> None:
    try:
        with stdin:
            stdin.write(request.line())
            for piece in _read(upload, problems) if upload is not None else ():
                stdin.write(piece)
    except BrokenPipeError:
        return  # the other side has ended, and says why


def _read(upload: BinaryIO, problems: list[BaseException]) -> Iterator[bytes]:
    try:
        yield from pieces(upload)
    except (OSError, ValueError) as error:
        problems.append(error)


def _listen(stderr: BinaryIO, last: list[Ending], failures: list[str]) -> None:
    """Passes on what the command says; what kubectl says of itself is kept for an error of ours."""
    blank = False
    for line in stderr:
        text = line.decode("utf-8", "replace")
        if (ending := Ending.read(text)) is not None:
            last.append(ending)
            return
        if text.startswith(KUBECTLS):
            failures.append(text)
            continue
        if blank:
            sys.stderr.write("\n")
        if blank := text == "\n":
            continue  # the one before the last line is not the command's
        sys.stderr.write(text)
        sys.stderr.flush()


def _broken(access: Access, name: str, importing: bool) -> str:
    pod = access.get(f"pods/{name}", "--ignore-not-found")
    why = ended_because(pod) if pod and pod["status"].get("phase") != "Running" else "the connection to it broke"
    again = "run the same command again"
    if importing:
        again = "what was imported until then stays, and the same command goes on from it"
    return f"pod {name} gave no whole answer: {why}; {again}"


def _transport_needs(transport: Object) -> Needs:
    smtp = (transport.get("spec") or {}).get("smtp") or {}
    return Needs(secrets={smtp[name]["name"]: keys for name, keys in CREDENTIALS if smtp.get(name)})


def _wishes(spec: Object) -> PodSettings:
    return PodSettings.model_validate((spec.get("senders") or {}).get("pod") or {})


def _for(address: str | None) -> list[str]:
    return [] if address is None else ["--for", address]
