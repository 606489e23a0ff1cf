"""``kubectl fullsend`` on a real API server: what a person asks and wishes, with their own rights and no database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.plugin import Plugin
from support.workspace import Workspace, eventually


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


@pytest.fixture
def plugin(world: ClusterWorld) -> Plugin:
    return Plugin(world.kubectl, world.kubectl.kubeconfig, world.namespace)


def test_what_the_ledger_knows_is_told_from_a_pod_that_is_gone_afterwards(world: ClusterWorld, plugin: Plugin) -> None:
    people = world.recipients(20)
    world.transport(world.place.sink({"rules": [{"fault": "UnknownMailbox", "match": people[0]}]}).port)
    world.operator()
    world.campaign(failurePolicy={"minSample": 1000})
    world.until("Complete")
    report = plugin("report", "launch", "-o", "json")
    assert (report.code, report.err) == (0, "")
    assert json.loads(report.out)["counts"]["accepted"] == 19
    assert "launch: complete" in plugin("report", "launch").out
    why = plugin("why", "launch", people[0])
    assert why.code == 0
    assert f"{people[0]}: rejected" in why.out
    assert "550" in why.out
    missing = plugin("missing", "launch")
    assert (missing.code, missing.out) == (0, "address,state,reason,attempts,next_attempt,last_code,last_text\r\n")
    eventually("its pods are gone", 20, lambda: not _pods(world))


def test_a_message_is_looked_at_and_tried_before_anybody_gets_it(world: ClusterWorld, plugin: Plugin) -> None:
    """With the relay's login, which the pod finds mounted and this machine never reads."""
    people = world.recipients(8)
    login = world.place.folder / "login"
    login.write_text("user:password\n")
    sink = world.place.sink("none", "--auth-file", str(login))
    world.transport(sink.port, smtp={"credentialsSecretRef": {"name": "login"}})
    world.kubectl(
        *("create", "secret", "generic", "login", "--type=fullsend.dev/smtp-credentials", "-n", world.namespace),
        *("--from-literal=username=user", "--from-literal=password=password"),
    )
    world.operator()
    world.campaign(suspend=True, ledgerKey="spring-letter")
    eventually("it is planned", 60, lambda: world.status().get("eligible") == 8)
    shown = plugin("preview", "launch", "--for", people[3], "--format", "text")
    assert (shown.code, shown.out) == (0, "Hi Person\n")
    whole = plugin("preview", "launch")
    assert f"To: <{people[0]}>\r\n" in whole.out
    sent = plugin("send-test", "launch", "--to", "me@sender.example")
    assert sent.code == 0, sent.err
    assert sent.out.startswith("me@sender.example: accepted: 250")
    assert world.copies() == {"me@sender.example": 1}
    nobody = plugin("preview", "launch", "--for", "stranger@example.com")
    assert nobody.code == 2
    assert "stranger@example.com who could be mailed is not in the plan" in nobody.err


def test_wishes_are_obeyed_and_said_in_words(world: ClusterWorld, plugin: Plugin) -> None:
    people = world.recipients(60)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(suspend=True, rollout={"first": 10})
    world.until("Suspended")
    eventually("it is planned", 60, lambda: world.status().get("eligible") == 60)
    said = plugin("status", "launch")
    assert "launch: Suspended (Suspended)" in said.out
    assert "what to do: `kubectl fullsend preview launch`" in said.out
    assert "60 get the message" in said.out
    assert plugin("suspend", "launch").out == f"{world.namespace}/launch: suspended\n"
    world.patch(suspend=False)
    time.sleep(3)
    assert world.accepted() == 0, "the annotation holds against the spec"
    assert plugin("resume", "launch").out == f"{world.namespace}/launch: no longer suspended\n"
    world.until("Ready", reason="AwaitingApproval")
    assert "kubectl fullsend approve launch" in plugin("status", "launch").out
    assert plugin("approve", "launch").code == 0
    world.until("Complete")
    assert world.copies() == dict.fromkeys(people, 1)
    ended = plugin("cancel", "launch", "--yes")
    assert ended.code == 2
    assert "has ended: AllAccepted" in ended.err
    table = plugin("status")
    assert [line.split()[:6] for line in table.out.splitlines()[1:]] == [
        ["launch", "Complete", "100%", "60", "0", "0"],
    ]
    told = json.loads(plugin("status", "launch", "-o", "json").out)
    assert told["status"]["accepted"] == 60


def test_the_watch_draws_until_the_end_and_cancel_is_an_end(world: ClusterWorld, plugin: Plugin) -> None:
    world.recipients(400)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(limits={"rates": [{"messages": 20, "per": "1s"}]})
    watching = plugin.start("status", "launch", "--watch")
    world.until("Ready", reason="Sending")
    eventually("some are sent", 60, lambda: world.accepted() >= 80)
    assert plugin("cancel", "launch").code == 1, "nobody can be asked"
    assert plugin("cancel", "launch", "--yes").out == f"{world.namespace}/launch: cancelled\n"
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (4, b"")
    assert b"launch: Sending" in out
    assert re.search(rb"launch: \d+/400  accepted \d+", out)
    assert b"launch: Cancelled (Cancelled)" in out


