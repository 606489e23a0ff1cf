"""What an Audience, a MailTemplate and a MailTransport say of themselves: good, bad, mended, by a Job of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.kubectl import Kubectl
from support.cluster_world import ClusterWorld
from support.workspace import Workspace, eventually

TRANSPORT = "mailtransport/relay"


@pytest.fixture
def world(kubectl: Kubectl, namespace: str, tmp_path: Path, postgres_dsn: str) -> Iterator[ClusterWorld]:
    place = Workspace(tmp_path, postgres_dsn)
    made = ClusterWorld(kubectl, namespace, place)
    yield made
    made.close()
    place.close()


def until(world: ClusterWorld, what: str, reason: str, within: float = 60) -> Mapping[str, Any]:
    """The object's status once Ready has this reason for the newest spec."""
    seen: dict[str, Any] = {}

    def so() -> bool:
        item = world.get(*what.split("/"))
        seen.update(item.get("status", {}))
        ready = next((each for each in seen.get("conditions", ()) if each["type"] == "Ready"), None)
        return (
            ready is not None
            and ready["reason"] == reason
            and ready["observedGeneration"] == item["metadata"]["generation"]
        )

    try:
        eventually(f"{what} is {reason}", within, so)
    except AssertionError as error:
        logs = "\n".join(operator.words[-3000:] for operator in world.operators)
        raise AssertionError(f"{error}: {json.dumps(seen, indent=1)}\n{logs}") from None
    return world.get(*what.split("/"))["status"]  # type: ignore[no-any-return]


def ready(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(each for each in status["conditions"] if each["type"] == "Ready")


def types(status: Mapping[str, Any]) -> set[str]:
    """The conditions that are true."""
    return {each["type"] for each in status["conditions"] if each["status"] == "True"}


def wait(world: ClusterWorld, what: str) -> None:
    world.kubectl("wait", "--for=condition=Ready", what, "--timeout=60s", "-n", world.namespace)


def test_a_relay_that_answers_is_ready_and_says_what_it_offers(world: ClusterWorld) -> None:
    sink = world.place.sink()
    world.transport(sink.port)
    world.operator()
    wait(world, TRANSPORT)
    status = world.get("mailtransport", "relay")["status"]
    assert ready(status)["reason"] == "Reachable"
    assert status["relay"] == f"127.0.0.1[127.0.0.1]:{sink.port}"
    assert status["pipelining"] == "Overlap"
    assert "PIPELINING" in status["capabilities"]
    assert not status["authenticated"]
    assert status["lastProbeTime"]
    assert sink.entries() == [], "a probe never sends mail"
    assert [reason for reason, _ in world.events("relay")] == ["Reachable"]
    eventually("its Job goes once it is read", 30, lambda: not world.items("jobs"))


def test_a_relay_that_is_away_is_probed_until_it_is_back(world: ClusterWorld) -> None:
    sink = world.place.sink()
    sink.stop()
    world.transport(sink.port)
    world.operator()
    away = until(world, TRANSPORT, "CannotConnect")
    assert types(away) == {"Reconciling"}, "it may heal by itself"
    assert "no connection" in ready(away)["message"]
    world.place.sink(port=sink.port)
    back = until(world, TRANSPORT, "Reachable")
    assert types(back) == {"Ready"}
    assert sorted(reason for reason, _ in world.events("relay")) == ["CannotConnect", "Reachable"]


def test_a_login_is_tried_and_what_it_lacks_is_said(world: ClusterWorld) -> None:
    login = world.place.folder / "login"
    login.write_text("user:password\n")
    sink = world.place.sink("none", "--auth-file", str(login))
    world.transport(sink.port, smtp={"credentialsSecretRef": {"name": "login"}})
    world.operator()
    missing = until(world, TRANSPORT, "SecretMissing")
    assert "Secret login is not there" in ready(missing)["message"]
    assert types(missing) == {"Stalled"}, "a person must act"
    secret(world, password="wrong")
    wrong = until(world, TRANSPORT, "LoginRefused")
    assert (wrong["authenticated"], "PLAIN" in wrong["authMechanisms"]) == (False, True)
    assert "PIPELINING" in wrong["capabilities"], "what it offers is known all the same"
    secret(world, password="password")
    right = until(world, TRANSPORT, "Reachable", within=90)
    assert right["authenticated"]
    assert "password" not in json.dumps(right)


def secret(world: ClusterWorld, *, password: str) -> None:
    data = {"username": "user", "password": password}
    made = {"kind": "Secret", "type": "fullsend.dev/smtp-credentials", "metadata": {"name": "login"}}
    world.apply({"apiVersion": "v1", **made, "stringData": data})


def template(world: ClusterWorld, **spec: Any) -> None:
    world.apply({"kind": "MailTemplate", "metadata": {"name": "news"}, "spec": {"subject": "Hello", **spec}})


def test_a_template_says_why_it_does_not_compile_and_what_it_needs_once_it_does(world: ClusterWorld) -> None:
    world.operator()
    template(world, html="<p>Dear {{ name }},</p>{% if vip %}{{ gift }}")
    broken = until(world, "mailtemplate/news", "DoesNotCompile")
    assert "spec.html, line 1: Unexpected end of template" in ready(broken)["message"]
    assert types(broken) == {"Stalled"}
    html = "<p>Dear {{ name }}{{ title|default('') }}, {{ unsubscribe_url }}</p>"
    template(world, html=html)
    wait(world, "mailtemplate/news")
    status = until(world, "mailtemplate/news", "Compiled")
    assert (status["variables"], status["optionalVariables"]) == (["name"], ["title"])
    assert (status["text"], status["htmlBytes"]) == ("Generated", len(html))
    assert 0 < status["textBytes"] < len(html)
    columns = world.kubectl("get", "mailtemplate", "news", "-n", world.namespace, "-o", "wide")
    assert "Compiled" in columns
    assert '["name"]' in columns


def test_a_template_that_asks_for_a_gigabyte_ends_its_probe_and_nothing_else(world: ClusterWorld) -> None:
    operator = world.operator()
    template(world, text="{{ 'a' * 500000000 }}")
    told = until(world, "mailtemplate/news", "DoesNotRender")
    assert "characters" in ready(told)["message"]
    assert peak_memory(operator.process.pid) < 150_000_000


def peak_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def test_an_audience_is_counted_as_a_plan_would_count_it(world: ClusterWorld) -> None:
    world.operator()
    source = {"csv": {"configMapKeyRef": {"name": "people", "key": "people.csv"}}}
    world.apply({"kind": "Audience", "metadata": {"name": "people"}, "spec": source})
    missing = until(world, "audience/people", "ConfigMapMissing")
    assert "ConfigMap people has no key 'people.csv'" in ready(missing)["message"]
    lines = ["email,name", "a@x.example,A", "A@X.example,B", "b@x.example,B", "not an address,C", "abuse@x.example,D"]
    data = {"people.csv": "\n".join(lines)}
    world.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "people"}, "data": data})
    counted = until(world, "audience/people", "Counted")
    found = counted["lastCount"]
    assert {name: found[name] for name in ("rowsRead", "recipients", "eligible", "duplicates")} == {
        "rowsRead": 5,
        "recipients": 4,
        "eligible": 2,
        "duplicates": 1,
    }
    assert (found["invalid"], found["suppressed"], counted["columns"]) == (1, 1, ["name"])
    assert "x.example" not in json.dumps(counted), "numbers and columns, nobody's address"


