"""Nothing a relay sends raises, hangs or grows without bound; what is a reply is read as it was meant."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullsend.smtp.outcome import Accepted, Outgoing, Refused, Unknown, Unsent
from fullsend.smtp.reply import MAX_LINE, MAX_REPLY, MAX_TEXT, RawReply, Reply, ReplyParser
from fullsend.smtp.session import Session
from fullsend.smtp.settings import Pipelining, Timeouts

unhurried = settings(deadline=None)  # the machine may have other work to do


def parse(data: bytes) -> list[Reply]:
    return [Reply.of(*raw) for raw in ReplyParser().feed(data)]


@pytest.mark.parametrize(
    ("wire", "code", "enhanced", "text"),
    [
        (b"250 2.1.0 Ok\r\n", 250, "2.1.0", "Ok"),
        (b"250\r\n", 250, "", ""),
        (b"250 \r\n", 250, "", ""),
        (b"250\n", 250, "", ""),
        (b"250 Ok\n", 250, "", "Ok"),
        (b"354End data\r\n", 354, "", "End data"),
        (b"550\t5.1.1 tab\r\n", 550, "5.1.1", "tab"),
        (b"550 #5.1.0 Address rejected.\r\n", 550, "5.1.0", "Address rejected."),
        (b"550 [5.7.1] no\r\n", 550, "5.7.1", "no"),
        (b"550 5.1.1: no\r\n", 550, "5.1.1", "no"),
        (b"550 sorry, no mailbox here by that name. (#5.1.1)\r\n", 550, "5.1.1", None),
        (b"550-5.1.1 It\r\n550-5.1.1 does not\r\n550 5.1.1 exist\r\n", 550, "5.1.1", "It does not exist"),
        (b"550-5.1.1 one\r\n550 5.7.1 other\r\n", 550, "5.1.1", "one 5.7.1 other"),
        (b"250-first\r\n250-\r\n250 last\r\n", 250, "", "first last"),
        (b"550-a\r\n554 b\r\n", 554, "", "a b"),
        (b"250 5.1.1 of another class\r\n", 250, "", "5.1.1 of another class"),
        (b"550 1.2.3.4 is blocked\r\n", 550, "", "1.2.3.4 is blocked"),
        (b"550 5.7.1.2 is an address\r\n", 550, "", "5.7.1.2 is an address"),
        (b"550 5.7.511 three digits\r\n", 550, "5.7.511", "three digits"),
        ("550 5.1.1 niño\r\n".encode(), 550, "5.1.1", "niño"),
        (b"550 5.1.1 ni\xf1o\x00\x07 \x1b[31m\r\n", 550, "5.1.1", "ni\ufffdo [31m"),
    ],
)  # fmt: skip
def test_a_reply_is_read_as_it_was_meant(wire: bytes, code: int, enhanced: str, text: str | None) -> None:
    (reply,) = parse(wire)
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert text is None or reply.text == text


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"hello\r\n",
        b"25\r\n",
        b"2500 ok\r\n",
        b" 250 ok\r\n",
        b"-250 ok\r\n",
        b"+25 ok\r\n",
        b"\x00250 ok\r\n",
        b"099 ok\r\n",
        b"600 ok\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\noops\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250 " + b"x" * (MAX_LINE + 1),
        b"250 " + b"x" * (MAX_LINE + 1) + b"\r\n",
        b"250-" + b"x" * 1000 + (b"\r\n250-" + b"x" * 1000) * (MAX_REPLY // 1000 + 1),
    ],
)
def test_what_is_no_reply_is_a_violation_with_words(wire: bytes) -> None:
    parser = ReplyParser()
    assert parser.feed(wire) == []
    assert parser.violation
    assert parser.violation.isprintable()
    assert parser.feed(b"250 ok\r\n") == []


def test_text_is_bounded_and_printable() -> None:
    reply = Reply.of(550, b"\r\n".join([b"\x00\x1f word" * 300] * 20))
    assert len(reply.text) <= MAX_TEXT
    assert reply.text.isprintable()


replies = st.lists(
    st.tuples(
        st.sampled_from([220, 250, 354, 421, 450, 550]),
        st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), min_size=1, max_size=4),
    ),
    max_size=6,
)


@unhurried
@given(replies, st.lists(st.integers(1, 9), max_size=30))
def test_fragments_make_no_difference(given_replies: list[tuple[int, list[bytes]]], cuts: list[int]) -> None:
    wire = b""
    for code, lines in given_replies:
        for line in lines[:-1]:
            wire += b"%d-%s\r\n" % (code, line)
        wire += b"%d %s\r\n" % (code, lines[-1])
    parser, found, rest = ReplyParser(), [], wire
    for cut in cuts:
        found += parser.feed(rest[:cut])
        rest = rest[cut:]
    found += parser.feed(rest)
    assert found == ReplyParser().feed(wire)
    assert [code for code, _ in found] == [code for code, _ in given_replies]
    assert not parser.partial


@unhurried
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_no_bytes_raise_and_every_reply_is_printable(chunks: list[bytes]) -> None:
    parser, found = ReplyParser(), list[RawReply]()
    for chunk in chunks:
        found += parser.feed(chunk)
    for raw in found:
        reply = Reply.of(*raw)
        assert 100 <= reply.code <= 599
        assert reply.text.isprintable()
        assert str(reply).isprintable()


class FakeTransport(asyncio.Transport):
    """What a session writes is answered, chunk by chunk, with what the test drew."""

    def __init__(self, chunks: list[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._closed = False
        self.protocol: asyncio.Protocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._closed

    def write(self, data: object) -> None:
        asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        assert self.protocol
        if self._closed:
            return
        if self._chunks:
            self.protocol.data_received(self._chunks.pop(0))
            asyncio.get_running_loop().call_soon(self._answer)
        else:
            self.protocol.eof_received()

    def abort(self) -> None:
        if not self._closed:
            self._closed = True
            assert self.protocol
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


lines = st.sampled_from(
    [b"250 ok\r\n", b"250-a\r\n", b"250 2.0.0 queued\r\n", b"354 go\r\n", b"421 bye\r\n", b"550 5.1.1 no\r\n",
     b"451 x\r\n", b"220 hi\r\n", b"250", b"\r\n", b"\x00\xff", b"35", b"4 go\r\n", b"503 bad\r\n", b"x" * 5000]
)  # fmt: skip


@unhurried
@given(
    st.lists(st.lists(lines, max_size=6).map(b"".join) | st.binary(min_size=1, max_size=60), max_size=12),
    st.sampled_from(Pipelining),
)
def test_whatever_a_relay_says_every_message_has_a_named_outcome(chunks: list[bytes], mode: Pipelining) -> None:
    async def submit_three() -> None:
        session = Session(
            FakeTransport([chunk for chunk in chunks if chunk]),
            relay="fuzz",
            capabilities={"PIPELINING": ""},
            pipelining=mode,
            timeouts=Timeouts(),
            on_desync=lambda why: None,
        )
        letters = [Outgoing("a@b.c", f"{number}@e.f", b"x\r\n") for number in range(3)]
        async with asyncio.timeout(5):
            ended = False
            for message, following in zip(letters, [*letters[1:], None], strict=True):
                outcome = await session.submit(message, following)
                assert isinstance(outcome, Accepted | Refused | Unsent | Unknown)
                if ended:
                    assert isinstance(outcome, Unsent)
                ended = ended or isinstance(outcome, Unsent | Unknown)
            await session.quit()

    asyncio.run(submit_three())


ENVELOPE_CODES = st.tuples(*[st.sampled_from([250, 251, 354, 450, 550, 421, 220, 334])] * 3)


@unhurried
@given(ENVELOPE_CODES, st.sampled_from([250, 252, 354, 451, 554, 421, 221]), st.sampled_from(Pipelining))
def test_the_verdict_is_the_first_failing_reply_in_order(
    envelope: tuple[int, int, int], dot: int, mode: Pipelining
) -> None:
    """An oracle in the words of the specification, against every combination of codes."""

    def wanted() -> type:
        for index, code in enumerate(envelope):
            if code == 421:
                return Refused if any(earlier >= 400 for earlier in envelope[:index]) else Unsent
            if code < 400 and code not in ((354,) if index == 2 else (250, 251)):
                return Unsent
            if code >= 400 and mode is Pipelining.OFF:
                return Refused
        if any(code >= 400 for code in envelope):
            return Refused
        if dot >= 400:
            return Refused
        return Accepted if dot in (250, 252) else Unknown

    async def check() -> None:
        if mode is Pipelining.OFF:
            chunks = [b"%d x\r\n" % code for code in (*envelope, dot)]
        else:
            chunks = [b"".join(b"%d x\r\n" % code for code in envelope), b"%d x\r\n" % dot]
        transport = StepTransport(chunks)
        session = Session(
            transport,
            relay="fuzz",
            capabilities={"PIPELINING": ""},
            pipelining=mode,
            timeouts=Timeouts(),
            on_desync=lambda why: None,
        )
        outcome = await session.submit(Outgoing("a@b.c", "d@e.f", b"content\r\n"))
        assert type(outcome) is wanted(), outcome
        whole = not any(code >= 400 for code in envelope) and isinstance(outcome, Accepted | Unknown | Refused)
        assert any(b"content" in data for data in transport.written) is whole
        if isinstance(outcome, Refused):
            failing = [code for code in (*envelope, dot) if code >= 400]
            assert outcome.reply.code == failing[0]

    asyncio.run(check())


class StepTransport(FakeTransport):
    """One chunk for each write, as a relay that waits its turn."""

    def __init__(self, chunks: list[bytes]) -> None:
        super().__init__(chunks)
        self.written: list[bytes] = []

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written.append(data)
        if self._chunks:
            assert self.protocol
            asyncio.get_running_loop().call_soon(self.protocol.data_received, self._chunks.pop(0))
