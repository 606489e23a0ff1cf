"""A whole campaign, as a user runs it: how fast it is planned and sent, in how much memory, and what kills cost.

    python bench/campaign.py                        100,000 recipients, 2 senders, 16 connections in total
    python bench/campaign.py --kills 20             SIGKILL of a sender at 20 random moments
    python bench/campaign.py --terms 20             SIGTERM of a sender at 20 random moments
    python bench/campaign.py --delay 0.010          20 ms a round trip to the relay

``fullsend run`` with an embedded PostgreSQL (its own fsync on) and our mail sink, which discards what it takes and
keeps a journal of recipients. Exits 1 unless every eligible address was accepted, none was missed, and copies beyond
the first are no more than the unknowns that the ledger names.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fullsend.ledger.migrate import migrate
from fullsend.local.postgres import EmbeddedPostgres
from support.delay_relay import serve as serve_delayed
from support.workspace import Workspace

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """What the sender processes used, by pid, looked at until they end."""

    place: Workspace
    peak_kb: dict[int, int] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)

    def look(self) -> list[int]:
        pids = self.place.senders()
        for pid in pids:
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{pid}/status").read_text()
                self.peak_kb[pid] = int(status.split("VmHWM:")[1].split()[0])
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                self.cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        return pids


def disturb(watch: Watch, process: subprocess.Popen[str], how: signal.Signals, times: int, dice: random.Random) -> int:
    """Signals a random sender at random moments while the run goes on; returns how often."""
    done = 0
    while process.poll() is None:
        pids = watch.look()
        if pids and done < times:
            time.sleep(dice.uniform(0.2, 1.5))
            victim = dice.choice(pids)
            with contextlib.suppress(ProcessLookupError):
                watch.look()
                os.kill(victim, how)
                done += 1
        time.sleep(0.1)
    return done


@contextlib.contextmanager
def delayed(port: int, delay: float) -> Iterator[int]:
    """The port of a relay that adds ``delay`` seconds each way before ``port``, in a process of its own."""
    if not delay:
        yield port
        return
    script = Path(serve_delayed.__code__.co_filename)
    process = subprocess.Popen(
        [sys.executable, str(script), "--to", f"127.0.0.1:{port}", "--delay", str(delay)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def facts(dsn: str) -> dict[str, Any]:
    """What the ledger says of the run."""
    with psycopg.connect(dsn) as connection:

        def one(statement: str) -> Any:
            row = connection.execute(statement.encode()).fetchone()
            assert row is not None
            return row[0]

        return {
            "planning": one(
                "SELECT extract(epoch FROM sealed_at - started_at) FROM fullsend.plan WHERE state = 'sealed'"
            ),
            "sending": one(
                "SELECT extract(epoch FROM max(a.recorded_at) - min(s.first_armed_at))"
                " FROM fullsend.attempt AS a, fullsend.session AS s"
            ),
            "unknowns": one("SELECT coalesce(sum(unknowns), 0) FROM fullsend.delivery"),
            "worst": one(
                "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM fullsend.attempt"
                " WHERE state = 'unknown' OR reason = 'AcceptedEarlier' GROUP BY session_id) AS u"
            ),
            "sessions": one("SELECT count(*) FROM fullsend.session"),
        }


def bench(folder: Path, dsn: str, options: argparse.Namespace) -> bool:
    place = Workspace(folder, dsn)
    people = place.recipients(options.recipients)
    sink = place.sink()
    watch = Watch(place)
    disturbed = 0
    try:
        with delayed(sink.port, options.delay) as port:
            place.campaign(
                port,
                smtp={"pipelining": options.pipelining} if options.pipelining else {},
                transport={"limits": {"connections": options.connections}},
                spec={"senders": {"maxPods": options.senders}},
            )
            started = time.monotonic()
            how = signal.SIGKILL if options.kills else signal.SIGTERM
            with (folder / "run.log").open("w") as log:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "fullsend.cli", "run", str(place.manifests), "--output", "json"),
                        *("--database", dsn, "--state", str(place.state)),
                    ],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                assert process.stdout is not None
                output: list[str] = []
                reader = threading.Thread(target=lambda: output.append(process.stdout.read()))  # type: ignore[union-attr]
                reader.start()
                disturbed = disturb(watch, process, how, options.kills or options.terms, random.Random(options.seed))
                reader.join()
            seconds = time.monotonic() - started
        copies: Counter[str] = sink.copies()
    finally:
        place.close()
    [result] = json.loads(output[0])
    counts = result["report"]["counts"]
    told = facts(dsn)
    missed = sum(copies[address] == 0 for address in people)
    extra = sum(copies.values()) - (len(people) - missed)
    sending = float(told["sending"])
    print(
        f"{options.recipients} recipients, {options.senders} senders, {options.connections} connections in total"
        f"{', pipelining ' + options.pipelining if options.pipelining else ''}"
        f"{f', {2000 * options.delay:g} ms a round trip' if options.delay else ''}"
    )
    print(f"  whole run        {seconds:8.1f} s, exit {process.returncode} ({result['reason']})")
    print(f"  planning         {float(told['planning']):8.1f} s")
    print(f"  sending          {sending:8.1f} s = {options.recipients / sending:,.0f} messages/s")
    print(f"  sender CPU       {sum(watch.cpu.values()) / options.recipients * 1e6:8.0f} us a message")
    print(f"  sender peak RSS  {max(watch.peak_kb.values(), default=0) / 1024:8.0f} MB")
    print(
        f"  accepted {counts.get('accepted', 0)}, missed {missed}, copies beyond the first {extra}, "
        f"unknowns in the ledger {told['unknowns']} (at most {told['worst']} a session)"
    )
    if options.kills or options.terms:
        print(f"  {how.name} {disturbed} times, {told['sessions']} sessions")
    return (
        process.returncode == 0
        and counts.get("accepted") == options.recipients
        and missed == 0
        and extra <= told["unknowns"]
        and (options.kills > 0 or extra == told["unknowns"] == 0)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipients", type=int, default=100_000)
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--pipelining", choices=["Disabled", "Group", "Overlap"])
    parser.add_argument("--delay", type=float, default=0.0, help="seconds added each way to the relay")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--terms", type=int, default=0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsb-", dir="/tmp") as name:
        server = EmbeddedPostgres(Path(name) / "pg")
        dsn = server.start()
        try:
            asyncio.run(migrate(dsn))
            held = bench(Path(name), dsn, options)
        finally:
            server.stop()
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