def test_who_manages_it_from_git_is_told_which_changes_stay(world: ClusterWorld, plugin: Plugin) -> None:
    world.recipients(5)
    world.transport(world.place.sink().port)
    world.operator()
    world.campaign(suspend=True)
    applied = world.get("campaign", "launch")
    body = {key: applied[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "launch"}}
    git = ("apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", "-")
    world.kubectl(*git, "-n", world.namespace, given=body)
    resumed = plugin("resume", "launch")
    assert "Flux manages campaign launch and sets spec.suspend: it will put it back" in resumed.err
    world.until("Complete")
    world.kubectl(*git, "-n", world.namespace, given=body)
    stays = plugin("retry", "launch", "--state-of", "rejected")
    assert "Git does not set spec.reopen, so this change stays" in stays.err
    assert world.get("campaign", "launch")["spec"]["reopen"]["states"] == ["rejected"]


def test_people_are_retried_by_name_and_by_state(world: ClusterWorld, plugin: Plugin) -> None:
    people = world.recipients(10)
    rules = [{"fault": "UnknownMailbox", "match": who, "times": 1} for who in people[:2]]
    world.transport(world.place.sink({"rules": rules}).port)
    world.operator()
    world.campaign(failurePolicy={"minSample": 1000})
    world.until("Complete", reason="AcceptedWithRejections")
    assert plugin("retry", "launch").code == 2, "nobody is named"
    again = plugin("retry", "launch", "--address", people[0])
    assert (again.code, again.out) == (0, "asked: the operator reopens them within seconds\n"), again.err
    eventually("it is sent to again", 30, lambda: world.copies()[people[0]] == 1)
    assert people[1] not in world.copies()
    assert plugin("retry", "launch", "--state-of", "rejected").code == 0
    world.until("Complete", reason="AllAccepted")
    assert world.copies() == dict.fromkeys(people, 1)


def test_a_halt_is_acknowledged_by_resume(world: ClusterWorld, plugin: Plugin) -> None:
    world.recipients(30)
    world.transport(world.place.sink({"rules": [{"fault": "SenderRefused"}]}).port)
    world.operator()
    world.campaign()
    first = world.until("Halted", reason="SenderRefused")
    assert "spec.acknowledgedHalt" in first["message"]
    said = plugin("status", "launch").out
    assert "halted (" in said
    assert "kubectl fullsend resume launch" in said
    resumed = plugin("resume", "launch")
    halt = world.get("campaign", "launch")["spec"]["acknowledgedHalt"]
    assert resumed.out == f"{world.namespace}/launch: halt {halt} acknowledged\n"


