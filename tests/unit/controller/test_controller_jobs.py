"""What is asked of the cluster for a plan and for a wave of senders."""

from __future__ import annotations

import json
from typing import Any

import pytest
from controller_objects import UID, audience, campaign, resolved, transport

from fullsend.controller.jobs import Owner, plan_job, send_job
from fullsend.controller.jobviews import same_pods
from fullsend.controller.names import job_name
from fullsend.controller.pods import PodImage, overlay, plan_needs, sender_needs
from fullsend.states import CampaignId

OWNER = Owner("shop", "launch", UID)
IMAGE = PodImage("fullsend:1")


def send(*objects: dict[str, Any], of: dict[str, Any] | None = None, image: PodImage = IMAGE) -> dict[str, Any]:
    return send_job(OWNER, resolved(*objects, of=of), CampaignId(12), 3, 2, image)


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", ["launch", "x" * 52, "a-" + "b" * 50])
@pytest.mark.parametrize("number", [1, 99_999, 10_000_000])
def test_a_pod_of_any_job_has_a_name_of_63_characters_at_most(name: str, number: int) -> None:
    made = job_name(name, "send", number)
    assert len(f"{made}-99") <= 63
    assert made == job_name(name, "send", number)
    assert made.endswith(f"-send-{number}")


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert job_name("x" * 51 + "y", "send", 123456) != job_name("x" * 51 + "z", "send", 123456)


def test_a_campaign_owns_its_jobs_and_is_found_by_label() -> None:
    metadata = send()["metadata"]
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "fullsend.dev/v1alpha1",
            "kind": "Campaign",
            "name": "launch",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]
    assert metadata["labels"]["fullsend.dev/owner-uid"] == UID


def test_the_death_of_one_sender_ends_no_other_and_an_eviction_is_nobodys_failure() -> None:
    spec = send()["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert "backoffLimit" not in spec
    assert spec["backoffLimitPerIndex"] > 0
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailIndex", "Ignore"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert pod(send())["restartPolicy"] == "Never"


@pytest.mark.parametrize("kind", ["plan", "send"])
def test_pods_are_restricted_and_have_no_api_token(kind: str) -> None:
    made = send() if kind == "send" else plan_job(OWNER, resolved(), CampaignId(12), 1, IMAGE)
    spec, container = pod(made), pod(made)["containers"][0]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"memory"}


def test_no_secret_is_in_an_argument_or_in_the_environment() -> None:
    made = send(audience(), transport(credentialsSecretRef={"name": "login"}))
    container = pod(made)["containers"][0]
    assert container["args"] == ["--campaign", "12", "--wave", "3", "--mounts", "/fullsend"]
    assert {each["name"] for each in container["env"]} == {"HOME", "PYTHONUNBUFFERED"}
    ledger = next(volume for volume in pod(made)["volumes"] if volume["name"] == "ledger")
    assert ledger["secret"]["secretName"] == "fullsend-ledger"
    assert ledger["secret"]["items"] == [{"key": "dsn", "path": "dsn"}]


def test_only_the_keys_that_are_needed_of_a_users_secret_are_mounted() -> None:
    made = send(audience(), transport(credentialsSecretRef={"name": "login"}, caSecretRef={"name": "ca"}))
    mounted = {
        volume["secret"]["secretName"]: [each["key"] for each in volume["secret"]["items"]]
        for volume in pod(made)["volumes"]
        if "secret" in volume
    }
    assert mounted == {"fullsend-ledger": ["dsn"], "login": ["password", "username"], "ca": ["ca.crt"]}
    paths = [mount["mountPath"] for mount in pod(made)["containers"][0]["volumeMounts"]]
    assert "/fullsend/secrets/login" in paths


