"""The ledger's SQL, by name: every statement lives in ``queries/*.sql`` and is loaded once.

A query begins with a line ``-- name --`` followed by one comment line that says what it does. Its parameters are
written ``%(name)s``; they are numbered once when loading (``positional``, ``parameters``), because psycopg keeps the
parsed form of a statement only up to 4,096 characters and would parse a flush anew at every call.

Invariant: names are unique over all files, and every query has a description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_HEAD: Final = re.compile(r"^-- ([a-z0-9_]+) --$", re.MULTILINE)
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True, slots=True)
class NamedQuery:
    name: str
    description: str
    sql: bytes  # bytes: psycopg takes them as they are, and a type checker knows they were not built from input
    positional: bytes  # the same with $1, $2, ... for a raw cursor
    parameters: tuple[str, ...]  # their names, in that order


def parse_queries(text: str) -> Mapping[str, NamedQuery]:
    """The queries of one file. Raises ValueError where a name is repeated or a description is missing."""
    pieces = _HEAD.split(text)[1:]
    queries: dict[str, NamedQuery] = {}
    for name, body in zip(pieces[::2], pieces[1::2], strict=True):
        lines = body.strip().splitlines()
        if not lines or not lines[0].startswith("-- "):
            raise ValueError(f"query {name} has no description")
        if name in queries:
            raise ValueError(f"query {name} is defined twice")
        code = " ".join(" ".join(line.split("--", 1)[0] for line in lines).split())
        queries[name] = _named(name, lines[0][3:], code.rstrip(";"))
    return queries


def _named(name: str, description: str, code: str) -> NamedQuery:
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(code)))
    positional = _PARAMETER.sub(lambda found: f"${parameters.index(found[1]) + 1}", code).replace("%%", "%")
    return NamedQuery(name, description, code.encode(), positional.encode(), parameters)


def _load() -> Mapping[str, NamedQuery]:
    found: dict[str, NamedQuery] = {}
    for file in sorted(files("fullsend.ledger").joinpath("queries").iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            for name, query in parse_queries(file.read_text("utf-8")).items():
                if name in found:
                    raise ValueError(f"query {name} is defined twice ({file.name})")
                found[name] = query
    return found


QUERIES: Final[Mapping[str, NamedQuery]] = _load()


def query(name: str) -> bytes:
    """The SQL of a named query."""
    return QUERIES[name].sql
