"""The chart and the manifests before a real API server: all of it is accepted, the policies hold, the kinds stay."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.chart_values import DATABASE, INSTALLATIONS
from cluster.control_plane import ControlPlane
from cluster.helm import CHART, ROOT, Helm
from cluster.kubectl import Kubectl

RELEASE = "fullsend"


@pytest.mark.parametrize("values", INSTALLATIONS.values(), ids=list(INSTALLATIONS))
def test_the_api_server_takes_all_that_is_rendered(
    helm: Helm, kubectl: Kubectl, namespace: str, values: dict[str, Any]
) -> None:
    here = {**values, **({"namespaces": [namespace]} if values.get("namespaces") else {})}
    text = helm("template", RELEASE, CHART, "--namespace", namespace, values=here)
    dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    done = kubectl.run(*dry, "-f", "-", given=text)
    assert done.returncode == 0, done.stderr
    assert "violate PodSecurity" not in done.stderr


def test_the_api_server_takes_the_manifests_in_a_namespace_of_restricted_pods(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", ROOT / "manifests/base/namespace.yaml")  # the rest of a dry run wants it
    try:
        done = kubectl.run("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-k", ROOT / "manifests")
        assert done.returncode == 0, done.stderr
        assert "PodSecurity" not in done.stderr
    finally:
        kubectl("delete", "namespace", "fullsend-system", "--wait=false")


class Installed:
    """A release for one namespace, without pods: what else it does is what counts here."""

    def __init__(self, helm: Helm, kubectl: Kubectl, namespace: str) -> None:
        self.helm = Helm(helm.program, kubectl.kubeconfig)
        self.kubectl = kubectl
        self.namespace = namespace
        self.account = f"system:serviceaccount:{namespace}:fullsend-operator"

    def values(self, **more: Any) -> dict[str, Any]:
        one = {"database": DATABASE, "namespaces": [self.namespace], "clusterId": "here", "operator": {"replicas": 0}}
        return {**one, **more}

    def change(self, verb: str, **more: Any) -> str:
        return self.helm(verb, RELEASE, CHART, "-n", self.namespace, "--take-ownership", values=self.values(**more))

    def may_apply(self, user: str, thing: dict[str, Any]) -> str:
        """Why not; "" where it may."""
        groups = () if user.startswith("system:") else ("--as-group=system:authenticated",)
        asked = self.kubectl.run(
            *("create", "--dry-run=server", "-n", self.namespace, f"--as={user}", *groups, "-f", "-"),
            given=json.dumps(thing),
        )
        return "" if asked.returncode == 0 else asked.stderr


@pytest.fixture
def installed(helm: Helm, kubectl: Kubectl, namespace: str, plane: ControlPlane) -> Iterator[Installed]:
    made = Installed(helm, kubectl, namespace)
    made.change("install")
    end = time.monotonic() + 30  # the API server learns of a policy a moment after it has taken it
    maker = "system:serviceaccount:kube-system:replicaset-controller"
    written = ("create", "--dry-run=server", "-n", namespace, "secret", "generic", "fullsend-ledger")
    while kubectl.run(*written).returncode == 0 or not made.may_apply(maker, pod(**MOUNTED)):
        assert time.monotonic() < end, "the policies don't hold"
        time.sleep(0.2)
    yield made
    made.helm.run("uninstall", RELEASE, "-n", namespace)


def secret(name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, **fields}


def pod(**spec: Any) -> dict[str, Any]:
    body = {"containers": [{"name": "it", "image": "it", **spec.pop("container", {})}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it"}, "spec": body}


def job(template: dict[str, Any]) -> dict[str, Any]:
    body = {"template": {"spec": {**template["spec"], "restartPolicy": "Never"}}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "it"}, "spec": body}


MOUNTED = {"volumes": [{"name": "v", "secret": {"secretName": "fullsend-ledger"}}]}
PROJECTED = {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "fullsend-ledger"}}]}}]}
ENVIRONMENT = {"container": {"envFrom": [{"secretRef": {"name": "fullsend-ledger"}}]}}
VARIABLE = {
    "container": {
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "fullsend-ledger", "key": "dsn"}}}],
    }
}
STARTER = {
    "initContainers": [{"name": "i", "image": "it", "envFrom": [{"secretRef": {"name": "fullsend-ledger"}}]}],
}


def give(kubectl: Kubectl, namespace: str, user: str, resource: str) -> None:
    verbs = {"pods": "create", "jobs.batch": "create", "secrets": "get,create,update,patch", "configmaps": "create"}[
        resource
    ]
    name = f"{user}-{resource.partition('.')[0]}"
    kubectl("create", "role", name, f"--verb={verbs}", f"--resource={resource}", "-n", namespace)
    kubectl("create", "rolebinding", name, f"--role={name}", f"--user={user}", "-n", namespace)


def test_nobody_but_the_operator_writes_the_ledgers_secret_and_what_pods_are_made_of(installed: Installed) -> None:
    for user in ("writer", installed.account):  # its own right is for an apply by name, kubectl creates by POST
        for resource in ("secrets", "configmaps"):
            give(installed.kubectl, installed.namespace, user, resource)
    assert "the operator's" in installed.may_apply("writer", secret("fullsend-ledger"))
    assert installed.may_apply("writer", secret("another")) == ""
    for name, why in (("fullsend-pods", "the operator's"), ("fullsend-ledger", "")):
        settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"image": "theirs"}}
        assert why in (said := installed.may_apply("writer", settings))
        assert bool(why) is bool(said)
    assert installed.may_apply(installed.account, secret("fullsend-ledger")) == ""
    ours = secret("fullsend-ledger", type="fullsend.dev/ledger", stringData={"dsn": "x"})
    installed.kubectl("create", "-n", installed.namespace, f"--as={installed.account}", "-f", "-", given=ours)
    patch = ("patch", "secret", "fullsend-ledger", "-n", installed.namespace, "--as=writer", "-p")
    done = installed.kubectl.run(*patch, '{"stringData": {"dsn": "y"}}')
    assert "the operator's" in done.stderr


@pytest.mark.parametrize("way", [MOUNTED, PROJECTED, ENVIRONMENT, VARIABLE, STARTER])
def test_no_pod_has_the_ledgers_secret_but_those_of_campaigns_and_of_who_may_read_it(
    installed: Installed, way: dict[str, Any]
) -> None:
    kubectl, namespace = installed.kubectl, installed.namespace
    for resource in ("pods", "jobs.batch"):
        give(kubectl, namespace, "maker", resource)
    reads = ("create", "rolebinding", "reads", "--clusterrole=fullsend-ledger-user", "--user=reader", "-n", namespace)
    kubectl(*reads)
    assert "login to the ledger" in installed.may_apply("maker", pod(**way))
    assert "login to the ledger" in installed.may_apply("maker", job(pod(**way)))
    assert installed.may_apply("maker", pod()) == ""
    assert installed.may_apply("maker", job(pod())) == ""
    assert installed.may_apply("reader", pod(**way)) == ""
    assert installed.may_apply(installed.account, job(pod(**way))) == ""
    assert installed.may_apply("system:serviceaccount:kube-system:job-controller", pod(**way)) == ""


def test_nobody_puts_a_program_of_their_own_into_a_pod_that_has_it(installed: Installed) -> None:
    kubectl, here = installed.kubectl, ("-n", installed.namespace)
    kubectl("create", "role", "changer", "--verb=get,patch", "--resource=pods", *here)
    kubectl("create", "rolebinding", "changer", "--role=changer", "--user=changer", *here)
    unscheduled = {"schedulingGates": [{"name": "fullsend.dev/never"}]}
    kubectl("create", *here, "-f", "-", given=pod(**MOUNTED, **STARTER, **unscheduled))
    for part in ("containers", "initContainers"):
        name = "it" if part == "containers" else "i"
        swapped = json.dumps({"spec": {part: [{"name": name, "image": "another"}]}})
        done = kubectl.run("patch", "pod", "it", *here, "--as=changer", "-p", swapped)
        assert "login to the ledger" in done.stderr
    kubectl("patch", "pod", "it", *here, "--as=changer", "-p", '{"metadata": {"labels": {"a": "b"}}}')


@pytest.mark.parametrize("way", [MOUNTED, VARIABLE])
def test_nobody_puts_a_container_beside_the_ledgers_secret_but_who_may_read_it(
    installed: Installed, way: dict[str, Any]
) -> None:
    """``kubectl debug`` into a sender, or with the Secret in the new container's own environment."""
    kubectl, namespace = installed.kubectl, installed.namespace
    verbs = ("--verb=get,patch,update", "--resource=pods,pods/ephemeralcontainers", "-n", namespace)
    kubectl("create", "role", "debugger", *verbs)
    for user in ("debugger", "reader"):
        kubectl("create", "rolebinding", user, "--role=debugger", f"--user={user}", "-n", namespace)
    kubectl("create", "rolebinding", "r", "--clusterrole=fullsend-ledger-user", "--user=reader", "-n", namespace)
    mounted = way is MOUNTED
    kubectl("create", "-n", namespace, "-f", "-", given=pod(**(way if mounted else {})))
    beside = {"name": "beside", "image": "it", **(way["container"] if not mounted else {})}
    plain = {"name": "plain", "image": "it"}

    def debug(user: str, *containers: dict[str, Any]) -> str:
        change = json.dumps({"spec": {"ephemeralContainers": containers}})
        as_user = (f"--as={user}", "--as-group=system:authenticated", "--subresource=ephemeralcontainers")
        return kubectl.run("patch", "pod", "it", "-n", namespace, *as_user, "--patch", change).stderr

    assert "login to the ledger" in debug("debugger", beside)
    assert debug("reader", beside) == ""
    if not mounted:
        kubectl("delete", "pod", "it", "-n", namespace, "--grace-period=0", "--force")
        kubectl("create", "-n", namespace, "-f", "-", given=pod())
        assert debug("debugger", plain) == ""


