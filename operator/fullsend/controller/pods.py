"""The pod that plans, sends or probes: what it may do, what it finds mounted, what it is given to live on.

Invariants (design, invariant 11): no API token, no privilege, nothing but the named keys of the named Secrets, the
ledger's address in a file and never in an argument or the environment. A campaign sets only what ``PodSettings``
allows; the administrator's overrides come last and may change anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fullsend.controller.names import CONTAINER, LEDGER_SECRET, MOUNTS
from fullsend.resources.models import AudienceSpec, MailTemplateSpec, MailTransportSpec, MessageFields, PodSettings
from fullsend.resources.references import SECRET_KEYS, SecretNeed, audience_secrets, transport_secrets
from fullsend.resources.resolve import ResolvedCampaign

USER: Final = 65532
GRACE_MARGIN: Final = 30
"""Seconds on top of the longest reply that is waited for: to record it, give the rest back and leave."""
READABLE: Final = 0o440
SCRATCH: Final = {"plan": "2Gi", "send": "64Mi", "probe": "2Gi", "tool": "10Gi"}
"""What a pod may write to /tmp. A plan keeps the identities that it excludes there, 16 bytes each, a probe of an
audience all of them; a tool the file that is imported."""
PROGRAMS: Final = {
    "plan": "fullsend.audience",
    "send": "fullsend.sender",
    "probe": "fullsend.probe",
    "tool": "fullsend.cli.served",
}
# A sender limits its own address space to 1 GiB beyond its start (``sender.__main__``), a plan the template it compiles
# to 768 MB: the pod's limit lies above either, so that one recipient fails and not the pod.
RESOURCES: Final[Mapping[str, Any]] = {
    "requests": {"cpu": "100m", "memory": "192Mi"},
    "limits": {"memory": "1536Mi"},
}


Probed = AudienceSpec | MailTemplateSpec | MailTransportSpec
"""The spec of an object that is probed."""


@dataclass(frozen=True, slots=True)
class PodImage:
    """What the operator's settings say of every pod."""

    image: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Needs:
    """What is mounted: keys of Secrets and ConfigMaps by name, and volume claims."""

    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config_maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    claims: tuple[str, ...] = ()

    def text(self) -> str:
        """The same for the same needs: kept with a Job, to see whether a running one has what is needed now."""
        return " ".join(f"{name}:{','.join(keys)}" for name, keys in sorted(self.secrets.items()))


def sender_needs(resolved: ResolvedCampaign) -> Needs:
    return Needs(secrets=_secret_keys(transport_secrets(resolved.transport.spec)))


def plan_needs(resolved: ResolvedCampaign) -> Needs:
    return _reading([audience.spec for audience in (*resolved.audiences, *resolved.excludes)], resolved.message)


def probe_needs(spec: Probed) -> Needs:
    match spec:
        case AudienceSpec():
            return _reading([spec], None)
        case MailTemplateSpec():
            return _reading([], spec)
        case MailTransportSpec():
            return Needs(secrets=_secret_keys(transport_secrets(spec)))


def _reading(specs: Sequence[AudienceSpec], message: MessageFields | None) -> Needs:
    return Needs(
        secrets=_secret_keys(need for spec in specs for need in audience_secrets(spec)),
        config_maps=_keys((*_csv_keys(specs), *_attachment_keys(message))),
        claims=tuple(sorted({spec.csv.claim.name for spec in specs if spec.csv is not None and spec.csv.claim})),
    )


def _secret_keys(needs: Iterable[SecretNeed]) -> Mapping[str, tuple[str, ...]]:
    return _keys((need.name, key) for need in needs for key in SECRET_KEYS[need.type])


def _csv_keys(specs: Sequence[AudienceSpec]) -> Iterator[tuple[str, str]]:
    for spec in specs:
        if spec.csv is not None and spec.csv.config_map_key_ref is not None:
            yield spec.csv.config_map_key_ref.name, spec.csv.config_map_key_ref.key


def _attachment_keys(message: MessageFields | None) -> Iterator[tuple[str, str]]:
    for attachment in message.attachments if message is not None else ():
        if attachment.config_map_key_ref is not None:
            yield attachment.config_map_key_ref.name, attachment.config_map_key_ref.key


