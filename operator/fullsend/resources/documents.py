"""Manifest files as plain values, each with the lines it was written on.

Invariant: a document is read as kubectl reads it. kubectl's YAML is 1.1 where it hurts (a bare ``off`` is false,
``010`` is eight) and JSON where it does not (dates stay text); a run on this machine must not be kinder. And one broken
document never hides the problems of the next: files are split first, then parsed document by document.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from fullsend.errors import Problem
from fullsend.resources.document import Document, FieldPath

SUFFIXES = (".yaml", ".yml", ".json")
VALUE_LIMIT = 200_000
"""Values in one document: far beyond any real one, far below what aliases of aliases can expand to."""


class _Unreadable(Exception):
    """One document cannot be read; ``line`` and ``column`` count from 1."""

    def __init__(self, what: str, line: int, column: int = 1) -> None:
        self.what, self.line, self.column = what, line, column
        super().__init__(what)


def read_documents(paths: Sequence[Path]) -> tuple[list[Document], list[Problem]]:
    """Every document of these files and folders (searched for ``*.yaml``, ``*.yml``, ``*.json``), and everything
    that cannot be read. A file named twice is read once."""
    documents: list[Document] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for path in paths:
        try:
            files = list(_files(path))
        except OSError as error:
            problems.append(Problem(str(path), f"cannot be read: {error.strerror or error}"))
            continue
        for file in files:
            if (real := os.path.realpath(file)) in seen:
                continue
            seen.add(real)
            try:
                text = _decode(file.read_bytes())
                documents += _json(file, text) if file.suffix == ".json" else _yaml(file, text, problems)
            except OSError as error:
                problems.append(Problem(str(file), f"cannot be read: {error.strerror or error}"))
            except _Unreadable as error:
                problems.append(Problem(f"{file}:{error.line}:{error.column}", error.what))
    if not documents and not problems:
        where = ", ".join(map(str, paths)) or "no path given"
        problems.append(Problem(where, "no manifests found", f"files end in {', '.join(SUFFIXES)}"))
    return documents, problems


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix in SUFFIXES and not hidden and not file.is_dir():
            yield file


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unreadable("is UTF-16; save it as UTF-8", 1)
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        what = f"is not UTF-8: byte 0x{data[error.start]:02x}"
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        raise _Unreadable(what, before.count(b"\n") + 1, column) from None
    if (at := text.find("\0")) >= 0:
        raise _Unreadable("holds a NUL character", text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
    return text


def _json(file: Path, text: str) -> list[Document]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                raise _Unreadable(f"the key {key!r} is given twice in one object", 1)
            value[key] = item
        return value

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise _Unreadable(f"{text} is not a number in JSON", 1)
        return number

    if not text.strip():
        return []
    try:
        return [
            Document(file, 1, json.loads(text, object_pairs_hook=unique, parse_constant=finite, parse_float=finite))
        ]
    except json.JSONDecodeError as error:
        raise _Unreadable(f"is not JSON: {error.msg}", error.lineno, error.colno) from None
    except RecursionError:
        raise _Unreadable("is nested too deeply", 1) from None


_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)


def _yaml(file: Path, text: str, problems: list[Problem]) -> list[Document]:
    documents: list[Document] = []
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text))]
    number = 0
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        chunk = text[start:end]
        if not any(line.strip() and not line.startswith(("#", "%", "---")) for line in chunk.split("\n")) and (
            not chunk.startswith("---") or not chunk.split("\n", 1)[0][3:].split("#")[0].strip()
        ):
            continue
        number += 1
        offset = text.count("\n", 0, start)
        try:
            for node in _compose(chunk, offset):
                builder = _Builder(offset)
                documents.append(Document(file, number, builder.value(node, ()), builder.lines))
        except _Unreadable as error:
            where = f"{file}:{error.line}:{error.column}, document {number}"
            problems.append(Problem(where, error.what))
    return documents


def _compose(chunk: str, offset: int) -> list[Node]:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    yaml.composer.warn_double_anchors = False
    try:
        return [node for node in yaml.compose_all(chunk) if node is not None]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"is not YAML: {error.problem or error.context}"
        if "'\\t'" in (error.problem or ""):
            what = "is not YAML: a tab cannot indent, use spaces"
        raise _Unreadable(what, mark.line + 1 + offset, mark.column + 1) from None
    except ReaderError as error:
        before = chunk[: error.position]
        what = f"holds a character that YAML does not allow: U+{ord(chunk[error.position]):04X}"
        raise _Unreadable(what, before.count("\n") + 1 + offset, error.position - before.rfind("\n")) from None
    except RecursionError:
        raise _Unreadable("is nested too deeply", offset + 1) from None


_TAG = "tag:yaml.org,2002:"
_PLAIN = f"{_TAG}plain"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {
    form: truth
    for word, truth in {"y": True, "yes": True, "true": True, "on": True}.items()
    | {"n": False, "no": False, "false": False, "off": False}.items()
    for form in (word, word.capitalize(), word.upper())
}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class _Resolver(VersionedResolver):
    """Leaves a bare word undecided: what it means is decided in ``_plain``, by kubectl's table."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return Tag(suffix=_PLAIN) if kind is ScalarNode and implicit[0] else super().resolve(kind, value, implicit)