def test_a_list_is_imported_from_a_stream_and_torn_ones_change_nothing(world: ClusterWorld, plugin: Plugin) -> None:
    world.transport(world.place.sink().port)
    world.recipients(1)
    world.operator()
    world.campaign(suspend=True)
    eventually("it is planned", 60, lambda: world.status().get("eligible") == 1)
    rows = "".join(f"person{number:06d}@example.com,Person {number}\n" for number in range(30_000)).encode()
    header = b"email,name\n"
    torn = plugin.start("import", "readers", "--opt-in", "single", stdin=subprocess.PIPE)
    assert torn.stdin is not None
    torn.stdin.write(header + rows[: len(rows) // 2])
    torn.stdin.flush()
    eventually("the pod listens", 30, lambda: _pods(world))
    time.sleep(3)
    torn.kill()
    torn.communicate()
    eventually("the pod has noticed", 30, lambda: _phases(world) == {"Succeeded"})
    source = world.place.folder / "readers.csv"
    source.write_bytes(header + rows)
    with source.open("rb") as stream:
        done = plugin("import", "readers", "--opt-in", "single", "-o", "json", stdin=stream)
    assert done.code == 0, done.err
    assert json.loads(done.out)["inserted"] == 30_000, "nothing was there before"
    again = plugin("import", "readers", str(source), "-o", "json")
    assert json.loads(again.out)["unchanged"] == 30_000
    eventually("its pods are gone, and the one whose person was killed", 20, lambda: not _pods(world))
    source.write_text("email,name\na@example.com\n")
    ragged = plugin("import", "readers", str(source))
    assert ragged.code == 1
    assert "readers.csv, row 2 (line 2) has 1 fields where the header has 2" in ragged.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_stops_it_the_pod_is_deleted(world: ClusterWorld, plugin: Plugin, number: signal.Signals) -> None:
    world.transport(world.place.sink().port)
    world.recipients(1)
    world.operator()
    world.campaign()
    world.until("Complete")
    asking = plugin.start("import", "readers", "--opt-in", "single", stdin=subprocess.PIPE)
    eventually("its pod runs", 30, lambda: _phases(world) == {"Running"})
    os.killpg(asking.pid, number)
    asking.communicate(timeout=30)
    assert asking.returncode == 128 + number
    eventually("the pod is gone", 20, lambda: not _pods(world))


def test_what_cannot_be_done_is_said_with_what_to_do(world: ClusterWorld, plugin: Plugin) -> None:
    none = plugin("status", "nobody")
    assert (none.code, "kubectl fullsend status" in none.err) == (1, True)
    assert 'campaigns.fullsend.dev "nobody" not found' in none.err
    unknown = plugin("report", "nobody")
    assert unknown.code == 2
    assert "there is no ConfigMap fullsend-pods" in unknown.err
    assert "the operator" in unknown.err
    world.transport(world.place.sink().port)
    world.recipients(1)
    world.operator()
    world.campaign()
    world.until("Complete")
    absent = plugin("report", "nobody")
    assert (absent.code, "it has: launch" in absent.err) == (2, True)
    world.kubectl("create", "quota", "none", "--hard=pods=0", "-n", world.namespace)
    full = plugin("report", "launch")
    assert full.code == 1
    assert "exceeded quota: none" in full.err
    assert "kubectl describe quota" in full.err
    world.delete("quota", "none")
    image = json.dumps({"data": {"image": "missing.invalid/fullsend:1"}})
    world.kubectl("patch", "configmap", "fullsend-pods", "-n", world.namespace, "--type=merge", "-p", image)
    pull = plugin("report", "launch")
    assert pull.code == 1
    assert 'ImagePullBackOff: Back-off pulling image "missing.invalid/fullsend:1"' in pull.err
    assert "the operator's --image" in pull.err
    world.kubectl(
        "patch", "configmap", "fullsend-pods", "-n", world.namespace, "--type=merge", "-p", '{"data": {"image": "x"}}'
    )
    world.operators[0].stop()
    world.delete("secret", "fullsend-ledger")
    waiting = plugin.start("report", "launch")
    assert waiting.stderr is not None
    line = waiting.stderr.readline().decode()
    assert 'secret "fullsend-ledger" not found' in line
    assert "is it running?" in line
    os.killpg(waiting.pid, signal.SIGINT)
    waiting.communicate(timeout=30)
    eventually("no pod is left", 20, lambda: not _pods(world))


def test_peoples_rights_are_what_limits_them(world: ClusterWorld, plane: ControlPlane) -> None:
    roles = Path(__file__).resolve().parents[2] / "manifests" / "base" / "user-roles.yaml"
    world.kubectl("apply", "-f", roles)
    for who, roles in {"viewer": ["viewer"], "asker": ["ledger-user"], "writer": ["campaign-writer"]}.items():
        world.kubectl("create", "serviceaccount", who, "-n", world.namespace)
        for role in roles:
            subject = f"--serviceaccount={world.namespace}:{who}"
            world.kubectl(
                "create", "rolebinding", who, f"--clusterrole=fullsend-{role}", subject, "-n", world.namespace
            )

    def of(who: str) -> Plugin:
        token = world.kubectl("create", "token", who, "-n", world.namespace).strip()
        config = plane.kubeconfig(world.place.folder / f"{who}.kubeconfig", token, world.namespace)
        return Plugin(world.kubectl, config, world.namespace)

    world.transport(world.place.sink().port)
    world.recipients(3)
    world.operator()
    world.campaign(suspend=True)
    eventually("it is planned", 60, lambda: world.status().get("eligible") == 3)
    viewer, asker, writer = of("viewer"), of("asker"), of("writer")
    assert viewer("status", "launch").code == 0
    refused = viewer("resume", "launch")
    assert refused.code == 1
    assert "cannot patch resource" in refused.err
    assert "ClusterRole fullsend-campaign-writer" in refused.err
    refused = viewer("report", "launch")
    assert refused.code == 1
    assert "ClusterRole fullsend-ledger-user" in refused.err
    assert asker("report", "launch").code == 0
    assert asker("send-test", "launch", "--to", "me@sender.example").code == 0
    assert asker("resume", "launch").code == 1
    assert writer("resume", "launch").code == 0
    world.until("Complete")


def _pods(world: ClusterWorld) -> list[Mapping[str, Any]]:
    label = ("app.kubernetes.io/component", "kubectl")
    return [pod for pod in world.items("pods") if label in pod["metadata"]["labels"].items()]


def _phases(world: ClusterWorld) -> set[str]:
    return {pod["status"].get("phase", "") for pod in _pods(world)}
