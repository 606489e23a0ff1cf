"""One cluster with a real node a run, and the chart installed in it. Elsewhere the tests say why they are skipped.

The files are one story in the order of their names: what is installed at first is upgraded, taken away and installed
in other ways at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.needs import INSIDE, missing
from e2e.node_cluster import NodeCluster, node_cluster
from e2e.trial import SPACE, Trial, volume


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = missing() if os.environ.get(INSIDE) else "it needs namespaces of its own: make e2e"
    for item in items:
        if Path(__file__).parent in item.path.parents and why:
            item.add_marker(pytest.mark.skip(reason=f"no real node here: {why}"))


@pytest.fixture(scope="session")
def node() -> Iterator[NodeCluster]:
    with node_cluster(Path(os.environ[INSIDE])) as one:
        yield one


@pytest.fixture(scope="session")
def trial(node: NodeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    made = Trial(node, tmp_path_factory.mktemp("e2e") / "clone")
    made.kubectl("apply", "-f", "-", given=volume(node.folder / "volume"))
    made.kubectl("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=restricted")
    made.types(
        "helm install fullsend helm/fullsend -n fullsend --create-namespace --wait "
        "--set postgresql.embedded=true --set mailSink.enabled=true"
    )
    yield made
    made.close()
