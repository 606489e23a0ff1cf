"""The ConfigMap that tells ``kubectl fullsend`` what pods are made of in a namespace: the image, and what the
administrator lays over each of them.

It lies beside the Secret with the ledger's login, under a fixed name, and holds no secret. Who may write it decides
what a person's pods run: the admission policy keeps it, like the Secret, for the operator alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fullsend.controller.names import POD_SETTINGS
from fullsend.controller.pods import PodImage
from fullsend.errors import InvalidInput, Problem


def pod_settings(namespace: str, image: PodImage) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": managed(namespace, POD_SETTINGS),
        "data": {"image": image.image, "overrides": json.dumps(image.overrides, indent=1)},
    }


def read_pod_settings(config_map: Mapping[str, Any]) -> PodImage:
    """What ``pod_settings`` wrote. Raises InvalidInput for what somebody else did."""
    data = config_map.get("data") or {}
    try:
        image, overrides = str(data["image"]), json.loads(data["overrides"])
    except (KeyError, ValueError) as error:
        where = f"ConfigMap {POD_SETTINGS}"
        fix = "the operator writes it; delete it, and it is written again within minutes"
        raise InvalidInput([Problem(where, f"can't be used: {error}", fix)]) from error
    return PodImage(image, overrides)


def managed(namespace: str, name: str) -> dict[str, Any]:
    """The metadata of what the operator manages in a namespace by its name."""
    labels = {"app.kubernetes.io/name": "fullsend", "app.kubernetes.io/managed-by": "fullsend-operator"}
    return {"name": name, "namespace": namespace, "labels": labels}
