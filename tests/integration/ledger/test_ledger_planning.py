"""The plan: written in chunks, sealed whole or not at all, and provable afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fullsend.errors import CampaignOwned, LedgerError, SessionFenced
from fullsend.ledger import campaigns, plans, sessions, suppressions
from fullsend.ledger.campaigns import OwnerClaim
from fullsend.ledger.database import Database
from fullsend.ledger.suppressions import NewSuppression, Target
from fullsend.ledger.view import Phase, PlanState
from fullsend.states import CampaignId
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world


def digest_of(numbers: range) -> str:
    return str(sum(int.from_bytes(world.identity(n)[:8], "big", signed=True) for n in numbers))


async def test_a_seal_states_how_many_and_who(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    rows = world.plan_rows(20)
    rows[3] = replace(rows[3], state=S.INVALID, reason="NoDomain")
    rows[4] = replace(rows[4], state=S.SUPPRESSED, reason="Unsubscribed")
    rows += [rows[0], rows[7], rows[3]]
    await suppressions.add(ledger, Target.installation(), [NewSuppression(world.identity(9), None, "complaint")])
    generation = await plans.begin_plan(ledger, campaign)
    assert await plans.heartbeat_plan(ledger, campaign, generation)
    assert await plans.add_rows(ledger, campaign, generation, iter(rows)) == 23
    view = await plans.seal_plan(
        ledger, campaign, generation, compiled=b"{}", rows_read=23, render_checked=5, render_failed=1
    )
    assert (view.state, view.rows_read, view.inserted, view.duplicates) == (PlanState.SEALED, 23, 20, 3)
    assert (view.invalid, view.suppressed, view.digest) == (1, 2, digest_of(range(1, 21)))
    assert (view.render_checked, view.render_failed) == (5, 1)
    assert await world.counts(ledger, campaign) == {S.PENDING: 17, S.INVALID: 1, S.SUPPRESSED: 2}
    assert await campaigns.compiled(ledger, campaign) == b"{}"
    seen = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert (seen.phase, seen.plan) == (Phase.SENDING, view)
    assert not await plans.heartbeat_plan(ledger, campaign, generation)


@pytest.mark.parametrize("chunk", [1, 2, 100])
async def test_the_first_copy_wins_and_a_suppression_on_any_copy_wins(
    ledger: Database, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(plans, "CHUNK", chunk)
    campaign = await world.registered(ledger)
    first, other = world.plan_rows(2)
    copy = replace(first, address="USER1@example.com", source_row=9)
    refused = replace(other, source_row=10, state=S.SUPPRESSED, reason="Unsubscribed")
    await world.plan(ledger, campaign, [first, copy, other, refused])
    kept = await world.sql(ledger, "SELECT seq, address, source_row, eligible FROM fullsend.recipient ORDER BY seq")
    assert kept == [(1, "user1@example.com", 1, True), (2, "user2@example.com", 2, False)]
    assert await world.counts(ledger, campaign) == {S.PENDING: 1, S.SUPPRESSED: 1}


async def test_nothing_is_claimed_or_counted_before_the_seal(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    generation = await plans.begin_plan(ledger, campaign)
    await plans.add_rows(ledger, campaign, generation, world.plan_rows(5))
    assert [row.seq for row in await world.claimed(ledger, session, 10)] == [1, 2]
    assert (await campaigns.observe(ledger, campaign, session_lease_seconds=60)).counts.total == 2
    view = await plans.seal_plan(
        ledger, campaign, generation, compiled=b"{}", rows_read=5, render_checked=0, render_failed=0
    )
    assert (view.inserted, view.duplicates) == (3, 2), "a top-up adds people, never repeats"
    assert [row.seq for row in await world.claimed(ledger, session, 10)] == [3, 4, 5]
    assert (await campaigns.prove(ledger, campaign)).rows == 5


async def test_a_top_up_that_suppresses_a_waiting_recipient_moves_the_counters(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 3)
    refused = [replace(row, state=S.SUPPRESSED) for row in world.plan_rows(2)]
    await world.plan(ledger, campaign, refused + world.plan_rows(1, start=4))
    expected = {S.PENDING: 2, S.SUPPRESSED: 2}
    assert await world.counts(ledger, campaign) == await world.rows_by_state(ledger, campaign) == expected


async def test_a_second_plan_discards_the_first_and_its_rows(ledger: Database, postgres_dsn: str) -> None:
    campaign = await world.registered(ledger)
    first = await plans.begin_plan(ledger, campaign)
    await plans.add_rows(ledger, campaign, first, world.plan_rows(10))
    other = await Database.open(postgres_dsn, application="tests")
    second = await plans.begin_plan(other, campaign)
    assert second == first + 1
    assert await world.sql(ledger, "SELECT count(*) FROM fullsend.delivery") == [(0,)]
    with pytest.raises(SessionFenced):
        await plans.add_rows(ledger, campaign, first, world.plan_rows(1))
    with pytest.raises(SessionFenced):
        await plans.seal_plan(ledger, campaign, first, compiled=b"", rows_read=10, render_checked=0, render_failed=0)
    await plans.add_rows(other, campaign, second, world.plan_rows(4))
    await plans.seal_plan(other, campaign, second, compiled=b"", rows_read=4, render_checked=0, render_failed=0)
    assert await world.counts(ledger, campaign) == {S.PENDING: 4}
    await other.close()


async def test_plans_begun_at_once_leave_one_running_and_no_rows_of_the_others(
    ledger: Database, postgres_dsn: str
) -> None:
    campaign = await world.registered(ledger)
    generation = await plans.begin_plan(ledger, campaign)
    await plans.add_rows(ledger, campaign, generation, world.plan_rows(50))
    dbs = [await Database.open(postgres_dsn, application="tests") for _ in range(4)]

    async def planner(db: Database, number: int) -> bool:
        mine = await plans.begin_plan(db, campaign)
        try:
            for start in range(1, 60, 10):
                await plans.add_rows(db, campaign, mine, world.plan_rows(10, start=start + number))
            await plans.seal_plan(db, campaign, mine, compiled=b"", rows_read=60, render_checked=0, render_failed=0)
        except SessionFenced:
            return False
        return True

    sealed = await asyncio.gather(*(planner(db, number) for number, db in enumerate(dbs)))
    assert any(sealed)
    proof = await campaigns.prove(ledger, campaign)
    assert [d for d in proof.differences if "open" not in d] == []
    for db in dbs:
        await db.close()


async def test_a_failed_plan_says_why_and_leaves_no_rows(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    generation = await plans.begin_plan(ledger, campaign)
    await plans.add_rows(ledger, campaign, generation, world.plan_rows(5))
    await plans.fail_plan(ledger, campaign, generation, "SourceUnreadable", "row 6 has\x00 no address")
    view = (await campaigns.observe(ledger, campaign, session_lease_seconds=60)).plan
    assert view is not None
    assert (view.state, view.reason, view.message) == (PlanState.FAILED, "SourceUnreadable", "row 6 has no address")
    assert await world.sql(ledger, "SELECT count(*) FROM fullsend.recipient") == [(0,)]


async def seal(db: Database, campaign: CampaignId, generation: int, read: int) -> None:
    await plans.seal_plan(db, campaign, generation, compiled=b"", rows_read=read, render_checked=0, render_failed=0)


async def test_a_plan_whose_numbers_disagree_is_not_sealed(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    generation = await plans.begin_plan(ledger, campaign)
    await plans.add_rows(ledger, campaign, generation, world.plan_rows(5))
    with pytest.raises(LedgerError, match="read 6 rows and the ledger has 5"):
        await plans.seal_plan(
            ledger, campaign, generation, compiled=b"", rows_read=6, render_checked=0, render_failed=0
        )
    await world.sql(ledger, "DELETE FROM fullsend.recipient WHERE seq = 3")
    with pytest.raises(LedgerError, match="should have 5 rows"):
        await plans.seal_plan(
            ledger, campaign, generation, compiled=b"", rows_read=5, render_checked=0, render_failed=0
        )
    seen = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert seen.phase is Phase.REGISTERED


async def test_an_empty_audience_is_a_sealed_plan_of_nobody(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    await world.plan(ledger, campaign, [])
    proof = await campaigns.prove(ledger, campaign)
    assert (proof.holds, proof.rows, proof.digest) == (True, 0, "0")


async def test_a_key_holds_one_content_and_one_live_owner(ledger: Database) -> None:
    async def register(owner: OwnerClaim, fingerprint: str) -> campaigns.Registered:
        return await campaigns.register(
            ledger, tenant="ns", key="k", name="k", owner=owner, content={"a": fingerprint}, fingerprint=fingerprint
        )

    one, two = OwnerClaim("c1", "u1", 0.2), OwnerClaim("c2", "u2", 60)
    made = await register(one, "f1")
    assert made.created
    assert not (await register(one, "f1")).created
    other = await register(two, "f2")
    assert (other.created, other.fingerprint, other.content) == (False, "f1", {"a": "f1"})
    with pytest.raises(CampaignOwned):
        await register(two, "f1")
    with pytest.raises(CampaignOwned):
        await campaigns.heartbeat_owner(ledger, made.campaign, two)
    await asyncio.sleep(0.25)
    assert (await register(two, "f1")).campaign == made.campaign, "an expired owner is succeeded"
    with pytest.raises(CampaignOwned):
        await campaigns.heartbeat_owner(ledger, made.campaign, one)
    await campaigns.release_owner(ledger, made.campaign, one)
    owner = (await campaigns.observe(ledger, made.campaign, session_lease_seconds=60)).owner
    assert owner is not None
    assert (owner.cluster, owner.uid, owner.expired) == ("c2", "u2", False)
    await campaigns.release_owner(ledger, made.campaign, two)
    await campaigns.heartbeat_owner(ledger, made.campaign, one)
    assert await campaigns.find(ledger, "ns", "k") == made.campaign
    assert await campaigns.find(ledger, "other", "k") is None
    [summary] = await campaigns.list_campaigns(ledger, None)
    assert (summary.tenant, summary.key, summary.phase) == ("ns", "k", Phase.REGISTERED)


async def test_waves_are_numbered_and_every_change_raises_the_revision(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)

    async def revision() -> int:
        return (await campaigns.observe(ledger, campaign, session_lease_seconds=60)).revision

    before = await revision()
    assert await campaigns.new_wave(ledger, campaign) == 1
    assert await revision() > before
    session = await world.opened(ledger, campaign)
    before = await revision()
    rows = await world.claimed(ledger, session, 1)
    assert await revision() > before
    before = await revision()
    await world.armed(ledger, session, rows)
    assert await revision() > before
    before = await revision()
    await sessions.close_session(ledger, session, "done")
    assert await revision() > before
