"""Whether limits hold over a fleet: campaigns that share a transport, several senders each, counted at the relay.

    python bench/limits.py                                   3 campaigns x 2 senders, 600 per 1m and 30 per 1s, 150 s
    python bench/limits.py --rate 600/60 --rate 30/1         the same, said
    python bench/limits.py --kill-every 5                    SIGKILL of a random sender every 5 s
    python bench/limits.py --freeze-every 7                  SIGSTOP for 8 s, with tokens in hand
    python bench/limits.py --reply-delay 0.5                 a slow relay: what is in flight counts too

Real sender processes on an embedded PostgreSQL (its own fsync on), and the mail sink's journal as the witness. Prints
for windows of 60, 90 and 120 s the most messages found in any of them, and the share of what was allowed that was used
(from the first message on). Exits 1 where any window holds more than allowed; less than 95% used is said, and is a
failure while nothing disturbs the senders.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fullsend.ledger.database import Database
from fullsend.ledger.migrate import migrate
from fullsend.local.postgres import EmbeddedPostgres
from fullsend.sender.job import SenderJob
from fullsend.states import CampaignId
from support import ledger_worlds as world
from support.sender_world import COMPILED
from support.workspace import Sink, Workspace

WINDOWS = (60.0, 90.0, 120.0)


def most_in_any(times: Sequence[float], window: float) -> int:
    """The most of the sorted ``times`` that lie in one half-open window of this length."""
    most = first = 0
    for last, moment in enumerate(times):
        while times[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most


async def campaigns(dsn: str, port: int, options: argparse.Namespace) -> list[CampaignId]:
    db = await Database.open(dsn, application="bench")
    relay = {
        "name": "relay",
        "host": "127.0.0.1",
        "port": port,
        "tls": "Off",
        "connections": options.connections,
        "return_path": "news@example.com",
        "rates": [{"messages": messages, "seconds": seconds} for messages, seconds in options.rate],
    }
    made = []
    for number in range(options.campaigns):
        campaign = await world.registered(db, key=f"c{number}")
        await world.controlled(db, campaign, {"relay": relay})
        made.append(
            await world.plan(
                db,
                campaign,
                world.plan_rows(options.recipients, domain=f"c{number}.example"),
                compiled=COMPILED.to_bytes(),
            )
        )
    await db.close()
    return made


class Fleet:
    """Sender processes, kept at their number."""

    def __init__(self, folder: Path, dsn: str, made: list[CampaignId], senders: int) -> None:
        self._folder = folder
        (folder / "dsn").write_text(dsn)
        self._wanted = [campaign for campaign in made for _ in range(senders)]
        self.running: list[tuple[CampaignId, subprocess.Popen[bytes]]] = []
        self._started = 0

    def fill(self) -> None:
        self.running = [(campaign, process) for campaign, process in self.running if process.poll() is None]
        alive = Counter(campaign for campaign, _ in self.running)
        for campaign, wanted in Counter(self._wanted).items():
            for _ in range(wanted - alive[campaign]):
                self._started += 1
                job = SenderJob(
                    dsn_file=self._folder / "dsn",
                    campaign=campaign,
                    wave=1,
                    holder=f"pod-{self._started}",
                    secrets_dir=self._folder,
                )
                path = self._folder / f"job-{self._started}.json"
                path.write_text(job.model_dump_json())
                with (self._folder / f"sender-{self._started}.log").open("wb") as output:
                    command = [sys.executable, "-m", "fullsend.sender", "--job", str(path)]
                    self.running.append((campaign, subprocess.Popen(command, stdout=output, stderr=output)))

    def stop(self) -> None:
        for how in (signal.SIGCONT, signal.SIGTERM, signal.SIGTERM):
            for _, process in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, how)
        for _, process in self.running:
            process.wait(30)


def disturb(fleet: Fleet, options: argparse.Namespace) -> None:
    dice = random.Random(options.seed)
    now = time.monotonic()
    end, kill_at, freeze_at = now + options.seconds, now + 3, now + 3
    thawing: list[tuple[float, int]] = []
    while (now := time.monotonic()) < end:
        fleet.fill()
        for at, pid in [one for one in thawing if one[0] <= now]:
            thawing.remove((at, pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if options.kill_every and now >= kill_at:
            kill_at = now + options.kill_every
            dice.choice(fleet.running)[1].kill()
        if options.freeze_every and now >= freeze_at:
            freeze_at = now + options.freeze_every
            pid = dice.choice(fleet.running)[1].pid
            os.kill(pid, signal.SIGSTOP)
            thawing.append((now + 8, pid))
        time.sleep(0.2)


def judged(sink: Sink, rates: Sequence[tuple[int, float]], *, quiet: bool) -> bool:
    """Prints what the journal says of the rates; whether that is as it should be."""
    time.sleep(0.5)
    entries = sink.entries()
    times = sorted(datetime.fromisoformat(entry["time"]).timestamp() for entry in entries)
    held = len(times) > 1
    span = times[-1] - times[0]
    print(f"  {len(times)} messages in {span:.1f} s")
    for window in (*WINDOWS, *(seconds for _, seconds in rates if seconds > max(WINDOWS))):
        if window > span:
            continue
        allowed = min(messages * window / seconds for messages, seconds in rates if seconds <= window)
        found = most_in_any(times, window)
        held &= found <= allowed
        print(f"  any {window:5.0f} s       at most {found:6} of {allowed:8.0f} allowed")
    used = len(times) / min(messages / seconds * span for messages, seconds in rates)
    print(f"  used             {used:7.1%} of what was allowed")
    by_campaign = Counter(str(entry["recipients"][0]).partition("@")[2] for entry in entries)
    print(f"  by campaign      {', '.join(str(count) for _, count in sorted(by_campaign.items()))}")
    return held and (not quiet or used >= 0.95)


def rate(text: str) -> tuple[int, float]:
    messages, _, seconds = text.partition("/")
    return int(messages), float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=3)
    parser.add_argument("--senders", type=int, default=2, help="of each campaign")
    parser.add_argument("--rate", type=rate, action="append", help="messages/seconds; may be given several times")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--recipients", type=int, default=5000, help="of each campaign")
    parser.add_argument("--reply-delay", type=float, default=0.0)
    parser.add_argument("--kill-every", type=float, default=0.0)
    parser.add_argument("--freeze-every", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.rate = options.rate or [(600, 60.0), (30, 1.0)]
    faults: dict[str, Any] = {"reply_delay": options.reply_delay}
    with tempfile.TemporaryDirectory(prefix="fsb-", dir="/tmp") as name:
        folder = Path(name)
        server = EmbeddedPostgres(folder / "pg")
        dsn = server.start()
        place = Workspace(folder, dsn)
        try:
            asyncio.run(migrate(dsn))
            sink = place.sink(faults)
            fleet = Fleet(folder, dsn, asyncio.run(campaigns(dsn, sink.port, options)), options.senders)
            print(
                f"{options.campaigns} campaigns x {options.senders} senders, "
                + ", ".join(f"{messages} per {seconds:g} s" for messages, seconds in options.rate)
                + (f", SIGKILL every {options.kill_every:g} s" if options.kill_every else "")
                + (f", SIGSTOP every {options.freeze_every:g} s" if options.freeze_every else "")
                + (f", {options.reply_delay:g} s before each reply" if options.reply_delay else "")
            )
            try:
                disturb(fleet, options)
            finally:
                fleet.stop()
            quiet = not (options.kill_every or options.freeze_every or options.reply_delay)
            held = judged(sink, options.rate, quiet=quiet)
        finally:
            place.close()
            server.stop()
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
