"""Small objects of the four kinds that the API server takes, and ways to change them."""

from __future__ import annotations

import copy
from typing import Any

API = "/apis/fullsend.dev/v1alpha1"
PLURALS = {
    "Campaign": "campaigns",
    "Audience": "audiences",
    "MailTemplate": "mailtemplates",
    "MailTransport": "mailtransports",
}
SPECS: dict[str, dict[str, Any]] = {
    "Campaign": {
        "audiences": [{"name": "a"}],
        "transportRef": {"name": "r"},
        "message": {
            "from": {"address": "news@mail.example"},
            "subject": "Spring",
            "text": "Stop it: {{ unsubscribe_url }}",
        },
        "unsubscribe": {"url": "https://mail.example/{{ token }}", "oneClick": True, "listId": "news.mail.example"},
    },
    "Audience": {"list": {"name": "readers"}},
    "MailTemplate": {"from": {"address": "news@mail.example"}, "subject": "Spring", "text": "It is here."},
    "MailTransport": {"smtp": {"host": "relay.example"}},
}


def changed(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with these fields (``message.text``) set, or, where the value is None, left out."""
    copied = copy.deepcopy(spec)
    for path, value in changes.items():
        at = copied
        *parents, name = path.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is None:
            at.pop(name, None)
        else:
            at[name] = value
    return copied


def manifest(kind: str, changes: dict[str, Any] | None = None, name: str = "it") -> dict[str, Any]:
    return {
        "apiVersion": "fullsend.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": changed(SPECS[kind], changes or {}),
    }


def path(kind: str, namespace: str, name: str = "") -> str:
    whole = f"{API}/namespaces/{namespace}/{PLURALS[kind]}"
    return f"{whole}/{name}" if name else whole
