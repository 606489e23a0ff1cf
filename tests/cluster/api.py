"""The API server as a test sees it: JSON in, JSON out, no client library of the operator's in between."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from ruamel.yaml import YAML

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
Object = dict[str, Any]


class Refused(Exception):
    """The API server's own words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason, self.message = status, reason, message
        super().__init__(f"{status} {reason}: {message}")


class Expired(Exception):
    """A watch has to begin anew: what it was to follow is gone (410)."""


class Api:
    """One user of one cluster, by a kubeconfig with a token or a client certificate in it."""

    def __init__(self, kubeconfig: Path) -> None:
        config = YAML(typ="safe", pure=True).load(kubeconfig)
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        self.namespace: str = context.get("namespace", "default")
        self.server: str = cluster["server"]
        tls = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
            if "certificate-authority-data" in cluster
            else None,
            cafile=cluster.get("certificate-authority"),
        )
        if "client-certificate" in user:
            tls.load_cert_chain(user["client-certificate"], user["client-key"])
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._session = aiohttp.ClientSession(
            self.server,
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=tls, limit=64),
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Object:
        """The answer. Raises Refused, and what aiohttp raises where nobody answers."""
        async with self._session.request(
            method,
            path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            params=params,
        ) as response:
            answer: Object = await response.json(content_type=None)
            if response.status >= 400:
                raise Refused(response.status, answer.get("reason", ""), answer.get("message", ""))
            return answer

    async def get(self, path: str, **params: str) -> Object:
        return await self.request("GET", path, params=params)

    async def post(self, path: str, body: Any, **params: str) -> Object:
        return await self.request("POST", path, body, params=params)

    async def patch(self, path: str, body: Any, content_type: str = MERGE) -> Object:
        return await self.request("PATCH", path, body, content_type=content_type)

    async def delete(self, path: str, **options: Any) -> Object:
        return await self.request("DELETE", path, options or None)

    async def watch(self, path: str, version: str, **params: str) -> AsyncIterator[tuple[str, Object]]:
        """What changes after this version, until the server ends the watch. Raises Expired."""
        params |= {"watch": "1", "resourceVersion": version, "timeoutSeconds": "300"}
        forever = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=330)
        async with self._session.get(path, params=params, timeout=forever) as response:
            if response.status >= 400:
                raise Expired(await response.text())
            buffer = b""
            async for chunk in response.content.iter_any():
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Expired(event["object"].get("message", ""))
                    yield event["type"], event["object"]


def _named(items: list[Object], name: str) -> Object:
    return next(item for item in items if item["name"] == name)
