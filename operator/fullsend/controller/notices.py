"""Kubernetes Events: the story that ``kubectl describe`` tells. On transitions only, after the status was written."""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime
from typing import Any, Final

from fullsend.controller.api import ApiError, Cluster
from fullsend.controller.jobs import Owner
from fullsend.controller.names import GROUP, NEW_EVENTS, VERSION
from fullsend.reconcile.actions import Emit

NOTE_LIMIT: Final = 1024
"""The API server refuses a longer note."""


log = logging.getLogger(__name__)


async def tell(cluster: Cluster, owner: Owner, emit: Emit, instance: str) -> None:
    """Never raises: a story that isn't told changes nothing of what happens, and a namespace that is going away takes
    none."""
    try:
        await cluster.create(NEW_EVENTS, owner.namespace, event_for(owner, emit, instance))
    except ApiError as error:
        log.warning("%s/%s: no event %s: %s", owner.namespace, owner.name, emit.reason, error)


def event_for(owner: Owner, emit: Emit, instance: str) -> dict[str, Any]:
    """``instance``: which operator says so."""
    note = emit.message or emit.reason
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": owner.namespace, "name": f"{owner.name}.{secrets.token_hex(8)}"},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": f"{GROUP}/operator",
        "reportingInstance": instance[:128],
        "action": "Reconcile",
        "type": emit.type,
        "reason": emit.reason[:128],
        "note": note
        if len(note.encode()) <= NOTE_LIMIT
        else note.encode()[: NOTE_LIMIT - 4].decode(errors="ignore") + "…",
        "regarding": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": owner.kind,
            "namespace": owner.namespace,
            "name": owner.name,
            "uid": owner.uid,
        },
    }
