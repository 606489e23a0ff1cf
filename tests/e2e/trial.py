"""The release that ``helm install`` made on the node, as the person sees it who types what docs/install.md says.

Relays stand outside the cluster, as real ones do: a restarted sink forgets nothing that a test wants to count.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import binaries
from cluster.helm import ROOT, Helm
from cluster.kubectl import Kubectl
from e2e.node_cluster import ADDRESS, NodeCluster
from support.plugin import Plugin
from support.workspace import Sink, Workspace, eventually

HOME = "fullsend"
SPACE = "default"
"""Where campaigns are."""
DATABASE = "fullsend-postgresql-0"
_ASK = """
import json, sys, psycopg
password = open('/fullsend/password').read().strip()
with psycopg.connect(host='127.0.0.1', user='fullsend', dbname='fullsend', password=password) as connection:
    done = connection.execute(sys.argv[1])
    print(json.dumps(done.fetchall() if done.description else [], default=str))
"""


def told(page: str) -> list[str]:
    """The commands of a page's indented blocks, and those between backquotes, each on one line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?m)^ {4}\S(?:.*\\\n)*.*", text)
    quoted = re.findall(r"`([^`]+)`", text)
    return [" ".join(part.replace("\\\n", " ").split()) for part in (*blocks, *quoted)]


