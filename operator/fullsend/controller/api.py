"""The API server, as plain JSON objects.

A client's generated classes would cost this process some 40 MB and a copy of each object. Invariant: every request has
a time-out, so that nobody waits for ever on a server that went away.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast

import aiohttp

from fullsend.controller.access import Access
from fullsend.controller.metrics import API_REQUESTS
from fullsend.controller.names import Kind
from fullsend.errors import FullsendError, InvalidInput

Object = dict[str, Any]

TIMEOUT: Final = 20.0
"""Seconds for one request; the API server gives up on its own ones after 60 by default."""
PAGE: Final = 500
"""Objects a page of a list."""
CONNECTIONS: Final = 16

METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"


class ApiError(FullsendError):
    """The API server refused, or could not be reached (status 0). ``reason`` is its own CamelCase word."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message)

    @property
    def away(self) -> bool:
        """It may well answer later."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def missing(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409


class Cluster:
    """One connection pool to the API server. Every call raises ApiError."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=access.info.as_ssl_context()),
            headers={"User-Agent": "fullsend-operator"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._call("GET", kind.path(namespace, name))

    async def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None where there is none."""
        try:
            return await self.get(kind, namespace, name)
        except ApiError as error:
            if error.missing:
                return None
            raise

    async def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Object]:
        """The objects of a namespace or of all, page by page; with ``metadata_only`` nothing but their metadata."""
        query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        accept = METADATA_ONLY if metadata_only else "application/json"
        while True:
            page = await self._call("GET", kind.path(namespace), query=query, accept=accept)
            for item in page.get("items") or ():
                yield item
            query["continue"] = page.get("metadata", {}).get("continue", "")
            if not query["continue"]:
                return

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> Object:
        return await self._call("POST", kind.path(namespace), body=body, query={"fieldManager": "fullsend"})

    async def replace(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        return await self._call("PUT", kind.path(namespace, name), body=body, query={"fieldManager": "fullsend"})

    async def merge(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], *, sub: str = "") -> Object:
        """JSON merge patch (RFC 7386): lists are replaced whole, null removes."""
        path = kind.path(namespace, name, sub)
        return await self._call("PATCH", path, body=body, query={"fieldManager": "fullsend"}, content=MERGE)

    async def apply(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any]) -> Object:
        """Server-side apply: made where it is not there, taken over where it is."""
        query = {"fieldManager": "fullsend", "force": "true"}
        return await self._call("PATCH", kind.path(namespace, name), body=body, query=query, content=APPLY)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, propagation: str = "Background") -> None:
        """Deletes exactly the object with this uid; one that is gone already is success."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            await self._call("DELETE", kind.path(namespace, name), body=body)
        except ApiError as error:
            if not (error.missing or error.conflict):
                raise

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        API_REQUESTS.labels(method).inc()
        try:
            async with self._session.request(
                method,
                f"{self._access.server}{path}",
                params={name: value for name, value in (query or {}).items() if value},
                data=None if body is None else json.dumps(body).encode(),
                headers={"Accept": accept, "Content-Type": content, **self._access.headers()},
                proxy=self._access.info.proxy_url,
            ) as response:
                status, text = response.status, (await response.read()).decode("utf-8", errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError, InvalidInput) as error:
            raise ApiError(
                0, "Unreachable", f"the API server can't be reached: {error or type(error).__name__}"
            ) from error
        if status == 401:
            self._access.refused()
        if status >= 400:
            raise _refusal(status, text, f"{method} {path}")
        return cast(Object, json.loads(text))


def _refusal(status: int, text: str, request: str) -> ApiError:
    try:
        answer = json.loads(text)
        reason, message = str(answer.get("reason") or status), str(answer.get("message") or text)
    except (ValueError, AttributeError):
        reason, message = str(status), text[:500]
    return ApiError(status, reason, f"{request}: {message}")
