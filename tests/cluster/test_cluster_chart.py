"""The chart without a cluster: what it renders for whom, what it refuses, and that manifests/ say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cluster import binaries
from cluster.chart_values import DATABASE, INSTALLATIONS
from cluster.helm import CHART, HOME, ROOT, Helm, Object, objects, the
from cluster.kubectl import Kubectl
from fullsend import __version__

EVERY = pytest.mark.parametrize("values", INSTALLATIONS.values(), ids=list(INSTALLATIONS))
WORKLOADS = ("Deployment", "StatefulSet")


@EVERY
def test_it_is_linted_without_a_warning(helm: Helm, values: dict[str, Any]) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, values=values)


def test_it_is_of_the_programs_version() -> None:
    chart = YAML(typ="safe", pure=True).load(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_each_value_has_a_place_in_the_schema_and_none_else_is_taken(helm: Helm) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = YAML(typ="safe", pure=True).load(CHART / "values.yaml")

    def same(schema: Any, values: Any, where: str) -> None:
        if schema.get("additionalProperties") is False:
            known = schema["properties"].keys() - {"global"}
            assert not values or known == set(values) or where.endswith("resources"), where
            for name in values:
                same(schema["properties"][name], values[name], f"{where}.{name}")

    same(schema, values, "")
    assert "additional properties 'replica' not allowed" in helm.refusal({"operator": {"replica": 3}})


def test_what_must_be_given_together_is_said(helm: Helm) -> None:
    assert "--set postgresql.embedded=true" in helm.refusal({})
    assert "namespaces needs clusterId" in helm.refusal({"database": DATABASE, "namespaces": ["a"]})
    assert "two databases" in helm.refusal({"database": DATABASE, "postgresql": {"embedded": True}})
    assert "digest" in helm.refusal({"database": DATABASE, "image": {"digest": "sha256:short"}})


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_the_trial_that_a_page_installs_is_a_whole_one(helm: Helm, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    typed = re.findall(r"(?ms)^    helm install (fullsend .*?[^\\])\n", text)[0]
    words = typed.replace("\\\n", " ").replace("helm/fullsend", str(CHART)).split()
    rendered = objects(helm("template", *(word for word in words if word not in ("--wait", "--create-namespace"))))
    assert {"fullsend-operator", "fullsend-postgresql", "fullsend-mail-sink"} == {
        each["metadata"]["name"] for each in rendered if each["kind"] in WORKLOADS
    }
    relay = YAML(typ="safe", pure=True).load(ROOT / "manifests/samples/transport.yaml")["spec"]["smtp"]
    service, namespace, _ = relay["host"].split(".")
    assert (service, namespace) == ("fullsend-mail-sink", words[words.index("-n") + 1])
    the(rendered, "Service", service, namespace)


@EVERY
def test_every_pod_is_restricted_and_has_limits(helm: Helm, values: dict[str, Any]) -> None:
    for workload in (each for each in helm.render(values) if each["kind"] in WORKLOADS):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert "@/fullsend/database/dsn" in str(container["args"]) or "operator" not in container["name"]
        probed = [container for container in pod["containers"] if "livenessProbe" in container]
        assert len(probed) == len(pod["containers"])


@EVERY
def test_only_the_operator_has_a_token(helm: Helm, values: dict[str, Any]) -> None:
    for workload in (each for each in helm.render(values) if each["kind"] in WORKLOADS):
        is_operator = workload["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
        assert workload["spec"]["template"]["spec"]["automountServiceAccountToken"] is is_operator


@EVERY
def test_no_secret_is_in_arguments_environment_or_config(helm: Helm, values: dict[str, Any]) -> None:
    for each in helm.render(values):
        if each["kind"] in (*WORKLOADS, "ConfigMap"):
            assert not re.search(r"password=|postgres(ql)?://|secretKeyRef", json.dumps(each))


def test_in_some_namespaces_no_right_reaches_beyond_them(helm: Helm) -> None:
    found = helm.render(INSTALLATIONS["namespaces"])
    bound = [each for each in found if each["kind"] == "ClusterRoleBinding"]
    assert bound == []
    places = {each["metadata"]["namespace"] for each in found if each["kind"] == "RoleBinding"}
    assert places == {"marketing", "billing", HOME}
    cluster_wide = the(helm.render(INSTALLATIONS["production"]), "ClusterRole", "fullsend-operator")
    rules = the(found, "Role", "fullsend-operator", "billing")["rules"]
    assert rules == [rule for rule in cluster_wide["rules"] if rule["resources"] != ["namespaces"]]
    arguments = the(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--namespaces=marketing,billing", "--cluster-id=example"} <= set(arguments)
    for binding in (each for each in found if each["kind"] == "ValidatingAdmissionPolicyBinding"):
        (chosen,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
        assert chosen["values"] == ["marketing", "billing"]


def test_what_a_person_sets_arrives(helm: Helm) -> None:
    found = helm.render(INSTALLATIONS["everything"])
    deployment = the(found, "Deployment", "bulk-operator")
    pod = deployment["spec"]["template"]["spec"]
    image = "mirror.example:5000/a/b:1@sha256:" + "a" * 64
    (container,) = pod["containers"]
    assert container["image"] == image
    assert {f"--image={image}", "--cluster-id=here"} <= set(container["args"])
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert {"name": "ca", "mountPath": "/ca"} in container["volumeMounts"]
    assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == ["rack"]
    assert the(found, "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (over,) = objects(the(found, "ConfigMap")["data"]["pod.yaml"])
    assert over["metadata"] == {"annotations": {"a": "b"}}
    assert over["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert over["spec"]["volumes"] == [{"name": "tmp", "emptyDir": None, "ephemeral": {}}]
    assert over["spec"]["containers"] == [
        {"name": "fullsend", "imagePullPolicy": "IfNotPresent", "env": [{"name": "X", "value": "y"}]}
    ]


def test_changed_overrides_start_the_operator_anew(helm: Helm) -> None:
    def mark(overrides: dict[str, Any]) -> str:
        found = helm.render({"database": DATABASE, "senders": {"podOverrides": overrides}})
        marks: dict[str, str] = the(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        return marks["fullsend.dev/overrides"]

    assert mark({"spec": {"priorityClassName": "a"}}) != mark({"spec": {"priorityClassName": "b"}})


def test_the_kinds_are_upgraded_with_the_release_and_kept_when_it_goes(helm: Helm) -> None:
    kinds = [each for each in helm.render({"database": DATABASE}) if each["kind"] == "CustomResourceDefinition"]
    assert len(kinds) == 4
    for kind in kinds:
        assert kind["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        (ours,) = objects((ROOT / "crds" / f"fullsend.dev_{kind['spec']['names']['plural']}.yaml").read_text())
        assert kind == ours
    values = {"database": DATABASE, "crds": {"keep": False}}
    dropped = [each for each in helm.render(values) if each["kind"] == "CustomResourceDefinition"]
    assert all("annotations" not in kind["metadata"] for kind in dropped)


def kustomized(folder: Path) -> list[Object]:
    if not binaries.ready():
        pytest.skip("no kubectl: `make cluster-programs` builds one")
    return objects(Kubectl(str(binaries.folder() / "kubectl"), Path("/dev/null"))("kustomize", folder))


def plain(each: Object) -> Object:
    """Without what says that Helm looks after it."""
    found = json.loads(json.dumps(each))
    found["metadata"].pop("annotations", None)
    for labels in (found["metadata"].get("labels", {}), *_pod_labels(found)):
        labels.pop("helm.sh/chart", None)
        if labels.get("app.kubernetes.io/managed-by") == "Helm":
            labels.pop("app.kubernetes.io/managed-by")
    return found


def _pod_labels(workload: Any) -> list[dict[str, str]]:
    return [workload["spec"]["template"]["metadata"]["labels"]] if workload["kind"] in WORKLOADS else []


@pytest.mark.parametrize(("folder", "values"), [(".", "production"), ("namespaces", "namespaces")])
def test_manifests_are_what_the_chart_renders(helm: Helm, folder: str, values: str) -> None:
    def by_name(found: list[Object]) -> dict[tuple[str, str, str], Object]:
        return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in found}

    ours = by_name(kustomized(ROOT / "manifests" / folder))
    ours.pop(("Namespace", "", HOME))
    charts = by_name([plain(each) for each in helm.render(INSTALLATIONS[values])])
    for deployment in (charts, ours):  # a kustomization adds at the end
        args = deployment["Deployment", HOME, "fullsend-operator"]["spec"]["template"]["spec"]["containers"][0]["args"]
        args.sort()
    stale = sorted(key for key in ours.keys() | charts.keys() if ours.get(key) != charts.get(key))
    assert not stale, "run `make manifests`, and look at what the kustomizations add"


def test_what_watches_it_is_there_where_it_is_asked_for(helm: Helm) -> None:
    each = {"enabled": True}
    monitoring = {"podMonitor": each, "rules": each, "dashboard": each, "labels": {"release": "prometheus"}}
    rendered = helm.render({"database": DATABASE, "monitoring": monitoring})
    alerts = YAML(typ="safe", pure=True).load(CHART / "files" / "alerts.yaml")
    rule = the(rendered, "PrometheusRule", "fullsend")
    assert rule["spec"] == alerts
    monitor = the(rendered, "PodMonitor", "fullsend-operator")
    assert monitor["metadata"]["labels"]["release"] == rule["metadata"]["labels"]["release"] == "prometheus"
    [operator] = [each for each in rendered if each["kind"] == "Deployment" and "operator" in each["metadata"]["name"]]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= operator["spec"]["template"]["metadata"]["labels"].items()
    dashboard = the(rendered, "ConfigMap", "fullsend-dashboard")
    assert json.loads(dashboard["data"]["fullsend.json"])["title"] == "Fullsend"
    assert not [each for each in helm.render({"database": DATABASE}) if "monitoring" in each["apiVersion"]]
