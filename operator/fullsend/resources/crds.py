"""The four kinds as CustomResourceDefinitions.

Invariants: a new object has a status that says nobody has looked at it yet (a default on the nested field alone would
leave it without one, and kstatus would call it current); nothing else in a status has a default; and every definition
fits into the annotation that ``kubectl apply`` keeps (262,144 bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fullsend.resources.audience import AudienceSpec
from fullsend.resources.base import API_VERSION, LABEL
from fullsend.resources.campaign import CAMPAIGN_NAME_LIMIT, CampaignSpec
from fullsend.resources.cel import CelRule, campaign_transitions
from fullsend.resources.schema import structural_schema
from fullsend.resources.status import AudienceStatus, CampaignStatus, MailTemplateStatus, MailTransportStatus
from fullsend.resources.template import MailTemplateSpec
from fullsend.resources.transport import MailTransportSpec

GROUP, VERSION = API_VERSION.split("/")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide``: only of ``kubectl get -o wide``."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    plural: str
    short_names: tuple[str, ...]
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[Column, ...]
    rules: tuple[CelRule, ...] = ()
    metadata: tuple[tuple[str, Any], ...] = ()


_STATE = Column("State", ".status.state", "In one word.")
_AGE = Column("Age", ".metadata.creationTimestamp", "Time since it was made.", "date")
_REASON = Column("Reason", ".status.conditions[?(@.type=='Ready')].reason", "Why it is in this state.", wide=True)

KINDS = (
    Kind(
        "Campaign",
        "campaigns",
        ("camp",),
        CampaignSpec,
        CampaignStatus,
        (
            _STATE,
            Column("Progress", ".status.progress", "Share of the recipients that is not missing."),
            Column("Accepted", ".status.accepted", "Accepted by the relay.", "integer"),
            Column("Missing", ".status.missing", "Open and undelivered recipients.", "integer"),
            Column("Rate", ".status.ratePerSecond", "Messages accepted a second, lately.", "number"),
            _REASON,
            Column("Eligible", ".status.eligible", "Recipients neither suppressed nor invalid.", "integer", wide=True),
            Column("Rejected", ".status.rejected", "Refused for good by the relay.", "integer", wide=True),
            Column("Deferred", ".status.deferred", "Due again at a known time.", "integer", wide=True),
            Column("Limited-By", ".status.limitedBy", "What keeps it from going faster.", wide=True),
            Column("Next", ".status.nextAttemptTime", "When the next deferred recipient is due.", wide=True),
            Column("Halt", ".status.halt.id", "The halt to acknowledge.", wide=True),
            _AGE,
        ),
        rules=tuple(campaign_transitions()),
        metadata=(("maxLength", CAMPAIGN_NAME_LIMIT), ("pattern", LABEL)),
    ),
    Kind(
        "Audience",
        "audiences",
        ("aud",),
        AudienceSpec,
        AudienceStatus,
        (
            _STATE,
            Column("Eligible", ".status.lastCount.eligible", "Who may be mailed, when it was last read.", "integer"),
            Column("Counted", ".status.lastCount.time", "When it was last read.", "date"),
            _REASON,
            Column("Rows", ".status.lastCount.rowsRead", "Rows read.", "integer", wide=True),
            Column("Suppressed", ".status.lastCount.suppressed", "People passed over.", "integer", wide=True),
            Column("Invalid", ".status.lastCount.invalid", "Addresses that can't be used.", "integer", wide=True),
            _AGE,
        ),
    ),
    Kind(
        "MailTemplate",
        "mailtemplates",
        ("mailtpl",),
        MailTemplateSpec,
        MailTemplateStatus,
        (
            _STATE,
            Column("Subject", ".spec.subject", "Its subject."),
            _REASON,
            Column("Variables", ".status.variables", "What a recipient must have.", wide=True),
            Column("Text", ".status.text", "Where the plain text part comes from.", wide=True),
            _AGE,
        ),
    ),
    Kind(
        "MailTransport",
        "mailtransports",
        ("relay",),
        MailTransportSpec,
        MailTransportStatus,
        (
            _STATE,
            Column("Host", ".spec.smtp.host", "The relay."),
            Column("Port", ".spec.smtp.port", "Its TCP port.", "integer"),
            Column("TLS", ".spec.smtp.tls", "When the connection is encrypted."),
            Column("Connections", ".status.connections", "Of live senders, together.", "integer"),
            _REASON,
            Column("Halt", ".status.halt.reason", "Why a campaign that uses it halted.", wide=True),
            Column("Pool", ".spec.limits.pool", "The pool whose rates it shares.", wide=True),
            Column("Probed", ".status.lastProbeTime", "When it was last probed.", "date", wide=True),
            _AGE,
        ),
    ),
)


def custom_resource_definition(kind: Kind) -> dict[str, Any]:
    """The whole object, as JSON values."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": list(kind.short_names),
                "categories": ["fullsend"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _object_schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in kind.columns],
                }
            ],
        },
    }


def _object_schema(kind: Kind) -> dict[str, Any]:
    spec = structural_schema(kind.spec)
    status = _without_defaults(structural_schema(kind.status))
    metadata: dict[str, Any] = {"type": "object"}
    if kind.metadata:
        metadata["properties"] = {"name": {"type": "string", **dict(kind.metadata)}}
    schema = {
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": metadata,
            "spec": spec,
            "status": {**status, "default": {"observedGeneration": -1}},
        },
    }
    if kind.rules:
        schema["x-kubernetes-validations"] = [rule.to_json() for rule in kind.rules]
    return schema


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: {name: _without_defaults(field) for name, field in value.items()}
            if key == "properties"
            else _without_defaults(value)
            for key, value in schema.items()
            if key != "default"
        }
    return [_without_defaults(item) for item in schema] if isinstance(schema, list) else schema


def _column(column: Column) -> dict[str, Any]:
    made = {"name": column.name, "type": column.type, "description": column.description, "jsonPath": column.path}
    return {**made, "priority": 1} if column.wide else made
