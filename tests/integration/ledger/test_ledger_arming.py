"""What arming refuses: who said no, a stopped campaign, a missing token; and that it does so at that very moment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from fullsend.errors import LedgerError
from fullsend.ledger import campaigns, lists, sessions, suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.lists import MemberStatus, NewMember
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from fullsend.ledger.view import BreakerState
from fullsend.states import DeliveryState as S
from fullsend.states import Seq
from support import ledger_worlds as world


@pytest.mark.parametrize(
    ("target", "stops"),
    [
        (Target.installation(), True),
        (Target(Scope.TENANT, "ns"), True),
        (Target(Scope.LIST, "ns", "news"), True),
        (Target(Scope.TENANT, "elsewhere"), False),
        (Target(Scope.LIST, "ns", "another"), False),
    ],
)
async def test_a_suppression_committed_before_arming_is_honoured(ledger: Database, target: Target, stops: bool) -> None:
    for name in ("news", "another"):
        await lists.create_list(ledger, "ns", name, double_opt_in=False)
    campaign = await world.sealed(ledger, 3, lists=["news"])
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 3)
    await suppressions.add(ledger, target, [NewSuppression(world.identity(2), None, "unsubscribed")])
    flushed = await world.armed(ledger, session, rows)
    assert flushed.suppressed == ({2} if stops else set())
    assert flushed.armed == {1, 2, 3} - flushed.suppressed
    assert await world.counts(ledger, campaign) == await world.rows_by_state(ledger, campaign)


async def test_unsubscribing_from_a_list_stops_a_campaign_already_planned_from_it(ledger: Database) -> None:
    who = world.identity(1)
    await lists.create_list(ledger, "ns", "news", double_opt_in=False)
    await lists.import_members(ledger, "ns", "news", [NewMember(who, "user1@example.com")])
    campaign = await world.sealed(ledger, 1, lists=["news"])
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 1)
    await lists.set_status(ledger, "ns", "news", who, MemberStatus.UNSUBSCRIBED, "one-click")
    assert (await world.armed(ledger, session, rows)).suppressed == {1}


@pytest.mark.parametrize(
    ("on_the_other", "also_refuses_the_other", "stops"),
    [
        (MemberStatus.CONFIRMED, False, False),
        (MemberStatus.UNCONFIRMED, False, True),  # it asks for a confirmation that never came
        (MemberStatus.CONFIRMED, True, True),
        (None, False, True),
    ],
)
async def test_a_no_to_one_list_leaves_a_yes_to_another_of_the_campaigns_lists(
    ledger: Database, on_the_other: MemberStatus | None, also_refuses_the_other: bool, stops: bool
) -> None:
    """Judged over all of a person's lists, never over one row: when the plan is sealed and when the row is armed."""
    who = world.identity(1)
    for name in ("news", "offers"):
        await lists.create_list(ledger, "ns", name, double_opt_in=name == "offers")
    await lists.import_members(ledger, "ns", "news", [NewMember(who, "user1@example.com")])
    if on_the_other is not None:
        await lists.import_members(ledger, "ns", "offers", [NewMember(who, "user1@example.com", status=on_the_other)])
    early = await world.sealed(ledger, 1, key="early", lists=["news", "offers"])
    session = await world.opened(ledger, early)
    rows = await world.claimed(ledger, session, 1)
    await lists.set_status(ledger, "ns", "news", who, MemberStatus.UNSUBSCRIBED, "one-click")
    if also_refuses_the_other:
        await suppressions.add(ledger, Target(Scope.LIST, "ns", "offers"), [NewSuppression(who, None, "complaint")])
    late = await world.sealed(ledger, 1, key="late", lists=["news", "offers"])
    assert (await world.armed(ledger, session, rows)).suppressed == ({1} if stops else set())
    assert await world.counts(ledger, late) == {S.SUPPRESSED if stops else S.PENDING: 1}


