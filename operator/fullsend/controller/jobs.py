"""The Jobs: one a plan attempt, one a sender wave, one a probe. Pure: from what is known to the object that is created.

Invariants: a name says which object, attempt or wave, so that making it twice is making it once; the object owns its
Jobs, so that deleting it ends their pods with SIGTERM and not a finalizer. A wave is an Indexed Job in which each
pod fails by itself: one sender's death ends no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fullsend.controller.names import (
    CONTAINER,
    GROUP,
    LABEL_CAMPAIGN,
    LABEL_GENERATION,
    LABEL_KIND,
    LABEL_NUMBER,
    LABEL_UID,
    VERSION,
    job_name,
)
from fullsend.controller.pods import Needs, PodImage, plan_needs, pod_template, sender_needs
from fullsend.reconcile.observed import JobKind
from fullsend.resources.base import parse_duration
from fullsend.resources.models import PodSettings
from fullsend.resources.resolve import ResolvedCampaign
from fullsend.states import CampaignId

KEPT: Final = 3600
"""Seconds an ended Job stays: how fast senders die again and again is judged by those that are there."""
PLAN_DEADLINE: Final = 12 * 3600
"""A plan whose node is gone would look alive for ever."""
RESTARTS: Final = 2
"""Of one sender pod by the Job controller; after that the wave ends, and ``decide`` says when to try another."""
USELESS: Final = 2
"""Exit code of a job whose input can't be used: trying again can't help."""
PROBE_DEADLINES: Final = {"Audience": 3600, "MailTemplate": 600, "MailTransport": 600}
"""Seconds. An audience of ten million rows is read in some minutes; the others take seconds once their pod runs."""
_WORDS: Final = {"Audience": "audience", "MailTemplate": "template", "MailTransport": "transport"}
"""What a probe's Job is called: objects of different kinds may have one name."""
NEEDS: Final = f"{GROUP}/mounted-secrets"
"""Annotation of a Job: the Secrets its pods have."""
TEMPLATE: Final = f"{GROUP}/pod-template-hash"
"""Annotation of a Job: what its pods were to be like when it was made."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The object that a Job belongs to; ``kind`` is "Campaign", "Audience", "MailTemplate" or "MailTransport"."""

    namespace: str
    name: str
    uid: str
    kind: str = "Campaign"

    def reference(self) -> dict[str, Any]:
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,  # it would need the right to set finalizers on it
        }


def plan_job(
    owner: Owner, resolved: ResolvedCampaign, campaign: CampaignId, attempt: int, image: PodImage
) -> dict[str, Any]:
    labels = _labels(owner, "plan", attempt)
    needs = plan_needs(resolved)
    arguments = ["--tenant", resolved.namespace, "--campaign", str(campaign)]
    template = pod_template("plan", arguments, needs, resolved.spec.senders.pod, image, labels=labels, grace=0)
    return _job(
        owner,
        labels,
        needs,
        {
            "backoffLimit": 0,
            "activeDeadlineSeconds": PLAN_DEADLINE,
            "podFailurePolicy": {"rules": [_DISRUPTED]},
            "template": template,
        },
    )


def send_job(
    owner: Owner, resolved: ResolvedCampaign, campaign: CampaignId, wave: int, pods: int, image: PodImage
) -> dict[str, Any]:
    labels = _labels(owner, "send", wave)
    needs = sender_needs(resolved)
    arguments = ["--campaign", str(campaign), "--wave", str(wave)]
    grace = parse_duration(resolved.transport.spec.smtp.timeouts.dot).total_seconds()
    template = pod_template("send", arguments, needs, resolved.spec.senders.pod, image, labels=labels, grace=grace)
    useless = {
        "action": "FailIndex",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [USELESS]},
    }
    return _job(
        owner,
        labels,
        needs,
        {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimitPerIndex": RESTARTS,
            "podFailurePolicy": {"rules": [useless, _DISRUPTED]},
            "template": template,
        },
    )


def probe_job(owner: Owner, probe: int, number: int, generation: int, needs: Needs, image: PodImage) -> dict[str, Any]:
    """``probe`` and ``number``: the question in the ledger. One that can't start must not wait for ever."""
    labels = {**_labels(owner, "probe", number), LABEL_GENERATION: str(generation)}
    arguments = ["--probe", str(probe), "--number", str(number)]
    template = pod_template("probe", arguments, needs, PodSettings(), image, labels=labels, grace=0)
    return _job(
        owner,
        labels,
        needs,
        {
            "backoffLimit": 0,
            "activeDeadlineSeconds": PROBE_DEADLINES[owner.kind],
            "podFailurePolicy": {"rules": [_DISRUPTED]},
            "template": template,
        },
    )


_DISRUPTED: Final[Mapping[str, Any]] = {
    "action": "Ignore",  # evicted, drained, preempted: nobody's failure
    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
}


def _labels(owner: Owner, kind: JobKind, number: int) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "fullsend",
        "app.kubernetes.io/component": {"plan": "planner", "send": "sender", "probe": "probe"}[kind],
        "app.kubernetes.io/managed-by": "fullsend-operator",
        **({LABEL_CAMPAIGN: owner.name} if owner.kind == "Campaign" else {}),
        LABEL_UID: owner.uid,
        LABEL_KIND: kind,
        LABEL_NUMBER: str(number),
    }


def _job(owner: Owner, labels: Mapping[str, str], needs: Needs, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(owner.name, _WORDS.get(owner.kind, labels[LABEL_KIND]), int(labels[LABEL_NUMBER])),
            "namespace": owner.namespace,
            "labels": dict(labels),
            "annotations": {NEEDS: needs.text(), TEMPLATE: _hash(spec["template"])},
            "ownerReferences": [owner.reference()],
        },
        "spec": {"ttlSecondsAfterFinished": KEPT, "podReplacementPolicy": "Failed", **spec},
    }


def _hash(template: Any) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]
