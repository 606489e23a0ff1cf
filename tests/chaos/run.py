"""An account of faults: a whole campaign under everything that can go wrong, and whether anybody was missed.

    make chaos SIZE=3000 SEED=2                   every fault there is, in 2 to 3 minutes: as CI runs it
    make chaos                                    20,000 recipients
    make chaos SEED=7 SIZE=1000000                an hour at the most

Audience, relay and the order of faults come from the seed; how the processes interleave is the machine's. What goes
wrong stands in ``storm.py`` and ``relay.py``, what must hold nevertheless in ``checker.py``. Exits 1 where it does not,
and leaves its folder behind.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.checker import Account, account
from chaos.database import ChaosPostgres
from chaos.people import People
from chaos.proxy import CuttingProxy
from chaos.relay import Relay
from chaos.storm import SHORT, storm
from chaos.world import HALTED, ChaosFailed, World
from fullsend.ledger.database import Database
from fullsend.ledger.migrate import migrate

LEAVING = 0.03
"""Share of the recipients who unsubscribe while the campaign runs."""

RESTARTS = 12
"""A shell that ended unasked is started again, as a supervisor would; but not for ever."""

COMPLETE, FAILED = 0, 4


async def campaign(world: World, size: int, seed: int, limit: float) -> None:
    """From the first start of the shell to its end with everybody settled."""
    strikes = storm(size, seed)
    dice = random.Random(f"leaving {seed}")
    leaving = dice.sample(world.people.eligible, int(size * LEAVING))
    restarts, deadline, told = 0, time.monotonic() + limit, 0
    ledger = await Database.open(world.postgres.dsn, application="chaos")
    try:
        for address in world.people.said_no_before:
            await world.say_no(ledger, address)
        world.said_no.clear()
        world.declare()
        world.start_shell()
        while True:
            if time.monotonic() > deadline:
                raise ChaosFailed(f"not done within {limit:.0f} s: {world.status()}")
            share = world.relay.taken() / size
            if int(share * 10) > told:
                told = int(share * 10)
                print(f"  {told * 10} % after {time.monotonic() - deadline + limit:.0f} s", flush=True)
            if leaving and len(world.said_no) < share * size * LEAVING:
                await world.say_no(ledger, leaving.pop())
                continue
            if strikes and strikes[0].at <= share and await world.strike(strikes[0], ledger):
                del strikes[0]
            code = world.shell_ended()
            if code == COMPLETE:
                return
            if code is not None:
                restarts += 1
                if restarts > RESTARTS:
                    raise ChaosFailed(f"the shell ended {restarts} times, last with {code}: {world.status()}")
                if code == HALTED:
                    world.acknowledge()
                if code == FAILED:
                    world.place.fullsend("retry", "launch", "--state-of", "held", "--state-of", "expired")
                world.start_shell()
            await asyncio.sleep(0.05)
    finally:
        await ledger.close()


async def chaos(folder: Path, size: int, seed: int, limit: float) -> tuple[Account, World]:
    postgres = ChaosPostgres(folder / "pg")
    relay = Relay(folder, seed)
    try:
        postgres.start()
        relay.start()
        await migrate(postgres.dsn)
        people = People.written(size, seed, folder / "manifests" / "people.csv")
        async with CuttingProxy(postgres.socket) as proxy:
            world = World(folder, people, postgres, proxy, relay, seed)
            try:
                await campaign(world, size, seed, limit)
            finally:
                await world.end()
        relay.stop()
        return account(world.facts()), world
    finally:
        relay.stop()
        postgres.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=SHORT)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folder behind in any case")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process of ours outlives a time-out
    folder = Path(tempfile.mkdtemp(prefix="fsx-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    folder.chmod(0o755)
    print(f"chaos: seed {options.seed}, {options.size} recipients, in {folder}", flush=True)
    started = time.monotonic()
    limit = 600 + options.size * 0.003  # an hour for a million
    try:
        found, world = uvloop.run(chaos(folder, options.size, options.seed, limit))
    except ChaosFailed as failure:
        print(f"chaos: FAILED: {failure}\n{folder} has the logs", file=sys.stderr)
        return 1
    print(f"\n{time.monotonic() - started:.0f} s. What was done:\n")
    for fault, times in sorted(world.struck().items()):
        print(f"  {times:4} x {fault}")
    print(f"\nWhat came of it:\n\n{found.table()}\n")
    for failure in found.failures:
        print(f"  FAILED: {failure}")
    verdict = "nobody was missed" if found.holds else "FAILED"
    print(f"chaos: {verdict} (make chaos SEED={options.seed} SIZE={options.size})")
    if found.holds and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
