"""How many orderings were tried: counted over all tests of this folder, on whichever worker, and printed at the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_tried: Counter[str] = Counter()


@pytest.fixture
def tried() -> Counter[str]:
    return _tried


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker of pytest-xdist tried."""
    _tried.update(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = dict(_tried)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _tried:
        line = ", ".join(f"{count:,} {what}" for what, count in sorted(_tried.items()))
        terminalreporter.write_line(f"simulation: {line}")
