"""Waiting for a window, a turn or a person: nobody is skipped for it, and whoever waits still obeys."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Fault, Faults, Rule
from fullsend.sender.feed import Feed
from fullsend.sender.worker import Ended
from support import ledger_worlds as world
from support.sender_world import S, place, until
from support.workspace import Workspace, declared, eventually


def everybody(rows: int, *without: int) -> dict[str, int]:
    return {f"user{n}@example.com": 1 for n in range(1, rows + 1) if n not in without}


def copies(sink: MailSink) -> Counter[str]:
    """By the relay's own list of what it took."""
    return Counter(recipient for delivery in sink.deliveries for recipient in delivery.recipients)


def test_two_campaigns_under_a_window_far_too_small(workspace: Workspace):
    """H. Two campaigns on one transport, ten messages an hour; paused while they wait, and resumed with a wider window.

    Listmonk 3.0.0: both stall, and a pause is ignored: the window is global and its only dispatcher sleeps in it.
    Fullsend: whoever waits for the window still hears a pause, within seconds; nothing is skipped when it widens.
    """
    people = workspace.recipients(200)
    sink = workspace.sink()
    window = {"limits": {"connections": 4, "rates": [{"messages": 10, "per": "1h"}]}}
    workspace.campaign(sink.port, transport=window)
    second = {**_like_the_first(workspace), "metadata": {"name": "second", "namespace": "default"}}
    workspace.campaign(sink.port, transport=window, extra=[second])
    with workspace.running() as run:
        eventually("the window's first message", 60, lambda: sink.entries())
        time.sleep(2)
        before = time.monotonic()
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 130, workspace.said()
        assert time.monotonic() - before < 6
    assert sum(sink.copies().values()) <= 10
    workspace.campaign(sink.port, transport={"limits": {"connections": 4}}, extra=[second])
    assert workspace.run().code == 0
    assert sink.copies() == dict.fromkeys(people, 2)


def _like_the_first(workspace: Workspace) -> dict[str, object]:
    return declared(
        "Campaign",
        "second",
        {
            "class": "Transactional",
            "audiences": [{"name": "people"}],
            "transportRef": {"name": "relay"},
            "message": {"from": {"address": "desk@sender.example"}, "subject": "x", "text": "Dear {{ name }}"},
        },
    )


async def test_two_campaigns_share_one_window_fairly(postgres_dsn: str, ledger: Database):
    """Two campaigns on one transport with 10 messages a second for both; one of them is suspended while both wait.

    Fullsend: both advance, by turns; a suspend is obeyed at once, and the other campaign has the window to itself.
    """
    window = [{"messages": 10, "seconds": 1.0}]
    async with MailSink() as first_sink, MailSink() as second_sink, AsyncExitStack() as running:
        relay = {"rates": window}
        first = await place(postgres_dsn, ledger, first_sink, 400, key="first", relay=relay)
        second = await place(postgres_dsn, ledger, second_sink, 400, key="second", relay=relay)
        for each in (first, second):
            await running.enter_async_context(each.sender())
        await until(lambda: asyncio.sleep(0, first_sink.accepted > 0 and second_sink.accepted > 0), 20)
        began, before = time.monotonic(), (first_sink.accepted, second_sink.accepted)
        await until(lambda: asyncio.sleep(0, first_sink.accepted + second_sink.accepted >= sum(before) + 60), 40)
        taken = (first_sink.accepted - before[0], second_sink.accepted - before[1])
        assert sum(taken) <= 10 * (time.monotonic() - began) + 20
        assert min(taken) >= 0.3 * sum(taken), taken

        await first.say(stop=True)
        await asyncio.sleep(2.5)
        at_rest = first_sink.accepted
        assert await first.count(S.CLAIMED) == 0
        other = second_sink.accepted
        await asyncio.sleep(2)
        assert first_sink.accepted == at_rest
        assert second_sink.accepted - other >= 12


