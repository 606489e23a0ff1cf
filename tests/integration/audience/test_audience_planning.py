"""A plan is read once, judged row by row, and sealed whole or not at all."""

from __future__ import annotations

import asyncio
import json
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest

from fullsend.audience.audit import audit
from fullsend.audience.plan import PlanFailed, plan, top_up
from fullsend.errors import InvalidInput, LedgerError, SessionFenced
from fullsend.ledger import campaigns, lists, plans
from fullsend.ledger.database import Database
from fullsend.ledger.tenants import tenant_dsn
from fullsend.ledger.view import Phase, PlanState, PlanView
from fullsend.message.compiled import CompiledMessage, Recipient
from fullsend.message.compose import Composer
from fullsend.states import CampaignId
from support.audience_world import TENANT, World, inline

PENDING = ("pending", "")


async def planned(world: World, campaign: CampaignId) -> PlanView:
    return await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)


async def failure(world: World, campaign: CampaignId) -> PlanFailed:
    """The plan fails, and the ledger says the same and keeps no row of it."""
    with pytest.raises(PlanFailed) as caught:
        await planned(world, campaign)
    view = await world.latest(campaign)
    assert (view.state, view.reason, view.message) == (PlanState.FAILED, caught.value.reason, str(caught.value))
    assert world.rows(campaign) == {}
    return caught.value


async def test_a_sealed_plan_has_every_row_and_the_frozen_message(world: World) -> None:
    spec = world.csv("june.csv", "email,name\nAnn@X.de,Ann\nbob@x.de,Bob\noops,Eve\nann@x.de,Ann2\nabuse@x.de,A\n")
    campaign = await world.campaign(("june", spec), message={"text": "Hi {{ name }}"})
    view = await planned(world, campaign)
    assert (view.state, view.rows_read, view.inserted, view.duplicates, view.invalid, view.suppressed) == (
        PlanState.SEALED, 5, 4, 1, 1, 1,
    )  # fmt: skip
    assert (view.render_checked, view.render_failed) == (3, 0)
    assert world.rows(campaign) == {
        "Ann@x.de": PENDING,
        "bob@x.de": PENDING,
        "oops": ("invalid", "NoAtSign"),
        "abuse@x.de": ("suppressed", "RoleAddress"),
    }
    frozen = await campaigns.compiled(world.db, campaign)
    assert frozen is not None
    assert CompiledMessage.from_bytes(frozen).text == "Hi {{ name }}"
    observed = await campaigns.observe(world.db, campaign, session_lease_seconds=30)
    assert observed.phase is Phase.SENDING
    assert (await campaigns.prove(world.db, campaign)).rows == 4


async def test_the_first_copy_wins_in_the_order_of_the_audiences(world: World) -> None:
    campaign = await world.campaign(
        ("b", inline(("ann@x.de", {"name": "first"}))), ("a", inline(("ANN@x.de", {"name": "second"})))
    )
    view = await planned(world, campaign)
    assert (view.rows_read, view.duplicates) == (2, 1)
    assert world.query("SELECT address, variables, source, source_row FROM fullsend.recipient") == [
        ("ann@x.de", '{"name":"first"}', "b", 1)
    ]


async def test_a_suppression_on_any_copy_wins(world: World) -> None:
    campaign = await world.campaign(
        ("open", inline("abuse@x.de", "ann@x.de", roleAddresses="Allow")), ("strict", inline("abuse@x.de"))
    )
    await planned(world, campaign)
    assert world.rows(campaign)["abuse@x.de"][0] == "suppressed"
    assert world.rows(campaign)["ann@x.de"] == PENDING


async def test_the_excluded_are_suppressed_rows_and_those_only_excluded_are_not_in_the_plan(world: World) -> None:
    campaign = await world.campaign(
        ("june", inline("ann@x.de", "Bob@x.de", "eve@x.de")),
        exclude=[("vips", inline("BOB@x.de", "oops", "zoe@x.de")), ("staff", inline("eve@x.de"))],
    )
    view = await planned(world, campaign)
    assert (view.inserted, view.suppressed) == (3, 2)
    assert world.rows(campaign) == {
        "ann@x.de": PENDING,
        "Bob@x.de": ("suppressed", "Excluded"),
        "eve@x.de": ("suppressed", "Excluded"),
    }


async def test_another_campaigns_recipients_can_be_excluded(world: World) -> None:
    first = await world.campaign(("june", inline("ann@x.de", "oops")), key="first")
    second = await world.campaign(("june", inline("Ann@x.de", "bob@x.de")), exclude_campaigns=["first"], key="second")
    error = await failure(world, second)
    assert error.reason == "ExcludedCampaignNotPlanned"
    await planned(world, first)
    await planned(world, second)
    assert world.rows(second) == {"Ann@x.de": ("suppressed", "Excluded"), "bob@x.de": PENDING}


