"""Files in, typed objects out, or every problem at once.

Invariant: what is not understood is refused, never skipped: an unknown kind, a misspelt field, an object given twice.
A person fixes a manifest once, not once for each problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullsend.errors import InvalidInput, Problem
from fullsend.resources.audience import AudienceSpec
from fullsend.resources.base import API_VERSION, DATA_KEY, LABEL, NAME, PATTERNS, Model
from fullsend.resources.campaign import CAMPAIGN_NAME_LIMIT, CampaignSpec
from fullsend.resources.document import Document
from fullsend.resources.manifests import ConfigMap, Manifests, Place, Resource, Secret, line_of
from fullsend.resources.problems import Finding, check, did_you_mean, meant, without_nulls
from fullsend.resources.references import all_findings
from fullsend.resources.template import MailTemplateSpec, decode_base64
from fullsend.resources.transport import MailTransportSpec

__all__ = ["DEFAULT_NAMESPACE", "KINDS", "Manifests", "assemble", "load_manifests"]

KINDS: Mapping[str, type[Model]] = {
    "Campaign": CampaignSpec,
    "Audience": AudienceSpec,
    "MailTemplate": MailTemplateSpec,
    "MailTransport": MailTransportSpec,
}
CORE_KINDS = ("Secret", "ConfigMap", "Namespace")
DEFAULT_NAMESPACE = "default"

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_CORE_TOP = {
    "Secret": ("apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"),
    "ConfigMap": ("apiVersion", "kind", "metadata", "data", "binaryData", "immutable"),
}
_METADATA = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "uid",
    "resourceVersion",
    "generation",
    "generateName",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
)


def load_manifests(paths: Sequence[Path]) -> Manifests:
    """Read files and folders. Raises InvalidInput with every problem of every document, references included."""
    # Not at the top: of the shells, only the one of this machine reads files, and a YAML parser takes long to load.
    from fullsend.resources.documents import read_documents

    documents, problems = read_documents(paths)
    manifests, more = assemble(documents)
    problems += more
    problems += all_findings(manifests)
    if problems:
        raise InvalidInput(problems)
    return manifests


def assemble(documents: Iterable[Document]) -> tuple[Manifests, list[Problem]]:
    """Typed objects from plain documents (of files, or of an API server), and what is wrong with each by itself."""
    assembly = _Assembly()
    for document in documents:
        for item in _items(document):
            assembly.add(item)
    return assembly.manifests(), assembly.problems


def _items(document: Document) -> Iterator[Document]:
    """The objects of a document: itself, or those of a v1 List such as ``kubectl get -o yaml`` writes."""
    value = document.value
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            inner = {path[2:]: line for path, line in document.lines.items() if path[:2] == ("items", index)}
            yield Document(document.file, document.number, item, inner)
    else:
        yield document


class _Assembly:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._found: dict[str, dict[tuple[str, str], Any]] = {kind: {} for kind in (*KINDS, *CORE_KINDS)}
        self._first: dict[tuple[str, str, str], Place] = {}
        self._broken: dict[tuple[str, str, str], Resource[Model] | None] = {}

    def manifests(self) -> Manifests:
        found = self._found
        return Manifests(
            campaigns=found["Campaign"],
            audiences=found["Audience"],
            templates=found["MailTemplate"],
            transports=found["MailTransport"],
            secrets=found["Secret"],
            config_maps=found["ConfigMap"],
            broken=self._broken,
        )

    def add(self, document: Document) -> None:
        value = without_nulls(document.value) if isinstance(document.value, dict) else None
        if value is None:
            nameless = Place("no object", "", "", document)
            self.problems.append(nameless.problem(Finding((), "must be an object with apiVersion, kind and metadata")))
            return
        raw_kind, metadata = value.get("kind"), value.get("metadata")
        kind = raw_kind if isinstance(raw_kind, str) else ""
        fields = metadata if isinstance(metadata, dict) else {}
        name, namespace = fields.get("name"), fields.get("namespace", DEFAULT_NAMESPACE)
        place = Place(
            kind or "no kind",
            namespace if isinstance(namespace, str) else DEFAULT_NAMESPACE,
            name if isinstance(name, str) else "",
            document,
        )
        findings = list(_kind_findings(value, kind))
        if kind in self._found:
            findings += _metadata_findings(kind, value)
        parsed: Any = None
        if kind in KINDS:
            parsed, more = _parse(KINDS[kind], place, value, fields)
            findings += more
        elif kind == "Secret":
            parsed, more = _secret(place, value)
            findings += more
        elif kind == "ConfigMap":
            parsed, more = _config_map(place, value)
            findings += more
        self._keep(place, parsed, findings)

    def _keep(self, place: Place, parsed: Any, findings: list[Finding]) -> None:
        key = (place.kind, place.namespace, place.name)
        if place.name and place.kind in self._found and place.kind != "Namespace":
            if first := self._first.get(key):
                file, number = first.document.file, first.document.number
                what = f"{place.name} is declared twice in namespace {place.namespace}"
                findings.append(Finding(("metadata", "name"), what, f"first in {file}, document {number}"))
            else:
                self._first[key] = place
                if findings:
                    self._broken[key] = parsed if isinstance(parsed, Resource) else None
                else:
                    self._found[place.kind][(place.namespace, place.name)] = parsed
        findings.sort(key=lambda finding: line_of(place.document, finding.path) or 0)
        self.problems += map(place.problem, findings)


def _kind_findings(value: Mapping[str, Any], kind: str) -> Iterator[Finding]:
    known = (*KINDS, *CORE_KINDS)
    if not kind:
        yield Finding(("kind",), "is required" if "kind" not in value else "must be text")
    elif kind not in known:
        fix = meant(kind, known) or f"known: {', '.join(known)}"
        yield Finding(("kind",), f"unknown kind {kind}", fix)
    guess = kind if kind in known else did_you_mean(kind, known)
    wanted = API_VERSION if guess in KINDS else "v1" if guess in CORE_KINDS else ""
    version = value.get("apiVersion")
    if version is None:
        yield Finding(("apiVersion",), "is required", f"write {wanted}" if wanted else "")
    elif wanted and version != wanted:
        yield Finding(("apiVersion",), f"is {version!r}; {guess} is of {wanted}")
    if kind in KINDS or kind in _CORE_TOP:
        top = _CORE_TOP.get(kind, _TOP)
        for name in value:
            if name not in top:
                yield Finding((name,), "is not a field here", meant(name, top) or f"known here: {', '.join(top)}")


def _metadata_findings(kind: str, value: Mapping[str, Any]) -> Iterator[Finding]:
    metadata = value.get("metadata")
    if metadata is None:
        yield Finding(("metadata",), "is required: it holds the name")
        return
    if not isinstance(metadata, dict):
        yield Finding(("metadata",), "must be an object that holds the name")
        return
    for name in metadata:
        if name not in _METADATA:
            yield Finding(("metadata", name), "is not a field here", meant(name, _METADATA))
    limit, pattern = (CAMPAIGN_NAME_LIMIT, LABEL) if kind == "Campaign" else (253, NAME)
    name = metadata.get("name")
    if name is None:
        yield Finding(("metadata", "name"), "is required")
    else:
        yield from _name_findings(("metadata", "name"), name, pattern, limit)
    if "namespace" in metadata:
        yield from _name_findings(("metadata", "namespace"), metadata["namespace"], LABEL, 63)
    for field in ("labels", "annotations"):
        entries = metadata.get(field, {})
        if not isinstance(entries, dict):
            yield Finding(("metadata", field), "must be an object of names and values")
            continue
        for entry, text in entries.items():
            if not isinstance(text, str):
                yield Finding(("metadata", field, entry), "must be text", "quote it")


def _name_findings(path: tuple[str, ...], name: Any, pattern: str, limit: int) -> Iterator[Finding]:
    if not isinstance(name, str):
        yield Finding(path, "must be text", "quote it")
    elif len(name) > limit:
        yield Finding(path, f"is {len(name)} characters long, at most {limit} are allowed")
    elif not re.fullmatch(pattern, name):
        yield Finding(path, f"{name!r} {PATTERNS[pattern]}")


def _parse(
    model: type[Model], place: Place, value: Mapping[str, Any], metadata: Mapping[str, Any]
) -> tuple[Resource[Model] | None, Sequence[Finding]]:
    if "spec" not in value:
        misspelt = any(did_you_mean(name, _TOP) == "spec" for name in value if name not in _TOP)
        return None, [] if misspelt else [Finding(("spec",), "is required")]
    checked = check(model, value["spec"], ("spec",))
    annotations = metadata.get("annotations", {})
    annotations = annotations if isinstance(annotations, dict) else {}
    return Resource(place, checked.partial, annotations), checked.findings


def _secret(place: Place, value: Mapping[str, Any]) -> tuple[Secret, list[Finding]]:
    findings: list[Finding] = []
    data = dict(_entries(value, "data", True, findings))
    data |= dict(_entries(value, "stringData", False, findings))  # as at the API server, stringData wins
    kind = value.get("type", "Opaque")
    if not isinstance(kind, str):
        findings.append(Finding(("type",), "must be text"))
    return Secret(place, str(kind), data), findings


def _config_map(place: Place, value: Mapping[str, Any]) -> tuple[ConfigMap, list[Finding]]:
    findings: list[Finding] = []
    data = dict(_entries(value, "data", False, findings))
    binary = dict(_entries(value, "binaryData", True, findings))
    findings += [Finding(("binaryData", key), "is also in data") for key in binary if key in data]
    return ConfigMap(place, data | binary), findings


def _entries(
    value: Mapping[str, Any], field: str, encoded: bool, findings: list[Finding]
) -> Iterator[tuple[str, bytes]]:
    entries = value.get(field, {})
    if not isinstance(entries, dict):
        findings.append(Finding((field,), "must be an object of names and values"))
        return
    for key, text in entries.items():
        content = None
        if not re.fullmatch(DATA_KEY, key):
            findings.append(Finding((field, key), f"{key!r} {PATTERNS[DATA_KEY]}"))
        elif not isinstance(text, str):
            findings.append(Finding((field, key), "must be text", "quote it"))
        elif encoded and (content := decode_base64(text)) is None:
            fix = "plain text goes into stringData" if field == "data" else "plain text goes into data"
            findings.append(Finding((field, key), "is not base64", fix))
        else:
            yield key, content if content is not None else text.encode()
