"""The names this shell uses in a cluster: kinds, labels, annotations, and where a pod finds its files.

Everything of ours carries ``fullsend.dev/``; a label names the owner's uid, so that what belongs to an object that
was deleted and made again under the same name is never taken for the new one's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

GROUP: Final = "fullsend.dev"
VERSION: Final = "v1alpha1"
MANAGER: Final = "fullsend"

LABEL_CAMPAIGN: Final = f"{GROUP}/campaign"
LABEL_UID: Final = f"{GROUP}/owner-uid"
LABEL_KIND: Final = f"{GROUP}/job-kind"
LABEL_NUMBER: Final = f"{GROUP}/job-number"
LABEL_GENERATION: Final = f"{GROUP}/generation"
"""Of a probe: which spec it is about."""
SUSPEND: Final = f"{GROUP}/suspend"
"""Annotation: "true" stops a campaign against Git's will too (Git owns ``spec.suspend``)."""

LEDGER_SECRET: Final = "fullsend-ledger"  # noqa: S105 - a name
LEDGER_SECRET_TYPE: Final = f"{GROUP}/ledger"
POD_SETTINGS: Final = "fullsend-pods"
"""The ConfigMap beside it: which image pods run, and what the administrator lays over them."""
LEASE: Final = "fullsend-operator"

MOUNTS: Final = "/fullsend"
"""Where a pod finds ``ledger/dsn``, ``secrets/<name>/<key>``, ``config/<name>/<key>`` and ``files/<claim>``."""

CONTAINER: Final = "fullsend"

JOB_NAME_LIMIT: Final = 63 - len("-99")
"""A pod of an Indexed Job is called by the Job's name and its index, and has 63 characters for it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the API; ``path`` is where its objects are."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """All objects, those of a namespace, one object, or its subresource."""
        parts = ["", "apis", self.group, self.version] if self.group else ["", "api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (quote(name, safe=""), sub) if part]
        return "/".join(parts)


CAMPAIGNS: Final = Kind(GROUP, VERSION, "campaigns")
AUDIENCES: Final = Kind(GROUP, VERSION, "audiences")
TEMPLATES: Final = Kind(GROUP, VERSION, "mailtemplates")
TRANSPORTS: Final = Kind(GROUP, VERSION, "mailtransports")
JOBS: Final = Kind("batch", "v1", "jobs")
PODS: Final = Kind("", "v1", "pods")
EVENTS: Final = Kind("", "v1", "events")
NEW_EVENTS: Final = Kind("events.k8s.io", "v1", "events")
SECRETS: Final = Kind("", "v1", "secrets")
CONFIG_MAPS: Final = Kind("", "v1", "configmaps")
NAMESPACES: Final = Kind("", "v1", "namespaces")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases")

KINDS: Final = {
    "Campaign": CAMPAIGNS,
    "Audience": AUDIENCES,
    "MailTemplate": TEMPLATES,
    "MailTransport": TRANSPORTS,
}
"""Ours, by the name that objects bear."""
PROBED: Final = (AUDIENCES, TEMPLATES, TRANSPORTS)
"""What campaigns name; each is probed by itself."""


def kind_name(kind: Kind) -> str:
    return next(name for name, known in KINDS.items() if known == kind)


def job_name(owner: str, kind: str, number: int) -> str:
    """The one name of a campaign's plan attempt or sender wave, or of an object's probe. A long name is cut, and told
    apart by a hash of the whole."""
    tail = f"-{kind}-{number}"
    if len(owner) + len(tail) > JOB_NAME_LIMIT:
        mark = hashlib.sha256(owner.encode()).hexdigest()[:8]
        owner = f"{owner[: JOB_NAME_LIMIT - len(tail) - len(mark) - 1].rstrip('-.')}-{mark}"
    return owner + tail