def test_a_plan_has_what_its_sources_and_attachments_name_and_no_relays_password() -> None:
    files = {"configMapKeyRef": {"name": "files", "key": "people.csv"}}
    claim = {"claim": {"name": "exports", "path": "june.csv"}}
    attached = {"name": "a.pdf", "contentType": "application/pdf", "configMapKeyRef": {"name": "files", "key": "a.pdf"}}
    whole = campaign(
        audiences=[{"name": "people"}, {"name": "more"}, {"name": "shop"}],
        message={"from": {"address": "n@shop.example"}, "subject": "s", "text": "t", "attachments": [attached]},
    )
    needs = plan_needs(
        resolved(
            audience(csv=files),
            audience("more", csv=claim),
            audience("shop", postgres={"dsnSecretRef": {"name": "crm"}, "query": "SELECT 1"}),
            transport(credentialsSecretRef={"name": "login"}),
            of=whole,
        )
    )
    assert needs.secrets == {"crm": ("dsn",)}
    assert needs.config_maps == {"files": ("a.pdf", "people.csv")}
    assert needs.claims == ("exports",)


def test_another_secret_in_the_transport_is_another_need() -> None:
    one = sender_needs(resolved(audience(), transport(credentialsSecretRef={"name": "old"})))
    two = sender_needs(resolved(audience(), transport(credentialsSecretRef={"name": "new"})))
    assert one.text() != two.text()


def test_a_sender_is_given_the_time_that_its_relay_may_take_for_an_answer() -> None:
    slow = transport(timeouts={"dot": "20m"})
    assert pod(send(audience(), slow))["terminationGracePeriodSeconds"] >= 20 * 60 + 10


def test_a_campaign_sets_what_it_may_of_its_pods() -> None:
    wishes = {
        "resources": {"limits": {"cpu": "1", "memory": "2Gi"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "mail", "operator": "Exists"}],
        "priorityClassName": "low",
        "labels": {"team": "news", "app.kubernetes.io/name": "other"},
        "imagePullSecrets": [{"name": "registry"}],
    }
    made = send(of=campaign(senders={"pod": {**wishes, "labels": {"team": "news"}}}))
    spec = pod(made)
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["tolerations"] == [{"key": "mail", "operator": "Exists"}]
    assert spec["priorityClassName"] == "low"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert made["spec"]["template"]["metadata"]["labels"]["team"] == "news"
    resources = spec["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert "memory" not in resources["requests"]


def test_the_administrators_overrides_come_last_and_find_containers_by_name() -> None:
    over = {
        "metadata": {"labels": {"cost": "mail"}},
        "spec": {
            "runtimeClassName": "gvisor",
            "securityContext": {"runAsUser": 1000},
            "containers": [
                {"name": "fullsend", "env": [{"name": "TZ", "value": "UTC"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
        },
    }
    spec = pod(send(image=PodImage("fullsend:1", over)))
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert [container["name"] for container in spec["containers"]] == ["fullsend", "proxy"]
    assert {"name": "TZ", "value": "UTC"} in spec["containers"][0]["env"]
    assert {"name": "HOME", "value": "/tmp"} in spec["containers"][0]["env"]


def test_an_overlay_removes_with_null_and_replaces_plain_lists() -> None:
    assert overlay({"a": 1, "b": {"c": 2}, "d": [1]}, {"a": None, "b": {"e": 3}, "d": [2]}) == {
        "b": {"c": 2, "e": 3},
        "d": [2],
    }


def test_a_job_is_json() -> None:
    json.dumps(send(of=campaign(senders={"pod": {"affinity": {"nodeAffinity": {}}}})))


def test_a_job_tells_what_its_pods_were_to_be_like() -> None:
    assert same_pods(send(), send())
    assert not same_pods(send(), send(image=PodImage("fullsend:2")))
    assert not same_pods(send(), send(image=PodImage(IMAGE.image, {"spec": {"hostNetwork": True}})))
    assert not same_pods(send(), send(of=campaign(senders={"pod": {"nodeSelector": {"disk": "fast"}}})))
    assert same_pods(send(), send(of=campaign(retry={"expireAfter": "1h"})))
