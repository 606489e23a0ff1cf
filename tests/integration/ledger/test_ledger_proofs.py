"""The proof notices what was tampered with, and a campaign ends only on a proof that still speaks of it."""

from __future__ import annotations

import pytest

from fullsend.errors import LedgerError, SessionFenced
from fullsend.ledger import campaigns, plans, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.view import Phase, Proof
from fullsend.states import CampaignId
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world


async def delivered(db: Database, count: int = 5) -> CampaignId:
    campaign = await world.sealed(db, count)
    session = await world.opened(db, campaign)
    rows = await world.claimed(db, session, count)
    await world.armed(db, session, rows)
    await world.record(db, session, *(world.accepted(row) for row in rows))
    await sessions.close_session(db, session, "done")
    return campaign


async def completed(db: Database) -> tuple[CampaignId, Proof]:
    campaign = await delivered(db)
    proof = await campaigns.prove(db, campaign)
    assert await campaigns.finish(db, campaign, Phase.COMPLETE, proof)
    return campaign, proof


@pytest.mark.parametrize(
    ("tampering", "noticed"),
    [
        ("DELETE FROM fullsend.delivery WHERE seq = 3", "4 rows"),
        ("DELETE FROM fullsend.recipient WHERE seq = 3", "4 recipients"),
        ("UPDATE fullsend.counter SET accepted = accepted + 1", "the counters say 6"),
        ("UPDATE fullsend.recipient SET identity_hash = decode(repeat('00', 16), 'hex') WHERE seq = 3", "digest"),
        ("UPDATE fullsend.delivery SET state = 'rejected' WHERE seq = 3", "1 rows are rejected, the counters say 0"),
        ("UPDATE fullsend.plan SET inserted = 4", "4 were sealed"),
        ("UPDATE fullsend.plan SET digest = digest + 1", "digest"),
        ("UPDATE fullsend.campaign SET sealed_seq = 4", "the campaign's last sealed number is 4"),
        ("UPDATE fullsend.delivery SET seq = 50 WHERE seq = 5", "4 rows"),
        ("UPDATE fullsend.recipient SET seq = -1 WHERE seq = 5", "numbered -1 to 4"),
    ],
)
async def test_a_ledger_that_was_tampered_with_proves_nothing(ledger: Database, tampering: str, noticed: str) -> None:
    campaign = await delivered(ledger)
    assert (await campaigns.prove(ledger, campaign)).holds
    await world.sql(ledger, tampering)
    proof = await campaigns.prove(ledger, campaign)
    assert not proof.holds
    assert noticed in " / ".join(proof.differences)
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)


async def test_an_ending_needs_that_nothing_changed_since_its_proof(ledger: Database) -> None:
    campaign = await delivered(ledger)
    proof = await campaigns.prove(ledger, campaign)
    await campaigns.new_wave(ledger, campaign)
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
    older, proof = proof, await campaigns.prove(ledger, campaign)
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, older)
    session = await world.opened(ledger, campaign)
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
    await sessions.close_session(ledger, session, "done")
    assert await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
    assert await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof), "finishing twice is one ending"
    assert not await campaigns.finish(ledger, campaign, Phase.FAILED, proof)


async def test_a_campaign_with_open_rows_does_not_end(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    for phase in (Phase.COMPLETE, Phase.FAILED, Phase.CANCELLED):
        assert not await campaigns.finish(ledger, campaign, phase, await campaigns.prove(ledger, campaign))
    assert await campaigns.end_rows(ledger, campaign, [S.PENDING], S.EXPIRED, "Deadline", chunk=1) == 2
    assert await campaigns.finish(ledger, campaign, Phase.FAILED, await campaigns.prove(ledger, campaign))


async def test_a_campaign_that_was_never_planned_can_be_cancelled_but_not_complete(ledger: Database) -> None:
    campaign = await world.registered(ledger)
    generation = await plans.begin_plan(ledger, campaign)
    proof = await campaigns.prove(ledger, campaign)
    assert set(proof.differences) == {"no plan was sealed", "a plan is running"}
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)
    assert await campaigns.finish(ledger, campaign, Phase.CANCELLED, proof)
    with pytest.raises(SessionFenced):
        await plans.add_rows(ledger, campaign, generation, world.plan_rows(1))
    with pytest.raises(LedgerError, match="takes no new plan"):
        await plans.begin_plan(ledger, campaign)


@pytest.mark.parametrize("state", [S.CLAIMED, S.ARMED, S.ACCEPTED])
async def test_only_waiting_rows_are_ended_from_outside(ledger: Database, state: S) -> None:
    campaign = await world.sealed(ledger, 1)
    with pytest.raises(ValueError, match="cannot be made"):
        await campaigns.end_rows(ledger, campaign, [state], S.EXPIRED, "Deadline")


