"""``fullsend mail-sink``: the mail sink as a process. Ends on SIGTERM or SIGINT, with everything flushed."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import click
import uvloop

from fullsend.errors import FullsendError
from fullsend.local.mailsink.faults import load_faults
from fullsend.local.mailsink.server import MAX_SIZE, MailSink
from fullsend.local.mailsink.stores import Folder, Journal, Log, Store


async def serve(sink: MailSink) -> None:
    """Run until told to stop. The first line on standard output says where, so that port 0 is of use."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, stop.set)
    try:
        await sink.listen()
    except OSError as problem:
        raise click.ClickException(f"cannot listen on {sink.host}:{sink.port}: {problem}") from problem
    try:
        click.echo(f"mail sink listening on {sink.host}:{sink.port}")
        await stop.wait()
    finally:
        await sink.close()
    click.echo(f"mail sink took {sink.accepted} messages over {sink.connections_made} connections")


FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("mail-sink")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=2525, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Keep messages here as .eml files.")
@click.option("--first", type=click.IntRange(min=1), help="Keep only the first so many messages.")
@click.option("--journal", type=FILE, help="Append one JSON line per message to this file.")
@click.option("--log", "log_file", type=FILE, help="Append what the sink does to its clients to this file.")
@click.option("--faults", "fault_source", default="none", show_default=True, help="A YAML file, or a preset.")
@click.option("--tls-cert", type=EXISTING, help="Certificate chain (PEM); offers STARTTLS. Needs --tls-key.")
@click.option("--tls-key", type=EXISTING, help="Private key (PEM).")
@click.option("--implicit-tls", is_flag=True, help="TLS from the first byte instead of STARTTLS.")
@click.option("--auth-file", type=EXISTING, help="A file with user:password; makes AUTH a must.")
@click.option("--no-pipelining", is_flag=True, help="Do not offer PIPELINING.")
@click.option("--max-size", default=MAX_SIZE, show_default=True, help="Largest message taken, in bytes.")
def mail_sink(
    host: str,
    port: int,
    folder: Path | None,
    first: int | None,
    journal: Path | None,
    log_file: Path | None,
    fault_source: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    implicit_tls: bool,
    auth_file: Path | None,
    no_pipelining: bool,
    max_size: int,
) -> None:
    """Take mail over SMTP and deliver it nowhere.

    Without --folder the messages themselves are discarded. --faults makes the sink misbehave; presets: none,
    realistic, greylist, blocked, relay-denied, slow.
    """
    if bool(tls_cert) != bool(tls_key) or (implicit_tls and not tls_cert):
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    if first and not folder:
        raise click.UsageError("--first needs --folder")
    context = None
    if tls_cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls_cert, tls_key)
    credentials = None
    if auth_file:
        user, colon, password = auth_file.read_text().strip().partition(":")
        if not colon:
            raise click.UsageError(f"{auth_file}: expected one line, user:password")
        credentials = (user, password)
    try:
        faults = load_faults(fault_source)
    except FullsendError as problem:
        raise click.ClickException(str(problem)) from problem
    stores: list[Store] = []
    if folder:
        stores.append(Folder(folder, first=first))
    if journal:
        stores.append(Journal(journal))
    sink = MailSink(
        host=host,
        port=port,
        faults=faults,
        stores=stores,
        log=Log(log_file) if log_file else None,
        memory="",
        tls=context,
        implicit_tls=implicit_tls,
        credentials=credentials,
        pipelining=not no_pipelining,
        max_size=max_size,
    )
    uvloop.run(serve(sink))