async def test_an_empty_source_fails_the_plan_unless_it_may_be_empty(world: World) -> None:
    spec = world.csv("june.csv", "email,name\n")
    error = await failure(world, await world.campaign(("june", spec), key="one"))
    assert error.reason == "EmptyAudience"
    assert "audience june" in str(error)
    view = await planned(world, await world.campaign(("june", {**spec, "allowEmpty": True}), key="two"))
    assert (view.state, view.rows_read) == (PlanState.SEALED, 0)


async def test_an_empty_exclusion_fails_too(world: World) -> None:
    spec = world.csv("vips.csv", "email\n")
    error = await failure(world, await world.campaign(("a", inline("ann@x.de")), exclude=[("vips", spec)]))
    assert error.reason == "EmptyAudience"


async def test_a_variable_that_nobody_has_fails_the_plan_and_names_the_columns(world: World) -> None:
    campaign = await world.campaign(
        ("june", inline(("ann@x.de", {"name": "Ann", "city": "Ulm"}))), message={"text": "Hi {{ first_name }}"}
    )
    error = await failure(world, campaign)
    assert error.reason == "MissingVariable"
    assert str(error) == "the message needs first_name, which no recipient has; the columns are city, name"


async def test_a_variable_that_a_few_lack_is_planned_and_told(world: World) -> None:
    people = [(f"u{n}@x.de", {"name": "U"} if n else {}) for n in range(20)]
    campaign = await world.campaign(("june", inline(*people)), message={"text": "Hi {{ name }}"})
    view = await planned(world, campaign)
    assert (view.inserted, view.render_checked, view.render_failed) == (20, 20, 1)
    assert "1 of 20 recipients have no name, which the message needs" in view.message
    assert "june, row 1: " in view.message
    assert "@" not in view.message


async def test_at_most_five_examples_are_told(world: World) -> None:
    people = [(f"u{n}@x.de", {"n": 0 if n < 9 else 1}) for n in range(20)]
    campaign = await world.campaign(("june", inline(*people)), message={"text": "{{ 1 / n }}"})
    view = await planned(world, campaign)
    assert view.render_failed == 9
    assert view.message.count("june, row ") == 5
    assert view.message.count("division by zero") == 1, "the same sentence is said once"


async def test_a_message_that_nobody_can_get_fails_the_plan(world: World) -> None:
    campaign = await world.campaign(("june", inline(("ann@x.de", {"n": 0}))), message={"text": "{{ 1 / n }}"})
    error = await failure(world, campaign)
    assert error.reason == "NothingRenders"
    assert "june, row 1: " in str(error)


async def test_a_template_that_does_not_compile_is_invalid_input_and_the_ledger_says_so(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de")), message={"text": "{{ name "})
    with pytest.raises(InvalidInput):
        await planned(world, campaign)
    view = await world.latest(campaign)
    assert (view.state, view.reason) == (PlanState.FAILED, "InvalidMessage")
    assert "message.text" in view.message


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"csv": {"file": "gone.csv"}}, "FileMissing"),
        ({"csv": {"configMapKeyRef": {"name": "people", "key": "june.csv"}}}, "ConfigMapMissing"),
        ({"csv": {"claim": {"name": "exports", "path": "june.csv"}}}, "FileMissing"),
        ({"list": {"name": "newsletter"}}, "ListMissing"),
        ({"postgres": {"dsnSecretRef": {"name": "crm"}, "query": "SELECT 1"}}, "SecretMissing"),
    ],
)
async def test_a_source_that_is_not_there_fails_the_plan_by_name(
    world: World, spec: dict[str, Any], reason: str
) -> None:
    error = await failure(world, await world.campaign(("june", spec)))
    assert error.reason == reason
    assert str(error).startswith("audience june: ")


async def test_a_row_that_cannot_be_read_late_in_the_file_leaves_nothing(world: World) -> None:
    text = "email\n" + "".join(f"u{n}@x.de\n" for n in range(12_000)) + "a,b\n"
    error = await failure(world, await world.campaign(("june", world.csv("june.csv", text))))
    assert error.reason == "RaggedRow"
    assert "row 12002" in str(error)


async def test_a_file_of_a_config_map_and_of_a_claim_can_be_read(world: World) -> None:
    (world.mounts.config_dir / "people").mkdir()
    (world.mounts.config_dir / "people" / "a.csv").write_text("email\nann@x.de\n")
    (world.mounts.base_dir / "exports").mkdir()
    (world.mounts.base_dir / "exports" / "b.csv").write_text("email\nbob@x.de\n")
    campaign = await world.campaign(
        ("a", {"csv": {"configMapKeyRef": {"name": "people", "key": "a.csv"}}}),
        ("b", {"csv": {"claim": {"name": "exports", "path": "b.csv"}}}),
    )
    await planned(world, campaign)
    assert list(world.rows(campaign)) == ["ann@x.de", "bob@x.de"]


