"""The probe Job: ``python -m fullsend.probe --probe N --number N --mounts DIR``.

It reads its question from the ledger, answers it there, and ends. Exit code 0: there is an answer, good or bad. 1:
there is none, and the last line on stderr says why. 2: trying again can't help. The pod has no API token; what it
learns goes to the ledger under its tenant's role, and nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TypeVar

from fullsend.audience.sources.base import Mounts
from fullsend.errors import FullsendError, InvalidInput, Problem
from fullsend.ledger import probes
from fullsend.ledger.database import Database
from fullsend.probe.audience import probe_audience
from fullsend.probe.template import probe_template
from fullsend.probe.transport import probe_transport
from fullsend.reconcile.probes import INVALID, Answer, Outlook
from fullsend.resources.base import Model
from fullsend.resources.models import AudienceSpec, MailTemplateSpec, MailTransportSpec
from fullsend.resources.problems import check
from fullsend.sender.job import read_secret_file

M = TypeVar("M", bound=Model)


async def run(dsn: str, probe: int, number: int, mounts: Mounts) -> Answer:
    """Raises LedgerError."""
    db = await Database.open(dsn, application="fullsend probe")
    try:
        asked = await probes.question(db, probe, number)
        try:
            found = await _probe(db, asked, mounts)
        except InvalidInput as error:
            found = Answer(False, INVALID, str(error), Outlook.EDIT)
        await probes.answer(db, probe, number, found.to_json())
        return found
    finally:
        await db.close()


async def _probe(db: Database, asked: probes.Question, mounts: Mounts) -> Answer:
    match asked.kind:
        case "Audience":
            audience = _typed(AudienceSpec, asked)
            return await probe_audience(audience, asked.name, db=db, tenant=asked.tenant, mounts=mounts)
        case "MailTemplate":
            return await probe_template(_typed(MailTemplateSpec, asked), asked.name, mounts)
        case "MailTransport":
            return await probe_transport(_typed(MailTransportSpec, asked), asked.name, mounts)
        case kind:
            raise InvalidInput([Problem("kind", f"this program can't probe a {kind}", "upgrade it")])


def _typed(kind: type[M], asked: probes.Question) -> M:
    checked = check(kind, asked.content, ("spec",))
    if checked.model is None:
        raise InvalidInput([Problem(".".join(map(str, each.path)), each.what, each.fix) for each in checked.findings])
    return checked.model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fullsend probe", description="Answer one question about one object.")
    parser.add_argument("--probe", type=int, required=True, help="the object's row in the ledger")
    parser.add_argument("--number", type=int, required=True, help="which question this is")
    parser.add_argument("--mounts", type=Path, required=True, help="where the pod's files are")
    given = parser.parse_args(arguments)
    mounts = Mounts(given.mounts / "secrets", given.mounts / "config", given.mounts / "files")
    try:
        dsn = read_secret_file(given.mounts / "ledger" / "dsn")
        found = asyncio.run(run(dsn, given.probe, given.number, mounts))
    except InvalidInput as error:
        return _end(2, f"invalid input: {error}")
    except FullsendError as error:
        return _end(1, f"{type(error).__name__}: {error}")
    sys.stdout.write(f"{found.reason}: {found.message}\n")
    return 0


def _end(code: int, why: str) -> int:
    sys.stderr.write(" ".join(why.split()) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
