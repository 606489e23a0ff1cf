"""The short-lived pod in which a question is answered: made, waited for, asked, and gone again.

It is the pod of a sender (``controller.pods``): no API token, no privilege, the ledger's login of the namespace's own
role mounted as a file. Invariants: whatever ends this process short of SIGKILL deletes the pod, and where even that was
not possible the pod ends by itself; why a pod doesn't start is said in the cluster's own words.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from fullsend.cli.kubectl.access import Access, KubectlFailed, Object
from fullsend.controller.names import CONTAINER, LABEL_CAMPAIGN, LEDGER_SECRET, MOUNTS
from fullsend.controller.pods import Needs, PodImage, pod_template
from fullsend.errors import FullsendError
from fullsend.resources.pods import PodSettings

COMPONENT: Final = "app.kubernetes.io/component=kubectl"
STARTS_WITHIN: Final = 120.0
"""Seconds for a pod to start: a node may have to pull the image."""
LOOK_EVERY: Final = 0.3
SAY_AFTER: Final = 4.0
"""Seconds after which a person is told what a pod waits for."""
GRACE: Final = 2
HOPELESS: Final = frozenset(
    {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}
    | {"RunContainerError", "CrashLoopBackOff"}
)


def tool_pod(
    command: str, campaign: Object | None, image: PodImage, needs: Needs, wishes: PodSettings, *, deadline: int
) -> Object:
    """The pod; ``deadline`` in seconds is when the node ends it, whatever became of us."""
    labels = {"app.kubernetes.io/name": "fullsend", **dict([COMPONENT.split("=")])}
    if campaign is not None:
        labels[LABEL_CAMPAIGN] = campaign["metadata"]["name"]
    template = pod_template("tool", ["--hold"], needs, wishes, image, labels=labels, grace=0)
    metadata = {**template["metadata"], "name": f"fullsend-{command}-{secrets.token_hex(4)}"}
    spec = {**template["spec"], "terminationGracePeriodSeconds": GRACE, "activeDeadlineSeconds": deadline}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@contextlib.contextmanager
def running(access: Access, pod: Object) -> Iterator[str]:
    """The pod's name while it runs. Raises KubectlFailed where it is refused, FullsendError where it doesn't start."""
    name = pod["metadata"]["name"]
    with _told_to_stop():
        try:
            access.call("create", "--filename=-", given=pod)
            _wait(access, name)
            yield name
        finally:
            _remove(access, name)


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM and a closed terminal end this process like Ctrl-C: by the way that cleans up."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove(access: Access, name: str) -> None:
    """Deletes the pod, and those of ours that ended without anybody to delete them. A second Ctrl-C waits."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        options = ("--wait=false", "--ignore-not-found", "--output=name", "--request-timeout=15s")
        done = subprocess.run(  # noqa: S603 - the user's own kubectl, in a session that Ctrl-C does not reach
            access.command("delete", "pod", name, f"--grace-period={GRACE}", *options),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        if done.returncode != 0:
            click.echo(f"pod {name} could not be deleted; it ends by itself: {done.stderr.strip()}", err=True)
        ended = "status.phase!=Running,status.phase!=Pending"
        subprocess.run(  # noqa: S603 - as above; nothing depends on it
            access.command("delete", "pods", f"--selector={COMPONENT}", f"--field-selector={ended}", *options),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
        )
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _wait(access: Access, name: str) -> None:
    began = time.monotonic()
    told = ""
    while True:
        pod = access.get(f"pods/{name}")
        if pod["status"].get("phase") == "Running":
            return
        why, hopeless = why_waiting(pod)
        waited = time.monotonic() - began
        if not hopeless and not why and waited > SAY_AFTER:
            why = _last_event(access, name)
        if hopeless or waited > STARTS_WITHIN:
            raise FullsendError(f"pod {name} does not start: {_explained(why) or 'nobody says why'}")
        if why and why != told and waited > SAY_AFTER:
            told = why
            click.echo(f"waiting for pod {name}: {_explained(why)}", err=True)
        time.sleep(LOOK_EVERY)


def why_waiting(pod: Mapping[str, Any]) -> tuple[str, bool]:
    """What the pod's status says of why it doesn't run, and whether it never will."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Failed", "Succeeded") or "deletionTimestamp" in pod["metadata"]:
        return ended_because(pod), True
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if (reason := waiting.get("reason", "")) not in ("", "ContainerCreating", "PodInitializing"):
            return f"{reason}: {waiting.get('message', '')}".rstrip(": "), reason in HOPELESS
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}", False
    return "", False


def ended_because(pod: Mapping[str, Any]) -> str:
    status = pod.get("status") or {}
    said = [f"{status[key]}" for key in ("reason", "message") if status.get(key)]
    for container in status.get("containerStatuses") or ():
        end = (container.get("state") or {}).get("terminated") or {}
        if end and end.get("exitCode"):
            said.append(f"{end.get('reason', '')} (exit code {end['exitCode']}) {end.get('message', '')}".strip())
    if "deletionTimestamp" in pod["metadata"]:
        said.append("somebody deleted it")
    return ": ".join(said) or "it ended"


def _last_event(access: Access, name: str) -> str:
    try:
        found = access.get("events", f"--field-selector=involvedObject.name={name},type=Warning")
    except KubectlFailed:
        return ""  # not everybody may read events
    events = sorted(found.get("items") or (), key=lambda event: str(event.get("lastTimestamp") or ""))
    return f"{events[-1].get('reason', '')}: {events[-1].get('message', '')}" if events else ""


def _explained(why: str) -> str:
    if LEDGER_SECRET in why and "not found" in why:
        return (
            f"{why}. The operator makes this Secret, with its next Job in this namespace at the latest; is it running?"
        )
    if re.search(r"Image|image", why):
        return f"{why}. The image is the operator's --image: `kubectl get configmap fullsend-pods -o yaml`"
    return why


def served(access: Access, name: str) -> list[str]:
    """The kubectl command that carries a request into the pod."""
    program = ("python", "-m", "fullsend.cli.served", "--mounts", MOUNTS)
    return [*access.command("exec", "--stdin", f"--container={CONTAINER}", name), "--", *program]