class Trial:
    """``clone``: a copy of what a reader has, which a test may change."""

    def __init__(self, node: NodeCluster, clone: Path) -> None:
        self.node = node
        self.kubectl: Kubectl = node.as_admin()
        self.helm = Helm(str(binaries.HELM.folder / "helm"), node.admin)
        self.clone = clone
        for name in ("crds", "manifests", "helm"):
            shutil.copytree(ROOT / name, clone / name)
        self.place = Workspace(clone.parent, "")
        self.plugin = Plugin(self.kubectl, node.admin, SPACE)

    # -- what a person types ----------------------------------------------------------------------------------------

    def types(self, command: str, *, page: str = "docs/install.md", given: Mapping[str, str] | None = None) -> str:
        """A command as ``page`` says it, with the words in capitals replaced by what is ``given``."""
        assert command in told(page), f"{page} does not say: {command}"
        for word, instead in (given or {}).items():
            command = command.replace(word, instead)
        environment = self.plugin.environment
        environment["PATH"] = f"{binaries.HELM.folder}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.everything()}"
        return done.stdout

    def relay(self, name: str, namespace: str = SPACE) -> Sink:
        """A MailTransport called ``name``, and the sink behind it."""
        sink = self.place.sink("none", "--host", ADDRESS)
        smtp = {"host": ADDRESS, "port": sink.port, "tls": "Disabled"}
        self.apply(ours("MailTransport", name, {"smtp": smtp, "limits": {"connections": 6}}), namespace=namespace)
        return sink

    def people(self, name: str, count: int, namespace: str = SPACE) -> list[str]:
        addresses = [f"{name}{number:05d}@example.com" for number in range(count)]
        lines = ["email,name", *(f"{address},Person" for address in addresses)]
        table = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"csv": "\n".join(lines)}}
        source = {"csv": {"configMapKeyRef": {"name": name, "key": "csv"}}}
        self.apply(table, ours("Audience", name, source), namespace=namespace)
        return addresses

    def campaign(self, name: str, namespace: str = SPACE, **spec: Any) -> None:
        """To the audience, and by the transport, of the same name."""
        message = {"from": {"address": "news@sender.example"}, "subject": name, "text": "Hi {{ name }}"}
        whole = {"class": "Transactional", "audiences": [{"name": name}], "transportRef": {"name": name}, **spec}
        body = {"message": message, "retry": {"minBackoff": "1s"}, **whole}
        self.apply(ours("Campaign", name, body), namespace=namespace)

    def hurry(self, campaign: str) -> None:
        """It was slow so that what befell it did so in the middle, however busy this machine is."""
        change = {"spec": {"limits": {"rates": [{"messages": 2000, "per": "1s"}]}}}
        self.kubectl("patch", "campaign", campaign, "-n", SPACE, "--type=merge", "-p", json.dumps(change))

    def apply(self, *objects: Mapping[str, Any], namespace: str = SPACE) -> None:
        given = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-n", namespace, "-f", "-", given=given)

    # -- what can be seen -------------------------------------------------------------------------------------------

    def status(self, campaign: str, namespace: str = SPACE) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.kubectl.object("get", "campaign", campaign, "-n", namespace).get("status", {})
        return found

    def holds(self, campaign: str, type_: str, namespace: str = SPACE) -> bool:
        conditions = self.status(campaign, namespace).get("conditions", ())
        return any(one["type"] == type_ and one["status"] == "True" for one in conditions)

    def until(self, what: str, within: float, look: Callable[[], Any]) -> Any:
        """As ``eventually``, with all that a person needs to find out why not."""
        try:
            return eventually(what, within, look, every=0.5)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.everything()}") from None

    def until_complete(self, campaign: str, people: int, within: float = 180, namespace: str = SPACE) -> None:
        """Finished, and by proof: everybody accepted, nobody missing."""
        self.until(f"{campaign} has ended", within, lambda: self.holds(campaign, "Finished", namespace))
        status = self.status(campaign, namespace)
        assert self.holds(campaign, "Complete", namespace), self.everything()
        assert (status["accepted"], status["missing"], status["proof"]["holds"]) == (people, 0, True)

    def component(self, name: str, namespace: str = HOME) -> list[Mapping[str, Any]]:
        """Pods of it that are not on their way out."""
        found = self.kubectl.object("get", "pods", "-n", namespace, "-l", f"app.kubernetes.io/component={name}")
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    def senders(self, campaign: str) -> list[Mapping[str, Any]]:
        """Pods that run now."""
        found = self.kubectl.object("get", "pods", "-n", SPACE, "-l", f"fullsend.dev/campaign={campaign}")["items"]
        of_senders = [pod for pod in found if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "sender"]
        return [pod for pod in of_senders if pod["status"]["phase"] == "Running" and runs(pod)]

    def leader(self) -> str:
        """The pod that holds the lease."""
        lease = self.kubectl.object("get", "lease", "-n", HOME, "fullsend-operator")
        return str(lease["spec"].get("holderIdentity") or "")

    def ask(self, sql: str) -> list[Any]:
        """The ledger, as its owner."""
        answer = self.kubectl("exec", "-n", HOME, DATABASE, "--", "python", "-c", _ASK, sql)
        found: list[Any] = json.loads(answer)
        return found

    def nobody_missed_or_twice(self, sink: Sink, people: Sequence[str], campaign: str) -> int:
        """A second copy only of those whom the ledger names unknown; how many those are."""
        unknown = {
            address
            for [address] in self.ask(
                "SELECT r.address FROM fullsend.delivery AS d JOIN fullsend.recipient AS r USING (campaign_id, seq)"
                f" JOIN fullsend.campaign AS c ON c.id = d.campaign_id WHERE d.unknowns > 0 AND c.name = '{campaign}'"
            )
        }
        copies = sink.copies()
        assert copies.keys() == set(people), "somebody was missed, or is not of the list"
        assert all(count <= 1 + (address in unknown) for address, count in copies.items()), "mailed again without need"
        return len(unknown)

    def sink_of_the_trial(self) -> Counter[str]:
        """Recipients of the mail that the trial's own sink took, by its log."""
        log = self.types("kubectl -n fullsend logs deployment/fullsend-mail-sink")
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        return Counter(to for line in lines for to in line["recipients"])

    def everything(self) -> str:
        """For a person who has to find out why."""
        parts = [
            self.kubectl.run("get", "all,campaigns", "-A", "-o", "wide").stdout,
            self.kubectl.run("get", "campaigns", "-A", "-o", "yaml").stdout[-4000:],
            self.kubectl.run("get", "events", "-A", "--sort-by=.lastTimestamp").stdout[-6000:],
            self.kubectl.run("logs", "-n", HOME, "deployment/fullsend-operator", "--tail=40", "--all-pods").stdout,
        ]
        return "\n".join(parts)

    def close(self) -> None:
        self.place.close()


def ours(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "fullsend.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def runs(pod: Mapping[str, Any]) -> bool:
    return any("running" in one["state"] for one in pod["status"].get("containerStatuses", ()))


def container(pod: Mapping[str, Any]) -> str:
    """Its only container, as containerd calls it."""
    [one] = pod["status"]["containerStatuses"]
    return str(one["containerID"].removeprefix("containerd://"))


def volume(folder: Path) -> dict[str, Any]:
    """There is no provisioner here: this lies ready for the database."""
    folder.mkdir()
    os.chown(folder, 65532, 65532)
    spec = {"capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(folder)}}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "ledger"}, "spec": spec}
