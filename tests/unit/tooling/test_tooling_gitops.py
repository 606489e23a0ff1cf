"""What Argo CD's Lua and Flux' CEL in ``manifests/gitops`` make of a campaign in every situation it can be in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import celpy
import celpy.celtypes
import pytest
from lupa import LuaRuntime
from ruamel.yaml import YAML

from fullsend.controller.names import SUSPEND
from fullsend.reconcile.conditions import ROWS, Look, conditions
from fullsend.reconcile.situation import Situation
from fullsend.resources.models import CampaignSpec
from fullsend.resources.status import CampaignStatus

GITOPS = Path(__file__).parents[3] / "manifests" / "gitops"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
S = Situation

ARGO: Mapping[Situation, str] = {
    S.LEDGER_UNREACHABLE: "Progressing",
    S.LEDGER_BROKEN: "Degraded",
    S.LEDGER_WENT_BACK: "Degraded",
    S.OWNED_ELSEWHERE: "Degraded",
    S.CONFLICT: "Degraded",
    S.COMPLETE: "Healthy",
    S.FAILED: "Degraded",
    S.CANCELLED: "Healthy",
    S.UNRESOLVED: "Progressing",
    S.REGISTERING: "Progressing",
    S.CANCELLING: "Progressing",
    S.PLANNING: "Progressing",
    S.PLAN_STALLED: "Degraded",
    S.NEVER_PLANNED: "Degraded",
    S.FINISHING: "Progressing",
    S.UNPROVEN: "Degraded",
    S.DRAINED: "Degraded",
    S.EXPIRING: "Progressing",
    S.HALTED: "Degraded",
    S.SUSPENDED: "Suspended",
    S.SCHEDULED: "Suspended",
    S.AWAITING_APPROVAL: "Suspended",
    S.WAITING: "Progressing",
    S.TRANSPORT_TROUBLE: "Progressing",
    S.SENDING: "Progressing",
}


def read(name: str) -> Any:
    return YAML(typ="safe", pure=True).load(GITOPS / name)


def campaign(situation: Situation, *, generation: int = 3) -> dict[str, Any]:
    """The object as the API server has it, with the conditions that the operator writes in this situation."""
    look = Look(
        situation=situation,
        reason=ROWS[situation].reasons[0],
        message="what to do",
        suspend=situation is S.SUSPENDED,
        senders_failing="",
        no_progress="",
        reduced=("", ""),
        blocked=("", ""),
        generation=3,
        previous=CampaignStatus(),
        now=NOW,
    )
    status = CampaignStatus(observed_generation=3, conditions=conditions(look))
    return {
        "metadata": {"name": "spring", "generation": generation},
        "spec": {"rollout": {"first": 10}},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


NEW = {"metadata": {"name": "spring", "generation": 1}, "spec": {}, "status": {"observedGeneration": -1}}


# -- Argo CD ---------------------------------------------------------------------------------------------------------


def lua(script: str, obj: Mapping[str, Any]) -> Any:
    """The script's result as Python values; ``obj`` is global, as in Argo CD."""
    runtime = LuaRuntime(unpack_returned_tuples=True)
    runtime.globals()["obj"] = runtime.table_from(obj, recursive=True)
    return python(runtime.execute(script))


def python(value: Any) -> Any:
    if not hasattr(value, "items"):
        return value
    found = {key: python(inner) for key, inner in value.items()}
    return list(found.values()) if found and all(isinstance(key, int) for key in found) else found


def health(obj: Mapping[str, Any]) -> dict[str, str]:
    script = read("argocd-cm.yaml")["data"]["resource.customizations.health.fullsend.dev_Campaign"]
    found: dict[str, str] = lua(script, obj)
    return found


@pytest.mark.parametrize("situation", Situation)
def test_argo_cd_shows_every_situation_as_what_it_is(situation: Situation) -> None:
    found = health(campaign(situation))
    assert found["status"] == ARGO[situation]
    assert "what to do" in found["message"]


def test_argo_cd_waits_for_what_the_operator_has_not_seen() -> None:
    assert health(NEW)["status"] == "Progressing"
    assert health({"metadata": {"generation": 1}})["status"] == "Progressing"
    assert health(campaign(S.COMPLETE, generation=4))["status"] == "Progressing"


def actions() -> Any:
    text = read("argocd-cm.yaml")["data"]["resource.customizations.actions.fullsend.dev_Campaign"]
    return YAML(typ="safe", pure=True).load(text)


