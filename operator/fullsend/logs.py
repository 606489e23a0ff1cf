"""Logs: JSON where a machine reads them, lines for a person at a terminal, and no one's address in either.

Every record carries what its process or task is about (``about(campaign="shop/spring")``): a log is searched by that.
Invariant: what looks like an address loses its local part before it is written, whoever logged it, also in a traceback
and in what a relay said; FULLSEND_LOG_ADDRESSES=1 leaves addresses in, for a try-out.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

_ABOUT: Final[ContextVar[Mapping[str, Any]]] = ContextVar("about", default={})  # noqa: B039 - never written to
_ADDRESS: Final = re.compile(r"""[^\s<>()\[\]"',;:@=]+@(?=[\w-]+(?:\.[\w-]+)+)""")
_LINES: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_RENAMED: Final = {"asctime": "time", "levelname": "level", "name": "logger"}


def about(**fields: Any) -> None:
    """Adds fields to every later record of this task and of the tasks that it starts."""
    _ABOUT.set({**_ABOUT.get(), **fields})


def redacted(text: str) -> str:
    """``jane@example.com`` as ``***@example.com``."""
    return _ADDRESS.sub("***@", text)


class _Json(JsonFormatter):
    def __init__(self, *, redact: bool) -> None:
        super().__init__(_FIELDS, rename_fields=_RENAMED, json_ensure_ascii=False)
        self._redact = redact

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data.update(_ABOUT.get())

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return redacted(line) if self._redact else line

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """RFC 3339, in UTC."""
        at = datetime.fromtimestamp(record.created, UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Lines(logging.Formatter):
    def __init__(self, *, redact: bool) -> None:
        super().__init__(_LINES)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return redacted(line) if self._redact else line


def configure(*, as_json: bool | None = None) -> None:
    """Logs to stderr from INFO on. ``as_json`` None: unless stderr is a terminal."""
    redact = os.environ.get("FULLSEND_LOG_ADDRESSES") != "1"
    if as_json is None:
        as_json = not sys.stderr.isatty()
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(redact=redact) if as_json else _Lines(redact=redact))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
