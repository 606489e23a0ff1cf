"""The one Secret that the operator manages in a namespace: how its planners and senders reach the ledger; and beside it
a ConfigMap that says what pods are made of, for ``kubectl fullsend``, which makes one for each question.

The Secret holds the DSN of the namespace's own database role, so that whoever reads it can do what a sender of this
namespace does, and no more (``ledger.tenants``). Both names are fixed: the operator's right to write Secrets and
ConfigMaps is for these names.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from typing import Any, Final

from fullsend.controller.api import ApiError, Cluster
from fullsend.controller.names import CONFIG_MAPS, LEDGER_SECRET, LEDGER_SECRET_TYPE, POD_SETTINGS, SECRETS
from fullsend.controller.pod_settings import managed, pod_settings
from fullsend.controller.pods import PodImage
from fullsend.ledger.tenants import TenantAccess, tenant_access

log = logging.getLogger(__name__)

TELL_EVERY: Final = 300.0
"""Seconds after which the ConfigMap is written again: one that was deleted or edited comes back."""


class TenantSecrets:
    """Makes and mends the Secret of each namespace. ``ensure`` before each Job: one that was deleted comes back."""

    def __init__(self, cluster: Cluster, dsn: str, image: PodImage) -> None:
        self._cluster = cluster
        self._dsn = dsn
        self._image = image
        self._told: dict[str, float] = {}
        self._access: dict[str, TenantAccess] = {}
        self._turn = asyncio.Lock()  # the grants of one role are not made twice at once

    async def ensure(self, namespace: str) -> None:
        """Raises ApiError and LedgerError."""
        access = self._access.get(namespace) or await self._first(namespace)
        await self._cluster.apply(SECRETS, namespace, LEDGER_SECRET, ledger_secret(namespace, access.dsn))
        await self._tell(namespace)

    async def _tell(self, namespace: str) -> None:
        """After the Secret, so that where the one is the other is. No Job waits for it."""
        if time.monotonic() - self._told.get(namespace, -TELL_EVERY) < TELL_EVERY:
            return
        try:
            await self._cluster.apply(CONFIG_MAPS, namespace, POD_SETTINGS, pod_settings(namespace, self._image))
        except ApiError as error:
            log.warning("namespace %s: kubectl fullsend can't ask its ledger: %s", namespace, error)
        self._told[namespace] = time.monotonic()

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
        "metadata": managed(namespace, LEDGER_SECRET),
        "type": LEDGER_SECRET_TYPE,
        "data": {"dsn": base64.b64encode(dsn.encode()).decode("ascii")},
    }
