"""Whether Git owns an object, and whether it will put back what a person changes in it.

A tool that applies from Git reverts a field that Git sets and leaves one that it omits (tried with server-side apply by
a second manager). So what a person is told depends on whether the tool's own managed fields, or what it last applied,
have the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MANAGERS: Final[Mapping[str, str]] = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
}
_MARKS: Final[Mapping[str, str]] = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def git_tool(found: Mapping[str, Any]) -> str:
    """The tool that applies this object from Git, or "" """
    metadata = found["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    named = [tool for mark, tool in _MARKS.items() if mark in marks]
    named += [_MANAGERS[entry] for entry in map(_manager, _entries(found)) if entry in _MANAGERS]
    return named[0] if named else ""


def warnings(found: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """What to tell a person who changes these fields (``spec.cancel``) of this object."""
    tool = git_tool(found)
    if not tool:
        return []
    told = []
    for field in fields:
        if _sets(found, field.split(".")):
            told.append(
                f"{tool} manages {_name(found)} and sets {field}: it will put it back. Change it in Git as well"
            )
        else:
            told.append(f"{tool} manages {_name(found)}; Git does not set {field}, so this change stays")
    return told


def _sets(found: Mapping[str, Any], path: Sequence[str]) -> bool:
    owned = [entry.get("fieldsV1") or {} for entry in _entries(found) if _manager(entry) in _MANAGERS]
    applied = (found["metadata"].get("annotations") or {}).get(_LAST_APPLIED)
    return any(_has(fields, [f"f:{part}" for part in path]) for fields in owned) or (
        applied is not None and _has(_json(applied), path)
    )


def _has(value: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _entries(found: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    entries: Sequence[Mapping[str, Any]] = found["metadata"].get("managedFields") or ()
    return entries


def _manager(entry: Mapping[str, Any]) -> str:
    return str(entry.get("manager", ""))


def _name(found: Mapping[str, Any]) -> str:
    return f"campaign {found['metadata']['name']}"
