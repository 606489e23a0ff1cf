"""A tenant's role sees and touches the rows of its own tenant and no others, in any table."""

from __future__ import annotations

from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.tenants import tenant_access
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world


async def test_a_tenants_role_can_plan_send_and_close(postgres_dsn: str) -> None:
    owner = await Database.open(postgres_dsn, application="tests")
    campaign = await world.registered(owner, tenant="green")
    access = await tenant_access(postgres_dsn, "green")
    assert access.isolated
    theirs = await Database.open(access.dsn, application="tests")
    await world.plan(theirs, campaign, world.plan_rows(20))
    session = await world.opened(theirs, campaign)
    rows = await world.claimed(theirs, session, 10)
    await world.armed(theirs, session, rows)
    await world.record(
        theirs,
        session,
        *(world.accepted(row) for row in rows[:5]),
        *(world.outcome(row, S.REJECTED, feed_suppression=True) for row in rows[5:8]),
    )
    assert (await sessions.grant(theirs, session, 5)).messages == 5
    assert (await sessions.heartbeat(theirs, session)).live
    await sessions.close_session(theirs, session, "done")
    assert await world.counts(owner, campaign) == {S.PENDING: 10, S.ACCEPTED: 5, S.REJECTED: 3, S.UNKNOWN: 2}
    assert (await campaigns.observe(theirs, campaign, session_lease_seconds=60)).counts.total == 20
    await theirs.close()
    await owner.close()
