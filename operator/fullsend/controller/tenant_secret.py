"""The one Secret that the operator manages in a namespace: how its planners and senders reach the ledger.

It holds the DSN of the namespace's own database role, so that whoever reads it can do what a sender of this namespace
does, and no more (``ledger.tenants``). Its name is fixed: the operator's right to write Secrets is for this name.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any

from fullsend.controller.api import Cluster
from fullsend.controller.names import LEDGER_SECRET, LEDGER_SECRET_TYPE, SECRETS
from fullsend.ledger.tenants import TenantAccess, tenant_access

log = logging.getLogger(__name__)


class TenantSecrets:
    """Makes and mends the Secret of each namespace. ``ensure`` before each Job: one that was deleted comes back."""

    def __init__(self, cluster: Cluster, dsn: str) -> None:
        self._cluster = cluster
        self._dsn = dsn
        self._access: dict[str, TenantAccess] = {}
        self._turn = asyncio.Lock()  # the grants of one role are not made twice at once

    async def ensure(self, namespace: str) -> None:
        """Raises ApiError and LedgerError."""
        access = self._access.get(namespace) or await self._first(namespace)
        await self._cluster.apply(SECRETS, namespace, LEDGER_SECRET, ledger_secret(namespace, access.dsn))

    async def _first(self, namespace: str) -> TenantAccess:
        async with self._turn:
            if namespace not in self._access:
                access = self._access[namespace] = await tenant_access(self._dsn, namespace)
                if not access.isolated:
                    log.warning("namespace %s has no database role of its own: its pods use the operator's", namespace)
            return self._access[namespace]


def ledger_secret(namespace: str, dsn: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": LEDGER_SECRET,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/name": "fullsend",
                "app.kubernetes.io/managed-by": "fullsend-operator",
            },
        },
        "type": LEDGER_SECRET_TYPE,
        "data": {"dsn": base64.b64encode(dsn.encode()).decode("ascii")},
    }
