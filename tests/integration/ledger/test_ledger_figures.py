"""What is counted for those who watch from outside, against rows that real sessions wrote."""

from __future__ import annotations

from fullsend.ledger import campaigns, sessions
from fullsend.ledger.database import Database
from fullsend.ledger.figures import CampaignFigures, figures
from fullsend.ledger.flush import TOOK_UP_TO
from fullsend.ledger.view import Phase
from fullsend.states import DeliveryState
from support.ledger_worlds import OWNER, accepted, armed, claimed, opened, outcome, record, sealed, sql

STATE = DeliveryState


async def only(ledger: Database) -> CampaignFigures:
    found = (await figures(ledger)).campaigns
    assert len(found) == 1
    return found[0]


async def test_every_attempt_is_counted_once_by_what_came_of_it_and_outlives_its_session(ledger: Database) -> None:
    campaign = await sealed(ledger, 10)
    session = await opened(ledger, campaign)
    rows = await claimed(ledger, session, 7)
    await armed(ledger, session, rows)
    first = [
        accepted(rows[0]),
        accepted(rows[1]),
        outcome(rows[2], STATE.REJECTED),
        outcome(rows[3], STATE.DEFERRED, delay=60, charged=True),
        outcome(rows[4], STATE.UNKNOWN, delay=60),
    ]
    await record(ledger, session, *first)
    await record(ledger, session, *first)  # told again after a commit in doubt

    told = await only(ledger)
    assert dict(told.attempts) == {"accepted": 2, "rejected": 1, "deferred": 1, "unknown": 1}
    assert told.senders == 1
    assert told.counts[STATE.ARMED] == 2
    assert told.open_since is not None

    await sessions.close_session(ledger, session, "done")  # what it still held nobody knows
    told = await only(ledger)
    assert dict(told.attempts) == {"accepted": 2, "rejected": 1, "deferred": 1, "unknown": 3}
    assert told.senders == 0


async def test_how_long_attempts_took_is_kept_by_transport(ledger: Database) -> None:
    for key in ("one", "two"):
        campaign = await sealed(ledger, 4, key=key)
        session = await opened(ledger, campaign)
        rows = await claimed(ledger, session, 4)
        await armed(ledger, session, rows)
        times = (0, 9, 30, 90_000)
        await record(ledger, session, *(accepted(row, took_ms=ms) for row, ms in zip(rows, times, strict=True)))
        if key == "one":
            await sessions.close_session(ledger, session, "done")

    [transport] = (await figures(ledger)).transports
    assert (transport.tenant, transport.transport, transport.connections) == ("ns", "relay", 4)
    assert transport.learned is None
    assert transport.took_ms == 2 * 90_039
    assert len(transport.took) == len(TOOK_UP_TO) + 1
    assert [transport.took[0], transport.took[2], transport.took[-1], sum(transport.took)] == [4, 2, 2, 8]


async def test_a_campaign_that_nobody_looks_after_is_no_longer_told_but_counted(ledger: Database) -> None:
    campaign = await sealed(ledger, 3)
    assert (await only(ledger)).ledger_key == "spring"
    await campaigns.release_owner(ledger, campaign, OWNER)
    told = await figures(ledger)
    assert told.campaigns == ()
    assert told.phases == {Phase.SENDING: 1}


async def test_of_two_campaigns_with_one_name_the_newer_is_told(ledger: Database) -> None:
    await sealed(ledger, 3, key="first")
    newer = await sealed(ledger, 5, key="second")
    await sql(ledger, "UPDATE fullsend.campaign SET name = 'spring'")
    assert (await only(ledger)).ledger_key == "second"
    assert (await only(ledger)).counts.total == 5
    assert newer


async def test_what_a_relay_has_said_of_connections_is_told_of_its_transport(ledger: Database) -> None:
    campaign = await sealed(ledger, 4)
    await sql(
        ledger,
        "INSERT INTO fullsend.outlet (name, learned) SELECT outlet, 3 FROM fullsend.campaign WHERE id = %s",
        campaign,
    )
    [transport] = (await figures(ledger)).transports
    assert transport.learned == 3
