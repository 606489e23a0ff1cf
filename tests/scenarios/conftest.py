"""A user's place for each scenario: manifests, a relay, a ledger of its own, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, postgres_dsn: str) -> Iterator[Workspace]:
    """An empty folder and a ledger of its own, on the tests' PostgreSQL."""
    place = Workspace(tmp_path, postgres_dsn)
    yield place
    place.close()