def offered(obj: Mapping[str, Any]) -> set[str]:
    return {name for name, action in lua(actions()["discovery.lua"], obj).items() if not action["disabled"]}


def act(name: str, obj: Mapping[str, Any]) -> dict[str, Any]:
    [script] = [each["action.lua"] for each in actions()["definitions"] if each["name"] == name]
    found: dict[str, Any] = lua(script, obj)
    return found


def test_every_action_that_is_offered_is_defined() -> None:
    names = set(lua(actions()["discovery.lua"], NEW))
    assert names == {each["name"] for each in actions()["definitions"]}


def test_actions_are_offered_where_they_make_sense() -> None:
    assert offered(campaign(S.SENDING)) == {"suspend"}
    assert offered(campaign(S.AWAITING_APPROVAL)) == {"suspend", "approve"}
    assert offered(campaign(S.FAILED)) == {"retry"}
    assert offered(campaign(S.COMPLETE)) == set()
    halted = campaign(S.HALTED)
    halted["status"]["halt"] = {"id": "h1", "reason": "SenderRefused"}
    assert offered(halted) == {"suspend", "resume"}


def test_suspend_and_resume_are_an_annotation_that_git_does_not_own() -> None:
    stopped = act("suspend", campaign(S.SENDING))
    assert stopped["metadata"]["annotations"] == {SUSPEND: "true"}
    assert offered(stopped) == {"resume"}
    assert not act("resume", stopped)["metadata"]["annotations"]


def test_resume_acknowledges_the_halt_that_is_there_and_no_other() -> None:
    halted = campaign(S.HALTED)
    halted["status"]["halt"] = {"id": "h1", "reason": "SenderRefused"}
    assert act("resume", halted)["spec"]["acknowledgedHalt"] == "h1"
    assert "acknowledgedHalt" not in act("resume", campaign(S.SENDING))["spec"]


def test_approve_and_retry_write_what_the_api_takes() -> None:
    assert act("approve", campaign(S.AWAITING_APPROVAL))["spec"]["rollout"] == {"first": 10, "approved": True}
    reopen = act("retry", campaign(S.FAILED))["spec"]["reopen"]
    field = CampaignSpec.model_fields["reopen"].annotation
    assert field is not None
    adapter = next(part for part in field.__args__ if part is not type(None))
    assert adapter.model_validate(reopen).states


# -- Flux ------------------------------------------------------------------------------------------------------------


def cel(expression: str, obj: Mapping[str, Any]) -> bool:
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return bool(program.evaluate({name: celpy.json_to_cel(value) for name, value in obj.items()}))


def flux(obj: Mapping[str, Any]) -> str:
    """The one of the three expressions that holds: in whatever order they are asked, the answer is the same."""
    [checks] = read("flux-kustomization.yaml")["spec"]["healthCheckExprs"]
    [holds] = [name for name in ("current", "failed", "inProgress") if cel(checks[name], obj)]
    return holds


@pytest.mark.parametrize("situation", Situation)
def test_flux_waits_for_the_end_and_fails_where_a_person_must_act(situation: Situation) -> None:
    row = ROWS[situation]
    wanted = "failed" if row.stalled else "current" if row.finished else "inProgress"
    assert flux(campaign(situation)) == wanted


def test_flux_waits_for_what_the_operator_has_not_seen() -> None:
    assert flux(NEW) == "inProgress"
    assert flux(campaign(S.COMPLETE, generation=4)) == "inProgress"
    assert flux(campaign(S.FAILED, generation=4)) == "inProgress"


# -- kstatus, which Helm's --wait and Flux without expressions go by ------------------------------------------------


def kstatus(obj: Mapping[str, Any]) -> str:
    """The generic rules of sigs.k8s.io/cli-utils: generation, Reconciling, Stalled, then Ready."""
    status = obj.get("status", {})
    if status.get("observedGeneration", obj["metadata"]["generation"]) != obj["metadata"]["generation"]:
        return "InProgress"
    found = {each["type"]: each["status"] for each in status.get("conditions", ())}
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if found.get("Ready", "True") != "True" else "Current"


@pytest.mark.parametrize("situation", Situation)
def test_kstatus_reads_what_the_table_of_conditions_says(situation: Situation) -> None:
    assert kstatus(campaign(situation)) == ROWS[situation].kstatus


def test_kstatus_waits_for_an_object_that_the_operator_has_not_seen() -> None:
    assert kstatus(NEW) == "InProgress"
