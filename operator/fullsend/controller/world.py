"""What all that an operator looks after share, and what a look at one of them gives.

Invariant: a subject of the supervisor is looked at by one task at a time, and whatever it remembers only saves
requests.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from fullsend.controller.api import Cluster
from fullsend.controller.connections import Connections
from fullsend.controller.jobs import Owner
from fullsend.controller.pods import PodImage
from fullsend.controller.tenant_secret import TenantSecrets
from fullsend.controller.wakes import Cause

REFRESH: Final = 300.0
"""Seconds for which what was read may be used again, while no event says that it changed."""
PROBES_AT_ONCE: Final = 4
"""Probes that this operator starts while as many others run: campaigns' pods come first."""
PROBE_RUNS: Final = 30.0
"""Seconds that a probe keeps others waiting: one whose pod can't start, or that reads for long, keeps nobody longer."""

Reference = tuple[str, str]
"""Kind and name, in the namespace of whoever names it."""


@dataclass(frozen=True, slots=True)
class Looked:
    """``again``: when to look again at the latest; ``changed``: an action made something new to look at."""

    again: timedelta
    changed: bool


class Subject(Protocol):
    """One object of ours and all that is done about it. A new object of the same name is another one."""

    owner: Owner
    written_version: str
    """Of the object, after our own last write: an event with it is no news."""
    mood: tuple[str, str]
    """Of a campaign: its state and halt. When it changes, the transports that it names are looked at."""

    @property
    def name(self) -> str: ...

    @property
    def references(self) -> frozenset[Reference]: ...

    @property
    def ledger_key(self) -> tuple[str, str]: ...

    async def look(self, causes: frozenset[Cause]) -> Looked | None: ...

    async def let_go(self) -> None: ...


@dataclass(slots=True)
class Turns:
    """Who probes now. Forgotten at a restart: that only starts a few more at once."""

    _since: dict[str, float] = field(default_factory=dict)

    def free(self, uid: str) -> bool:
        now = time.monotonic()
        self._since = {each: since for each, since in self._since.items() if now - since < PROBE_RUNS}
        return uid in self._since or len(self._since) < PROBES_AT_ONCE

    def take(self, uid: str) -> None:
        self._since[uid] = time.monotonic()

    def give_back(self, uid: str) -> None:
        self._since.pop(uid, None)


@dataclass(frozen=True, slots=True)
class World:
    """One operator's connections and settings."""

    cluster: Cluster
    connections: Connections
    secrets: TenantSecrets
    image: PodImage
    cluster_id: str
    instance: str
    turns: Turns = field(default_factory=Turns)
