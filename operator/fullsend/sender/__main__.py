"""The sender process, what a sender pod (or a local process, given ``--job FILE``) runs.

Exit codes: 0 ended as it should (drained, stopped, held back or fenced: the ledger knows which), 2 the job cannot be
used, 75 (EX_TEMPFAIL) the ledger was away at the start, or stayed away until outcomes were lost; 1 anything else.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import click
import uvloop

from fullsend import logs
from fullsend.errors import FullsendError, InvalidInput, LedgerUnavailable
from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database, patiently
from fullsend.message.compiled import CompiledMessage
from fullsend.message.compose import Composer
from fullsend.sender.job import SenderJob
from fullsend.sender.lease import Lease
from fullsend.sender.worker import Worker
from fullsend.states import CampaignId

log = logging.getLogger("fullsend.sender")

MEMORY_HEADROOM = 1 << 30
"""Bytes of address space a sender may take beyond what it starts with: a template that asks for more makes one
recipient ``unrenderable`` instead of ending the process. (It sends 100,000 messages within a tenth of this.)"""


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_HEADROOM
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


class _Signals:
    """SIGTERM and SIGINT, from the first moment on: those that come before there is a worker are kept for it."""

    def __init__(self) -> None:
        self._seen = 0
        self._worker: Worker | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._caught)

    def _caught(self) -> None:
        self._seen += 1
        if self._worker is not None:
            self._worker.stop()

    @property
    def seen(self) -> bool:
        return self._seen > 0

    def go_to(self, worker: Worker) -> None:
        self._worker = worker
        for _ in range(self._seen):
            worker.stop()


async def _both(dsn: str, holder: str) -> tuple[Database, Database]:
    db = await Database.open(dsn, application=f"fullsend-send/{holder}")
    try:
        return db, await Database.open(dsn, application=f"fullsend-flush/{holder}")
    except BaseException:
        await db.close()
        raise


async def _send(job: SenderJob) -> None:
    signals = _Signals()
    campaign = CampaignId(job.campaign)
    logs.about(campaign_id=campaign, wave=job.wave, holder=job.holder)
    dsn = job.dsn()
    async with AsyncExitStack() as stack:
        db, flush_db = await patiently(lambda: _both(dsn, job.holder), give_up=lambda: signals.seen)
        stack.push_async_callback(db.close)
        stack.push_async_callback(flush_db.close)
        compiled = await campaigns.compiled(db, campaign)
        if compiled is None:
            log.info("nothing to send: the campaign has no sealed plan")
            return
        composer = Composer(CompiledMessage.from_bytes(compiled))
        _limit_memory()
        opened = await sessions.open_session(db, campaign, wave=job.wave, holder=job.holder, connections=0)
        if opened is None:
            log.info("nothing to send: the campaign is not sending")
            return
        logs.about(session=opened.id)
        lease = Lease(opened.lease_seconds)
        worker = Worker(
            db=db,
            flush_db=flush_db,
            campaign=campaign,
            opened=opened,
            first=await sessions.heartbeat(db, opened),
            lease=lease,
            composer=composer,
            secrets_dir=job.secrets_dir,
        )
        signals.go_to(worker)
        await worker.run()


def _job(job_file: Path | None, campaign: int | None, wave: int | None, mounts: Path | None) -> SenderJob:
    if job_file is not None:
        return SenderJob.read(job_file)
    if campaign is None or wave is None or mounts is None:
        raise click.UsageError("give either --job, or --campaign, --wave and --mounts")
    return SenderJob.in_pod(campaign, wave, mounts)


@click.command()
@click.option("--job", "job_file", type=click.Path(path_type=Path, dir_okay=False), help="The job, in a file.")
@click.option("--campaign", type=int, help="In a pod: the campaign's number in the ledger.")
@click.option("--wave", type=int, help="In a pod: the wave it belongs to.")
@click.option("--mounts", type=click.Path(path_type=Path, file_okay=False), help="In a pod: where its files are.")
def main(job_file: Path | None, campaign: int | None, wave: int | None, mounts: Path | None) -> None:
    """Send for one campaign until nothing is left to do."""
    logs.configure(as_json=job_file is None)
    try:
        uvloop.run(_send(_job(job_file, campaign, wave, mounts)))
    except LedgerUnavailable as error:
        click.echo(f"the ledger is away: {error}", err=True)
        sys.exit(75)
    except InvalidInput as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except FullsendError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