def _keys(pairs: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for name, key in pairs:
        found.setdefault(name, set()).add(key)
    return {name: tuple(sorted(keys)) for name, keys in sorted(found.items())}


def pod_template(
    kind: str,
    arguments: Sequence[str],
    needs: Needs,
    wishes: PodSettings,
    image: PodImage,
    *,
    labels: Mapping[str, str],
    grace: float,
) -> dict[str, Any]:
    """A pod template. ``kind`` is "plan", "send", "probe" or "tool" (a person's command, see ``cli.kubectl``);
    ``grace`` is the longest reply it may have to wait for, in seconds."""
    volumes, mounts = _volumes(kind, needs)
    container = {
        "name": CONTAINER,
        "image": image.image,
        "command": ["python", "-m", PROGRAMS[kind]],
        "args": [*arguments, "--mounts", MOUNTS],
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "PYTHONUNBUFFERED", "value": "1"}],  # noqa: S108
        "resources": _resources(wishes),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The last lines of the log are the reason that the campaign's status gives for a pod that failed.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(grace) + GRACE_MARGIN,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
        **_scheduling(wishes),
    }
    template = {
        "metadata": {"labels": {**wishes.labels, **labels}, "annotations": dict(wishes.annotations)},
        "spec": spec,
    }
    merged = overlay(template, image.overrides)
    assert isinstance(merged, dict)
    return merged


def _volumes(kind: str, needs: Needs) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A Secret or ConfigMap that is missing doesn't keep the pod from starting: what misses it says so by name."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []

    def mount(name: str, path: str, source: Mapping[str, Any], *, read_only: bool = True) -> None:
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})

    mount("tmp", "/tmp", {"emptyDir": {"sizeLimit": SCRATCH[kind]}}, read_only=False)  # noqa: S108
    ledger = {"secretName": LEDGER_SECRET, "items": _items(("dsn",)), "defaultMode": READABLE}
    mount("ledger", f"{MOUNTS}/ledger", {"secret": ledger})
    for index, (name, keys) in enumerate(needs.secrets.items()):
        source = {"secretName": name, "items": _items(keys), "defaultMode": READABLE, "optional": True}
        mount(f"secret-{index}", f"{MOUNTS}/secrets/{name}", {"secret": source})
    for index, (name, keys) in enumerate(needs.config_maps.items()):
        source = {"name": name, "items": _items(keys), "defaultMode": READABLE, "optional": True}
        mount(f"config-{index}", f"{MOUNTS}/config/{name}", {"configMap": source})
    for index, name in enumerate(needs.claims):
        claim = {"claimName": name, "readOnly": True}
        mount(f"claim-{index}", f"{MOUNTS}/files/{name}", {"persistentVolumeClaim": claim})
    return volumes, mounts


def _items(keys: Sequence[str]) -> list[dict[str, str]]:
    return [{"key": key, "path": key} for key in keys]


def _resources(wishes: PodSettings) -> dict[str, Any]:
    asked = wishes.resources
    limits = {**RESOURCES["limits"], **asked.limits}
    # A request may not be larger than its limit: where only the limit is given, the API server copies it.
    requests = {name: amount for name, amount in RESOURCES["requests"].items() if name not in asked.limits}
    return {"requests": {**requests, **asked.requests}, "limits": limits}


def _scheduling(wishes: PodSettings) -> dict[str, Any]:
    said: dict[str, Any] = {
        "nodeSelector": dict(wishes.node_selector),
        "tolerations": [
            toleration.model_dump(mode="json", by_alias=True, exclude_none=True) for toleration in wishes.tolerations
        ],
        "affinity": dict(wishes.affinity),
        "priorityClassName": wishes.priority_class_name,
        "imagePullSecrets": [{"name": secret.name} for secret in wishes.image_pull_secrets],
    }
    return {name: value for name, value in said.items() if value}


def overlay(base: Any, over: Any) -> Any:
    """``over`` laid on ``base``: objects are merged, lists of named things by name, null removes, the rest replaces."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        merged = dict(base)
        for key, value in over.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = overlay(base.get(key), value)
        return merged
    if isinstance(base, list) and isinstance(over, list) and _named(base) and _named(over):
        new = {each["name"]: each for each in over}
        kept = [overlay(each, new.pop(each["name"])) if each["name"] in new else each for each in base]
        return [*kept, *new.values()]
    return over


def _named(items: list[Any]) -> bool:
    return all(isinstance(each, Mapping) and "name" in each for each in items)
