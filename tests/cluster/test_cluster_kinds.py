"""The four kinds on a real API server: what kubectl shows of them, and what may be edited when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cluster.api import MERGE, Api, Refused
from cluster.kubectl import Kubectl
from cluster.objects import PLURALS, manifest, path

ROOT = Path(__file__).resolve().parents[2]
ANNOTATION_LIMIT = 262_144
SAMPLES = sorted((ROOT / "manifests" / "samples").rglob("*.yaml"))
MANIFESTS = [*sorted((ROOT / "crds").glob("*.yaml")), *SAMPLES]
SEALED = "Forbidden: cannot be edited once the plan is sealed: make another Campaign"


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_what_is_applied_fits_the_annotation_that_kubectl_keeps(file: Path) -> None:
    for document in YAML(typ="safe", pure=True).load_all(file):
        assert len(json.dumps(document)) < ANNOTATION_LIMIT


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_every_manifest_applies_and_a_second_time_changes_nothing(kubectl: Kubectl, namespace: str, file: Path) -> None:
    kubectl("apply", "-n", namespace, "-f", file)
    again = kubectl("apply", "-n", namespace, "-f", file)
    ours = [line for line in again.splitlines() if not line.startswith("secret/")]  # stringData is always news
    assert ours
    assert all(line.endswith(" unchanged") for line in ours), again


def fields(schema: Mapping[str, Any], at: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{at}.{name}"
        yield from fields(field.get("items", field), f"{at}.{name}")


def test_kubectl_explains_every_field_and_its_default(kubectl: Kubectl) -> None:
    for kind, plural in PLURALS.items():
        crd = kubectl.object("get", "crd", f"{plural}.fullsend.dev")
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            told = kubectl("explain", f"{plural}.{part}", "--recursive")
            assert "<no description>" not in told, kind
            names = list(fields(schema[part], part))
            assert len(names) > 3
            for name in names:
                assert name.rpartition(".")[2] in told, f"{kind}: {name}"
    words = " ".join(kubectl("explain", "campaign.spec.retry.minBackoff").split())
    assert "Wait after the first such failure; it doubles each time, with jitter upward. Default: `15m`." in words


@pytest.mark.parametrize("kind", PLURALS)
def test_a_new_object_says_that_nobody_has_looked_at_it(kubectl: Kubectl, namespace: str, kind: str) -> None:
    """kstatus compares the two generations: a new object is InProgress, not Current."""
    kubectl("apply", "-n", namespace, "-f", "-", given=manifest(kind))
    made = kubectl.object("get", PLURALS[kind], "it", "-n", namespace)
    assert made["status"] == {"observedGeneration": -1}
    assert made["metadata"]["generation"] == 1


def test_defaults_are_filled_in(kubectl: Kubectl, namespace: str) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", given=manifest("Campaign", {"retry": {"maxBackoff": "8h"}}))
    spec = kubectl.object("get", "campaign", "it", "-n", namespace)["spec"]
    assert spec["class"] == "Marketing"
    assert spec["retry"] == {
        "minBackoff": "15m",
        "maxBackoff": "8h",
        "expireAfter": "72h",
        "maxUnknownResends": 1,
    }
    assert spec["failurePolicy"] == {"maxRejected": "5%", "minSample": 200}


STATUS = {
    "observedGeneration": 1,
    "state": "Sending",
    "progress": "97%",
    "accepted": 960,
    "missing": 30,
    "total": 1000,
    "ratePerSecond": 41.5,
    "eligible": 990,
    "rejected": 10,
    "deferred": 7,
    "limitedBy": "Rate",
    "nextAttemptTime": "2026-03-01T10:00:00Z",
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Sending",
            "message": "",
            "lastTransitionTime": "2026-03-01T09:00:00Z",
            "observedGeneration": 1,
        }
    ],
}


async def test_a_table_shows_the_progress(kubectl: Kubectl, api: Api, namespace: str) -> None:
    await api.post(path("Campaign", namespace), manifest("Campaign", name="spring"))
    await api.patch(f"{path('Campaign', namespace, 'spring')}/status", {"status": STATUS})
    header, row = kubectl("get", "camp", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "STATE", "PROGRESS", "ACCEPTED", "MISSING", "RATE", "AGE"]
    assert row.split()[:-1] == ["spring", "Sending", "97%", "960", "30", "41.5"]
    wide, row = kubectl("get", "camp", "-n", namespace, "-o", "wide").splitlines()
    more = ["REASON", "ELIGIBLE", "REJECTED", "DEFERRED", "LIMITED-BY", "NEXT", "HALT"]
    assert wide.split() == [*header.split()[:-1], *more, "AGE"]
    assert row.split()[6:-1] == ["Sending", "990", "10", "7", "Rate", "2026-03-01T10:00:00Z"]
    everything = kubectl("get", "fullsend", "-n", namespace)
    assert "campaign.fullsend.dev/spring" in everything


@pytest.mark.parametrize("short", ["camp", "aud", "mailtpl", "relay"])
def test_there_is_a_short_name(kubectl: Kubectl, namespace: str, short: str) -> None:
    assert kubectl("get", short, "-n", namespace) == ""


FROZEN: list[tuple[dict[str, Any], str]] = [
    ({"class": "Transactional"}, "spec.class"),
    ({"message": {"subject": "Summer"}}, "spec.message"),
    ({"message": None, "messageRef": {"name": "t"}}, "[spec.message, spec.messageRef]"),
    ({"audiences": [{"name": "b"}]}, "spec.audiences"),
    ({"audiences": [{"name": "a"}, {"name": "b"}]}, "spec.audiences"),
    ({"exclude": [{"ledgerKey": "winter"}]}, "spec.exclude"),
    ({"unsubscribe": {"listId": "other.mail.example"}}, "spec.unsubscribe"),
]


def told(field: str) -> str:
    if field.startswith("["):
        return "[" + ", ".join(f"{one}: {SEALED}" for one in field.strip("[]").split(", ")) + "]"
    return f"{field}: {SEALED}"


async def test_what_the_plan_froze_is_edited_only_before_the_seal(api: Api, namespace: str) -> None:
    at = path("Campaign", namespace, "it")
    await api.post(path("Campaign", namespace), manifest("Campaign"))
    for state in ("running", "failed", "discarded"):
        await api.patch(f"{at}/status", {"status": {"plan": {"state": state}}})
        for change, _ in FROZEN:
            await api.request("PATCH", at, {"spec": change}, content_type=MERGE, params={"dryRun": "All"})
    await api.patch(f"{at}/status", {"status": {"plan": {"state": "sealed"}}})
    for change, field in FROZEN:
        with pytest.raises(Refused) as refused:
            await api.patch(at, {"spec": change})
        assert refused.value.message == f'Campaign.fullsend.dev "it" is invalid: {told(field)}'


async def test_a_sealed_campaign_takes_every_other_edit(api: Api, namespace: str) -> None:
    at = path("Campaign", namespace, "it")
    await api.post(path("Campaign", namespace), manifest("Campaign"))
    await api.patch(f"{at}/status", {"status": {"plan": {"state": "sealed"}}})
    for change in (
        {"suspend": True},
        {"cancel": True},
        {"transportRef": {"name": "other"}},
        {"senders": {"maxPods": 5}},
        {"limits": {"rates": [{"messages": 1, "per": "1s"}]}},
        {"acknowledgedHalt": "h-1"},
        {"reopen": {"id": "again", "states": ["rejected"]}},
        {"retry": {"maxBackoff": "8h"}},
        {"schedule": {"deadline": "2026-03-01T00:00:00Z"}},
    ):
        await api.patch(at, {"spec": change})
    await api.patch(at, {"metadata": {"annotations": {"fullsend.dev/suspend": "true"}}})


async def test_the_ledger_key_is_for_ever(api: Api, namespace: str) -> None:
    at = path("Campaign", namespace, "it")
    words = 'Campaign.fullsend.dev "it" is invalid: spec.ledgerKey: Forbidden: cannot be edited: it says which campaign'
    await api.post(path("Campaign", namespace), manifest("Campaign"))
    with pytest.raises(Refused) as refused:
        await api.patch(at, {"spec": {"ledgerKey": "other"}})
    assert refused.value.message == f"{words} this is in the ledger"
    await api.patch(at, {"spec": {"ledgerKey": "it"}})  # what it was without being said
    with pytest.raises(Refused):
        await api.patch(at, {"spec": {"ledgerKey": "other"}})


async def test_an_object_from_before_a_rule_was_tightened_still_takes_status_and_loses_its_finalizer(
    kubectl: Kubectl, api: Api, namespace: str
) -> None:
    """The API server lets pass what a write leaves as it was, as long as no rule is of the whole object."""
    name = "campaigns.fullsend.dev"
    crd = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    whole = (await api.get(crd))["spec"]
    loose = json.loads(json.dumps(whole))
    schema = loose["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["x-kubernetes-validations"]
    at = path("Campaign", namespace, "it")
    document = manifest("Campaign", {"unsubscribe": None})
    document["metadata"]["finalizers"] = ["test.fullsend.dev/hold"]
    try:
        await api.patch(crd, {"spec": loose})
        await _until_taken(api, namespace, document)
    finally:
        await api.patch(crd, {"spec": whole})
    await _until_refused(api, namespace, manifest("Campaign", {"unsubscribe": None}, name="other"))
    await api.patch(f"{at}/status", {"status": {"observedGeneration": 1, "state": "Pending"}})
    await api.patch(at, {"metadata": {"annotations": {"fullsend.dev/suspend": "true"}}})
    await api.delete(at)
    await api.patch(at, {"metadata": {"finalizers": None}})
    assert kubectl("get", "campaigns", "-n", namespace) == ""


async def _until_taken(api: Api, namespace: str, document: Mapping[str, Any]) -> None:
    """A changed definition is in force a moment later."""
    for _ in range(200):
        try:
            await api.post(path("Campaign", namespace), document)
            return
        except Refused:
            await asyncio.sleep(0.05)
    raise AssertionError("the loosened definition never came into force")


async def _until_refused(api: Api, namespace: str, document: Mapping[str, Any]) -> None:
    for _ in range(200):
        try:
            await api.request("POST", path("Campaign", namespace), document, params={"dryRun": "All"})
        except Refused:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the definition never came back into force")