async def test_a_planner_killed_half_way_leaves_nothing_that_counts_and_the_next_discards_it(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de", "bob@x.de")))
    died = await plans.begin_plan(world.db, campaign)
    row = plans.PlanRow("zoe@x.de", b"z" * 16, "x.de", "{}", "t", "june", 1)
    await plans.add_rows(world.db, campaign, died, [row])
    observed = await campaigns.observe(world.db, campaign, session_lease_seconds=30)
    assert (observed.phase, observed.counts.total) == (Phase.REGISTERED, 0)
    view = await planned(world, campaign)
    assert view.generation == died + 1
    assert list(world.rows(campaign)) == ["ann@x.de", "bob@x.de"]


async def test_a_planner_that_was_replaced_stops_and_writes_nothing(world: World) -> None:
    text = "email\n" + "".join(f"u{n}@x.de\n" for n in range(12_000))
    campaign = await world.campaign(("june", world.csv("june.csv", text)))
    original, calls = plans.add_rows, 0

    async def add_rows(*args: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            await plans.begin_plan(world.db, campaign)
        return await original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "add_rows", add_rows)
        with pytest.raises(SessionFenced):
            await planned(world, campaign)
    assert (await world.latest(campaign)).state is PlanState.RUNNING
    assert world.rows(campaign) == {}


async def test_a_plan_job_that_runs_again_after_the_seal_reads_nothing(world: World) -> None:
    spec = world.csv("june.csv", "email\nann@x.de\n")
    campaign = await world.campaign(("june", spec))
    sealed = await planned(world, campaign)
    world.csv("june.csv", "email\nann@x.de\nnew@x.de\n")
    assert await planned(world, campaign) == sealed
    assert list(world.rows(campaign)) == ["ann@x.de"]


async def test_top_up_adds_who_has_come_and_repeats_nobody(world: World) -> None:
    spec = world.csv("june.csv", "email,name\nann@x.de,Ann\nbob@x.de,Bob\n")
    campaign = await world.campaign(("june", spec), message={"text": "Hi {{ name }}"})
    await planned(world, campaign)
    world.query("UPDATE fullsend.delivery SET state = 'accepted' WHERE seq = 1")
    frozen = await campaigns.compiled(world.db, campaign)
    world.csv("june.csv", "email,name\nANN@x.de,Changed\nzoe@x.de,Zoe\nbob@x.de,Bob\n")
    view = await top_up(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert (view.generation, view.rows_read, view.inserted, view.duplicates) == (2, 3, 1, 2)
    assert world.rows(campaign) == {"ann@x.de": ("accepted", ""), "bob@x.de": PENDING, "zoe@x.de": PENDING}
    assert await campaigns.compiled(world.db, campaign) == frozen


async def test_a_finished_campaign_is_not_topped_up(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de")))
    await planned(world, campaign)
    world.query("UPDATE fullsend.campaign SET phase = 'complete'")
    with pytest.raises(LedgerError):
        await top_up(world.db, campaign, tenant=TENANT, mounts=world.mounts)


async def test_a_purged_campaign_is_not_planned_again(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de")))
    world.query("UPDATE fullsend.campaign SET phase = 'purged', content = NULL")
    with pytest.raises(LedgerError, match="was purged"):
        await planned(world, campaign)


async def test_a_source_that_fails_while_the_ledger_still_writes_leaves_nothing(world: World) -> None:
    text = "email\n" + "".join(f"u{n}@x.de\n" for n in range(5_000)) + "a,b\n"
    for key in ("one", "two", "three"):
        error = await failure(world, await world.campaign(("june", world.csv("june.csv", text)), key=key))
        assert error.reason == "RaggedRow"
    assert world.query("SELECT count(*) FROM fullsend.recipient") == [(0,)]


async def test_the_planners_heart_beats_while_a_source_keeps_it_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullsend.audience.plan.HEARTBEAT", 0.1)
    world.secret("crm", world.dsn)
    query = "SELECT 'ann@x.de' || pg_sleep(1.5)::text AS email"
    campaign = await world.campaign(("crm", {"postgres": {"dsnSecretRef": {"name": "crm"}, "query": query}}))
    beats = 0
    original = plans.heartbeat_plan

    async def heartbeat(*args: Any) -> bool:
        nonlocal beats
        beats += 1
        return await original(*args)

    monkeypatch.setattr(plans, "heartbeat_plan", heartbeat)
    await planned(world, campaign)
    assert beats >= 3


async def test_a_defect_of_ours_shows_in_the_ledger_and_not_only_in_a_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("here")

    monkeypatch.setattr("fullsend.audience.plan.Intake", broken)
    campaign = await world.campaign(("june", inline("ann@x.de")))
    with pytest.raises(ZeroDivisionError):
        await planned(world, campaign)
    view = await world.latest(campaign)
    assert (view.state, view.reason, view.message) == (PlanState.FAILED, "InternalError", "ZeroDivisionError: here")


async def test_variables_are_kept_as_json_text(world: World) -> None:
    variables = {"n": 3, "tags": ["a", "ü"], "none": None}
    campaign = await world.campaign(("june", inline(("ann@x.de", variables))))
    await planned(world, campaign)
    [(text,)] = world.query("SELECT variables FROM fullsend.recipient")
    assert json.loads(text) == variables


async def test_a_guess_at_an_encoding_is_told_in_the_plan(world: World) -> None:
    (world.mounts.base_dir / "june.csv").write_bytes("email,name\nann@x.de,Müller\n".encode("latin-1"))
    view = await planned(world, await world.campaign(("june", {"csv": {"file": "june.csv"}})))
    assert "june.csv is not UTF-8; it was read as cp1252, a guess" in view.message


async def test_a_plan_never_names_a_person_in_what_ends_up_in_a_status(world: World) -> None:
    spec = world.csv("june.csv", "ann@x.de,Ann\nbob@x.de,Bob\n")
    error = await failure(world, await world.campaign(("june", spec)))
    assert error.reason == "MissingColumn"
    assert "@" not in str(error)
    assert "Ann" not in str(error)


async def test_the_tenants_own_role_can_plan_and_top_up_and_read_what_it_excludes(world: World) -> None:
    first = await world.campaign(("a", inline("ann@x.de")), key="first")
    second = await world.campaign(("a", inline("Ann@x.de", "bob@x.de")), exclude_campaigns=["first"], key="second")
    await lists.create_list(world.db, TENANT, "news", double_opt_in=False)
    third = await world.campaign(("l", {"list": {"name": "news"}, "allowEmpty": True}), key="third")
    db = await Database.open(await tenant_dsn(world.dsn, TENANT), application="tenant")
    try:
        for campaign in (first, second, third):
            view = await plan(db, campaign, tenant=TENANT, mounts=world.mounts)
            assert view.state is PlanState.SEALED
        await top_up(db, second, tenant=TENANT, mounts=world.mounts)
        assert (await audit(db, second, tenant=TENANT, mounts=world.mounts)).planned == 2
    finally:
        await db.close()
    assert world.rows(second) == {"Ann@x.de": ("suppressed", "Excluded"), "bob@x.de": PENDING}


async def test_a_config_maps_attachment_is_frozen_with_the_message(world: World) -> None:
    (world.mounts.config_dir / "files").mkdir()
    (world.mounts.config_dir / "files" / "terms.txt").write_bytes(b"the terms")
    reference = {"name": "files", "key": "terms.txt"}
    attachment = {"name": "terms.txt", "contentType": "text/plain", "configMapKeyRef": reference}
    campaign = await world.campaign(("june", inline("ann@x.de")), message={"attachments": [attachment]})
    await planned(world, campaign)
    frozen = await campaigns.compiled(world.db, campaign)
    assert frozen is not None
    composed = Composer(CompiledMessage.from_bytes(frozen)).compose(Recipient("ann@x.de", "token"))
    parts = [part.get_content() for part in message_from_bytes(composed.data, policy=default).iter_attachments()]
    assert [text.strip() for text in parts] == ["the terms"]


async def test_an_attachment_that_is_not_there_fails_the_plan_by_name(world: World) -> None:
    reference = {"name": "files", "key": "terms.txt"}
    attachment = {"name": "terms.txt", "contentType": "text/plain", "configMapKeyRef": reference}
    campaign = await world.campaign(("june", inline("ann@x.de")), message={"attachments": [attachment]})
    assert (await failure(world, campaign)).reason == "ConfigMapMissing"


async def test_a_long_seal_keeps_its_heart_beating_and_is_not_taken_for_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullsend.audience.plan.HEARTBEAT", 0.05)
    original = plans.seal_plan

    async def seal_plan(*args: Any, **settings: Any) -> PlanView:
        await asyncio.sleep(0.3)
        view = await original(*args, **settings)
        await asyncio.sleep(0.02)  # sealed, and not yet told
        return view

    monkeypatch.setattr(plans, "seal_plan", seal_plan)
    campaign = await world.campaign(("june", inline("ann@x.de")))
    assert (await planned(world, campaign)).state is PlanState.SEALED
