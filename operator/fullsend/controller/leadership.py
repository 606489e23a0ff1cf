"""Who of several operators reconciles: a Lease of ``coordination.k8s.io``, held as client-go holds one.

A holder is believed for ``DURATION`` after the last change that *we* saw, by our own clock, so clocks need not agree.
A holder that can't renew gives up ``DURATION - MARGIN`` after its last success, before another takes over. That only
saves work: what operators do is idempotent, and the ledger, not this Lease, keeps anybody from being mailed twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from fullsend.controller.api import ApiError, Cluster, Object
from fullsend.controller.names import LEASE, LEASES

log = logging.getLogger(__name__)

DURATION: Final = 15.0
RENEW: Final = 5.0
RETRY: Final = 3.0
MARGIN: Final = 4.0

Change = Callable[[], Awaitable[None]]


class Leadership:
    """Runs for ever; calls ``gained`` and ``lost`` in turn. ``namespace`` is where the Lease lives."""

    def __init__(self, cluster: Cluster, namespace: str, identity: str, *, gained: Change, lost: Change) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._gained = gained
        self._lost = lost
        self._seen: tuple[str, str] = ("", "")  # holder and renewal, as last read
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self.leading = False
        self.turned_at = time.monotonic()
        """When the loop last began a turn."""

    async def run(self) -> None:
        while True:
            started = self.turned_at = time.monotonic()
            try:
                held = await self._try()
            except ApiError as error:
                held = self.leading and time.monotonic() - self._renewed_at < DURATION - MARGIN
                log.warning("the leader's Lease: %s", error)
            if held and not self.leading:
                self.leading = True
                log.info("%s leads", self._identity)
                await self._gained()
            elif not held and self.leading:
                self.leading = False
                log.warning("%s no longer leads", self._identity)
                await self._lost()
            pause = RENEW if self.leading else RETRY
            await asyncio.sleep(max(0.5, pause - (time.monotonic() - started)))

    async def release(self) -> None:
        """Let another take over at once."""
        if not self.leading:
            return
        self.leading = False
        try:
            lease = await self._cluster.get(LEASES, self._namespace, LEASE)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._cluster.replace(LEASES, self._namespace, LEASE, lease)
        except ApiError as error:
            log.info("the Lease runs out by itself: %s", error)

    async def _try(self) -> bool:
        """Whether the Lease is ours after this."""
        lease = await self._cluster.find(LEASES, self._namespace, LEASE)
        now = time.monotonic()
        try:
            if lease is None:
                await self._cluster.create(LEASES, self._namespace, self._new())
            else:
                if not self._may_take(lease, now):
                    return False
                await self._cluster.replace(LEASES, self._namespace, LEASE, self._renewed(lease))
        except ApiError as error:
            if error.conflict:
                return False  # another was faster
            raise
        self._renewed_at = now
        return True

    def _may_take(self, lease: Object, now: float) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        seen = (holder, str(spec.get("renewTime")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if holder in ("", self._identity):
            return True
        return now - self._seen_at >= float(spec.get("leaseDurationSeconds") or DURATION)

    def _new(self) -> Object:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": LEASE, "namespace": self._namespace},
            "spec": {**self._ours(), "acquireTime": _now(), "leaseTransitions": 0},
        }

    def _renewed(self, lease: Object) -> Object:
        spec: dict[str, Any] = dict(lease.get("spec") or {})
        if spec.get("holderIdentity") != self._identity:
            spec |= {"acquireTime": _now(), "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        return {**lease, "spec": {**spec, **self._ours()}}

    def _ours(self) -> dict[str, Any]:
        return {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
