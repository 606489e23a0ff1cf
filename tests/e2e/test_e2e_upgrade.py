"""The release changes under a campaign that is being sent: upgraded, rolled back, taken away, installed again."""

from __future__ import annotations

from typing import Any

from e2e.images import next_version, version
from e2e.trial import HOME, SPACE, Trial

CAMPAIGNS = "campaigns.fullsend.dev"
COLUMNS = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"


def become_the_next_version(trial: Trial) -> None:
    """The reader's clone, as if a next version had been checked out: its image, and a kind with one column more."""
    chart = trial.clone / "helm" / "fullsend"
    about = chart / "Chart.yaml"
    about.write_text(about.read_text().replace(f"ersion: {version()}\n", f"ersion: {next_version()}\n"))
    kind = chart / "files" / "crds" / "fullsend.dev_campaigns.yaml"
    line = "    additionalPrinterColumns:\n"
    assert line in kind.read_text()
    column = "    - name: Newest\n      type: string\n      jsonPath: .status.state\n"
    kind.write_text(kind.read_text().replace(line, line + column))


def settled(trial: Trial) -> None:
    for what in ("statefulset/fullsend-postgresql", "deployment/fullsend-operator"):
        done = trial.kubectl.run("rollout", "status", what, "-n", HOME, "--timeout=110s")
        assert done.returncode == 0, f"{done.stderr}{trial.everything()}"


def images(pods: list[Any]) -> set[str]:
    return {one["image"] for pod in pods for one in pod["spec"]["containers"]}


def test_an_upgrade_with_a_migration_and_its_rollback_leave_a_campaign_alone(trial: Trial) -> None:
    sink = trial.relay("moved")
    people = trial.people("moved", 3000)
    trial.campaign("moved", limits={"rates": [{"messages": 10, "per": "1s"}]}, senders={"maxPods": 2})
    trial.until("two senders work", 90, lambda: len(trial.senders("moved")) == 2 and len(sink.entries()) > 20)
    before = {pod["metadata"]["uid"] for pod in trial.senders("moved")}

    become_the_next_version(trial)
    trial.types("helm upgrade fullsend helm/fullsend -n fullsend --reuse-values")
    settled(trial)
    assert {name.rpartition(":")[2] for name in images(trial.component("operator"))} == {next_version()}
    assert trial.ask("SELECT schema_version FROM fullsend.meta") == [[9999]]
    assert "Newest" in trial.kubectl("get", "crd", CAMPAIGNS, "-o", COLUMNS)
    assert {pod["metadata"]["uid"] for pod in trial.senders("moved")} == before, "old senders go on"

    # What the next version plans and sends has no shell, nor any other program but Python.
    fresh = trial.relay("fresh")
    whom = trial.people("fresh", 50)
    trial.campaign("fresh")
    trial.until_complete("fresh", 50)
    assert fresh.copies() == dict.fromkeys(whom, 1)
    newest = trial.kubectl.object("get", "pods", "-n", SPACE, "-l", "fullsend.dev/campaign=fresh")["items"]
    assert {name.rpartition(":")[2] for name in images(newest)} == {next_version()}

    trial.types("helm rollback fullsend -n fullsend")
    settled(trial)
    begun = len(sink.entries())
    assert {name.rpartition(":")[2] for name in images(trial.component("operator"))} == {version()}
    assert trial.ask("SELECT schema_version FROM fullsend.meta") == [[9999]], "the schema stays as it is"
    assert "Newest" not in trial.kubectl("get", "crd", CAMPAIGNS, "-o", COLUMNS), "the kinds go back"
    trial.until("they still send", 60, lambda: len(sink.entries()) > begun)
    assert {pod["metadata"]["uid"] for pod in trial.senders("moved")} == before, "old senders go on"
    trial.hurry("moved")
    trial.until_complete("moved", 3000)
    assert trial.nobody_missed_or_twice(sink, people, "moved") == 0


def test_a_program_that_is_too_old_says_so_and_does_not_start(trial: Trial) -> None:
    sink = trial.relay("late")
    people = trial.people("late", 20)
    trial.ask("UPDATE fullsend.meta SET oldest_program = 9999")
    try:
        trial.kubectl("delete", "pods", "-n", HOME, "-l", "app.kubernetes.io/component=operator", "--timeout=60s")
        trial.campaign("late")
        said = trial.until("both say why", 60, lambda: _reasons(trial) if len(_reasons(trial)) == 2 else None)
        assert all("Upgrade this program" in why for why in said), said
        assert not trial.status("late").get("total"), "nobody looks at it"
    finally:
        trial.ask("UPDATE fullsend.meta SET oldest_program = 3")
    trial.kubectl("delete", "pods", "-n", HOME, "-l", "app.kubernetes.io/component=operator", "--timeout=60s")
    trial.until_complete("late", 20)
    assert sink.copies() == dict.fromkeys(people, 1)


def _reasons(trial: Trial) -> list[str]:
    """Why the operator's pods have not started."""
    states = [
        {**one.get("lastState", {}), **one["state"]}
        for pod in trial.component("operator")
        for one in pod["status"].get("initContainerStatuses", ())
    ]
    return [state["terminated"]["message"] for state in states if state.get("terminated", {}).get("exitCode")]


def test_uninstalled_and_installed_again_it_goes_on_where_it_was(trial: Trial) -> None:
    sink = trial.relay("left")
    people = trial.people("left", 1500)
    trial.campaign("left", limits={"rates": [{"messages": 10, "per": "1s"}]})
    trial.until("it is sent", 90, lambda: len(sink.entries()) > 20)
    trial.types("helm uninstall fullsend -n fullsend")
    trial.until("the release is gone", 90, lambda: "pod/" not in trial.kubectl("get", "all", "-n", HOME, "-o", "name"))
    assert not trial.holds("left", "Finished"), "all of it was in the middle of the campaign"
    trial.types(
        "helm install fullsend helm/fullsend -n fullsend --create-namespace --wait "
        "--set postgresql.embedded=true --set mailSink.enabled=true"
    )
    trial.hurry("left")
    trial.until_complete("left", 1500)
    trial.nobody_missed_or_twice(sink, people, "left")
    assert trial.holds("moved", "Complete"), "what had ended is not sent again"