def test_the_kinds_outlive_the_release_and_another_takes_them_over(installed: Installed, kubectl: Kubectl) -> None:
    told = installed.helm("uninstall", RELEASE, "-n", installed.namespace)
    assert "kept due to the resource policy" in told
    kinds = kubectl("get", "crd", "-o", "name")
    assert kinds.count("fullsend.dev") == 4
    installed.change("install")
    installed.change("upgrade")


def test_an_upgrade_brings_changed_kinds(installed: Installed, kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("patch", "crd", "audiences.fullsend.dev", "--type=json", "-p", _drop_columns())
    columns = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"
    assert kubectl("get", "crd", "audiences.fullsend.dev", "-o", columns) == ""
    installed.helm(
        *("upgrade", RELEASE, CHART, "-n", installed.namespace, "--force-conflicts"), values=installed.values()
    )
    assert kubectl("get", "crd", "audiences.fullsend.dev", "-o", columns) != ""


def test_a_rollback_brings_the_kinds_back(installed: Installed, kubectl: Kubectl, tmp_path: Path) -> None:
    changed = tmp_path / "fullsend"
    shutil.copytree(CHART, changed)
    kind = changed / "files" / "crds" / "fullsend.dev_audiences.yaml"
    kind.write_text(kind.read_text().replace("- name: Eligible\n", "- name: Next\n"))
    columns = ("get", "crd", "audiences.fullsend.dev", "-o", "jsonpath={.spec.versions[0].additionalPrinterColumns}")
    before = kubectl(*columns)
    here = ("-n", installed.namespace, "--force-conflicts")  # the tests have applied them, too
    installed.helm("upgrade", RELEASE, changed, *here, values=installed.values())
    assert '"Next"' in kubectl(*columns)
    installed.helm("rollback", RELEASE, *here)
    assert kubectl(*columns) == before


def _drop_columns() -> str:
    return json.dumps([{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}])
