"""One document of a manifest, whoever read it: a file's (``documents``) or an API server's.

It stands by itself so that processes that read no files (the operator, planners, senders) need not load a YAML parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file; ``lines`` gives the line (from 1) a field was written on, where it is known.
    ``file`` is None for an object that came from an API server."""

    file: Path | None
    number: int
    value: Any
    lines: Mapping[FieldPath, int] = field(default_factory=dict)