async def test_reopening_makes_a_finished_campaign_send_again_once(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 12)
    await campaigns.end_rows(ledger, campaign, [S.PENDING], S.EXPIRED, "Deadline")
    assert await campaigns.finish(ledger, campaign, Phase.FAILED, await campaigns.prove(ledger, campaign))
    only = [world.identity(n) for n in (3, 4, 99)]
    await campaigns.request_reopen(ledger, campaign, id="one", states=[S.EXPIRED], identities=only)
    [summary] = await campaigns.list_campaigns(ledger, "ns")
    assert summary.reopen_waits
    assert await campaigns.carry_out_reopen(ledger, campaign) == 2
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert (view.phase, view.finished_at, view.proof, view.due_now) == (Phase.SENDING, None, None, 2)
    assert view.reopen is not None
    assert (view.reopen.id, view.reopen.reopened, view.reopen.done_at is None) == ("one", 2, False)
    await campaigns.end_rows(ledger, campaign, [S.DEFERRED], S.EXPIRED, "Deadline")
    assert await campaigns.carry_out_reopen(ledger, campaign) == 0
    await campaigns.request_reopen(ledger, campaign, id="two", states=[S.EXPIRED, S.HELD])
    assert await campaigns.carry_out_reopen(ledger, campaign) == 12
    assert await world.counts(ledger, campaign) == await world.rows_by_state(ledger, campaign) == {S.DEFERRED: 12}
    with pytest.raises(ValueError, match="accepted rows cannot be reopened"):
        await campaigns.request_reopen(ledger, campaign, id="three", states=[S.ACCEPTED])


async def test_a_purged_campaign_is_a_tombstone_that_never_sends(ledger: Database) -> None:
    campaign, proof = await completed(ledger)
    assert await campaigns.purge(ledger, campaign) == 5
    assert await campaigns.purge(ledger, campaign) == 0
    for table in ("recipient", "delivery", "attempt"):
        assert await world.sql(ledger, f"SELECT count(*) FROM fullsend.{table}") == [(0,)]
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert (view.phase, view.proof, view.fingerprint) == (Phase.PURGED, proof, "f1")
    assert view.counts[S.ACCEPTED] == 5
    again = await campaigns.register(
        ledger, tenant="ns", key="spring", name="spring", owner=world.OWNER, content={}, fingerprint="f1"
    )
    assert (again.campaign, again.created, again.phase) == (campaign, False, Phase.PURGED)
    assert await sessions.open_session(ledger, campaign, wave=1, holder="x", connections=1) is None
    with pytest.raises(LedgerError):
        await plans.begin_plan(ledger, campaign)
    await campaigns.request_reopen(ledger, campaign, id="r", states=[S.REJECTED])
    assert await campaigns.carry_out_reopen(ledger, campaign) == 0
    assert not await campaigns.finish(ledger, campaign, Phase.COMPLETE, proof)


async def test_a_campaign_that_has_not_ended_is_not_purged(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 1)
    with pytest.raises(LedgerError, match="only a finished campaign"):
        await campaigns.purge(ledger, campaign)


async def test_rows_resent_after_an_unknown_are_counted_as_possible_duplicates(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    await world.armed(ledger, session, await world.claimed(ledger, session, 2))
    await sessions.fence(ledger, session.id, 1, unknown_delay=0)
    session = await world.opened(ledger, campaign)
    await world.armed(ledger, session, await sessions.claim_due(ledger, session, limit=1))
    view = await campaigns.observe(ledger, campaign, session_lease_seconds=60)
    assert view.duplicates_possible == 1
    assert view.first_armed_at is not None


async def test_a_resend_whose_content_never_went_out_is_no_possible_duplicate(ledger: Database) -> None:
    """Two rows sent twice at most; the second copy of each takes three arms, since its connection breaks before it."""
    campaign = await world.sealed(ledger, 2)
    session = await world.opened(ledger, campaign)
    await world.armed(ledger, session, await world.claimed(ledger, session, 2))
    await sessions.fence(ledger, session.id, 1, unknown_delay=0)
    session = await world.opened(ledger, campaign)

    async def possible() -> int:
        return (await campaigns.observe(ledger, campaign, session_lease_seconds=60)).duplicates_possible

    for _ in range(2):
        rows = await sessions.claim_due(ledger, session, limit=2)
        await world.armed(ledger, session, rows)
        assert await possible() == 2, "while armed nobody can know"
        await world.record(
            ledger, session, *(world.outcome(row, S.DEFERRED, content_sent=False, delay=0.0) for row in rows)
        )
        assert await possible() == 0
    rows = await sessions.claim_due(ledger, session, limit=2)
    await world.armed(ledger, session, rows)
    await world.record(ledger, session, world.accepted(rows[0]), world.outcome(rows[1], S.HELD))
    assert await possible() == 2
    await sessions.close_session(ledger, session, "done")
    assert await possible() == 2
