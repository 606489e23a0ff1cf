"""A set of declared objects, each with the place it was written: what the shells and ``resolve`` work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from fullsend.errors import Problem
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.base import Model
from fullsend.resources.campaign import CampaignSpec
from fullsend.resources.document import Document, FieldPath
from fullsend.resources.problems import Finding, path_text
from fullsend.resources.template import MailTemplateSpec
from fullsend.resources.transport import MailTransportSpec

Key = tuple[str, str]
"""Namespace and name."""

S_co = TypeVar("S_co", bound=Model, covariant=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Which object, and where it was written."""

    kind: str
    namespace: str
    name: str
    document: Document = field(repr=False)

    def problem(self, finding: Finding) -> Problem:
        """The finding with its place: ``campaign.yaml:9, document 1 (Campaign spring), spec.message.subject``."""
        path = path_text(finding.path)
        tail = f", {path}" if path else ""
        file = self.document.file
        if file is None:
            where = f"{self.kind} {self.namespace}/{self.name}{tail}"
        else:
            line = line_of(self.document, finding.path)
            label = f"{self.kind} {self.name}".strip()
            where = f"{file}:{line}" if line else str(file)
            where += f", document {self.document.number} ({label}){tail}"
        return Problem(_printable(where), _printable(finding.what), _printable(finding.fix))


def _printable(text: str) -> str:
    """Names are shown as they were written, but never steer a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def line_of(document: Document, path: FieldPath) -> int | None:
    """The line of the field, or of the nearest thing around it."""
    for length in range(len(path), -1, -1):
        if line := document.lines.get(path[:length]):
            return line
    return None


@dataclass(frozen=True, slots=True)
class Resource(Generic[S_co]):
    """One object of the four kinds."""

    place: Place
    spec: S_co
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.place.namespace

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def base_dir(self) -> Path | None:
        """The folder relative paths in the object start from; None for an object from an API server."""
        file = self.place.document.file
        return file.parent if file is not None else None


@dataclass(frozen=True, slots=True)
class Secret:
    """A core/v1 Secret; its data stays out of every repr."""

    place: Place
    type: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """A core/v1 ConfigMap; ``data`` and ``binaryData`` together."""

    place: Place
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Everything declared, by namespace and name. ``broken`` objects, by kind, namespace and name, exist but cannot be
    used as written; what is usable of one of the four kinds is kept to look for further problems."""

    campaigns: Mapping[Key, Resource[CampaignSpec]] = field(default_factory=dict)
    audiences: Mapping[Key, Resource[AudienceSpec]] = field(default_factory=dict)
    templates: Mapping[Key, Resource[MailTemplateSpec]] = field(default_factory=dict)
    transports: Mapping[Key, Resource[MailTransportSpec]] = field(default_factory=dict)
    secrets: Mapping[Key, Secret] = field(default_factory=dict)
    config_maps: Mapping[Key, ConfigMap] = field(default_factory=dict)
    broken: Mapping[tuple[str, str, str], Resource[Model] | None] = field(default_factory=dict)
