"""What the mail sink took can be read afterwards: in the journal, as files, and after a SIGTERM too."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import policy
from email.parser import BytesParser
from pathlib import Path

import aiosmtplib
import pytest
import trustme
from click.testing import CliRunner

from fullsend.local.mailsink import Folder, Journal, MailSink, read_journal
from fullsend.local.mailsink.command import mail_sink

SUBJECT = "=?utf-8?q?Gr=C3=BC=C3=9Fe?="


def message(number: int) -> bytes:
    return b"Message-ID: <%d@example.org>\r\nSubject: %s\r\n\r\nHello %d.\r\n" % (number, SUBJECT.encode(), number)


async def send(port: int, count: int, *, first: int = 0, recipient: str = "user{}@example.net") -> None:
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, timeout=5) as client:
        for number in range(first, first + count):
            await client.sendmail("bounce@example.org", [recipient.format(number)], message(number))


async def test_the_journal_has_a_line_for_every_message(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    for run in range(2):
        async with MailSink(stores=[Journal(path)]) as sink:
            await send(sink.port, 3, first=3 * run)
    entries = list(read_journal(path))
    assert [entry["recipients"] for entry in entries] == [[f"user{number}@example.net"] for number in range(6)]
    assert entries[4] | {"time": ""} == {
        "time": "",
        "mail_from": "bounce@example.org",
        "recipients": ["user4@example.net"],
        "message_id": "<4@example.org>",
        "subject": "Grüße",
        "bytes": len(message(4)),
        "connection": 1,
        "replied": True,
        "sha256": hashlib.sha256(message(4)).hexdigest(),
    }


async def test_the_journal_is_written_while_the_sink_runs(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    async with MailSink(stores=[Journal(path)]) as sink:
        await send(sink.port, 1)
        async with asyncio.timeout(5):
            while not list(read_journal(path)):
                await asyncio.sleep(0.02)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"recipients": ["a@example.net"]}) + '\n{"recipients": ["b@exa')
    assert [entry["recipients"] for entry in read_journal(path)] == [["a@example.net"]]


async def test_the_folder_has_a_file_for_every_message_and_an_index(tmp_path: Path) -> None:
    for run in range(2):
        async with MailSink(stores=[Folder(tmp_path)]) as sink:
            await send(sink.port, 2, first=2 * run)
    lines = [line.split("\t") for line in (tmp_path / "index.tsv").read_text().splitlines()]
    assert lines[0] == ["file", "time", "recipient", "subject"]
    assert [(line[0], line[3]) for line in lines[1:]] == [
        (f"000/{number + 1:06}_user{number}@example.net.eml", "Grüße") for number in range(4)
    ]
    parsed = BytesParser(policy=policy.SMTP).parsebytes((tmp_path / lines[3][0]).read_bytes())
    assert parsed["Return-Path"] == "<bounce@example.org>"
    assert parsed["Delivered-To"] == "user2@example.net"
    assert (parsed["Subject"], parsed.get_content()) == ("Grüße", "Hello 2.\r\n")


async def test_only_the_first_messages_are_kept_if_wished(tmp_path: Path) -> None:
    async with MailSink(stores=[Folder(tmp_path, first=2)]) as sink:
        await send(sink.port, 4)
    assert len(list(tmp_path.glob("*/*.eml"))) == 2
    assert sink.accepted == 4


async def test_no_address_can_name_a_file_elsewhere(tmp_path: Path) -> None:
    async with MailSink(stores=[Folder(tmp_path / "mail")]) as sink:
        await send(sink.port, 1, recipient="../../{}/etc@example.net")
        await send(sink.port, 1, recipient="x" * 300 + "@example.net")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {tmp_path / "mail", tmp_path / "mail" / "000"}
    assert len(files) == 3


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    command = [sys.executable, "-m", "fullsend.local.mailsink", "--port", "0", *arguments]
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert running.stdout
        async with asyncio.timeout(20):
            line = (await running.stdout.readline()).decode()
        found = re.fullmatch(r"mail sink listening on 127\.0\.0\.1:(\d+)\n", line)
        assert found
        yield running, int(found[1])
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
        running._transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_told_to_end_has_written_everything_it_took(tmp_path: Path, end: signal.Signals) -> None:
    journal = tmp_path / "journal.jsonl"
    async with process("--journal", str(journal), "--folder", str(tmp_path / "mail")) as (running, port):
        await send(port, 20)
        running.send_signal(end)
        assert await running.wait() == 0
    assert len(list(read_journal(journal))) == 20
    assert len(list((tmp_path / "mail").glob("000/*.eml"))) == 20


async def test_a_process_misbehaves_as_told(tmp_path: Path) -> None:
    auth = tmp_path / "auth"
    auth.write_text("user:secret\n")
    arguments = ["--faults", "relay-denied", "--auth-file", str(auth), "--no-pipelining", "--max-size", "5000"]
    async with (
        process(*arguments) as (_, port),
        aiosmtplib.SMTP(
            hostname="127.0.0.1", port=port, username="user", password="secret", start_tls=False, timeout=5
        ) as client,
    ):
        assert not client.supports_extension("pipelining")
        assert client.esmtp_extensions["size"] == "5000"
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused, match="relay access denied"):
            await client.sendmail("a@example.org", ["b@example.net"], message(1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--faults", "nonsense"], "no such file, and no preset"),
        (["--first", "5"], "--first needs --folder"),
        (["--implicit-tls"], "TLS needs both"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1:2525"),
    ],
)
def test_a_wrong_option_is_told_in_words(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(mail_sink, arguments)
    assert result.exit_code != 0
    assert says in result.output


async def test_a_process_speaks_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    arguments = ["--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key")]
    for implicit in (False, True):
        async with process(*arguments, *["--implicit-tls"] * implicit) as (_, port):
            for _ in range(10):  # the first line under TLS may or may not come with the handshake's last
                async with aiosmtplib.SMTP(
                    hostname="127.0.0.1",
                    port=port,
                    use_tls=implicit,
                    start_tls=not implicit,
                    tls_context=trust,
                    timeout=5,
                ) as client:
                    await client.sendmail("a@example.org", ["b@example.net"], message(1))
