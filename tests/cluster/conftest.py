"""A real control plane for the tests of this folder: one a worker, a namespace a test.

It is the one that FULLSEND_TEST_KUBECONFIG names, or one started here from the programs that ``make cluster-programs``
(a part of ``make test``) has built. Pods of a control plane started here are processes of this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster import binaries
from cluster.api import Api
from cluster.control_plane import ControlPlane, control_plane
from cluster.helm import Helm
from cluster.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    """The administrator of a cluster that has our CRDs."""
    with _cluster() as one:
        one("apply", "--server-side", "-f", ROOT / "crds")
        one("wait", "--for=condition=Established", "--timeout=30s", "-f", ROOT / "crds")
        yield one


@contextlib.contextmanager
def _cluster() -> Iterator[Kubectl]:
    given = os.environ.get("FULLSEND_TEST_KUBECONFIG")
    if given:
        program = shutil.which("kubectl") or (binaries.ready() and binaries.folder() / "kubectl")
        if not program:
            pytest.skip("FULLSEND_TEST_KUBECONFIG is given, but there is no kubectl")
        yield Kubectl(str(program), Path(given))
        return
    if not binaries.ready():
        pytest.skip("no control plane: `make cluster-programs` builds one (or give FULLSEND_TEST_KUBECONFIG)")
    with control_plane() as plane:
        yield Kubectl(str(plane.kubectl), plane.admin, plane)


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm, with this clone's chart; without a cluster it renders."""
    if not binaries.ready(binaries.HELM):
        pytest.skip("no Helm: `make cluster-programs` builds one")
    return Helm(str(binaries.HELM.folder / "helm"))


@pytest.fixture
def plane(kubectl: Kubectl) -> ControlPlane:
    """For tests that need its processes: nobody stops those of a cluster that is in use."""
    if kubectl.plane is None:
        pytest.skip("needs a control plane of its own; FULLSEND_TEST_KUBECONFIG names somebody's")
    return kubectl.plane


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """An empty namespace, gone after the test."""
    name = f"fullsend-{os.getpid()}-{next(_numbers)}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def api(kubectl: Kubectl) -> AsyncIterator[Api]:
    """The administrator, in JSON."""
    async with Api(kubectl.kubeconfig) as api:
        yield api