class _Builder:
    """Plain values from a node graph, with the line of every field."""

    def __init__(self, offset: int) -> None:
        self.lines: dict[FieldPath, int] = {}
        self._offset = offset
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: FieldPath) -> Any:
        self._count += 1
        if self._count > VALUE_LIMIT:
            raise self._refuse(node, f"holds more than {VALUE_LIMIT} values")
        if id(node) in self._open:
            raise self._refuse(node, "an alias holds itself")
        self.lines.setdefault(path, self._line(node))
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if not str(node.tag).startswith(_TAG):
            raise self._refuse(node, f"the tag {node.tag} is not known here")
        self._open.add(id(node))
        try:
            match node:
                case MappingNode():
                    return self._mapping(node, path)
                case SequenceNode():
                    return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
                case _:
                    raise self._refuse(node, "is not a value")
        except RecursionError:
            raise self._refuse(node, "is nested too deeply") from None
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: FieldPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, item in node.value:
            if str(key.tag) == _PLAIN and key.value == "<<":
                sources = item.value if isinstance(item, SequenceNode) else [item]
                for source in sources:
                    if not isinstance(source, MappingNode):
                        raise self._refuse(key, "<< needs a mapping, or a list of them")
                    merged = self._mapping(source, path) | merged
                continue
            name = self._scalar(key) if isinstance(key, ScalarNode) else None
            if not isinstance(name, str):
                shown = key.value if isinstance(key, ScalarNode) else "this"
                raise self._refuse(key, f"the key {shown} is not text in YAML; quote it")
            if name in value:
                raise self._refuse(key, f"the key {name!r} is given twice (first in line {first[name]})")
            first[name] = self._line(key)
            self.lines[(*path, name)] = first[name]
            value[name] = self.value(item, (*path, name))
        return merged | value

    def _scalar(self, node: ScalarNode) -> Any:
        text: str = node.value
        tag = str(node.tag)
        match tag.removeprefix(_TAG):
            case "str":
                return text
            case "plain" | "null" | "bool" | "int" | "float" | "timestamp":
                return _plain(text)
            case _:
                raise self._refuse(node, f"the tag {tag} is not known here")

    def _line(self, node: Node) -> int:
        return int(node.start_mark.line) + 1 + self._offset

    def _refuse(self, node: Node, what: str) -> _Unreadable:
        return _Unreadable(what, self._line(node), int(node.start_mark.column) + 1)


def _plain(text: str) -> Any:
    """A bare word as kubectl's YAML reads it: base prefixes and octal, no base 60; what fits nothing is text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if text[0] not in "+-.0123456789":
        return text
    plain = text.replace("_", "")
    try:
        return int(plain, 8) if re.fullmatch(r"[-+]?0[0-7]+", plain) else int(plain, 0)
    except ValueError:
        pass
    if _FLOAT.fullmatch(plain) and math.isfinite(number := float(plain)):
        return number
    return text
