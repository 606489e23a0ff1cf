"""Between the envelope and the content the sender is asked once more: a no leaves nothing on the wire."""

from __future__ import annotations

import asyncio

import pytest

from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outgoing, Unsent
from fullsend.smtp.settings import Pipelining, RelaySettings, Tls
from support.scripted_smtp import Script, ScriptedServer, say


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


LETTER = Outgoing("a@b.example", "c@d.example", b"Subject: x\r\n\r\nhello\r\n")


@pytest.mark.parametrize("mode", tuple(Pipelining))
async def test_no_content_is_written_once_the_sender_says_no(mode: Pipelining) -> None:
    async with ScriptedServer() as server:
        session = await connect(RelaySettings("127.0.0.1", server.port, Tls.OFF, mode))
        assert isinstance(await session.submit(LETTER, None, yes), Accepted)
        assert session.content_started
        assert isinstance(await session.submit(LETTER, None, no), Unsent)
        assert not session.content_started
        assert not session.usable
        await asyncio.sleep(0.05)
        assert len(server.contents) == 1


@pytest.mark.parametrize("mode", tuple(Pipelining))
async def test_a_session_closed_while_the_relay_hesitates_before_the_content_is_unsent(mode: Pipelining) -> None:
    async with ScriptedServer(Script(rcpt=say("250 ok", delay=30))) as server:
        session = await connect(RelaySettings("127.0.0.1", server.port, Tls.OFF, mode))
        submitting = asyncio.create_task(session.submit(LETTER, None, yes))
        await asyncio.sleep(0.1)
        assert not session.content_started
        session.abort()
        assert isinstance(await asyncio.wait_for(submitting, 2), Unsent)
        assert server.contents == []
