"""The processes of a run of chaos: the shell and its senders, and the faults that are done to them.

What is done is written down as it happens; what it meant is the checker's to find out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import psutil
import psycopg

from chaos.checker import Claim, Facts, lines
from chaos.database import ChaosPostgres
from chaos.people import People
from chaos.proxy import CuttingProxy
from chaos.relay import DOT_TIMEOUT, Relay
from chaos.storm import CUTS, Fault, Strike
from fullsend.audience.identity import normalise
from fullsend.errors import LedgerError
from fullsend.ledger import suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from support.workspace import Workspace

SENDERS = 3
CONNECTIONS = 12
K = 2
"""Rows armed per connection at most: pipelining Overlap (docs/semantics.md, promise 4)."""

PACE = 90
"""Seconds that a short run is stretched to by a rate limit: a session's lease is 60 s, and one must outlive its end."""

FROZEN = 75.0
"""Seconds for which a sender is stopped to be past its lease."""

SKEWED = Path(__file__).parent / "skewed"

HALT_WITHIN = 60.0
"""Seconds within which a ledger that went back must have halted the campaign, and then within which its senders end."""


NO_REPLY = "NoReplyAfterContent"

HALTED = 3
"""The shell's exit code for a campaign that waits for a person."""


class ChaosFailed(Exception):
    """The campaign did not get to where the checker could begin."""