async def test_a_person_who_says_no_while_their_row_is_claimed(postgres_dsn: str, ledger: Database):
    """People unsubscribe while their rows are in a sender's hands, under a window of five messages a second.

    Fullsend: a no that was committed is honoured when a row is armed; from then to the wire it takes 5 s at most.
    """
    async with MailSink(faults=Faults(reply_delay=0.1)) as sink:
        here = await place(
            postgres_dsn, ledger, sink, 60, rates=[{"messages": 5, "seconds": 1.0}], relay={"connections": 1}
        )
        said_no: dict[str, float] = {}
        async with here.sender() as sender:
            for _ in range(4):
                await until(lambda: here.count(S.CLAIMED))
                claimed = await world.sql(
                    ledger,
                    "INSERT INTO fullsend.suppression (scope, identity_hash, reason) SELECT 'installation',"
                    " r.identity_hash, 'unsubscribed' FROM fullsend.delivery AS d"
                    " JOIN fullsend.recipient AS r USING (campaign_id, seq) WHERE d.state = 'claimed'"
                    " ON CONFLICT DO NOTHING RETURNING identity_hash",
                )
                committed = time.time()
                for (identity,) in claimed:
                    number = int.from_bytes(identity[8:], "big")
                    said_no.setdefault(f"user{number}@example.com", committed)
                await asyncio.sleep(0.7)
            await here.say()
            assert await sender.ends(40) is Ended.DRAINED
        assert len(said_no) >= 4
        late = {
            who: delivery.at.timestamp() - said_no[who]
            for delivery in sink.deliveries
            for who in delivery.recipients
            if who in said_no
        }
        assert all(seconds <= 5 for seconds in late.values()), late
        assert await here.count(S.SUPPRESSED) == len(said_no) - len(late)
        assert await here.count(S.SUPPRESSED) > 0
        assert set(copies(sink)) >= set(everybody(60)) - set(said_no)
        assert set(copies(sink).values()) == {1}


@pytest.mark.parametrize("batch", [1, 10_000])
async def test_a_batch_of_one_and_one_larger_than_the_audience(
    batch: int, postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    """150 people, 50 of them in a row suppressed, claimed one by one; and all of them at once.

    Fullsend: an empty claim is never taken for the end, whatever the size of a claim: everybody else gets it once.
    """
    monkeypatch.setattr(Feed, "_ahead", lambda _: batch)
    async with MailSink() as sink:
        here = await place(postgres_dsn, ledger, sink, 150)
        no = range(51, 101)
        await world.sql(
            ledger,
            "INSERT INTO fullsend.suppression (scope, identity_hash, reason)"
            " SELECT 'installation', h, 'asked' FROM unnest(%s::bytea[]) AS h",
            [world.identity(n) for n in no],
        )
        assert await here.run() is Ended.DRAINED
        assert copies(sink) == everybody(150, *no)
        assert await here.count(S.SUPPRESSED) == 50


@pytest.mark.parametrize("seed", range(4))
async def test_pause_and_resume_in_any_order_and_at_any_speed(
    seed: int, postgres_dsn: str, ledger: Database, monkeypatch: pytest.MonkeyPatch
):
    """Pause, resume, stop and start again, in random order, milliseconds or seconds apart, with greylisting going on.

    Fullsend: there is no moment at which a pause ends a campaign or a resume repeats it: everybody gets it once.
    """
    monkeypatch.setattr("fullsend.sender.worker.HELD_BACK_PATIENCE", 0.5)
    dice = random.Random(seed)
    rules = (Rule(fault=Fault.GREYLIST, share=0.1), Rule(fault=Fault.SLOW, share=0.1, delay=0.1))
    async with MailSink(faults=Faults(rules=rules, reply_delay=0.004)) as sink:
        here = await place(postgres_dsn, ledger, sink, 400)
        paused = False
        steps = 0
        deadline = time.monotonic() + 60
        while (await here.view()).counts.open:
            assert time.monotonic() < deadline
            async with AsyncExitStack() as senders:
                running = [await senders.enter_async_context(here.sender()) for _ in range(dice.choice((1, 1, 2)))]
                while not all(sender.running.done() for sender in running):
                    assert time.monotonic() < deadline
                    if steps < 60:
                        steps += 1
                        match dice.choice(("pause", "resume", "stop", "nothing")):
                            case "pause":
                                paused = True
                                await here.say(stop=True)
                            case "resume":
                                paused = False
                                await here.say()
                            case "stop":
                                dice.choice(running).worker.stop()
                            case _:
                                pass
                    elif paused:
                        paused = False
                        await here.say()
                    await asyncio.sleep(dice.choice((0.0, 0.01, 0.1, 0.6)))
                for sender in running:
                    with contextlib.suppress(asyncio.CancelledError):
                        await sender.ends()
            if paused:
                paused = False
                await here.say()
        assert steps >= 10
        assert copies(sink) == everybody(400)
        assert await here.unknowns() == {}
        view = await campaigns.observe(ledger, here.campaign, session_lease_seconds=60)
        assert view.counts[S.ACCEPTED] == 400
        assert not view.sessions
