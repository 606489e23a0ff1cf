"""What the ledger grants: windows that hold whatever is in flight, turns by campaign, connections that add up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.sessions import OpenedSession
from fullsend.states import CampaignId
from support import ledger_worlds as world


def relay(*rates: tuple[int, float], connections: int = 8, **changes: Any) -> dict[str, Any]:
    given = [{"messages": messages, "seconds": seconds} for messages, seconds in rates]
    return {"relay": {"name": "relay", "connections": connections, "rates": given, **changes}}


async def pass_time(db: Database, seconds: float) -> None:
    """As if all that the buckets and turns remember had been so many seconds earlier."""
    await world.sql(
        db,
        "UPDATE fullsend.bucket SET filled_at = filled_at - make_interval(secs => %s),"
        " slot = slot - round(%s / (greatest(60, seconds) / 120))",
        seconds,
        seconds,
    )
    await world.sql(db, "UPDATE fullsend.turn SET hungry_at = hungry_at - make_interval(secs => %s)", seconds)


@pytest.fixture
async def several(postgres_dsn: str) -> AsyncIterator[list[Database]]:
    dbs = [await Database.open(postgres_dsn, application="tests") for _ in range(5)]
    yield dbs
    for db in dbs:
        await db.close()


async def test_a_message_counts_until_a_window_after_the_relay_has_answered(ledger: Database) -> None:
    """The relay may count it at any moment between: armed, then on the wire for hours, it is still of this window."""
    campaign = await world.sealed(ledger, 6, control=relay((3, 3600)))
    session = await world.opened(ledger, campaign)
    assert (await sessions.grant(ledger, session, 6)).messages == 3
    rows = await world.claimed(ledger, session, 3)
    assert len((await world.armed(ledger, session, rows)).armed) == 3
    await pass_time(ledger, 2 * 3600)
    assert (await sessions.grant(ledger, session, 3)).messages == 0
    await world.record(ledger, session, *(world.accepted(row) for row in rows))
    waits = await sessions.grant(ledger, session, 3)
    assert waits.messages == 0
    assert 3500 < waits.retry_after <= 3630
    await pass_time(ledger, 3540)
    assert (await sessions.grant(ledger, session, 3)).messages == 0
    await pass_time(ledger, 120)
    assert (await sessions.grant(ledger, session, 6)).messages == 3


async def test_an_hours_allowance_may_be_used_at_once_and_a_minutes_is_spread(ledger: Database) -> None:
    hour = await world.opened(ledger, await world.sealed(ledger, 1, key="hour", control=relay((100, 3600), name="h")))
    minute = await world.opened(ledger, await world.sealed(ledger, 1, key="min", control=relay((100, 60), name="m")))
    assert (await sessions.grant(ledger, hour, 100)).messages == 100
    granted = await sessions.grant(ledger, minute, 100)
    assert granted.messages == 1, "a bucket holds one second's worth, at least one message"
    assert granted.retry_after <= 60 / 98


async def test_a_lower_limit_counts_what_was_granted_before_and_a_higher_one_helps_at_once(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1, control=relay((100, 3600)))
    session = await world.opened(ledger, campaign)
    assert (await sessions.grant(ledger, session, 50)).messages == 50
    await world.controlled(ledger, campaign, relay((40, 3600)))
    assert (await sessions.grant(ledger, session, 50)).messages == 0
    await world.controlled(ledger, campaign, relay((60, 3600)))
    assert (await sessions.grant(ledger, session, 50)).messages == 10


async def test_what_a_dead_sender_was_granted_counts_for_a_window(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1, control=relay((10, 3600)))
    dead, living = await world.opened(ledger, campaign), await world.opened(ledger, campaign)
    assert (await sessions.grant(ledger, dead, 6)).messages == 6
    await sessions.fence(ledger, dead.id, 1)
    assert (await sessions.grant(ledger, living, 10)).messages == 4
    await sessions.return_tokens(ledger, living)
    assert (await sessions.grant(ledger, living, 10)).messages == 4, "a living one gives back what it did not use"
    await pass_time(ledger, 3660)
    await sessions.return_tokens(ledger, living)
    assert (await sessions.grant(ledger, living, 10)).messages == 10


async def ask(db: Database, session: OpenedSession, seconds: float) -> int:
    """All that a sender gets which asks for more than there is, and is done with it at once."""
    total, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        total += (await sessions.grant(db, session, 50)).messages
        await world.sql(db, "UPDATE fullsend.session SET tokens = 0 WHERE id = %s", session.id)
        await asyncio.sleep(0.05)
    return total


async def test_campaigns_are_served_alike_however_many_senders_they_have(
    ledger: Database, several: list[Database]
) -> None:
    large = await world.sealed(ledger, 1, key="large", control=relay((80, 1)))
    small = await world.sealed(ledger, 1, key="small", control=relay((80, 1)))
    first = await world.opened(ledger, large)
    assert (await sessions.grant(ledger, first, 80)).messages == 80  # what the bucket began with
    asking = [ask(db, await world.opened(db, large), 3.0) for db in several[1:]]
    *many, one = await asyncio.gather(*asking, ask(several[0], await world.opened(ledger, small), 3.0))
    assert sum(many) + one <= 80 * 3.2 + 80
    assert one > 40
    assert abs(sum(many) - one) <= 10 + 0.2 * one


async def test_too_few_to_go_round_are_given_in_turn(ledger: Database) -> None:
    """Ten an hour for two campaigns: the second is not left out because the first one always asks first."""
    first, second = [
        await world.opened(ledger, await world.sealed(ledger, 1, key=key, control=relay((10, 3600))))
        for key in ("first", "second")
    ]
    assert (await sessions.grant(ledger, first, 20)).messages == 10, "while nobody else asks"
    assert (await sessions.grant(ledger, second, 20)).messages == 0
    got = {first.id: 0, second.id: 0}
    for freed in (1, 1, 1, 1, 3, 3, 5, 5):
        await world.sql(ledger, "UPDATE fullsend.session SET tokens = 0")
        await world.sql(ledger, "UPDATE fullsend.bucket SET taken = 0, slots[121] = 0, slots[120] = 10 - %s", freed)
        for session in (first, first, first, second):
            got[session.id] += (await sessions.grant(ledger, session, 20)).messages
    assert got == {first.id: 8, second.id: 8}, "what can't be halved waits for the next that is freed"


async def test_what_its_own_limit_keeps_from_a_campaign_is_not_kept_for_it(ledger: Database) -> None:
    shared = relay((100, 3600))
    slow = await world.sealed(ledger, 1, key="slow", control={**shared, "rates": [{"messages": 1, "seconds": 3600}]})
    fast = await world.sealed(ledger, 1, key="fast", control=shared)
    held_up, other = await world.opened(ledger, slow), await world.opened(ledger, fast)
    assert (await sessions.grant(ledger, held_up, 10)).messages == 1
    assert (await sessions.grant(ledger, held_up, 10)).messages == 0
    assert (await sessions.grant(ledger, other, 100)).messages == 99


async def test_a_pool_is_one_limit_for_several_namespaces(ledger: Database) -> None:
    pooled = relay((10, 3600), pool="shared", connections=4)
    one = await world.opened(ledger, await world.sealed(ledger, 1, tenant="one", control=pooled))
    two = await world.opened(ledger, await world.sealed(ledger, 1, tenant="two", control=pooled))
    assert (await sessions.grant(ledger, one, 6)).messages == 6
    assert (await sessions.grant(ledger, two, 10)).messages == 4
    assert (await sessions.heartbeat(ledger, one)).connections == 2
    assert (await sessions.heartbeat(ledger, two)).connections == 2


async def test_connections_of_all_campaigns_and_senders_never_add_up_to_more_than_there_are(ledger: Database) -> None:
    dice = random.Random(5)
    most = 7
    made = [await world.sealed(ledger, 1, key=f"c{n}", control=relay(connections=most)) for n in range(3)]
    live: list[OpenedSession] = []
    open_: dict[int, int] = {}
    allowed: dict[int, int] = {}
    for _ in range(300):
        if dice.random() < 0.1 and len(live) < 8:
            live.append(await world.opened(ledger, dice.choice(made)))
            open_[live[-1].id] = allowed[live[-1].id] = 0
        if not live:
            continue
        session = dice.choice(live)
        mine = session.id
        if dice.random() < 0.05:
            live.remove(session)
            del open_[mine]
            await sessions.close_session(ledger, session, "done")
            continue
        if open_[mine] > allowed[mine]:
            open_[mine] -= dice.random() < 0.7  # a message in flight is finished first
        elif open_[mine] < allowed[mine]:
            open_[mine] += dice.randint(0, allowed[mine] - open_[mine])
        assert sum(open_.values()) <= most
        allowed[mine] = (await sessions.heartbeat(ledger, session, connections=open_[mine])).connections
    for _ in range(3):
        for session in live:
            open_[session.id] = min(open_[session.id], allowed[session.id])
            beat = await sessions.heartbeat(ledger, session, connections=open_[session.id])
            allowed[session.id] = beat.connections
    assert sum(allowed[session.id] for session in live) == most, "and none is left unused"


async def test_where_there_are_fewer_connections_than_campaigns_each_gets_its_turn(ledger: Database) -> None:
    def turn(now: int) -> str:
        return f"SELECT fullsend.portion(2, ARRAY[11, 22, 33]::bigint[], who, {now}) FROM unnest(ARRAY[11, 22, 33]) who"

    turns = [[share for (share,) in await world.sql(ledger, turn(now))] for now in range(3)]
    assert all(sum(shares) == 2 for shares in turns)
    assert [sum(shares) for shares in zip(*turns, strict=True)] == [2, 2, 2]


async def two_on_one_relay(db: Database, most: int = 8) -> tuple[CampaignId, OpenedSession, OpenedSession]:
    one = await world.sealed(db, 1, key="one", control=relay(connections=most))
    two = await world.sealed(db, 1, key="two", control=relay(connections=most))
    return one, await world.opened(db, one), await world.opened(db, two)


async def test_what_a_relay_said_of_its_connections_is_learnt_by_all_and_tried_upward_again(ledger: Database) -> None:
    campaign, one, two = await two_on_one_relay(ledger)
    for session in (one, two, one):
        await sessions.heartbeat(ledger, session, connections=3 if session is one else 2)
    assert await sessions.learn_connections(ledger, one, open_=3, message="421 too many connections") == 5
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert (view.outlet.learned, view.outlet.connections) == (5, 5)
    assert view.outlet.message == "421 too many connections"
    beats = [await sessions.heartbeat(ledger, session, connections=2) for session in (one, two)]
    assert sum(beat.connections for beat in beats) <= 5
    for _ in range(3):  # to what it was: one more at a time
        await world.sql(ledger, "UPDATE fullsend.outlet SET try_more_at = clock_timestamp()")
        beats = [await sessions.heartbeat(ledger, session, connections=2) for session in (one, two)]
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert view.outlet.learned is None
    beats = [await sessions.heartbeat(ledger, session, connections=2) for session in (one, two)]
    assert [beat.connections for beat in beats] == [4, 4]


async def test_a_relay_that_refuses_again_is_tried_less_often(ledger: Database) -> None:
    _, one, two = await two_on_one_relay(ledger)
    await sessions.heartbeat(ledger, one, connections=2)
    waits = []
    for _ in range(3):
        await sessions.learn_connections(ledger, two, open_=0, message="421")
        rows = await world.sql(
            ledger, "SELECT extract(epoch FROM try_more_at - learned_at)::float FROM fullsend.outlet"
        )
        waits.append(round(rows[0][0]))
        await world.sql(
            ledger,
            "UPDATE fullsend.outlet SET try_more_at = clock_timestamp(), learned_at = learned_at - interval '1 minute'",
        )
        await sessions.heartbeat(ledger, one, connections=2)  # one more is tried
    assert waits == [60, 120, 120], "and not for ever: a raise halves the patience"


async def test_nothing_is_learnt_where_none_of_the_connections_is_ours(ledger: Database) -> None:
    campaign, one, two = await two_on_one_relay(ledger)
    for session in (one, two):
        await sessions.heartbeat(ledger, session, connections=0)
    assert await sessions.learn_connections(ledger, one, open_=0, message="421 too busy") == 0
    assert (await campaigns.observe(ledger, campaign, session_lease_seconds=60)).outlet.learned is None


async def test_campaigns_that_are_done_leave_nothing_to_whoever_asks_next(ledger: Database) -> None:
    for key in ("one", "two"):
        campaign = await world.sealed(ledger, 1, key=key, control=relay((100, 3600)))
        assert (await sessions.grant(ledger, await world.opened(ledger, campaign), 1)).messages == 1
        await world.sql(ledger, "UPDATE fullsend.campaign SET phase = 'complete' WHERE id = %s", campaign)
    last = await world.sealed(ledger, 1, key="three", control=relay((100, 3600)))
    session = await world.opened(ledger, last)
    for _ in range(2):
        assert (await sessions.grant(ledger, session, 1)).messages == 1
    assert await world.sql(ledger, "SELECT campaign_id, served FROM fullsend.turn") == [(last, 2)]
