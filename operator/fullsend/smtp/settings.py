"""How to reach one relay, and what this process has learnt about it.

Invariant: a password is never in a repr, an error or a log line; time-outs default to RFC 5321 section 4.5.3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Tls(StrEnum):
    OFF = "Off"
    OPPORTUNISTIC = "Opportunistic"  # STARTTLS where offered, any certificate: against listening, not against forging
    STARTTLS = "StartTLS"  # STARTTLS or nothing, certificate checked
    IMPLICIT = "Implicit"  # TLS from the first byte, certificate checked


class Pipelining(StrEnum):
    """How far commands run ahead of their replies (RFC 2920). Round trips a message: four, two, one."""

    OFF = "Off"
    GROUP = "Group"  # MAIL, RCPT and DATA in one write
    OVERLAP = "Overlap"  # and the next envelope in the same write as this content


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``connect`` is ours, per host over all its addresses; the rest are the RFC's minimum values."""

    connect: float = 30.0
    banner: float = 300.0
    reply: float = 300.0  # EHLO, AUTH, MAIL, RCPT, RSET
    data: float = 120.0  # DATA to 354
    block: float = 180.0  # until the relay takes the next block of content
    dot: float = 600.0


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """``ca_file``/``ca_data`` (PEM) replace the system's authorities. ``server_name`` is the name the certificate must
    bear, when it differs from ``host``. ``auth_mechanism`` "" takes the best that is offered."""

    host: str
    port: int
    tls: Tls = Tls.STARTTLS
    pipelining: Pipelining = Pipelining.OVERLAP
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    ca_data: str = field(default="", repr=False)
    server_name: str = ""
    helo_name: str = ""
    auth_mechanism: str = ""
    timeouts: Timeouts = Timeouts()


class RelayMemory:
    """Relays at which pipelining went out of step; shared by a process's connections, so that the next one to the
    same relay goes in lock-step."""

    def __init__(self) -> None:
        self._lock_step: dict[tuple[str, int], str] = {}

    def fall_back(self, settings: RelaySettings, why: str) -> None:
        self._lock_step.setdefault((settings.host, settings.port), why)

    def why_lock_step(self, settings: RelaySettings) -> str:
        """Why this relay is no longer pipelined to, or ""."""
        return self._lock_step.get((settings.host, settings.port), "")
