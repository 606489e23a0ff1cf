"""What became of a message, whatever the relay does: the session against a scripted one, in every mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from fullsend.smtp.connect import connect
from fullsend.smtp.outcome import Accepted, Outcome, Outgoing, Refused, Stage, Unknown, Unsent
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining, RelayMemory, RelaySettings, Timeouts, Tls
from support.scripted_smtp import NOTHING, Say, Script, ScriptedServer, say

ALL = tuple(Pipelining)
PIPELINED = (Pipelining.GROUP, Pipelining.OVERLAP)
PATIENT = Timeouts(10, 10, 10, 10, 10, 10)  # for a machine with other work to do
QUICK = Timeouts(10, 10, reply=0.4, data=0.4, block=0.4, dot=0.4)  # where the relay falls silent
each_mode = pytest.mark.parametrize("mode", ALL)
each_pipelined = pytest.mark.parametrize("mode", PIPELINED)


def letter(number: int = 0, body: bytes = b"hello\r\n", **fields: str) -> Outgoing:
    data = b"Subject: %d\r\n\r\n" % number + body
    return Outgoing(fields.get("sender", "from@a.example"), fields.get("recipient", f"u{number}@b.example"), data)


def settings_for(server: ScriptedServer, mode: Pipelining, timeouts: Timeouts = PATIENT) -> RelaySettings:
    return RelaySettings("127.0.0.1", server.port, Tls.OFF, mode, timeouts=timeouts)


@asynccontextmanager
async def session_to(
    server: ScriptedServer, mode: Pipelining, memory: RelayMemory | None = None, timeouts: Timeouts = PATIENT
) -> AsyncIterator[Session]:
    session = await connect(settings_for(server, mode, timeouts), memory)
    try:
        yield session
    finally:
        session.abort()
        await asyncio.sleep(0)


async def send_all(session: Session, letters: Sequence[Outgoing]) -> list[Outcome]:
    return [
        await session.submit(message, following)
        for message, following in zip(letters, [*letters[1:], None], strict=True)
    ]


def refusing(*refused: int, with_: str = "550 5.1.1 no such user") -> Callable[[str], Say]:
    def answer(command: str) -> Say:
        return say(with_) if any(f"<u{number}@" in command for number in refused) else say("250 2.1.5 ok")

    return answer


async def run(script: Script, mode: Pipelining, count: int = 3) -> tuple[list[Outcome], ScriptedServer]:
    async with ScriptedServer(script) as server, session_to(server, mode) as session:
        outcomes = await send_all(session, [letter(number) for number in range(count)])
        await session.quit()
        await asyncio.sleep(0.02)
    return outcomes, server


# --- The verdict ----------------------------------------------------------------------------------------------------


@each_mode
async def test_every_message_arrives_whole_and_once(mode: Pipelining) -> None:
    outcomes, server = await run(Script(), mode, 5)
    assert all(isinstance(outcome, Accepted) and outcome.reply.text == "queued" for outcome in outcomes)
    assert server.contents == [letter(number).data for number in range(5)]
    assert server.connections[0].commands[-1] == "QUIT"


async def test_overlap_writes_the_next_envelope_with_the_content_and_group_does_not() -> None:
    for mode, together in ((Pipelining.OVERLAP, True), (Pipelining.GROUP, False), (Pipelining.OFF, False)):
        _, server = await run(Script(), mode)
        chunks = server.connections[0].chunks
        assert any(b"\r\n.\r\nMAIL FROM:" in chunk and chunk.endswith(b"DATA\r\n") for chunk in chunks) is together
        envelope = b"MAIL FROM:<from@a.example> SIZE=21\r\nRCPT TO:<u0@b.example>\r\nDATA\r\n"
        assert (envelope in chunks) is (mode is not Pipelining.OFF)


@each_mode
async def test_a_refused_recipient_gets_no_content_and_its_neighbours_theirs(mode: Pipelining) -> None:
    outcomes, server = await run(Script(rcpt=refusing(1, 2)), mode, 5)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Refused, Accepted, Accepted]
    refused = outcomes[1]
    assert isinstance(refused, Refused)
    assert (refused.stage, refused.reply.code, refused.reply.enhanced) == (Stage.RCPT, 550, "5.1.1")
    assert not refused.connection_lost
    wanted = [letter(number).data for number in (0, 3, 4)]
    assert [content for content in server.contents if content] == wanted
    # Where DATA was already written and answered by 354, a lone dot ended it.
    assert server.contents.count(b"") == (0 if mode is Pipelining.OFF else 2)


@each_mode
async def test_a_refused_recipient_whose_data_is_refused_too_is_followed_by_rset(mode: Pipelining) -> None:
    data = [say("354 go"), say("554 5.5.1 no valid recipients"), say("354 go")]
    if mode is Pipelining.OFF:
        data = [say("354 go")]
    outcomes, server = await run(Script(rcpt=refusing(1), data=data), mode)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted]
    assert outcomes[1].stage is Stage.RCPT  # type: ignore[union-attr]
    verbs = [command.split()[0] for command in server.connections[0].commands]
    assert verbs.count("RSET") == 1
    assert server.contents == [letter(0).data, letter(2).data]


@each_mode
async def test_a_refused_sender_needs_no_rset(mode: Pipelining) -> None:
    script = Script(
        mail=[say("250 ok"), say("550 5.7.1 not you"), say("250 ok")],
        rcpt=[say("250 ok"), say("503 5.5.1 MAIL first"), say("250 ok")] if mode is not Pipelining.OFF else say("250"),
        data=[say("354 go"), say("503 5.5.1 MAIL first"), say("354 go")] if mode is not Pipelining.OFF else say("354"),
    )
    outcomes, server = await run(script, mode)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted]
    assert outcomes[1].stage is Stage.MAIL  # type: ignore[union-attr]
    assert "RSET" not in server.connections[0].commands


@each_pipelined
async def test_a_relay_that_says_354_to_a_refused_sender_gets_a_lone_dot(mode: Pipelining) -> None:
    outcomes, server = await run(Script(mail=[say("550 no"), say("250 ok")]), mode, 2)
    assert [type(outcome) for outcome in outcomes] == [Refused, Accepted]
    assert server.contents == [b"", letter(1).data]


@each_mode
async def test_refused_data_is_the_verdict_and_leaves_no_open_transaction(mode: Pipelining) -> None:
    outcomes, server = await run(Script(data=[say("451 4.3.0 not now"), say("354 go")]), mode, 2)
    assert isinstance(outcomes[0], Refused)
    assert outcomes[0].stage is Stage.DATA
    assert isinstance(outcomes[1], Accepted)
    assert server.connections[0].commands.count("RSET") == 1


@each_mode
async def test_refused_content_is_the_verdict(mode: Pipelining) -> None:
    outcomes, server = await run(Script(dot=[say("554 5.7.1 spam"), say("250 ok")]), mode, 2)
    assert outcomes[0] == Refused(Stage.DOT, outcomes[0].reply)  # type: ignore[union-attr]
    assert isinstance(outcomes[1], Accepted)
    assert "RSET" not in server.connections[0].commands


@each_pipelined
async def test_the_reply_to_a_lone_dot_is_ignored_whatever_it_says(mode: Pipelining) -> None:
    for answer in ("250 2.0.0 queued an empty mail", "554 5.5.1 no valid recipients", "451 odd"):
        script = Script(rcpt=refusing(0), dot=[say(answer), say("250 2.0.0 really queued")])
        outcomes, _ = await run(script, mode, 2)
        assert [type(outcome) for outcome in outcomes] == [Refused, Accepted]
        assert outcomes[1].reply.text == "really queued"  # type: ignore[union-attr]


async def test_nothing_follows_a_lone_dot_before_its_reply_unless_overlap_is_asked_for() -> None:
    for mode, waits in ((Pipelining.GROUP, True), (Pipelining.OVERLAP, False)):
        slow = Script(rcpt=refusing(0), dot=say("554 5.5.1 no", delay=0.2))
        async with ScriptedServer(slow) as server, session_to(server, mode) as session:
            started = asyncio.get_running_loop().time()
            assert isinstance(await session.submit(letter(0), letter(1)), Refused)
            assert (asyncio.get_running_loop().time() - started > 0.19) is waits
            await asyncio.sleep(0.05)
            together = any(chunk.startswith(b".\r\nMAIL FROM:") for chunk in server.connections[0].chunks)
            assert together is not waits


@each_pipelined
async def test_an_invitation_in_answer_to_a_lone_dot_is_out_of_step(mode: Pipelining) -> None:
    outcomes, server = await run(Script(rcpt=refusing(0), dot=say("354 go on")), mode, 2)
    assert [type(outcome) for outcome in outcomes] == [Refused, Unsent]
    assert server.contents == [b""]


@each_mode
async def test_rset_that_fails_closes_the_connection_and_leaves_the_next_unsent(mode: Pipelining) -> None:
    outcomes, server = await run(Script(data=say("451 4.3.0 no"), rset=say("502 5.5.1 what?")), mode, 2)
    assert [type(outcome) for outcome in outcomes] == [Refused, Unsent]
    assert server.contents == []


# --- How replies come -----------------------------------------------------------------------------------------------


@each_mode
async def test_replies_in_fragments_of_one_byte_are_replies(mode: Pipelining) -> None:
    script = Script(
        mail=say("250-2.1.0 of", "250 2.1.0 two lines", fragment=1),
        rcpt=say("250 ok", fragment=1),
        data=say("354 go", fragment=1),
        dot=say("250 2.0.0 queued", fragment=1),
    )
    outcomes, _ = await run(script, mode, 2)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)


@each_pipelined
async def test_replies_all_at_once_are_replies(mode: Pipelining) -> None:
    script = Script(mail=NOTHING, rcpt=NOTHING, data=say("250 mail", "250 rcpt", "354 data"))
    outcomes, _ = await run(script, mode)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)


@each_mode
async def test_bare_codes_and_bad_utf8_are_replies(mode: Pipelining) -> None:
    script = Script(
        mail=say("250"), rcpt=say(b"250\r\n"), data=say(b"354\n"), dot=say(b"250 2.0.0 \xff\x00\xfe ok\r\n")
    )
    outcomes, _ = await run(script, mode)
    for outcome in outcomes:
        assert isinstance(outcome, Accepted)
        assert outcome.reply.text == "\ufffd \ufffd ok"


# --- Out of step ----------------------------------------------------------------------------------------------------

OUT_OF_STEP = {
    "DATA answered 250": Script(data=say("250 go ahead")),
    "MAIL answered 354": Script(mail=say("354 go")),
    "RCPT answered 221": Script(rcpt=say("221 bye")),
    "one reply too many to RCPT": Script(rcpt=say("250 ok", "250 ok")),
    "one reply too many to DATA": Script(data=say("354 go", "250 early")),
    "garbage": Script(rcpt=say("I am not a mail server")),
    "an empty line": Script(rcpt=say("", "250 ok")),
    "a NUL before the code": Script(mail=say(b"\x00250 ok\r\n")),
    "one reply with two meanings": Script(mail=say("250-fine", "550 or not")),
    "an endless line": Script(mail=say(b"250 " + b"a" * 100_000)),
    "endless lines": Script(mail=say(b"250-" + b"\r\n250-".join([b"a" * 1000] * 200))),
}


@each_mode
@pytest.mark.parametrize("what", OUT_OF_STEP)
async def test_out_of_step_before_the_content_is_unsent_and_closes(mode: Pipelining, what: str) -> None:
    memory = RelayMemory()
    async with ScriptedServer(OUT_OF_STEP[what], Script()) as server:
        async with session_to(server, mode, memory) as session:
            assert session.pipelining is mode
            first, second = await send_all(session, [letter(0), letter(1)])
            assert isinstance(first, Unsent), first
            assert isinstance(second, Unsent)
            assert not session.usable
        assert bool(memory.why_lock_step(settings_for(server, mode))) is (mode is not Pipelining.OFF)
        await asyncio.sleep(0.02)
        assert [content for content in server.contents if content] == []
        async with session_to(server, mode, memory) as session:
            assert session.pipelining is Pipelining.OFF
            assert isinstance(await session.submit(letter(2)), Accepted)


@each_pipelined
async def test_a_refusal_that_is_followed_by_nonsense_is_not_believed(mode: Pipelining) -> None:
    outcomes, _ = await run(Script(rcpt=say("550 5.1.1 no"), data=say("250 go ahead")), mode, 2)
    assert [type(outcome) for outcome in outcomes] == [Unsent, Unsent]


@each_mode
@pytest.mark.parametrize("answer", ["354 again?", "221 bye", "220 hello", "oops", "250-yes\r\n550 no"])
async def test_out_of_step_after_the_content_is_unknown_and_closes(mode: Pipelining, answer: str) -> None:
    async with ScriptedServer(Script(dot=say(answer))) as server, session_to(server, mode) as session:
        first, second = await send_all(session, [letter(0), letter(1)])
        assert isinstance(first, Unknown)
        assert isinstance(second, Unsent)
        assert not session.usable
        await asyncio.sleep(0.02)
        assert server.contents == [letter(0).data]


async def test_a_surplus_reply_does_not_take_back_the_acceptance_before_it() -> None:
    async with (
        ScriptedServer(Script(data=[say("354 go"), say("354 go", "250 surplus")])) as server,
        session_to(server, Pipelining.OVERLAP) as session,
    ):
        outcomes = await send_all(session, [letter(0), letter(1), letter(2)])
        assert [type(outcome) for outcome in outcomes] == [Accepted, Unsent, Unsent]


async def test_what_is_said_unasked_between_messages_makes_the_session_unusable() -> None:
    for unasked in ("250 surprise", "421 4.4.2 idle too long"):
        async with (
            ScriptedServer(Script(unasked=say(unasked))) as server,
            session_to(server, Pipelining.GROUP) as session,
        ):
            assert isinstance(await session.submit(letter()), Accepted)
            await asyncio.sleep(0.6)
            assert not session.usable
            outcome = await session.submit(letter(1))
            assert isinstance(outcome, Unsent)
            assert (outcome.reply is not None) is unasked.startswith("421")


# --- 421 and lost connections ---------------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA])
async def test_421_before_the_content_leaves_the_row_untouched(mode: Pipelining, stage: Stage) -> None:
    going = say("421 4.3.2 shutting down", after="close")
    async with ScriptedServer(replace(Script(), **{stage.lower(): going})) as server:
        async with session_to(server, mode) as session:
            first, second = await send_all(session, [letter(0), letter(1)])
            assert isinstance(first, Unsent)
            assert first.stage is stage
            assert first.reply is not None
            assert first.reply.code == 421
            assert isinstance(second, Unsent)
            assert not session.usable
        assert server.contents == []


@each_mode
async def test_421_to_the_content_is_a_refusal(mode: Pipelining) -> None:
    async with (
        ScriptedServer(Script(dot=say("421 4.3.2 shutting down", after="close"))) as server,
        session_to(server, mode) as session,
    ):
        first, second = await send_all(session, [letter(0), letter(1)])
        assert isinstance(first, Refused)
        assert (first.stage, first.reply.code, first.connection_lost) == (Stage.DOT, 421, True)
        assert isinstance(second, Unsent)


async def test_after_a_421_the_connection_is_closed_from_this_side() -> None:
    leaving = Script(dot=say("421 4.3.2 bye"))
    async with ScriptedServer(leaving) as server, session_to(server, Pipelining.OVERLAP) as session:
        await session.submit(letter(0))
        async with asyncio.timeout(5):
            while not server.connections[0].ended:
                await asyncio.sleep(0.01)


@each_mode
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
async def test_a_connection_lost_before_the_content_is_unsent(mode: Pipelining, stage: str, ending: str) -> None:
    script = replace(Script(), **{stage: Say(b"", after=ending)})  # type: ignore[arg-type]
    async with ScriptedServer(script) as server, session_to(server, mode) as session:
        outcomes = await send_all(session, [letter(0), letter(1)])
        assert [type(outcome) for outcome in outcomes] == [Unsent, Unsent]


@each_mode
@pytest.mark.parametrize("ending", ["close", "reset", "hang"])
async def test_a_connection_lost_or_silent_after_the_content_is_unknown(mode: Pipelining, ending: str) -> None:
    async with (
        ScriptedServer(Script(dot=Say(b"", after=ending))) as server,
        session_to(server, mode, timeouts=QUICK) as session,
    ):  # type: ignore[arg-type]
        outcomes = await send_all(session, [letter(0), letter(1)])
        assert [type(outcome) for outcome in outcomes] == [Unknown, Unsent]
        assert not session.usable


@each_mode
async def test_half_a_reply_to_the_content_is_unknown(mode: Pipelining) -> None:
    for half in (b"250 2.0.0 queued as", b"250-2.0.0 queued\r\n", b"25"):
        async with ScriptedServer(Script(dot=Say(half, after="close"))) as server, session_to(server, mode) as session:
            assert isinstance(await session.submit(letter()), Unknown)


@each_mode
async def test_a_verdict_that_came_before_the_end_of_the_connection_counts(mode: Pipelining) -> None:
    async with (
        ScriptedServer(Script(rcpt=say("550 5.1.1 no", after="close"))) as server,
        session_to(server, mode) as session,
    ):
        outcome = await session.submit(letter())
        assert isinstance(outcome, Refused)
        assert outcome.stage is Stage.RCPT
        assert outcome.connection_lost or mode is Pipelining.OFF  # the end may not have been noticed yet
    async with (
        ScriptedServer(Script(dot=say("250 2.0.0 queued", after="close"))) as server,
        session_to(server, mode) as session,
    ):
        assert isinstance(await session.submit(letter()), Accepted)
        await asyncio.sleep(0.02)
        assert not session.usable


@each_mode
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
async def test_silence_before_the_content_is_unsent_within_the_timeout(mode: Pipelining, stage: str) -> None:
    async with (
        ScriptedServer(replace(Script(), **{stage: Say(b"", after="hang")})) as server,
        session_to(server, mode, timeouts=QUICK) as session,
    ):
        async with asyncio.timeout(5):
            outcome = await session.submit(letter())
        assert isinstance(outcome, Unsent)
        assert "0.4 s" in outcome.why


async def test_a_dripping_relay_does_not_stretch_the_timeout() -> None:
    async with (
        ScriptedServer(Script(mail=say("250 " + "x" * 100, fragment=1, pause=0.1))) as server,
        session_to(server, Pipelining.GROUP, timeouts=QUICK) as session,
    ):
        async with asyncio.timeout(5):
            assert isinstance(await session.submit(letter()), Unsent)


async def test_each_reply_of_a_group_has_the_whole_timeout() -> None:
    slow = Script(mail=say("250 ok", delay=0.3), rcpt=say("250 ok", delay=0.3), data=say("354 ok", delay=0.3))
    async with ScriptedServer(slow) as server, session_to(server, Pipelining.GROUP, timeouts=QUICK) as session:
        assert isinstance(await session.submit(letter()), Accepted)


# --- The content ----------------------------------------------------------------------------------------------------


@each_mode
async def test_lines_that_begin_with_a_dot_arrive_as_they_were(mode: Pipelining) -> None:
    for body in (b".\r\n", b"..\r\n.\r\n.a\r\n", b"a\r\n.\r\nQUIT\r\n"):
        async with ScriptedServer(Script()) as server, session_to(server, mode) as session:
            assert isinstance(await session.submit(letter(0, body)), Accepted)
            received = server.contents[0].replace(b"\r\n..", b"\r\n.")
            assert received == letter(0, body).data
            assert len(server.contents) == 1


async def test_content_that_starts_with_a_dot_is_stuffed_too() -> None:
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.GROUP) as session:
        assert isinstance(await session.submit(Outgoing("a@b.c", "d@e.f", b".\r\n.\r\n")), Accepted)
        assert server.contents == [b"..\r\n..\r\n"]


@pytest.mark.parametrize("data", [b"", b"no end", b"bare\nlf\r\n", b"bare\rcr\r\n", b"end\n", b"\r\r\n"])
async def test_data_that_is_not_crlf_throughout_is_a_programming_error(data: bytes) -> None:
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.OVERLAP) as session:
        with pytest.raises(ValueError, match="CRLF"):
            await session.submit(Outgoing("a@b.c", "d@e.f", data))
        await asyncio.sleep(0.02)
        assert server.connections[0].commands[1:] == []


@each_mode
async def test_a_long_message_arrives_whole(mode: Pipelining) -> None:
    body = b"".join(b"%07d %s\r\n" % (number, b"x" * 60) for number in range(30_000))  # 2.1 MB
    async with ScriptedServer(Script()) as server, session_to(server, mode) as session:
        outcomes = await send_all(session, [letter(0, body), letter(1), letter(2, body)])
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        assert server.contents == [letter(0, body).data, letter(1).data, letter(2, body).data]


LONG = b"x" * 70 + b"\r\n"


@each_mode
async def test_a_refusal_in_the_middle_of_a_long_content_is_the_verdict(mode: Pipelining) -> None:
    script = Script(ehlo=say("250-x", "250 PIPELINING"), content=say("552 5.3.4 too big", after="deaf"))
    async with ScriptedServer(script) as server, session_to(server, mode) as session:
        outcome = await session.submit(letter(0, LONG * 200_000))
        assert isinstance(outcome, Refused)
        assert (outcome.stage, outcome.reply.enhanced, outcome.connection_lost) == (Stage.DOT, "5.3.4", True)


@each_mode
async def test_an_acceptance_in_the_middle_of_a_long_content_is_no_acceptance(mode: Pipelining) -> None:
    script = Script(ehlo=say("250-x", "250 PIPELINING"), content=say("250 2.0.0 queued", after="deaf"))
    async with ScriptedServer(script) as server, session_to(server, mode) as session:
        assert isinstance(await session.submit(letter(0, LONG * 200_000)), Unknown)
        assert not session.usable


@each_mode
@pytest.mark.parametrize("ending", ["deaf", "close", "reset"])
async def test_a_long_content_cut_short_is_unknown(mode: Pipelining, ending: str) -> None:
    script = Script(ehlo=say("250-x", "250 PIPELINING"), content=Say(b"", after=ending))  # type: ignore[arg-type]
    async with ScriptedServer(script) as server, session_to(server, mode, timeouts=QUICK) as session:
        async with asyncio.timeout(5):
            outcome = await session.submit(letter(0, LONG * 200_000), letter(1))
        assert isinstance(outcome, Unknown)
        assert isinstance(await session.submit(letter(1)), Unsent)


# --- What the relay can't take is refused here ----------------------------------------------------------------------


@each_mode
async def test_a_message_beyond_size_is_refused_here_and_its_neighbours_pass(mode: Pipelining) -> None:
    async with ScriptedServer(Script(ehlo=say("250-x", "250-PIPELINING", "250 SIZE 100"))) as server:
        async with session_to(server, mode) as session:
            assert session.size_limit == 100
            outcomes = await send_all(session, [letter(0), letter(1, b"x" * 100 + b"\r\n"), letter(2)])
            assert [type(outcome) for outcome in outcomes] == [Accepted, Refused, Accepted]
            refused = outcomes[1]
            assert isinstance(refused, Refused)
            assert refused.local
            assert refused.reply.enhanced == "5.3.4"
        assert server.contents == [letter(0).data, letter(2).data]


async def test_an_address_outside_ascii_needs_smtputf8() -> None:
    utf8 = replace(letter(0, recipient="ünn@b.example"), smtputf8=True)
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.OVERLAP) as session:
        refused = await session.submit(utf8)
        assert isinstance(refused, Refused)
        assert (refused.stage, refused.reply.enhanced, refused.local) == (Stage.RCPT, "5.6.7", True)
        assert isinstance(await session.submit(letter(1)), Accepted)
    offering = Script(ehlo=say("250-x", "250-PIPELINING", "250-8BITMIME", "250 SMTPUTF8"))
    async with ScriptedServer(offering) as server, session_to(server, Pipelining.OVERLAP) as session:
        assert isinstance(await session.submit(replace(utf8, data="To: ünn\r\n\r\n".encode())), Accepted)
        assert "MAIL FROM:<from@a.example> BODY=8BITMIME SMTPUTF8" in server.connections[0].commands
        assert "RCPT TO:<ünn@b.example>" in server.connections[0].commands


@pytest.mark.parametrize("address", ["a@b\r\nRCPT TO:<c@d>", "a@b>", "a b@c", "a@b\x00", '"a\r\n"@b', "<a@b", "a@b\n"])
async def test_an_address_cannot_smuggle_a_command(address: str) -> None:
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.OVERLAP) as session:
        outcome = await session.submit(letter(0, recipient=address))
        assert isinstance(outcome, Refused)
        assert (outcome.local, outcome.stage, outcome.reply.enhanced) == (True, Stage.RCPT, "5.1.3")
        outcome = await session.submit(letter(0, sender=address))
        assert isinstance(outcome, Refused)
        assert (outcome.local, outcome.stage, outcome.reply.enhanced) == (True, Stage.MAIL, "5.1.7")
        assert isinstance(await session.submit(letter(1)), Accepted)
        assert len(server.connections[0].commands) == 4


async def test_a_null_sender_and_a_quoted_local_part_pass() -> None:
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.GROUP) as session:
        assert isinstance(await session.submit(letter(0, sender="", recipient='"a b"@c.example')), Accepted)
        assert "MAIL FROM:<> SIZE=21" in server.connections[0].commands
        assert 'RCPT TO:<"a b"@c.example>' in server.connections[0].commands


# --- Use and misuse -------------------------------------------------------------------------------------------------


async def test_what_was_written_ahead_must_be_submitted_next() -> None:
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.OVERLAP) as session:
        await session.submit(letter(0), letter(1))
        with pytest.raises(ValueError, match="written ahead"):
            await session.submit(letter(1))  # equal, but not the same object
        assert not session.usable
        await asyncio.sleep(0.02)
        assert server.contents == [letter(0).data]


async def test_one_submission_at_a_time() -> None:
    async with (
        ScriptedServer(Script(dot=say("250 ok", delay=0.1))) as server,
        session_to(server, Pipelining.GROUP) as session,
    ):
        first = asyncio.create_task(session.submit(letter(0)))
        await asyncio.sleep(0.02)
        with pytest.raises(RuntimeError):
            await session.submit(letter(1))
        assert isinstance(await first, Accepted)


async def test_a_cancelled_submission_closes_the_connection() -> None:
    async with (
        ScriptedServer(Script(dot=Say(b"", after="hang"))) as server,
        session_to(server, Pipelining.GROUP) as session,
    ):
        submission = asyncio.create_task(session.submit(letter(0)))
        await asyncio.sleep(0.05)
        submission.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submission
        assert not session.usable


@each_mode
async def test_quit_after_any_ending_returns_at_once(mode: Pipelining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullsend.smtp.session.QUIT_PATIENCE", 0.2)
    for script in (Script(rcpt=refusing(0)), Script(quit=NOTHING), Script(dot=Say(b"", after="close"))):
        async with ScriptedServer(script) as server, session_to(server, mode) as session:
            await session.submit(letter(0), letter(1) if script.quit is NOTHING else None)
            async with asyncio.timeout(1):
                await session.quit()
            assert not session.usable


async def test_quit_with_an_envelope_written_ahead_says_nothing_into_its_content() -> None:
    async with ScriptedServer(Script()) as server, session_to(server, Pipelining.OVERLAP) as session:
        await session.submit(letter(0), letter(1))
        await session.quit()
        async with asyncio.timeout(5):
            while not server.connections[0].ended:
                await asyncio.sleep(0.01)
        assert server.contents == [letter(0).data]
        assert not any(b"QUIT" in chunk for chunk in server.connections[0].chunks)


async def test_delivered_counts_acceptances_only() -> None:
    async with ScriptedServer(Script(rcpt=refusing(1))) as server, session_to(server, Pipelining.OVERLAP) as session:
        await send_all(session, [letter(number) for number in range(4)])
        assert session.delivered == 3


FAULTS = {
    "refused": (Script(rcpt=refusing(0)), Refused, Accepted),
    "refused twice": (Script(rcpt=say("550 no"), data=say("503 no")), Refused, Refused),
    "closed at RCPT": (Script(rcpt=Say(b"", after="close")), Unsent, Unsent),
    "reset at DATA": (Script(data=Say(b"", after="reset")), Unsent, Unsent),
    "closed at the dot": (Script(dot=Say(b"", after="close")), Unknown, Unsent),
    "reset at the dot": (Script(dot=Say(b"", after="reset")), Unknown, Unsent),
    "silent at the dot": (Script(dot=Say(b"", after="hang")), Unknown, Unsent),
    "421 at the dot": (Script(dot=say("421 bye", after="close")), Refused, Unsent),
    "accepted and closed": (Script(dot=say("250 ok", after="close")), Accepted, Unsent),
    "garbage": (Script(data=say("garbage")), Unsent, Unsent),
}
LONG_FAULTS = {
    "deaf": (Script(content=Say(b"", after="deaf")), Unknown, Unsent),
    "reset": (Script(content=Say(b"", after="reset")), Unknown, Unsent),
    "refused": (Script(content=say("552 5.3.4 no", after="deaf")), Refused, Unsent),
}


@each_mode
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_every_ending_is_the_same_on_either_loop(
    mode: Pipelining, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def endings() -> None:
        for faults, body in ((FAULTS, b"x\r\n"), (LONG_FAULTS, LONG * 120_000)):
            for what, (script, first, second) in faults.items():
                async with ScriptedServer(script) as server, session_to(server, mode, timeouts=QUICK) as session:
                    outcomes = await send_all(session, [letter(0, body), letter(1)])
                    assert [type(outcome) for outcome in outcomes] == [first, second], what

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(endings())
