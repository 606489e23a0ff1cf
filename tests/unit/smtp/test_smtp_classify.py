"""Whose failure each real reply is. The corpus is the specification; every rule of the table must be needed by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fullsend.errors import InvalidInput
from fullsend.smtp.classify import Verdict, classify, classify_reply, deciding, reply_rules
from fullsend.smtp.outcome import Refused, Stage
from fullsend.smtp.reply import Reply, ReplyParser
from fullsend.smtp.rules import Charge, table


def corpus() -> Iterator[tuple[Stage, str, str]]:
    text = Path(__file__).with_name("replies.yaml").read_text("utf-8")
    for part in YAML(typ="safe").load(text):
        assert part["source"]
        for stage, reply, verdict in part["replies"]:
            yield Stage(stage), str(reply), verdict


CORPUS = tuple(corpus())


def parse(text: str) -> Reply:
    """Through the parser, as off the wire; the last line of a reply written here may still look like a middle one."""
    lines = text.split("\\n")
    lines = [line[:3] + "-" + line[4:] for line in lines[:-1]] + [(lines[-1][:3] + " " + lines[-1][4:]).rstrip()]
    (raw,) = ReplyParser().feed("\r\n".join(lines).encode() + b"\r\n")
    return Reply.of(*raw)


def said(verdict: Verdict) -> str:
    words = [verdict.charge.value, "permanent" if verdict.permanent else "temporary", verdict.reason]
    words += ["feeds"] if verdict.feeds_suppression else []
    words += ["doubtful"] if verdict.doubtful else []
    return " ".join(words)


@pytest.mark.parametrize(("stage", "reply", "expected"), CORPUS, ids=lambda value: str(value)[:40])
def test_each_real_reply_is_charged_where_it_belongs(stage: Stage, reply: str, expected: str) -> None:
    assert said(classify_reply(stage, parse(reply))) == expected


def test_the_corpus_is_large_and_free_of_repetition() -> None:
    assert len(CORPUS) >= 150
    assert len({(stage, reply) for stage, reply, _ in CORPUS}) == len(CORPUS)


def test_every_rule_is_needed_by_a_reply_of_the_corpus() -> None:
    needed = {id(deciding(stage, parse(text))) for stage, text, _ in CORPUS}
    assert [f"{rule.reason} (rule {number})" for number, rule in enumerate(table(), 1) if id(rule) not in needed] == []


def test_the_tables_patterns_are_in_lower_case_as_the_text_they_search() -> None:
    for rule in table():
        assert rule.text is None or re.sub(r"\\.", "", rule.text.pattern).islower()


def test_only_the_recipients_own_failures_feed_suppression() -> None:
    for rule in table():
        assert not rule.feeds or (rule.charge is Charge.RECIPIENT and not rule.doubtful)
        assert not rule.doubtful or rule.charge is Charge.RECIPIENT
        if rule.charge in (Charge.TRANSPORT, Charge.CONNECTION):
            assert rule.permanent is False


def test_the_address_does_not_decide() -> None:
    for local in ("spam", "blacklist", "mailbox-full", "greylist", "no-such-user", "spf"):
        reply = Reply(550, "5.1.1", f"<{local}@quota.rbl.example>: rejected")
        assert classify_reply(Stage.RCPT, reply).reason == "MailboxUnknown"


def test_the_path_of_a_url_does_not_decide() -> None:
    reply = Reply(550, "5.1.1", "no; see https://www.example/residential/spam?ip=1.2.3.4#blocked")
    assert classify_reply(Stage.RCPT, reply).reason == "MailboxUnknown"
    assert (
        classify_reply(Stage.MAIL, Reply(553, "", "http://www.spamhaus.org/query?ip=x")).reason == "SenderBlockListed"
    )


def test_the_same_words_mean_another_at_another_stage() -> None:
    reply = Reply(550, "5.7.1", "rejected as spam")
    assert classify_reply(Stage.DOT, reply).charge is Charge.MESSAGE
    assert classify_reply(Stage.MAIL, reply).charge is Charge.SENDER
    bare = Reply(550, "", "no")
    assert [classify_reply(stage, bare).charge for stage in Stage] == [
        Charge.TRANSPORT,
        Charge.SENDER,
        Charge.RECIPIENT,
        Charge.MESSAGE,
        Charge.MESSAGE,
    ]


statuses = st.just("") | st.builds("{}.{}.{}".format, st.sampled_from([4, 5]), st.integers(0, 9), st.integers(0, 999))


@settings(deadline=None)
@given(st.sampled_from(Stage), st.integers(400, 599), statuses, st.text(max_size=300))
def test_any_reply_has_a_verdict(stage: Stage, code: int, status: str, text: str) -> None:
    verdict = classify(Refused(stage, Reply(code, status, text)))
    assert re.fullmatch(r"([A-Z][A-Za-z0-9]*)", verdict.reason)
    if verdict.charge in (Charge.TRANSPORT, Charge.CONNECTION):
        assert not verdict.permanent
    if verdict.feeds_suppression:
        assert verdict.charge is Charge.RECIPIENT
        assert verdict.permanent


@given(st.integers(1, 900))
def test_a_long_text_is_judged_in_time(size: int) -> None:
    """No pattern backtracks without bound: 1,000 characters is what a Reply keeps."""
    for word in ("user ", "exceeded ", "mailbox is ", "too many ", "from address "):
        classify_reply(Stage.RCPT, Reply(550, "", (word * size)[:1000]))


def test_reply_rules_override_the_table() -> None:
    rules = reply_rules(
        [
            {"pattern": "contract #\\d+", "charge": "Transport", "permanent": True},
            {
                "stage": "rcpt",
                "code": 550,
                "enhanced": "5.1.1",
                "charge": "Recipient",
                "permanent": False,
                "reason": "Moved",
            },
        ]
    )
    first = classify(Refused(Stage.DOT, Reply(554, "5.7.1", "see Contract #12")), rules)
    assert (first.charge, first.permanent, first.reason) == (Charge.TRANSPORT, False, "ReplyRule")
    second = classify(Refused(Stage.RCPT, Reply(550, "5.1.1", "gone")), rules)
    assert (second.charge, second.permanent, second.reason) == (Charge.RECIPIENT, False, "Moved")
    assert classify(Refused(Stage.RCPT, Reply(550, "5.1.2", "gone")), rules).reason == "DomainUnknown"
    assert classify(Refused(Stage.MAIL, Reply(550, "5.1.1", "gone")), rules).charge is Charge.SENDER


def test_reply_rules_that_cannot_be_used_are_all_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        reply_rules(
            [
                {"pattern": "(", "charge": "Recipient"},
                {"pattern": "x", "charge": "Somebody"},
                {"pattern": "x"},
                {"pattern": "x", "charge": "Message", "stage": "LUNCH"},
                {"pattern": "fine", "charge": "message"},
            ]
        )
    assert [problem.where for problem in caught.value.problems] == [
        "replyRules[0].pattern",
        "replyRules[1]",
        "replyRules[2]",
        "replyRules[3]",
    ]
