"""What a running sender obeys: written into the ledger by a shell, read by every sender at each heart-beat.

The message and the audience are frozen by the plan; these are the things that may be edited while a campaign runs,
so that an edit is obeyed within seconds and without a new process.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # an older sender ignores what a newer shell adds


class Rate(_Frozen):
    """At most ``messages`` in any ``seconds``; at most a second's worth at once where that is a minute or less."""

    messages: int = Field(ge=1)
    seconds: float = Field(gt=0)


class RelayControl(_Frozen):
    """How to reach the relay. Secrets are named here, never contained: a sender finds them under its secrets folder
    as ``<name>/<key>``."""

    name: str
    host: str
    port: int
    tls: str = "StartTLS"  # Off | Opportunistic | StartTLS | Implicit
    pipelining: str = "Overlap"  # Off | Group | Overlap
    credentials_secret: str = ""  # keys: username, password
    ca_secret: str = ""  # key: ca.crt
    server_name: str = ""  # for certificate checks, when it differs from host
    helo_name: str = ""
    auth_mechanism: str = ""  # "" (best offered) | PLAIN | LOGIN | CRAM-MD5
    connections: int = 8  # of all senders of all campaigns of the transport (or pool) together
    messages_per_connection: int = 0  # 0: no limit
    return_path: str = ""  # the reverse-path; "" is the null one
    verp: bool = False
    connect_timeout: float = 30.0
    reply_timeout: float = 300.0  # RFC 5321 section 4.5.3.2
    dot_timeout: float = 600.0
    reply_rules: tuple[Mapping[str, Any], ...] = ()
    rates: tuple[Rate, ...] = ()
    pool: str = ""  # transports of several namespaces that share rates and connections


class RetryControl(_Frozen):
    min_backoff: float = 900.0  # seconds
    max_backoff: float = 14400.0
    expire_after: float = 259200.0
    max_unknown_resends: int = 1


class Control(_Frozen):
    """``stop`` drains senders without ending the campaign (suspend, halt, wait for a window)."""

    stop: bool = False
    cancel: bool = False
    start_at: datetime | None = None
    deadline: datetime | None = None
    fresh_limit: int | None = None  # rollout: only the first N eligible recipients may be claimed fresh
    relay: RelayControl
    retry: RetryControl = RetryControl()
    rates: tuple[Rate, ...] = ()
    max_rejected: float = 1.0  # share, 0..1, of accepted + rejected
    min_sample: int = 200

    def to_json(self) -> Mapping[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls.model_validate(value)
