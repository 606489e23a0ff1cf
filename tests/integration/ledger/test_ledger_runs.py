"""What a halt or a broken top-up leaves behind is put right: nobody pays for the relay, nothing waits for ever."""

from __future__ import annotations

from datetime import UTC, datetime

from fullsend.ledger import campaigns, plans, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.view import Phase
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world


async def test_whom_every_sender_refused_since_the_last_accept_is_tried_again(ledger: Database) -> None:
    """Two senders, each with refusals of its own; those before the last accepted message were the recipients' own."""
    campaign = await world.sealed(ledger, 6)
    one, two = await world.opened(ledger, campaign), await world.opened(ledger, campaign, holder="other")
    mine, theirs = await world.claimed(ledger, one, 4), await world.claimed(ledger, two, 2, after=4)
    await world.armed(ledger, one, mine)
    await world.armed(ledger, two, theirs)
    await world.record(ledger, one, world.outcome(mine[0], S.REJECTED))
    await world.record(ledger, one, world.accepted(mine[1]))
    await world.record(ledger, one, *(world.outcome(row, S.REJECTED) for row in mine[2:]))
    await world.record(ledger, two, *(world.outcome(row, S.REJECTED) for row in theirs))
    await sessions.fence(ledger, two.id, 1)  # its process died: what it knew went with it
    halted = datetime.now(UTC)
    assert await campaigns.reopen_run(ledger, campaign, halt_id="h1", halted_at=halted) == 4
    assert await campaigns.reopen_run(ledger, campaign, halt_id="h1", halted_at=halted) == 0
    assert await world.counts(ledger, campaign) == {S.REJECTED: 1, S.ACCEPTED: 1, S.DEFERRED: 4}


async def test_a_top_up_that_was_cut_short_does_not_keep_a_campaign_from_its_end(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    session = await world.opened(ledger, campaign)
    [row] = await world.claimed(ledger, session, 1)
    await world.armed(ledger, session, [row])
    await world.record(ledger, session, world.accepted(row))
    await sessions.close_session(ledger, session, "done")
    generation = await plans.begin_plan(ledger, campaign)
    await plans.add_rows(ledger, campaign, generation, world.plan_rows(3, start=2))
    assert not (await campaigns.prove(ledger, campaign)).holds  # its writer may be alive
    await world.sql(ledger, "UPDATE fullsend.plan SET heartbeat_at = heartbeat_at - interval '2 minutes'")
    proof = await campaigns.prove(ledger, campaign)
    assert proof.holds, proof.differences
    assert proof.rows == 1
    assert await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
