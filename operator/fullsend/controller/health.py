"""``/healthz``, ``/readyz`` and ``/metrics`` for the kubelet and for Prometheus.

Liveness is red only for what a restart mends: a look or a loop that hangs, a watch that is deaf. It stays green when
nothing is to be done, on standby, and while the API server or the database is away. Readiness asks the database.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

Check = Callable[[], str]
"""What is wrong, or ""."""
Scrape = Callable[[], Awaitable[bytes]]
"""The body of ``/metrics``."""


class Health:
    """Serves until closed; ``port`` is the real one, also where 0 was asked for."""

    def __init__(self, *, alive: Check, ready: Check, scrape: Scrape) -> None:
        self._alive = alive
        self._ready = ready
        self._scrape = scrape
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def serve(self, port: int) -> None:
        app = web.Application()
        app.router.add_get("/healthz", self._answer(self._alive))
        app.router.add_get("/readyz", self._answer(self._ready))
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        both = socket.has_dualstack_ipv6()  # one socket for both, so that there is one port
        family = socket.AF_INET6 if both else socket.AF_INET
        listening = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        self.port = listening.getsockname()[1]
        await web.SockSite(self._runner, listening).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @staticmethod
    def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(_: web.Request) -> web.StreamResponse:
            wrong = check()
            return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

        return handler

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=await self._scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})