def test_a_restarted_operator_goes_on_where_the_last_one_was_and_probes_nothing_twice(world: ClusterWorld) -> None:
    world.transport(world.place.sink().port)
    template(world, text="Dear {{ name }}")
    first = world.operator()
    wait(world, TRANSPORT)
    wait(world, "mailtemplate/news")
    probed = world.get("mailtransport", "relay")["status"]["lastProbeTime"]
    first.kill()
    template(world, text="Dear {{ first_name }}")
    for what in (TRANSPORT, "mailtemplate/news"):
        world.kubectl(
            *("patch", what, "-n", world.namespace, "--subresource=status", "--type=merge"),
            *("-p", '{"status": {"conditions": null, "variables": null, "state": "Lost"}}'),
        )
    world.operator()
    status = until(world, TRANSPORT, "Reachable")
    assert (status["lastProbeTime"], status["state"]) == (probed, "Ready"), "the ledger knew"
    assert until(world, "mailtemplate/news", "Compiled")["variables"] == ["first_name"]


def test_an_operator_that_dies_in_the_middle_of_a_probe_is_taken_up_by_the_next(world: ClusterWorld) -> None:
    world.transport(world.place.sink().port)
    first = world.operator()
    eventually("a probe has begun", 60, lambda: world.items("jobs"))
    first.kill()
    world.operator()
    wait(world, TRANSPORT)


def test_a_quota_that_denies_the_probes_pod_is_shown_and_once_it_is_lifted_it_is_ready(world: ClusterWorld) -> None:
    world.transport(world.place.sink().port)
    world.kubectl("create", "quota", "none", "--hard=pods=0", "-n", world.namespace)
    world.operator()
    denied = until(world, TRANSPORT, "ProbeNotRunning")
    assert "exceeded quota" in ready(denied)["message"]
    world.delete("quota", "none")
    until(world, TRANSPORT, "Reachable", within=120)


def test_a_halt_of_a_campaign_is_shown_at_its_transport_and_goes_when_it_goes_on(world: ClusterWorld) -> None:
    sink = world.place.sink()
    world.recipients(5)
    world.transport(sink.port)
    world.operator()
    wait(world, TRANSPORT)
    sink.stop()
    world.campaign()

    def halted() -> Mapping[str, Any]:
        return world.get("mailtransport", "relay")["status"].get("halt") or {}

    halt = eventually("the halt is shown", 60, halted)
    assert (halt["campaign"], halt["reason"]) == ("launch", "CannotConnect")
    world.place.sink(port=sink.port)
    world.until("Complete", within=120)
    eventually("it is over", 30, lambda: not halted())