@dataclass
class World:
    """One campaign under way. ``done`` counts the faults that struck, but for cuts: ``struck`` has them all."""

    folder: Path
    people: People
    postgres: ChaosPostgres
    proxy: CuttingProxy
    relay: Relay
    seed: int
    done: Counter[Fault] = field(default_factory=Counter)
    said_no: dict[str, float] = field(default_factory=dict)
    cut_off: int = 0
    forgotten: tuple[float, float] | None = None
    halted: tuple[float, float] | None = None
    acknowledged: str = ""
    _copied_at: float = 0.0
    _shell: subprocess.Popen[bytes] | None = None
    _thaws: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = Workspace(self.folder, self.postgres.dsn_through(self.proxy.port))

    # -- the campaign and its shell -----------------------------------------------------------------------------------

    def declare(self) -> None:
        """What a person wrote, with the word on a halt once there was one."""
        spec: dict[str, Any] = {
            "senders": {"maxPods": SENDERS},
            "retry": {"minBackoff": "1s", "maxBackoff": "4s", "maxUnknownResends": 3},
            "limits": {"rates": [{"messages": max(100, len(self.people.eligible) // PACE), "per": "1s"}]},
        }
        if self.acknowledged:
            spec["acknowledgedHalt"] = self.acknowledged
        timeouts = {"connect": "5s", "reply": "10s", "dot": f"{DOT_TIMEOUT:g}s"}
        self.place.campaign(
            self.relay.port,
            smtp={"pipelining": "Overlap", "timeouts": timeouts},
            transport={"limits": {"connections": CONNECTIONS}},
            spec=spec,
        )

    def start_shell(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SKEWED), "FULLSEND_CHAOS_SEED": str(self.seed)}
        command = [sys.executable, "-m", "fullsend.cli", "run", str(self.place.manifests)]
        with (self.folder / "run.log").open("ab") as log:
            self._shell = subprocess.Popen(
                [*command, "--database", self.place.database, "--state", str(self.place.state)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def shell_ended(self) -> int | None:
        """Its exit code, once."""
        if self._shell is None or self._shell.poll() is None:
            return None
        code, self._shell = self._shell.returncode, None
        return code

    @property
    def shell_runs(self) -> bool:
        return self._shell is not None and self._shell.poll() is None

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.place.state / "status/default/launch.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    async def end(self) -> None:
        for thaw in self._thaws:
            thaw.cancel()
        for pid in self.place.senders():
            self._signal(pid, signal.SIGCONT)
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait(30)
        self.place.close()

    # -- people who say no --------------------------------------------------------------------------------------------

    async def say_no(self, ledger: Database, address: str) -> None:
        """Commit an unsubscribe, however long the database is away; its time is when the commit was answered."""
        identity = normalise(address).identity
        while True:
            try:
                key = (await installation(ledger)).hash_key
                entry = NewSuppression(hash_identity(key, identity), address, "asked", "chaos")
                await suppressions.add(ledger, Target(Scope.TENANT, "default"), [entry])
            except LedgerError:
                await asyncio.sleep(0.2)
            else:
                self.said_no.setdefault(address, time.time())
                return

    # -- faults -------------------------------------------------------------------------------------------------------

    async def strike(self, strike: Strike, ledger: Database) -> bool:
        """Does it; False where there was nobody to do it to just now."""
        fault, dice = strike.fault, random.Random(strike.dice)
        senders = [pid for pid in self.place.senders() if self._connections(pid)]
        match fault:
            case Fault.KILL | Fault.TERM | Fault.NAP | Fault.FREEZE if not senders:
                return False
            case Fault.KILL:
                self._signal(dice.choice(senders), signal.SIGKILL)
            case Fault.TERM:
                self._signal(dice.choice(senders), signal.SIGTERM)
            case Fault.NAP:
                self._freeze(dice.choice(senders), 3.0)
            case Fault.FREEZE:
                self._freeze(dice.choice(senders), FROZEN)
            case Fault.KILL_SHELL:
                if not self.shell_runs:
                    return False
                assert self._shell is not None
                self._shell.kill()
            case Fault.CRASH:
                await asyncio.to_thread(self.postgres.crash)
                await asyncio.sleep(dice.uniform(0, 2))
                await asyncio.to_thread(self.postgres.start)
            case Fault.CUT_MIDDLE | Fault.CUT_DOUBT | Fault.CUT_RACE | Fault.CUT_STALL:
                # Most of the work is the flusher's; the others are cut now and then.
                application = dice.choice(("flush", "flush", "flush", "send", "run"))
                self.proxy.cut(CUTS[fault], f"fullsend-{application}/")
                return True
            case Fault.RELAY:
                await asyncio.to_thread(self.relay.stop)
                await asyncio.sleep(dice.uniform(0, 1))
                await asyncio.to_thread(self.relay.start)
            case Fault.COPY:
                await self._copy()
            case Fault.SET_BACK:
                if not self.shell_runs:
                    return False
                await self._set_back(ledger)
            case _:
                assert_never(fault)
        self.done[fault] += 1
        return True

    def struck(self) -> Counter[Fault]:
        """The faults that struck: a cut that was ordered has struck once it fell."""
        return self.done | Counter({fault: self.proxy.cuts[cut] for fault, cut in CUTS.items()})

    def _freeze(self, pid: int, seconds: float) -> None:
        if seconds >= FROZEN:
            self.cut_off += self._connections(pid)
        self._signal(pid, signal.SIGSTOP)

        async def thaw() -> None:
            await asyncio.sleep(seconds)
            self._signal(pid, signal.SIGCONT)

        self._thaws.append(asyncio.create_task(thaw()))

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _connections(self, pid: int) -> int:
        """To the relay, open now."""
        try:
            found = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            return 0
        return sum(each.status == psutil.CONN_ESTABLISHED and each.raddr.port == self.relay.port for each in found)

    async def _copy(self) -> None:
        self.cut_off += sum(self._connections(pid) for pid in self.place.senders())
        self._copied_at = time.time()
        await asyncio.to_thread(self.postgres.crash)
        await asyncio.to_thread(self.postgres.keep_a_copy)
        await asyncio.to_thread(self.postgres.start)

    async def _set_back(self, ledger: Database) -> None:
        """Must halt, by itself and soon; goes on once a person has said so, and has put the unsubscribes back that the
        copy does not know."""
        self.proxy.refuse()
        await asyncio.to_thread(self.postgres.crash)
        await asyncio.to_thread(self.postgres.set_back)
        await asyncio.to_thread(self.postgres.start)
        self.proxy.admit()
        await self._until(lambda: bool(self._halt()), HALT_WITHIN, "the campaign is halted")
        await self._until(
            lambda: not self._moving_senders(), HALT_WITHIN, "its senders have ended, but for a frozen one"
        )
        halted = time.time()
        self.forgotten = (self._copied_at, halted)
        # A frozen sender wakes in between, and must not send either; the shell waits for it.
        await self._until(lambda: not self.shell_runs, HALT_WITHIN + FROZEN, "the shell has ended")
        if (code := self.shell_ended()) != HALTED:
            raise ChaosFailed(f"the ledger went back, and the shell ended with {code}")
        await asyncio.sleep(2)
        self.halted = (halted, time.time())
        for address, at in tuple(self.said_no.items()):
            if at >= self._copied_at - 1:
                await self.say_no(ledger, address)
        self.acknowledge()
        self.start_shell()

    def acknowledge(self) -> bool:
        """What a person does who has read the status; False where it asks nothing new. Senders and the shell may each
        have found that the ledger went back, and each halt has an id of its own. A relay that was restarted leaves many
        messages at once without an answer, which asks a person too."""
        halt = self._halt() if self.forgotten is not None else ""
        found = self.status().get("halt") or {}
        if found.get("reason") == NO_REPLY and not found.get("nextProbeTime"):
            halt = found["id"]
        if not halt or halt == self.acknowledged:
            return False
        self.acknowledged = halt
        self.declare()
        return True

    def _halt(self) -> str:
        """The id of the halt of a ledger that went back, once the status has it."""
        id_: str = (self.status().get("halt") or {}).get("id", "")
        return id_ if id_.startswith("ledger-went-back-") else ""

    def _moving_senders(self) -> list[int]:
        """Those that run: neither gone nor frozen by us."""

        def moves(pid: int) -> bool:
            try:
                return psutil.Process(pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            except psutil.Error:
                return False

        return [pid for pid in self.place.senders() if moves(pid)]

    async def _until(self, seen: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            if time.monotonic() > deadline:
                raise ChaosFailed(f"the ledger went back, and {seconds:g} s later it is not so that {what}")
            await asyncio.sleep(0.1)

    # -- what there was -----------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Once everything has ended."""
        return Facts(
            eligible=self.people.eligible,
            journal=lines(self.relay.journal),
            log=lines(self.relay.log),
            claims=dict(self._claims()),
            said_no_before=frozenset(self.people.said_no_before),
            said_no=self.said_no,
            cut_off=self.cut_off,
            forgotten=self.forgotten,
            halted=self.halted,
            k=K,
        )

    def _claims(self) -> Iterator[tuple[str, Claim]]:
        with psycopg.connect(self.postgres.dsn) as connection, connection.cursor(name="claims") as cursor:
            cursor.execute(
                "SELECT lower(r.address), d.state::text, d.reason, d.unknowns FROM fullsend.delivery AS d"
                " JOIN fullsend.recipient AS r USING (campaign_id, seq)"
            )
            for address, state, reason, unknowns in cursor:
                yield address, Claim(state, reason, unknowns)