async def test_a_refused_mailbox_is_suppressed_for_the_tenant_and_reopening_lifts_only_that(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    await world.record(ledger, session, world.outcome(row, S.REJECTED, feed_suppression=True))
    other = await world.sealed(ledger, 1, key="autumn")
    assert await world.counts(ledger, other) == {S.SUPPRESSED: 1}
    assert await campaigns.request_reopen(ledger, campaign, id="r1", states=[S.REJECTED])
    assert not await campaigns.request_reopen(ledger, campaign, id="r1", states=[S.REJECTED])
    assert await campaigns.carry_out_reopen(ledger, campaign) == 1
    assert await campaigns.carry_out_reopen(ledger, campaign) == 0
    [row] = await sessions.claim_due(ledger, session, limit=1)
    assert (await world.armed(ledger, session, [row])).armed == {1}


@pytest.mark.parametrize("control", [{"stop": True}, {"cancel": True}])
async def test_nothing_is_claimed_or_armed_while_the_campaign_is_stopped(
    ledger: Database, control: dict[str, bool]
) -> None:
    campaign = await world.sealed(ledger, 3)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 2)
    assert await campaigns.write_control(ledger, campaign, {**world.CONTROL, **control})
    assert not await campaigns.write_control(ledger, campaign, {**world.CONTROL, **control})
    assert (await world.armed(ledger, session, rows)).refused == {1, 2}
    assert await world.claimed(ledger, session, 3) == []
    beat = await sessions.heartbeat(ledger, session)
    assert beat.live
    assert beat.control[next(iter(control))]
    await campaigns.write_control(ledger, campaign, world.CONTROL)
    assert (await world.armed(ledger, session, rows)).armed == {1, 2}


async def test_only_the_first_eligible_recipients_are_claimed_fresh_under_a_limit(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    await suppressions.add(
        ledger, Target(Scope.TENANT, "ns"), [NewSuppression(world.identity(n), None, "unsubscribed") for n in (1, 3)]
    )
    await world.plan(ledger, campaign, world.plan_rows(10))
    session = await world.opened(ledger, campaign)

    async def fresh(limit: int | None) -> list[int]:
        rows = await sessions.claim_fresh(ledger, session, after=Seq(0), limit=10, fresh_limit=limit)
        return [row.seq for row in rows]

    assert await fresh(0) == []
    assert await fresh(3) == [2, 4, 5]
    assert await fresh(3) == []
    assert await fresh(4) == [6]
    assert await fresh(100) == [7, 8, 9, 10]


async def test_tokens_bound_what_is_armed_and_are_spent_by_it(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 10, control={"rates": [{"messages": 4, "seconds": 1}]})
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 10)
    assert len((await world.armed(ledger, session, rows)).refused) == 10
    granted = await sessions.grant(ledger, session, 100)
    assert granted.messages == 4
    assert 0 < granted.retry_after <= 0.25
    assert (await world.armed(ledger, session, rows)).armed == {1, 2, 3, 4}
    assert (await world.armed(ledger, session, rows[4:])).refused == {5, 6, 7, 8, 9, 10}


async def test_a_suppressed_row_spends_no_token(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 3, control={"rates": [{"messages": 2, "seconds": 60}]})
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 3)
    assert (await sessions.grant(ledger, session, 1)).messages == 1
    await suppressions.add(ledger, Target.installation(), [NewSuppression(world.identity(1), None, "manual")])
    flushed = await world.armed(ledger, session, rows)
    assert (flushed.suppressed, flushed.armed, flushed.refused) == ({1}, {2}, {3})


