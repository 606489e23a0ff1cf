"""The mail sink misbehaves exactly as told: the same recipients each time, at the stage that was named."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from fullsend.errors import InvalidInput
from fullsend.local.mailsink import PRESETS, Banner, Fault, Faults, Log, MailSink, Rule, Stage, load_faults
from support.smtp_client import Client

RECIPIENT = "b@example.net"


async def submit(client: Client, recipient: str = RECIPIENT) -> str:
    """One message in lock-step; the last reply, which is the first negative one if there is one."""
    for command in ("MAIL FROM:<a@example.org>", f"RCPT TO:<{recipient}>", "DATA"):
        reply = await client.ask(command)
        if reply[0] not in "23":
            await client.ask("RSET")
            return reply
    return await client.ask("Subject: x", "", "text", ".")


async def one(sink: MailSink, recipient: str = RECIPIENT) -> str:
    async with Client(sink) as client:
        await client.hello()
        return await submit(client, recipient)


def faulty(fault: Fault, **options: object) -> Faults:
    return Faults(rules=(Rule.model_validate({"fault": fault, **options}),))


@pytest.mark.parametrize(
    ("fault", "reply"),
    [
        (Fault.UNKNOWN_MAILBOX, "550 5.1.1"),
        (Fault.MAILBOX_FULL, "452 4.2.2"),
        (Fault.LOCAL_ERROR, "451 4.3.0"),
        (Fault.QUOTA_EXCEEDED, "454 4.5.3"),
        (Fault.RELAY_DENIED, "554 5.7.1"),
        (Fault.SENDER_REFUSED, "550 5.7.1"),
    ],
)
async def test_a_named_refusal_is_given_to_every_try_and_nothing_is_kept(fault: Fault, reply: str) -> None:
    async with MailSink(faults=faulty(fault)) as sink:
        for _ in range(3):
            assert (await one(sink)).startswith(reply)
        assert sink.accepted == 0


async def test_greylisting_ends_after_so_many_tries_of_each_recipient() -> None:
    async with MailSink(faults=faulty(Fault.GREYLIST, times=2)) as sink:
        for recipient in (RECIPIENT, "c@example.net"):
            replies = [(await one(sink, recipient))[:9] for _ in range(4)]
            assert replies == ["450 4.2.0", "450 4.2.0", "250 2.0.0", "250 2.0.0"]
            assert (sink.count(recipient), sink.tries(recipient)) == (2, 4)


@pytest.mark.parametrize("fault", [Fault.DROP_AT_RCPT, Fault.DROP_AT_DATA, Fault.DROP_IN_CONTENT])
async def test_a_connection_dropped_before_the_dot_keeps_nothing(fault: Fault) -> None:
    async with MailSink(faults=faulty(fault, times=1)) as sink:
        with pytest.raises((EOFError, ConnectionResetError)):
            await one(sink)
        assert sink.accepted == 0
        assert (await one(sink)).startswith("250")
        assert sink.count(RECIPIENT) == 1


async def test_a_message_lost_after_the_dot_was_delivered_and_nobody_was_told() -> None:
    async with MailSink(faults=faulty(Fault.DROP_AFTER_DOT, times=1)) as sink:
        with pytest.raises((EOFError, ConnectionResetError)):
            await one(sink)
        assert (await one(sink)).startswith("250")
        assert [delivery.replied for delivery in sink.deliveries] == [False, True]
        assert sink.count(RECIPIENT) == 2


async def test_a_dot_that_is_never_answered_was_delivered_too() -> None:
    async with MailSink(faults=faulty(Fault.SILENT_AFTER_DOT)) as sink:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one(sink), 0.2)
        assert [delivery.replied for delivery in sink.deliveries] == [False]


async def test_slow_answers_keep_their_order() -> None:
    async with MailSink(faults=faulty(Fault.SLOW, delay=0.1, match="slow@*")) as sink, Client(sink) as client:
        await client.hello()
        before = asyncio.get_running_loop().time()
        client.write("MAIL FROM:<a@example.org>", "RCPT TO:<slow@example.net>", "DATA", "text", ".", "NOOP", "HELP")
        replies = [(await client.reply())[:3] for _ in range(6)]
        assert replies == ["250", "250", "354", "250", "250", "500"]
        assert asyncio.get_running_loop().time() - before >= 0.1


async def test_every_reply_can_be_late() -> None:
    async with MailSink(faults=Faults(reply_delay=0.05)) as sink:
        before = asyncio.get_running_loop().time()
        assert (await one(sink)).startswith("250")
        assert asyncio.get_running_loop().time() - before >= 6 * 0.05


@pytest.mark.parametrize(
    ("stage", "reply"),
    [(Stage.MAIL, "550 5.7.26 no DMARC"), (Stage.RCPT, "421 4.3.2 going down"), (Stage.DATA, "250 what?")],
)
async def test_a_reply_of_ones_own_is_given_at_its_stage(stage: Stage, reply: str) -> None:
    commands = {Stage.MAIL: "MAIL FROM:<a@example.org>", Stage.RCPT: f"RCPT TO:<{RECIPIENT}>", Stage.DATA: "DATA"}
    async with MailSink(faults=faulty(Fault.REPLY, stage=stage, reply=reply)) as sink, Client(sink) as client:
        await client.hello()
        for at, command in commands.items():
            answer = await client.ask(command)
            if at is stage:
                break
            assert answer.startswith("250")
        assert answer == reply
        if reply.startswith("421"):
            assert await client.reader.read() == b""


async def test_a_reply_to_the_dot_keeps_the_message_only_if_it_is_positive() -> None:
    for reply, kept in (("550 5.7.1 looks like spam", 0), ("250 2.0.0 queued as \0\x7f", 1)):
        async with MailSink(faults=faulty(Fault.REPLY, stage="Dot", reply=reply)) as sink:
            assert await one(sink) == reply
            assert sink.accepted == kept


async def test_a_reply_may_hold_a_nul_or_never_end() -> None:
    async with MailSink(faults=faulty(Fault.NUL_REPLY)) as sink:
        assert "\0" in await one(sink)
    async with MailSink(faults=faulty(Fault.ENDLESS_REPLY)) as sink, Client(sink) as client:
        await client.hello()
        client.write("MAIL FROM:<a@example.org>", f"RCPT TO:<{RECIPIENT}>")
        await client.reply()
        endless = await client.reader.readexactly(1_000_000)
        assert all(line[3:4] == b"-" for line in endless.split(b"\r\n")[:-1])


async def test_connections_beyond_the_limit_are_turned_away_and_room_is_made_when_one_ends() -> None:
    async with MailSink(faults=Faults(max_connections=1)) as sink:
        async with Client(sink) as first:
            await first.hello()
            async with Client(sink) as second:
                assert (await second.reply()).startswith("421 4.7.0")
                assert await second.reader.read() == b""
            assert (await first.ask("QUIT")).startswith("221")
        assert (await one(sink)).startswith("250")
        assert sink.peak_connections == 2


async def test_a_connection_takes_so_many_messages_and_then_says_421() -> None:
    async with MailSink(faults=Faults(messages_per_connection=2)) as sink, Client(sink) as client:
        await client.hello()
        assert [(await submit(client))[:3] for _ in range(2)] == ["250", "250"]
        assert (await client.ask("MAIL FROM:<a@example.org>")).startswith("421 4.7.0")
        assert await client.reader.read() == b""


async def test_too_many_errors_close_the_connection() -> None:
    faults = Faults(rules=(Rule(fault=Fault.UNKNOWN_MAILBOX),), errors_per_connection=3)
    async with MailSink(faults=faults) as sink, Client(sink) as client:
        await client.hello()
        await client.ask("MAIL FROM:<a@example.org>")
        codes = [(await client.ask(command))[:3] for command in (f"RCPT TO:<{RECIPIENT}>", "DATA") * 2]
        assert codes == ["550", "554", "550", "421"]


async def test_data_without_recipients_can_be_granted_and_takes_nothing() -> None:
    faults = Faults(rules=(Rule(fault=Fault.UNKNOWN_MAILBOX),), data_without_recipients=True)
    async with MailSink(faults=faults) as sink, Client(sink) as client:
        await client.hello()
        client.write("MAIL FROM:<a@example.org>", f"RCPT TO:<{RECIPIENT}>", "DATA")
        assert [(await client.reply())[:3] for _ in range(3)] == ["250", "550", "354"]
        assert (await client.ask(".")).startswith("554 5.5.1")
        assert sink.accepted == 0


async def test_a_silent_server_and_another_protocol() -> None:
    async with MailSink(faults=Faults(banner=Banner.SILENT)) as sink, Client(sink) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.1)
    async with MailSink(faults=Faults(banner=Banner.HTTP)) as sink, Client(sink) as client:
        assert (await client.reader.read()).startswith(b"HTTP/1.1 400")


async def test_faults_may_change_while_a_connection_is_open() -> None:
    async with MailSink(faults=faulty(Fault.RELAY_DENIED)) as sink, Client(sink) as client:
        await client.hello()
        assert (await submit(client)).startswith("554")
        sink.faults = Faults()
        assert (await submit(client)).startswith("250")


def test_who_is_hit_depends_on_the_address_alone_and_shares_add_up() -> None:
    faults = Faults(
        rules=(
            Rule(fault=Fault.UNKNOWN_MAILBOX, match="*@full.example"),
            Rule(fault=Fault.GREYLIST, share=0.2),
            Rule(fault=Fault.LOCAL_ERROR, share="10%"),  # type: ignore[arg-type]
        )
    )

    def hits(faults: Faults) -> list[Fault | None]:
        rules = (faults.rule_for(f"user{number}@example.net", at_mail=False) for number in range(20_000))
        return [rule and rule.fault for rule in rules]

    first = hits(faults)
    assert hits(faults) == first
    assert first.count(Fault.GREYLIST) == pytest.approx(4000, rel=0.05)
    assert first.count(Fault.LOCAL_ERROR) == pytest.approx(2000, rel=0.05)
    assert first.count(Fault.UNKNOWN_MAILBOX) == 0
    assert hits(faults.model_copy(update={"seed": 1})) != first
    everyone = {faults.rule_for(f"user{number}@FULL.example", at_mail=False) for number in range(100)}
    assert everyone == {faults.rules[0]}
    assert faults.rule_for("user@example.net", at_mail=True) is None


def test_faults_are_read_from_yaml_and_presets_have_names(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(
        "seed: 7\nmessagesPerConnection: 100\nrules:\n"
        "- {fault: Greylist, share: 5%, times: 2}\n"
        "- {fault: Reply, match: '*@spam.example', stage: Dot, reply: 550 5.7.1 spam}\n"
    )
    assert load_faults(str(file)) == Faults(
        seed=7,
        messages_per_connection=100,
        rules=(
            Rule(fault=Fault.GREYLIST, share=0.05, times=2),
            Rule(fault=Fault.REPLY, match="*@spam.example", stage=Stage.DOT, reply="550 5.7.1 spam"),
        ),
    )
    file.write_text("")
    assert load_faults(str(file)) == Faults()
    assert load_faults("realistic") is PRESETS["realistic"]


def test_a_wrong_fault_file_is_told_where_and_what(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text("rules:\n- {fault: Gray}\n- {fault: Slow}\n- {fault: Greylist, share: 200%}\nbaner: Silent\n")
    with pytest.raises(InvalidInput) as caught:
        load_faults(str(file))
    problems = str(caught.value)
    for part in ("rules.0.fault", "Slow needs a delay", "rules.2.share", "baner"):
        assert part in problems
    file.write_text("rules: [")
    with pytest.raises(InvalidInput, match="not YAML"):
        load_faults(str(file))
    with pytest.raises(InvalidInput, match="presets: none, realistic"):
        load_faults("relistic")


@pytest.mark.parametrize(
    "rule",
    [
        {"fault": "Reply", "stage": "Rcpt"},
        {"fault": "Reply", "reply": "550 no"},
        {"fault": "Reply", "stage": "Rcpt", "reply": "no"},
        {"fault": "Greylist", "reply": "450 no"},
        {"fault": "Greylist", "share": "many%"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate(rule)


def test_an_ordinary_day_has_some_of_everything_and_hardly_any_duplicates() -> None:
    rules = [PRESETS["realistic"].rule_for(f"user{number}@example.net", at_mail=False) for number in range(5000)]
    hits = Counter(rule.fault for rule in rules if rule)
    assert set(hits) == {rule.fault for rule in PRESETS["realistic"].rules}
    assert 200 < hits.total() < 400
    assert hits[Fault.DROP_AFTER_DOT] <= 5


def test_the_page_on_the_sink_names_every_fault_and_preset_and_its_example_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "mail-sink.md").read_text()
    for name in (*Fault, *PRESETS):
        assert f"`{name}`" in page
    file = tmp_path / "faults.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert len(load_faults(str(file)).rules) == 5


async def test_the_log_says_what_was_done_to_whom_and_how_every_connection_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rules = (Rule(fault=Fault.UNKNOWN_MAILBOX, match="gone@*"), Rule(fault=Fault.DROP_AFTER_DOT, match="drop@*"))
    async with MailSink(faults=Faults(rules=rules), log=Log(path)) as sink:
        for recipient in ("gone@example.net", "drop@example.net"):
            with contextlib.suppress(EOFError):
                await one(sink, recipient)
        async with Client(sink) as client:
            await client.hello()
            await client.ask("QUIT")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    troubles = [(each["address"], each["stage"], each["action"], each["reply"]) for each in lines if "address" in each]
    assert troubles == [
        ("gone@example.net", "Rcpt", "Reply", "550 5.1.1 no such user here"),
        ("drop@example.net", "Dot", "Drop", ""),
    ]
    ends = {each["connection"]: each["ended"] for each in lines if "ended" in each}
    assert ends == {1: "Lost", 2: "Dropped", 3: "Quit"}
