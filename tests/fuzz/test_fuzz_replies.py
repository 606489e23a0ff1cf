"""Whatever a relay sends: the parser reads replies or names what is wrong, and every reply has a verdict, soon."""

from __future__ import annotations

from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fullsend.smtp.classify import Verdict, classify_reply
from fullsend.smtp.outcome import Stage
from fullsend.smtp.reply import MAX_LINE, MAX_REPLY, MAX_TEXT, Reply, ReplyParser
from fullsend.smtp.rules import Charge
from fuzz.fuzzing import bounded, fuzzed, mutated

CORPUS = YAML(typ="safe").load((Path(__file__).parents[1] / "unit/smtp/replies.yaml").read_text("utf-8"))
TEXTS = [str(reply) for part in CORPUS for _, reply, _ in part["replies"]]


def wire(text: str) -> bytes:
    *first, last = text.split("\n")
    return "\r\n".join([*(f"{line[:3]}-{line[4:]}" for line in first), f"{last[:3]} {last[4:]}"]).encode() + b"\r\n"


SEEDS = [wire(text) for text in TEXTS]
TOKENS = [b"\r", b"\n", b"\r\n", b"\0", b"-", b" ", b"250-", b"550 ", b"5.1.1 ", b"(#5.7.1)", b"<a@b.example>", b"\xff"]
received = mutated(SEEDS, TOKENS) | st.lists(mutated(SEEDS, TOKENS), max_size=4).map(b"".join) | st.binary(max_size=300)


@fuzzed
@given(received, st.lists(st.integers(1, 80), max_size=30))
@example(b"5" * 5000, [])
@example(b"250-x\r\n" * 12_000, [])
def test_the_parser_reads_the_same_replies_in_whatever_pieces_and_stays_within_its_bounds(
    data: bytes, pieces: list[int]
) -> None:
    with bounded():
        whole, cut = ReplyParser(), ReplyParser()
        expected, found, rest = whole.feed(data), [], data
        for size in pieces:
            found += cut.feed(rest[:size])
            rest = rest[size:]
        found += cut.feed(rest)
        assert found == expected
        assert bool(cut.violation) == bool(whole.violation)
        for code, text in expected:
            assert 100 <= code <= 599
            assert len(text) <= MAX_REPLY + MAX_LINE
            reply = Reply.of(code, text)
            assert reply.text.isprintable()
            assert len(reply.text) <= MAX_TEXT
            assert reply.enhanced in ("", reply.enhanced)
            assert not reply.enhanced or reply.enhanced[0] == str(code)[0]
        assert not expected or ReplyParser().feed(data) == expected


@fuzzed
@given(mutated([text.encode() for text in TEXTS], TOKENS), st.integers(400, 599), st.sampled_from(Stage))
@example(b"550 " + b"a@" * 500, 550, Stage.RCPT)
@example(b"550 " + b"too many " * 100, 550, Stage.RCPT)
@example(b"421 " + b"try again " * 100 + b"(" * 200, 421, Stage.DOT)
def test_every_refusal_has_one_verdict_with_a_name(text: bytes, code: int, stage: Stage) -> None:
    with bounded():
        verdict = classify_reply(stage, Reply.of(code, text))
        assert isinstance(verdict, Verdict)
        assert verdict.charge in Charge
        assert verdict.reason.isalnum()
        assert not (verdict.feeds_suppression and (verdict.charge is not Charge.RECIPIENT or not verdict.permanent))
        assert not (verdict.charge in (Charge.TRANSPORT, Charge.CONNECTION) and verdict.feeds_suppression)
        assert classify_reply(stage, Reply.of(code, text)) == verdict