async def test_a_session_without_rates_is_not_metered(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    assert await sessions.grant(ledger, session, 1000) == sessions.Granted(1000, 0.0)


@pytest.mark.parametrize(
    "control",
    [
        {"rates": [{"messages": 50, "seconds": 1}]},
        {"relay": {"name": "relay", "rates": [{"messages": 3000, "seconds": 60}, {"messages": 90, "seconds": 1}]}},
        {"relay": {"name": "relay", "pool": "shared", "rates": [{"messages": 50, "seconds": 1}]}},
    ],
)
async def test_contending_sessions_are_never_granted_more_than_the_rate(
    ledger: Database, postgres_dsn: str, control: dict[str, object]
) -> None:
    campaign = await world.sealed(ledger, 1, control=control)
    pooled = "pool" in control.get("relay", {})  # type: ignore[operator]
    other = await world.sealed(ledger, 1, tenant="other", control=control) if pooled else campaign
    dbs = [await Database.open(postgres_dsn, application="tests") for _ in range(6)]
    total = 0
    began = time.monotonic()

    async def ask(db: Database, number: int) -> None:
        nonlocal total
        session = await world.opened(db, campaign if number % 2 else other)
        while time.monotonic() - began < 1.5:
            granted = await sessions.grant(db, session, 7)
            total += granted.messages
            await asyncio.sleep(min(granted.retry_after, 0.01))

    await asyncio.gather(*(ask(db, number) for number, db in enumerate(dbs)))
    seconds = time.monotonic() - began
    assert total <= 50 * seconds + 50, "the rate, and a bucket that holds one second's worth"
    assert total >= 50 * seconds * 0.8
    for db in dbs:
        await db.close()


async def test_tokens_a_living_session_did_not_spend_return_and_a_dead_ones_are_lost(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1, control={"rates": [{"messages": 1, "seconds": 3600}]})
    one, two, three = [await world.opened(ledger, campaign) for _ in range(3)]
    assert (await sessions.grant(ledger, one, 5)).messages == 1
    await sessions.close_session(ledger, one, "done")
    assert (await sessions.grant(ledger, two, 5)).messages == 1
    await sessions.fence(ledger, two.id, 1)
    granted = await sessions.grant(ledger, three, 5)
    assert granted.messages == 0
    assert 3000 < granted.retry_after <= 3600 * 121 / 120


async def test_accepted_clears_the_failures_of_a_closed_breaker_only(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 2)
    await world.armed(ledger, session, rows)
    await campaigns.update_breaker(ledger, campaign, lambda view: replace(view, failures=2))
    await world.record(ledger, session, world.accepted(rows[0]))
    assert (await campaigns.load_breaker(ledger, campaign)).failures == 0
    await campaigns.update_breaker(
        ledger, campaign, lambda view: replace(view, failures=3, state=BreakerState.REDUCED, connections=2)
    )
    await world.record(ledger, session, world.accepted(rows[1]))
    view = (await sessions.heartbeat(ledger, session)).breaker
    assert (view.failures, view.state, view.connections) == (3, BreakerState.REDUCED, 2)


async def test_a_flush_is_all_or_nothing(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 2)
    await world.armed(ledger, session, rows[:1])
    broken = [world.arms(rows[1:])[0], sessions.Arm(Seq(2**70), b"x" * 16, 0)]  # a number no bigint can hold
    with pytest.raises(LedgerError):
        await sessions.flush(ledger, session, arm=broken, record=[world.accepted(rows[0])])
    assert await world.counts(ledger, campaign) == {S.ARMED: 1, S.CLAIMED: 1}


async def test_a_flush_given_twice_leaves_a_row_alone_that_was_claimed_anew_meanwhile(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [first] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [first])
    late = [world.outcome(first, state, delay=0.0) for state in (S.DEFERRED, S.UNKNOWN, S.UNRENDERABLE)]
    await world.record(ledger, session, late[0])
    [again] = await sessions.claim_due(ledger, session, limit=1)
    for record in late:
        await world.record(ledger, session, record)
    assert (await world.armed(ledger, session, [first])).refused == {1}
    assert await world.counts(ledger, campaign) == {S.CLAIMED: 1}
    assert (await world.armed(ledger, session, [again])).armed == {1}
    assert await world.sql(ledger, "SELECT attempt, state FROM fullsend.attempt") == [(1, "deferred")]
