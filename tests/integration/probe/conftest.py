"""The world of a probe: a fresh ledger, and empty folders for what is mounted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fullsend.audience.sources.base import Mounts
from fullsend.ledger.database import Database
from support.audience_world import World


@pytest.fixture
async def world(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[World]:
    folders = [tmp_path / name for name in ("secrets", "config", "files")]
    for folder in folders:
        folder.mkdir()
    db = await Database.open(postgres_dsn, application="test")
    yield World(db, postgres_dsn, Mounts(*folders))
    await db.close()
