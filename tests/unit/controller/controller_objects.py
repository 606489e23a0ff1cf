"""Plain API objects as a cluster has them, for tests of the pure parts of the Kubernetes shell."""

from __future__ import annotations

from typing import Any

from fullsend.controller.declarations import Declaration, declaration_of
from fullsend.resources.resolve import ResolvedCampaign

UID = "0a1b"


def item(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "fullsend.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "uid": UID, "generation": 3, **metadata},
        "spec": spec,
    }


def campaign(name: str = "launch", metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    whole = {
        "class": "Transactional",
        "audiences": [{"name": "people"}],
        "transportRef": {"name": "relay"},
        "message": {"from": {"address": "news@shop.example"}, "subject": "Hello", "text": "hello"},
        **spec,
    }
    return item("Campaign", name, whole, **(metadata or {}))


def audience(name: str = "people", **spec: Any) -> dict[str, Any]:
    return item("Audience", name, spec or {"inline": {"recipients": [{"email": "a@shop.example"}]}})


def transport(name: str = "relay", limits: dict[str, Any] | None = None, **smtp: Any) -> dict[str, Any]:
    return item("MailTransport", name, {"smtp": {"host": "relay.example", **smtp}, "limits": limits or {}})


def declared(*objects: dict[str, Any], of: dict[str, Any] | None = None) -> Declaration:
    return declaration_of(of or campaign(), objects or (audience(), transport()))


def resolved(*objects: dict[str, Any], of: dict[str, Any] | None = None) -> ResolvedCampaign:
    found = declared(*objects, of=of).resolved
    assert found is not None
    return found


def job(
    kind: str = "send", number: int = 1, *, status: dict[str, Any] | None = None, **metadata: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"launch-{kind}-{number}",
            "uid": f"job-{kind}-{number}",
            "creationTimestamp": "2026-06-01T10:00:00Z",
            "labels": {"fullsend.dev/job-kind": kind, "fullsend.dev/job-number": str(number)},
            "ownerReferences": [{"uid": UID, "controller": True}],
            **metadata,
        },
        "spec": {"parallelism": 2},
        "status": status or {},
    }


def ended(type_: str, at: str = "2026-06-01T10:05:00Z", **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": type_, "status": "True", "lastTransitionTime": at, **more}]}
