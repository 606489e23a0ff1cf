"""``kubectl exec`` on a node without a kubelet: a command beside the container's, with its root and environment.

What is true of a kubelet's is true here: standard streams apart, standard input that can be closed, the exit code; a
client that goes away ends the input and not the command; the end of the container does. What is not: terminals.
The protocol is v5.channel.k8s.io: binary messages whose first byte says which stream they belong to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from aiohttp import WSMsgType, web

from cluster.pod_inputs import moved

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, END, CLOSE = 0, 1, 2, 3, 255
LOOK_EVERY = 0.1
NSENTER = shutil.which("nsenter") or "nsenter"
LEASH = [found, "--pdeathsig", "KILL", "--"] if (found := shutil.which("setpriv")) else []


def exec_handler(folder: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answers ``/exec/{namespace}/{pod}/{container}`` for the containers below this folder."""
    going_on: set[asyncio.Task[None]] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        where = request.match_info
        pod, container = folder / where["namespace"] / where["pod"], where["container"]
        try:
            process = await _start(pod, container, request.query.getall("command"))
        except OSError as error:
            return web.Response(status=500, text=f"container {container} does not run: {error}")
        socket = web.WebSocketResponse(protocols=(PROTOCOL,), max_msg_size=0)
        await socket.prepare(request)
        tasks = [
            asyncio.create_task(_pump(process.stdout, STDOUT, socket)),
            asyncio.create_task(_pump(process.stderr, STDERR, socket)),
            asyncio.create_task(_die_with(pod / f"{container}.pid", process)),
        ]
        for task in tasks:  # the command outlives a client that went away
            going_on.add(task)
            task.add_done_callback(going_on.discard)
        feeding = asyncio.create_task(_feed(process, socket))
        ended = asyncio.gather(*tasks)
        await asyncio.wait({feeding, ended}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and not ended.done() and not socket.closed:
            await ended  # its input is closed; the answer goes on
        if ended.done() and not socket.closed:
            await socket.send_bytes(bytes([END]) + json.dumps(_status(process.returncode or 0)).encode())
            await socket.close()
        feeding.cancel()
        return socket

    return answer


async def _start(pod: Path, container: str, command: list[str]) -> asyncio.subprocess.Process:
    pid = int((pod / f"{container}.pid").read_text())
    replaced = pod / f"{container}.moved.json"
    if replaced.exists():
        mounts = [(Path(source), target, True) for source, target in json.loads(replaced.read_text())]
        command = [moved(word, mounts) for word in command]
    else:
        for _ in range(100):  # until it has its root
            if os.readlink(f"/proc/{pid}/root") != "/":
                break
            await asyncio.sleep(LOOK_EVERY)
        command = [NSENTER, f"--target={pid}", "--mount", "--root", "--wd", "--", *command]
    return await asyncio.create_subprocess_exec(
        *LEASH,
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=json.loads((pod / f"{container}.env.json").read_text()),
        start_new_session=True,
    )


async def _pump(source: asyncio.StreamReader | None, channel: int, socket: web.WebSocketResponse) -> None:
    """All of it, also where nobody listens any more."""
    assert source is not None
    while piece := await source.read(32768):
        if not socket.closed:
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes(bytes([channel]) + piece)


async def _feed(process: asyncio.subprocess.Process, socket: web.WebSocketResponse) -> None:
    """What the client says, until it closes its input or goes."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        async for message in socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == CLOSE and data[:1] == bytes([STDIN]):
                break
            if channel == STDIN and data:
                process.stdin.write(data)
                await process.stdin.drain()
    process.stdin.close()
    if not socket.closed:  # only its input has ended: what follows is the client's end
        with contextlib.suppress(ConnectionError):
            async for _ in socket:
                pass


async def _die_with(pid_file: Path, process: asyncio.subprocess.Process) -> None:
    """Ends with the command; ends the command with its container."""
    while process.returncode is None:
        if not runs(pid_file):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), LOOK_EVERY)


def runs(pid_file: Path) -> bool:
    try:
        state = Path(f"/proc/{int(pid_file.read_text())}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state != "Z"


def _status(code: int) -> Mapping[str, object]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    causes = [{"reason": "ExitCode", "message": str(code if code > 0 else 128 - code)}]
    told = f"command terminated with non-zero exit code: exit status {code}"
    details = {"causes": causes}
    return {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": told, "details": details}
