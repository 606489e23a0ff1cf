"""The operator with exactly the rights that manifests/ gives it, and people with theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.workspace import Workspace

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
FILES = ("base/namespace.yaml", "base/account.yaml", "base/user-roles.yaml", "cluster-wide/rights.yaml")
RIGHTS = [part for name in FILES for part in ("-f", MANIFESTS / name)]
HOME = "fullsend-system"
ACCOUNT = f"system:serviceaccount:{HOME}:fullsend-operator"


@pytest.fixture(scope="module", autouse=True)
def _leaves_nothing(kubectl: Kubectl) -> Iterator[None]:
    yield
    kubectl("delete", *RIGHTS, "--ignore-not-found", "--wait=false")


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    kubectl("apply", *RIGHTS)
    yield made
    made.close()
    place.close()


def kubeconfig(world: ClusterWorld, plane: ControlPlane) -> Path:
    token = world.kubectl("create", "token", "fullsend-operator", "-n", HOME).strip()
    return plane.kubeconfig(world.place.folder / "operator.kubeconfig", token)


def may(world: ClusterWorld, who: str, *what: str) -> bool:
    """``kubectl auth can-i``, which ends with 1 for a no."""
    asked = world.kubectl.run("auth", "can-i", *what, f"--as={who}", "-n", world.namespace)  # type: ignore[attr-defined]
    return asked.stdout.strip() == "yes"


def all_are_ready(world: ClusterWorld) -> None:
    """What the campaign names was probed, and says so itself."""
    world.apply({"kind": "MailTemplate", "metadata": {"name": "news"}, "spec": {"text": "Hi"}})
    for what in ("audience/people", "mailtransport/relay", "mailtemplate/news"):
        world.kubectl("wait", "--for=condition=Ready", what, "--timeout=60s", "-n", world.namespace)


def test_the_cluster_wide_rights_are_enough(world: ClusterWorld, plane: ControlPlane) -> None:
    people = world.recipients(20)
    world.transport(world.place.sink().port)
    operator = world.operator(everywhere=True, lease=HOME, kubeconfig=kubeconfig(world, plane))
    world.campaign(ttlSecondsAfterFinished=3600)
    world.until("Complete")
    all_are_ready(world)
    assert "forbidden" not in operator.words
    assert world.copies() == dict.fromkeys(people, 1)
    assert ("AllAccepted",) in {(reason,) for reason, _ in world.events()}


def test_the_rights_in_one_namespace_are_enough_for_it(world: ClusterWorld, plane: ControlPlane) -> None:
    world.kubectl("delete", "clusterrolebinding,clusterrole", "fullsend-operator")
    world.kubectl("apply", "-n", world.namespace, "-f", MANIFESTS / "namespaces/rights/rights.yaml")
    people = world.recipients(20)
    world.transport(world.place.sink().port)
    operator = world.operator("--cluster-id", "here", lease=HOME, kubeconfig=kubeconfig(world, plane))
    world.campaign()
    world.until("Complete")
    all_are_ready(world)
    assert "forbidden" not in operator.words
    assert world.copies() == dict.fromkeys(people, 1)


def test_the_operator_reads_no_secret_of_anybody_and_gives_itself_nothing(world: ClusterWorld) -> None:
    for what in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "secrets"),
        ("patch", "secrets/other"),
        ("get", "secrets/fullsend-ledger"),
        ("get", "configmaps"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("patch", "campaigns"),
        ("patch", "audiences"),
        ("patch", "mailtransports"),
        ("delete", "mailtemplates"),
        ("create", "rolebindings"),
        ("impersonate", "users"),
    ):
        assert not may(world, ACCOUNT, *what), what
    assert may(world, ACCOUNT, "patch", "secrets/fullsend-ledger")


def test_who_writes_campaigns_does_not_say_where_mail_goes(world: ClusterWorld) -> None:
    for role, who in (("fullsend-campaign-writer", "writer"), ("fullsend-transport-admin", "postmaster")):
        world.kubectl("create", "rolebinding", who, f"--clusterrole={role}", f"--user={who}", "-n", world.namespace)
    assert may(world, "writer", "create", "campaigns")
    assert may(world, "writer", "get", "mailtransports")
    assert not may(world, "writer", "create", "mailtransports")
    assert not may(world, "writer", "patch", "campaigns", "--subresource=status")
    assert may(world, "postmaster", "update", "mailtransports")
    assert not may(world, "postmaster", "create", "campaigns")
