"""Limits and what relays say of connections, with senders at work: the relay is the witness."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import trustme

from fullsend.ledger import campaigns
from fullsend.ledger.database import Database
from fullsend.ledger.view import BreakerState
from fullsend.local.mailsink import MailSink
from fullsend.local.mailsink.faults import Faults
from fullsend.sender.worker import Ended
from support import ledger_worlds as world
from support.mail_servers import Server, Unavailable, exim, postfix
from support.sender_world import Place, S, place, until


def taken(sink: MailSink) -> list[float]:
    assert sink._memory is not None
    return [delivery.at.timestamp() for delivery in sink._memory.deliveries]


async def test_two_campaigns_with_many_senders_keep_to_a_rate_that_is_changed_under_way(
    postgres_dsn: str, ledger: Database
) -> None:
    """30 a second for both; three senders of the one, one of the other; then 5 a second, obeyed within 5 s."""

    def rates(messages: int) -> dict[str, object]:
        return {"connections": 8, "rates": [{"messages": messages, "seconds": 1}]}

    async with MailSink() as sink, AsyncExitStack() as stack:
        large = await place(postgres_dsn, ledger, sink, 2000, key="large", relay=rates(30))
        small = await place(postgres_dsn, ledger, sink, 2000, key="small", relay=rates(30))
        for here in (large, large, large, small):
            await stack.enter_async_context(here.sender())
        await until(lambda: small.count(S.ACCEPTED), 20)
        begun = await large.count(S.ACCEPTED)
        await asyncio.sleep(8)
        by_large, by_small = await large.count(S.ACCEPTED) - begun, await small.count(S.ACCEPTED)
        times = taken(sink)
        span = times[-1] - times[0]
        assert len(times) <= 30 * span + 30 + 1
        assert len(times) >= 0.85 * 30 * span, "a short look on a busy machine; bench/limits.py measures"
        assert abs(by_large - by_small) <= 30 + 0.2 * by_small
        for here in (large, small):
            await here.say(relay=rates(5))
        await asyncio.sleep(5)
        before = len(taken(sink))
        await asyncio.sleep(4)
        assert len(taken(sink)) - before <= 5 * 4 + 5 + 1
        for here in (large, small):  # and a limit does not keep anybody from ending
            await here.say(stop=True, relay=rates(5))
        stopped = asyncio.get_running_loop().time()
        await until(lambda: idle(large, small), 15)
        assert asyncio.get_running_loop().time() - stopped < 5 + 3


async def idle(*places: Place) -> bool:
    return not any([(await here.view()).sessions for here in places])


async def learns(postgres_dsn: str, ledger: Database, port: int, most: int) -> None:
    """Two campaigns, a sender each, offered eight connections of which the relay takes ``most``."""
    async with AsyncExitStack() as stack:
        both = [
            await place(postgres_dsn, ledger, port, 400, key=key, relay={"connections": 8}) for key in ("one", "two")
        ]
        senders = [await stack.enter_async_context(here.sender()) for here in both]

        async def learned() -> bool:
            return (await both[0].view()).outlet.learned is not None

        await until(learned, 20)
        view = (await both[1].view()).outlet
        assert view.learned is not None
        assert 1 <= view.learned <= most
        assert "connections" in view.message
        for sender in senders:
            assert await sender.ends(60) is Ended.DRAINED
        for here in both:
            assert await here.count(S.ACCEPTED) == 400
            assert (await campaigns.load_breaker(ledger, here.campaign)).state is BreakerState.CLOSED
            assert await charges(ledger, here) == 0


async def charges(db: Database, here: Place) -> int:
    statement = "SELECT coalesce(sum(charges), 0) FROM fullsend.delivery WHERE campaign_id = %s"
    [(sum_,)] = await world.sql(db, statement, here.campaign)
    return int(sum_)


async def test_a_relay_that_takes_few_connections_teaches_all_campaigns_how_many(
    postgres_dsn: str, ledger: Database
) -> None:
    async with MailSink(faults=Faults(max_connections=3, reply_delay=0.005)) as sink:
        await learns(postgres_dsn, ledger, sink.port, 3)


async def test_a_slow_relay_gets_no_more_connections_than_it_can_use(postgres_dsn: str, ledger: Database) -> None:
    """There is no pool to time out on: who finds no connection free waits for the next reply, uncharged."""
    async with MailSink(faults=Faults(reply_delay=1.0)) as sink:
        few = await place(postgres_dsn, ledger, sink, 3, relay={"connections": 12, "reply_timeout": 30.0})
        assert await few.run() is Ended.DRAINED
        assert sink.peak_connections <= 3
        many = await place(postgres_dsn, ledger, sink, 12, key="many", relay={"connections": 4, "reply_timeout": 30.0})
        assert await many.run(seconds=60) is Ended.DRAINED
        assert sink.peak_connections == 4
        assert await many.count(S.ACCEPTED) == 12
        assert (await many.view()).breaker.failures == 0
        assert await charges(ledger, many) == 0


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def a_postfix(authority: trustme.CA) -> Iterator[Server]:
    try:
        with postfix(
            authority, smtpd_client_connection_count_limit="3", smtpd_client_event_limit_exceptions=""
        ) as server:
            yield server
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
def an_exim(authority: trustme.CA) -> Iterator[Server]:
    try:
        with exim(
            authority, "smtp_accept_max_per_host = 3\nsmtp_accept_queue_per_connection = 0\nqueue_only"
        ) as server:
            yield server
    except Unavailable as why:
        pytest.skip(str(why))


async def test_postfix_count_limit_teaches_the_transport(
    postgres_dsn: str, ledger: Database, a_postfix: Server
) -> None:
    await learns(postgres_dsn, ledger, a_postfix.port, 3)


async def test_exims_limit_per_host_teaches_the_transport(postgres_dsn: str, ledger: Database, an_exim: Server) -> None:
    await learns(postgres_dsn, ledger, an_exim.port, 3)
