"""Relays that are wrong in every way a relay can be: nobody is charged for it, the words say what to mend, and the same
command completes once it is mended.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.scripted_smtp import Say, Script, ScriptedServer, say
from support.workspace import Workspace, declared, secret

PASSWORD = "wrong-and-private"


class Relays:
    """Scripted relays on a loop of their own, so that the command may block the test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._servers: list[ScriptedServer] = []

    def serve(self, script: Script) -> int:
        server = ScriptedServer(script)
        asyncio.run_coroutine_threadsafe(server.__aenter__(), self._loop).result(10)
        self._servers.append(server)
        return server.port

    def close(self) -> None:
        for server in self._servers:
            asyncio.run_coroutine_threadsafe(server.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def relays() -> Iterator[Relays]:
    running = Relays()
    yield running
    running.close()


def nobody_listens() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def certificate(folder: Path, authority: trustme.CA, name: str) -> tuple[str, ...]:
    """The sink's options for a certificate that is good for ``name``."""
    issued = authority.issue_cert(name)
    key, chain = folder / f"{name}.key", folder / f"{name}.crt"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    return ("--tls-cert", str(chain), "--tls-key", str(key))


def test_every_kind_of_broken_relay_is_told_apart_and_costs_nobody_anything(workspace: Workspace, relays: Relays):
    people = workspace.recipients(3)
    folder = workspace.folder
    authority = trustme.CA()
    (folder / "login").write_text("me:the-right-one\n")
    good, other = certificate(folder, authority, "localhost"), certificate(folder, authority, "other.example")
    login, trusted = {"credentialsSecretRef": {"name": "login"}}, {"caSecretRef": {"name": "authority"}}
    broken: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "refuses": (
            {"port": relays.serve(Script(banner=say("554 5.7.1 not from you", after="close")))},
            ("554 5.7.1 not from you",),
        ),
        "absent": ({"port": nobody_listens()}, ("Connection refused", "check host, port")),
        "web-server": ({"port": workspace.sink({"banner": "Http"}).port}, ("does not speak SMTP", "smtp.port")),
        "silent": ({"port": workspace.sink({"banner": "Silent"}).port}, ("no greeting within 2 s",)),
        "no-tls": ({"port": workspace.sink().port, "tls": "StartTLS"}, ("does not offer STARTTLS", "smtp.tls")),
        "tls-later": ({"port": workspace.sink().port, "tls": "Implicit"}, ("does not speak TLS", "smtp.tls: StartTLS")),
        "tls-at-once": (
            {"port": workspace.sink("none", *good, "--implicit-tls").port},
            ("no greeting within 2 s", "smtp.tls: Implicit"),
        ),
        "tls-wanted": (
            {"port": relays.serve(Script(mail=say("530 5.7.0 Must issue a STARTTLS command first")))},
            ("RelayTlsRequired", "Must issue a STARTTLS"),
        ),
        "wrong-name": (
            {"port": workspace.sink("none", *other).port, "tls": "StartTLS", **trusted},
            ("certificate is not for 'localhost'", "smtp.serverName"),
        ),
        "unknown-authority": (
            {"port": workspace.sink("none", *good).port, "tls": "StartTLS"},
            ("signed by no authority known here", "smtp.caSecretRef"),
        ),
        "wrong-password": (
            {"port": workspace.sink("none", "--auth-file", str(folder / "login")).port, **login},
            ("535", "smtp.credentialsSecretRef"),
        ),
        "nuls": ({"port": relays.serve(Script(mail=say(b"\0\0\0\r\n")))}, ("not an SMTP reply",)),
        "endless-line": (
            {"port": relays.serve(Script(rcpt=Say(b"250 " + b"x" * 1_000_000)))},
            ("a reply line of more than",),
        ),
        "endless-reply": (
            {"port": workspace.sink({"rules": [{"fault": "EndlessReply"}]}).port},
            ("a reply of more than",),
        ),
    }
    common = (
        declared("Audience", "people", {"csv": {"file": "people.csv"}}),
        secret("login", "fullsend.dev/smtp-credentials", {"username": "me", "password": PASSWORD}),
        secret("authority", "fullsend.dev/smtp-ca", {"ca.crt": authority.cert_pem.bytes().decode()}),
    )
    campaigns = [_campaign(name) for name in broken]
    workspace.write(*common, *campaigns, *(_transport(name, smtp) for name, (smtp, _) in broken.items()))
    done = workspace.run()
    assert done.code == 3, done.err
    results = {result["campaign"].removeprefix("default/"): result for result in done.result}
    for name, (_, words) in broken.items():
        result = results[name]
        assert (result["exitCode"], result["reason"]) == (3, "TransportTrouble"), result
        assert result["message"].startswith(f"MailTransport {name}: "), result
        for word in (*words, "run the same command again"):
            assert word in result["message"], result
        counts = result["report"]["counts"]
        assert counts["pending"] + counts["deferred"] == result["report"]["missing"] == 3, result
    story = workspace.fullsend("why", "refuses", people[0], "--output", "json").result
    assert not any(attempt["charged"] for attempt in story["attempts"])
    assert not any(sink.copies() for sink in workspace.sinks)
    assert PASSWORD not in done.out + done.err
    logs = [path.read_text() for path in (workspace.state / "jobs").rglob("*") if path.is_file()]
    assert logs
    assert not any(PASSWORD in text for text in logs)

    sink = workspace.sink()
    workspace.write(*common, *campaigns, *(_transport(name, {"port": sink.port}) for name in broken))
    again = workspace.run()
    assert again.code == 0, again.out
    assert sink.copies() == dict.fromkeys(people, len(broken))


def _transport(name: str, smtp: dict[str, Any]) -> dict[str, Any]:
    quick = {"connect": "2s", "reply": "2s", "dot": "2s"}
    common = {"host": "localhost", "tls": "Disabled", "timeouts": quick}
    return declared("MailTransport", name, {"smtp": {**common, **smtp}, "limits": {"connections": 2}})


def _campaign(name: str) -> dict[str, Any]:
    return declared(
        "Campaign",
        name,
        {
            "class": "Transactional",
            "audiences": [{"name": "people"}],
            "transportRef": {"name": name},
            "message": {"from": {"address": "desk@sender.example"}, "subject": "x", "text": "Dear {{ name }}"},
            "senders": {"maxPods": 1},
            "retry": {"minBackoff": "1s", "maxBackoff": "1s"},
        },
    )
