"""Manifests written to a folder and loaded, as a user's would be."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from fullsend.errors import InvalidInput
from fullsend.resources.load import load_manifests
from fullsend.resources.manifests import Manifests


def documents(*texts: str) -> str:
    return "\n---\n".join(textwrap.dedent(text) for text in texts)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Manifests]:
    """Loads these documents from one file."""

    def run(*texts: str) -> Manifests:
        (tmp_path / "all.yaml").write_text(documents(*texts), encoding="utf-8")
        return load_manifests([tmp_path / "all.yaml"])

    return run


@pytest.fixture
def refused(load: Callable[..., Manifests], tmp_path: Path) -> Callable[..., list[str]]:
    """The problems of these documents, without the name of the folder."""

    def run(*texts: str) -> list[str]:
        with pytest.raises(InvalidInput) as caught:
            load(*texts)
        return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return run
