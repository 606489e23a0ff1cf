"""What could not be planned may be mended under its key; from the first seal on the key's content never changes."""

from __future__ import annotations

import asyncio

import pytest

from fullsend.errors import SessionFenced
from fullsend.ledger import campaigns, lists, plans
from fullsend.ledger.campaigns import OwnerClaim, Registered
from fullsend.ledger.database import Database
from fullsend.ledger.view import Phase, PlanState
from support import ledger_worlds as world


async def register(db: Database, fingerprint: str, *, owner: OwnerClaim = world.OWNER) -> Registered:
    return await campaigns.register(
        db,
        tenant="ns",
        key="spring",
        name=f"name {fingerprint}",
        owner=owner,
        content={"class": fingerprint},
        fingerprint=fingerprint,
    )


async def test_content_that_was_never_sealed_is_replaced(ledger: Database) -> None:
    made = await register(ledger, "f1")
    generation = await plans.begin_plan(ledger, made.campaign)
    await plans.fail_plan(ledger, made.campaign, generation, "MissingColumn", "no column email")
    before = await campaigns.observe(ledger, made.campaign, session_lease_seconds=60)
    mended = await register(ledger, "f2")
    assert (mended.campaign, mended.created, mended.fingerprint) == (made.campaign, False, "f2")
    assert mended.content == await campaigns.content(ledger, made.campaign) == {"class": "f2"}
    after = await campaigns.observe(ledger, made.campaign, session_lease_seconds=60)
    assert (after.fingerprint, after.phase) == ("f2", Phase.REGISTERED)
    assert after.revision > before.revision
    [summary] = await campaigns.list_campaigns(ledger, "ns")
    assert summary.name == "name f2"


async def test_a_plan_made_of_what_was_replaced_is_never_sealed(ledger: Database) -> None:
    made = await register(ledger, "f1")
    generation = await plans.begin_plan(ledger, made.campaign)
    read = await plans.add_rows(ledger, made.campaign, generation, world.plan_rows(3))
    await register(ledger, "f2")
    with pytest.raises(SessionFenced):
        await plans.seal_plan(
            ledger, made.campaign, generation, compiled=b"f1", rows_read=read, render_checked=0, render_failed=0
        )
    seen = await campaigns.observe(ledger, made.campaign, session_lease_seconds=60)
    assert seen.plan is not None
    assert (seen.phase, seen.plan.state) == (Phase.REGISTERED, PlanState.DISCARDED)
    await world.plan(ledger, made.campaign, world.plan_rows(2))
    assert (await campaigns.observe(ledger, made.campaign, session_lease_seconds=60)).counts.total == 2


async def test_the_lists_of_what_was_replaced_bind_no_more(ledger: Database) -> None:
    await lists.create_list(ledger, "ns", "old", double_opt_in=False)
    made = await register(ledger, "f1")
    generation = await plans.begin_plan(ledger, made.campaign, lists=["old"])
    await plans.fail_plan(ledger, made.campaign, generation, "EmptyAudience", "nobody")
    await register(ledger, "f2")
    assert await world.sql(ledger, "SELECT list_ids FROM fullsend.campaign") == [([],)]


async def test_a_sealed_campaign_keeps_its_content(ledger: Database) -> None:
    made = await register(ledger, "f1")
    await world.plan(ledger, made.campaign, world.plan_rows(1))
    other = await register(ledger, "f2")
    assert (other.fingerprint, other.content) == ("f1", {"class": "f1"})
    assert await campaigns.content(ledger, made.campaign) == {"class": "f1"}


async def test_another_live_owners_content_is_not_replaced_until_its_lease_is_over(ledger: Database) -> None:
    made = await register(ledger, "f1", owner=OwnerClaim("c1", "u1", 0.2))
    assert (await register(ledger, "f2")).fingerprint == "f1"
    assert await campaigns.content(ledger, made.campaign) == {"class": "f1"}
    await asyncio.sleep(0.25)
    assert (await register(ledger, "f2")).fingerprint == "f2"
