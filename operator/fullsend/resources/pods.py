"""What a campaign may set of its sender pods.

Invariant: an allow-list. Nothing here can change what runs, as whom, or with what in reach; the rest of the pod is the
administrator's, in the chart's values.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from pydantic import Field, JsonValue

from fullsend.resources.base import Fault, Int, Line, Model, Name, NameRef, Quantity


class PodResources(Model):
    """CPU and memory of a sender pod."""

    requests: dict[str, Quantity] = Field(
        default_factory=dict, max_length=8, description="What is reserved, such as `cpu: 500m`."
    )
    limits: dict[str, Quantity] = Field(
        default_factory=dict, max_length=8, description="What is allowed at most, such as `memory: 512Mi`."
    )


class TolerationOperator(StrEnum):
    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Model):
    """As in a Pod."""

    key: Line | None = Field(default=None, description="Key of the taint. Default: all.")
    operator: TolerationOperator = Field(
        default=TolerationOperator.EQUAL, description="`Exists` or `Equal`. Default: `Equal`."
    )
    value: Line | None = Field(default=None, description="Value of the taint, for `Equal`. Default: none.")
    effect: TaintEffect | None = Field(
        default=None, description="`NoSchedule`, `PreferNoSchedule` or `NoExecute`. Default: all."
    )
    toleration_seconds: Int | None = Field(
        default=None, description="Seconds a `NoExecute` taint is tolerated. Default: for ever."
    )


class PodSettings(Model):
    """What may be set of a sender pod. The rest of the pod is the administrator's, in the chart's values."""

    resources: PodResources = Field(default_factory=PodResources, description="CPU and memory. Default: the chart's.")
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32, description="Labels a node must have.")
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=32, description="Taints to tolerate.")
    affinity: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Affinity, as in a Pod.",
        json_schema_extra={
            "type": "object",
            "additionalProperties": None,
            "x-kubernetes-preserve-unknown-fields": True,
        },
    )
    priority_class_name: Name | None = Field(default=None, description="PriorityClass. Default: the cluster's.")
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=32, description="Labels to add, outside `fullsend.dev/`."
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, max_length=32, description="Annotations to add, outside `fullsend.dev/`."
    )
    image_pull_secrets: tuple[NameRef, ...] = Field(
        default=(), max_length=8, description="Secrets for the image registry."
    )

    def rules(self) -> Iterator[Fault]:
        for field, names in (("labels", self.labels), ("annotations", self.annotations)):
            for name in names:
                if name.partition("/")[0].endswith(("fullsend.dev", "kubernetes.io", "k8s.io")) and "/" in name:
                    yield Fault((field, name), "is reserved", (field,))
