"""The other ways to install, with a database outside the release; and what stays when it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e.images import reference, version
from e2e.trial import HOME, SPACE, Trial, ours

BARE = "fullsend-system"
"""Where manifests/ put it."""
PASSWORD = "not-a-secret"
SECRET = "kubectl -n fullsend create secret generic fullsend-database --from-file=dsn=FILE"


def postgres(namespace: str) -> list[dict[str, Any]]:
    labels = {"app": "postgres"}
    restricted = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "postgres",
        "image": reference(version()).removeprefix("docker.io/"),
        "args": ["postgres", "--folder=/data", "--password-file=/password/password", "--host=*"],
        "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
        "securityContext": restricted,
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in ("data", "password")],
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "password", "secret": {"secretName": "postgres"}}],
    }
    place = {"name": "postgres", "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": place, "stringData": {"password": PASSWORD}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**place, "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": place,
            "spec": {"selector": labels, "ports": [{"port": 5432}]},
        },
    ]


@pytest.fixture(scope="module")
def dsn(trial: Trial) -> Path:
    """A file with the address of a database that is there before Fullsend is, and the Secret made from it."""
    for name in ("databases", "marketing", "billing", BARE):
        trial.kubectl("create", "namespace", name)
    trial.apply(*postgres("databases"), namespace="databases")
    trial.kubectl("wait", "pod/postgres", "-n", "databases", "--for=condition=Ready", "--timeout=90s")
    file = trial.clone / "dsn"
    file.write_text(f"host=postgres.databases.svc user=fullsend dbname=fullsend password={PASSWORD}\n")
    trial.types(SECRET, given={"FILE": str(file)})
    trial.kubectl("create", "secret", "generic", "fullsend-database", "-n", BARE, f"--from-file=dsn={file}")
    return file


def is_ready(trial: Trial, namespace: str) -> None:
    done = trial.kubectl.run("rollout", "status", "deployment/fullsend-operator", "-n", namespace, "--timeout=110s")
    assert done.returncode == 0, f"{done.stderr}{trial.everything()}"


def everybody_gets(trial: Trial, name: str, namespace: str = SPACE) -> None:
    sink = trial.relay(name, namespace=namespace)
    people = trial.people(name, 30, namespace=namespace)
    trial.campaign(name, namespace=namespace)
    trial.until_complete(name, 30, within=90, namespace=namespace)
    assert sink.copies() == dict.fromkeys(people, 1)


def test_what_stays_of_an_uninstalled_release_goes_by_the_commands_of_the_table(trial: Trial) -> None:
    trial.types("helm uninstall fullsend -n fullsend")
    trial.types("kubectl delete -f crds/")
    trial.types("kubectl -n fullsend delete pvc data-fullsend-postgresql-0")
    trial.types(
        "kubectl -n NAMESPACE delete secret/fullsend-ledger configmap/fullsend-pods", given={"NAMESPACE": SPACE}
    )
    trial.until("nothing of it is left", 60, lambda: "fullsend" not in _everything(trial))


def _everything(trial: Trial) -> str:
    kinds = "crd,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    inside = "all,configmaps,secrets,serviceaccounts,networkpolicies,pdb,pvc,roles,rolebindings"
    return (
        trial.kubectl("get", kinds, "-o", "name")
        + trial.kubectl("get", inside, "-n", SPACE, "-o", "name")
        + trial.kubectl("get", inside, "-n", HOME, "-o", "name")
    )


def test_for_good_with_a_database_of_ones_own(trial: Trial, dsn: Path) -> None:
    trial.types("helm install fullsend helm/fullsend -n fullsend --set database.existingSecret=fullsend-database")
    is_ready(trial, HOME)
    everybody_gets(trial, "good")
    trial.types("helm uninstall fullsend -n fullsend")


def test_for_some_namespaces_only_and_migrated_by_hand(trial: Trial, dsn: Path) -> None:
    pod = trial.kubectl.object("get", "pod", "postgres", "-n", "databases")
    near = trial.clone / "near"
    near.write_text(dsn.read_text().replace("postgres.databases.svc", pod["status"]["podIP"]))
    assert "nothing to do" in trial.types("fullsend migrate --database @FILE", given={"FILE": str(near)})
    some = ("--set", "namespaces={marketing,billing}", "--set", "clusterId=word")
    rest = ("--set", "database.existingSecret=fullsend-database", "--set", "migrations.automatic=false")
    trial.helm("install", "fullsend", trial.clone / "helm/fullsend", "-n", HOME, *some, *rest)
    is_ready(trial, HOME)
    trial.apply(ours("Audience", "elsewhere", {"inline": {"recipients": [{"email": "a@example.com"}]}}))
    everybody_gets(trial, "market", "marketing")
    assert not trial.kubectl.object("get", "audience", "elsewhere", "-n", SPACE).get("status", {}).get("conditions")
    trial.types("helm uninstall fullsend -n fullsend")


WITHOUT_HELM = {"kubectl apply -k manifests/namespaces": "billing", "kubectl apply -k manifests/": SPACE}


@pytest.mark.parametrize(("command", "where"), WITHOUT_HELM.items())
def test_without_helm(trial: Trial, dsn: Path, command: str, where: str) -> None:
    trial.types(command)
    is_ready(trial, BARE)
    everybody_gets(trial, "bare", where)
    if command.endswith("manifests/"):
        trial.types("kubectl delete -k manifests/")
        assert "fullsend.dev" not in trial.kubectl("get", "crd", "-o", "name"), "with the kinds"
    else:
        trial.kubectl("delete", "deployment", "fullsend-operator", "-n", BARE, "--timeout=60s")
