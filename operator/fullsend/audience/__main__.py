"""The plan Job: ``python -m fullsend.audience --job FILE``.

Exit code 0: there is a sealed plan. 1: there is none, and the ledger says why (or can't be reached). 2: the input is
invalid, so that trying again can't help. One line on stderr says the same to whoever reads the pod's log.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from fullsend.audience.job import PlanJob
from fullsend.audience.plan import PlanFailed, plan
from fullsend.errors import FullsendError, InvalidInput
from fullsend.ledger.database import Database, patiently
from fullsend.ledger.view import PlanView
from fullsend.states import CampaignId


async def run(job: PlanJob) -> PlanView:
    dsn = job.dsn()
    db = await patiently(lambda: Database.open(dsn, application="fullsend plan"))
    try:
        return await plan(db, CampaignId(job.campaign), tenant=job.tenant, mounts=job.mounts)
    finally:
        await db.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fullsend plan", description="Plan one campaign, as its job file says.")
    parser.add_argument("--job", type=Path, help="the job file, JSON")
    parser.add_argument("--tenant", help="in a pod: its namespace")
    parser.add_argument("--campaign", type=int, help="in a pod: the campaign's number in the ledger")
    parser.add_argument("--mounts", type=Path, help="in a pod: where its files are")
    given = parser.parse_args(arguments)
    if given.job is None and None in (given.tenant, given.campaign, given.mounts):
        parser.error("give either --job, or --tenant, --campaign and --mounts")
    try:
        job = PlanJob.read(given.job) if given.job else PlanJob.in_pod(given.tenant, given.campaign, given.mounts)
        view = asyncio.run(run(job))
    except InvalidInput as error:
        return _end(2, f"invalid input: {error}")
    except PlanFailed as error:
        return _end(1, f"{error.reason}: {error}")
    except FullsendError as error:
        return _end(1, f"{type(error).__name__}: {error}")
    eligible = view.inserted - view.invalid - view.suppressed
    sys.stdout.write(
        f"sealed: {view.rows_read} rows, {eligible} eligible, {view.suppressed} suppressed, {view.invalid} invalid, "
        f"{view.duplicates} duplicates\n"
    )
    return 0


def _end(code: int, why: str) -> int:
    sys.stderr.write(" ".join(why.split()) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
