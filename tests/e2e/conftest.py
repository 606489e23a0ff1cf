"""One cluster with a real node a run, and the chart installed in it. Elsewhere the tests say why they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import binaries
from cluster.helm import Helm
from e2e.needs import INSIDE, missing
from e2e.node_cluster import NodeCluster, node_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = missing() or ("" if os.environ.get(INSIDE) else "it needs namespaces of its own: make e2e")
    for item in items:
        if Path(__file__).parent in item.path.parents and why:
            item.add_marker(pytest.mark.skip(reason=f"no real node here: {why}"))


@pytest.fixture(scope="session")
def node() -> Iterator[NodeCluster]:
    with node_cluster(Path(os.environ[INSIDE])) as one:
        yield one


@pytest.fixture(scope="session")
def helm(node: NodeCluster) -> Helm:
    return Helm(str(binaries.HELM.folder / "helm"), node.admin)
