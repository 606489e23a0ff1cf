"""The parts of a kubelet's own server that tests need: ``kubectl logs``, also of a pod that still runs, and exec."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import trustme
from aiohttp import web

from cluster.kubelet_exec import exec_handler, runs

LOOK_EVERY = 0.1


@contextlib.asynccontextmanager
async def serve_kubelet(folder: Path) -> AsyncIterator[int]:
    """Serves ``<folder>/<namespace>/<pod>/logs/<container>`` where the API server looks for it; gives the port."""

    async def logs(request: web.Request) -> web.StreamResponse:
        where = request.match_info
        pod = folder / where["namespace"] / where["pod"]
        path = pod / "logs" / where["container"]
        if not path.is_file():
            return web.Response(status=404, text=f"container {where['container']} has no log")
        answer = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await answer.prepare(request)
        with path.open("rb") as log:
            if tail := request.query.get("tailLines"):
                await answer.write(b"".join(log.readlines()[-int(tail) :]))
            while True:
                running = runs(pod / f"{where['container']}.pid")
                while piece := log.read(65536):
                    await answer.write(piece)
                if request.query.get("follow") != "true" or not running:
                    break
                await asyncio.sleep(LOOK_EVERY)
        await answer.write_eof()
        return answer

    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    app.router.add_get("/exec/{namespace}/{pod}/{container}", exec_handler(folder))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    with tempfile.TemporaryDirectory() as keys:
        pair = Path(keys) / "pair.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pair)
        tls.load_cert_chain(pair)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
