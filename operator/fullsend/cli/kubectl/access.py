"""The cluster, through the user's own kubectl.

A plugin runs where kubectl is, so kubectl does what it is best at: kubeconfig, contexts, logins, proxies, and streams
to a pod. Invariant: an error of the API server reaches the person in its own words, with what to do about it.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from fullsend.errors import FullsendError, InvalidInput, Problem

R = TypeVar("R")
Object = dict[str, Any]

FIELD_MANAGER: Final = "kubectl-fullsend"
PATIENCE: Final = "30s"
"""For one request; kubectl by itself waits for ever."""
EXIT_BROKEN: Final = 1
EXIT_INVALID: Final = 2
EXIT_INTERRUPTED: Final = 130


class KubectlFailed(FullsendError):
    """kubectl ended with an error; ``reason`` is the API server's word, or "" where it has none."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, as whom, in which namespace; "" is what the kubeconfig says."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""

    def command(self, *words: str) -> list[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise InvalidInput([Problem("kubectl", "is not on the PATH", "kubectl fullsend works through it")])
        given = (("--kubeconfig", self.kubeconfig), ("--context", self.context), ("--namespace", self.namespace))
        return [program, *words, *(f"{name}={value}" for name, value in given if value)]

    def call(self, *words: str, given: Object | None = None) -> str:
        """What kubectl prints. Raises KubectlFailed."""
        done = subprocess.run(  # noqa: S603 - the user's own kubectl
            self.command(*words, f"--request-timeout={PATIENCE}"),
            check=False,
            input=None if given is None else json.dumps(given),
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise failure(done.stderr or done.stdout)
        return done.stdout

    def get(self, *words: str) -> Object:
        found: Object = json.loads(self.call("get", *words, "--output=json", "--show-managed-fields") or "{}")
        return found

    def find(self, **names: str) -> dict[str, Object]:
        """The objects of these kinds (singular, lower case) and names that are there, in one request each."""
        wanted = [f"{_PLURALS[kind]}/{name}" for kind, name in names.items()]
        found = self.get(*wanted, "--ignore-not-found")
        items = found["items"] if found.get("kind") == "List" else [found] if found else []
        return {item["kind"].lower(): item for item in items}

    def campaign(self, name: str) -> Object:
        return self.get(f"{_PLURALS['campaign']}/{name}")

    def patch_campaign(self, name: str, body: Mapping[str, Any]) -> None:
        words = ("patch", f"{_PLURALS['campaign']}/{name}", "--type=merge", f"--field-manager={FIELD_MANAGER}")
        self.call(*words, f"--patch={json.dumps(body)}")


_PLURALS: Final[Mapping[str, str]] = {
    "campaign": "campaigns.fullsend.dev",
    "mailtransport": "mailtransports.fullsend.dev",
    "configmap": "configmaps",
}


def failure(text: str) -> KubectlFailed:
    """What kubectl said, with what to do where that is known."""
    text = text.strip()
    refused = re.search(r"Error from server(?: \((\w+)\))?: (.*)", text, re.DOTALL)
    reason, said = (refused[1] or "", refused[2].strip()) if refused else ("", text.removeprefix("error: "))
    return KubectlFailed(reason, "\n".join(filter(None, (said, _advice(reason, said)))))


def _advice(reason: str, said: str) -> str:
    if "doesn't have a resource type" in said or "no matches for kind" in said:
        return "Fullsend is not installed in this cluster: kubectl apply -f crds/ (docs/kubectl.md)"
    if "exceeded quota" in said:
        return "the namespace's quota allows no more pods: `kubectl describe quota` shows it"
    if "violates PodSecurity" in said:
        return "the namespace's pod security refuses the pod; see the operator's --pod-overrides"
    if reason == "Forbidden" and "cannot" in said:
        return _rights(said)
    if reason == "NotFound" and "fullsend.dev" in said:
        return "`kubectl fullsend status` lists the campaigns of this namespace, with -A of all"
    return ""


def _rights(said: str) -> str:
    if "fullsend.dev" in said and ("patch" in said or "update" in said):
        role = "fullsend-campaign-writer"
    elif "fullsend.dev" in said:
        role = "fullsend-viewer"
    else:
        role = "fullsend-ledger-user"
    return f"ask for the ClusterRole {role} in this namespace (manifests/base/user-roles.yaml)"


def access_options(command: Callable[..., R]) -> Callable[..., R]:
    """``--kubeconfig``, ``--context`` and ``--namespace``, given to the command as one ``access``; its errors become a
    message and an exit code."""

    @click.option("--kubeconfig", default="", metavar="FILE", help="As of kubectl.")
    @click.option("--context", default="", metavar="NAME", help="As of kubectl.")
    @click.option("--namespace", "-n", default="", help="Default: the context's.")
    @functools.wraps(command)
    def wrapped(*args: Any, kubeconfig: str, context: str, namespace: str, **kwargs: Any) -> R:
        try:
            return command(*args, access=Access(kubeconfig, context, namespace), **kwargs)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except FullsendError as error:
            click.echo(f"kubectl fullsend: {error}", err=True)
            sys.exit(EXIT_INVALID if isinstance(error, InvalidInput) else EXIT_BROKEN)

    return wrapped


output_option = click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the output."
)


def where(found: Mapping[str, Any]) -> str:
    """``namespace/name`` of an object."""
    return f"{found['metadata']['namespace']}/{found['metadata']['name']}"


def invalid(where: str, what: str, fix: str = "") -> InvalidInput:
    return InvalidInput([Problem(where, what, fix)])
