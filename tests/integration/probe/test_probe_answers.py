"""What the probes find, asked and answered through a real ledger under the tenant's own role."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from fullsend.errors import LedgerError
from fullsend.ledger import lists, probes, suppressions
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.lists import MemberStatus, NewMember
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from fullsend.ledger.tenants import tenant_dsn
from fullsend.probe.__main__ import main, run
from fullsend.reconcile.probes import Answer, Outlook
from support.audience_world import TENANT, World
from support.ledger_worlds import sql
from support.scripted_smtp import Script, ScriptedServer, say

OFFERING = ("250-relay.example", "250-PIPELINING", "250-SIZE 5000000", "250-SMTPUTF8")
PLAIN_EHLO = say(*OFFERING, "250 STARTTLS")
AUTH_EHLO = say(*OFFERING, "250 AUTH PLAIN LOGIN")


async def asked(world: World, kind: str, spec: Mapping[str, Any], *, known: int = 0, failures: int = 0) -> Any:
    question = {"kind": kind, "name": "it", "generation": 3, "failures": failures, "known": known}
    return await probes.ask(world.db, TENANT, "uid", **question, content=spec)


async def answered(world: World, kind: str, spec: Mapping[str, Any]) -> Answer:
    """What the ledger says after the probe, as a pod would run it."""
    _, before = await probes.observe(world.db, TENANT, "uid")
    probe, number = await asked(world, kind, spec, known=before.number if before is not None else 0)
    await run(await tenant_dsn(world.dsn, TENANT), probe, number, world.mounts)
    _, record = await probes.observe(world.db, TENANT, "uid")
    assert record is not None
    assert record.answered
    return Answer.from_json(record.result)


# --- The ledger ------------------------------------------------------------------------------------------------------


async def test_an_answer_to_an_older_question_is_dropped(world: World) -> None:
    probe, first = await asked(world, "MailTemplate", {"subject": "one"})
    _, second = await asked(world, "MailTemplate", {"subject": "two"}, known=first, failures=4)
    assert not await probes.answer(world.db, probe, first, {"reason": "Late"})
    with pytest.raises(LedgerError, match="not asked question 1 any more"):
        await probes.question(world.db, probe, first)
    assert await probes.answer(world.db, probe, second, {"reason": "InTime"})
    assert not await probes.answer(world.db, probe, second, {"reason": "Twice"})
    _, record = await probes.observe(world.db, TENANT, "uid")
    assert record is not None
    assert (record.number, record.failures, record.result) == (2, 4, {"reason": "InTime"})
    assert (record.answered_number, record.answered_generation) == (2, 3)


async def test_an_answer_is_never_from_the_future(world: World) -> None:
    probe, number = await asked(world, "MailTemplate", {"subject": "one"})
    assert (await probes.observe(world.db, TENANT, "uid"))[1].answered_at is None  # type: ignore[union-attr]
    await probes.answer(world.db, probe, number, {"reason": "Forged"})
    await sql(world.db, "UPDATE fullsend.probe SET answered_at = '9999-12-31'")
    now, record = await probes.observe(world.db, TENANT, "uid")
    assert record is not None
    assert record.answered_at is not None
    assert abs(record.answered_at - now) < timedelta(seconds=5)


async def test_what_was_asked_of_an_object_that_went_unanswered_is_forgotten(world: World) -> None:
    await asked(world, "Audience", {"inline": {"recipients": [{"address": "ana@example.com"}]}})
    ask = {"kind": "Audience", "name": "other", "generation": 1, "failures": 0, "content": {}}
    await probes.ask(world.db, TENANT, "other", **ask, known=0)
    kept = "SELECT content IS NOT NULL FROM fullsend.probe WHERE uid = 'uid'"
    assert await sql(world.db, kept) == [(True,)]
    await sql(world.db, "UPDATE fullsend.probe SET asked_at = asked_at - interval '2 days'")
    await probes.ask(world.db, TENANT, "other", **ask, known=1)
    assert await sql(world.db, kept) == [(False,)]
    await sql(world.db, "UPDATE fullsend.probe SET asked_at = asked_at - interval '99 days'")
    await probes.ask(world.db, TENANT, "other", **ask, known=2)
    assert await sql(world.db, kept) == []


async def test_of_two_operators_that_ask_at_once_one_does(world: World) -> None:
    assert await asked(world, "MailTemplate", {}) is not None
    assert await asked(world, "MailTemplate", {}, known=0) is None


async def test_what_was_asked_is_forgotten_with_its_answer_and_all_of_it_with_its_object(world: World) -> None:
    people = {"inline": {"recipients": [{"email": "jane@example.com"}]}}
    assert (await answered(world, "Audience", people)).ready
    [(row,)] = world.query("SELECT to_jsonb(p)::text FROM fullsend.probe AS p")
    assert "jane" not in row
    await probes.forget(world.db, TENANT, "uid")
    _, record = await probes.observe(world.db, TENANT, "uid")
    assert record is None


async def test_an_answer_has_a_limit(world: World) -> None:
    probe, number = await asked(world, "MailTemplate", {})
    with pytest.raises(LedgerError):
        await probes.answer(world.db, probe, number, {"reason": "x" * 70_000})


# --- MailTransport ---------------------------------------------------------------------------------------------------


def relay(server: ScriptedServer, **smtp: Any) -> dict[str, Any]:
    return {"smtp": {"host": "localhost", "port": server.port, "tls": "Disabled", **smtp}}


def secret(world: World, name: str, **keys: str) -> None:
    folder = world.mounts.secrets_dir / name
    folder.mkdir()
    for key, value in keys.items():
        (folder / key.replace("_", ".")).write_text(value)


async def test_a_relay_with_tls_and_a_login_is_told_as_a_sender_would_find_it(world: World) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    secret(world, "login", username="user", password="s3cret")
    secret(world, "ca", ca_crt=authority.cert_pem.bytes().decode())
    refs = {"credentialsSecretRef": {"name": "login"}, "caSecretRef": {"name": "ca"}, "pipelining": "Group"}
    async with ScriptedServer(Script(ehlo=[PLAIN_EHLO, AUTH_EHLO]), tls=context) as server:
        told = await answered(world, "MailTransport", relay(server, tls="StartTLS", **refs))
        commands = [line for each in server.connections for line in each.commands]
    assert (told.ready, told.reason) == (True, "Reachable")
    assert told.found["tlsVersion"] == "TLSv1.3"
    assert told.found["authMechanisms"] == ["PLAIN", "LOGIN"]
    assert (told.found["authenticated"], told.found["pipelining"], told.found["sizeLimit"]) == (
        True,
        "Group",
        5_000_000,
    )
    assert {"PIPELINING", "SMTPUTF8", "SIZE 5000000"} <= set(told.found["capabilities"])
    assert commands[-1] == "QUIT"
    assert not [line for line in commands if line.startswith(("MAIL", "RCPT", "DATA"))], "a probe never sends mail"
    assert "s3cret" not in json.dumps(told.to_json())


@pytest.mark.parametrize(
    ("script", "reason", "outlook"),
    [
        (Script(banner=say("554 5.7.1 go away", after="close")), "GreetingRefused", Outlook.PERSON),
        (Script(banner=say("421 4.3.2 come back later", after="close")), "GreetingRefused", Outlook.ITSELF),
        (Script(ehlo=AUTH_EHLO, auth=say("535 5.7.8 no")), "LoginRefused", Outlook.PERSON),
        (Script(ehlo=AUTH_EHLO, auth=say("454 4.7.0 not now")), "LoginRefusedForNow", Outlook.ITSELF),
    ],
)
async def test_what_a_relay_refuses_is_a_persons_or_heals_by_itself(
    world: World, script: Script, reason: str, outlook: Outlook
) -> None:
    secret(world, "login", username="user", password="s3cret")
    async with ScriptedServer(script) as server:
        told = await answered(world, "MailTransport", relay(server, credentialsSecretRef={"name": "login"}))
    assert (told.ready, told.reason, told.outlook) == (False, reason, outlook)
    assert told.found.get("capabilities", []) == (
        ["PIPELINING", "SIZE 5000000", "SMTPUTF8", "AUTH PLAIN LOGIN"] if "Login" in reason else []
    ), "where only the login fails, what it offers is known all the same"
    assert "s3cret" not in json.dumps(told.to_json())


async def test_a_certificate_that_is_nobodys_is_a_persons_matter(world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with ScriptedServer(Script(ehlo=PLAIN_EHLO), tls=context) as server:
        told = await answered(world, "MailTransport", relay(server, tls="StartTLS"))
    assert (told.reason, told.outlook) == ("TlsFailed", Outlook.PERSON)
    assert "smtp.caSecretRef" in told.message


async def test_a_secret_that_lacks_a_key_is_named_with_the_key(world: World) -> None:
    secret(world, "login", username="user")
    async with ScriptedServer() as server:
        told = await answered(world, "MailTransport", relay(server, credentialsSecretRef={"name": "login"}))
        assert server.connections == [], "nothing is tried without it"
    assert told.reason == "SecretMissing"
    assert "Secret login is not there, or has no key password" in told.message
    assert "fullsend.dev/smtp-credentials" in told.message


# --- MailTemplate ----------------------------------------------------------------------------------------------------


async def test_a_template_is_told_with_its_sizes_and_where_its_text_comes_from(world: World) -> None:
    config = world.mounts.config_dir / "files"
    config.mkdir()
    (config / "a.pdf").write_bytes(b"x" * 1000)
    spec = {
        "subject": "Hello {{ name }}",
        "html": "{% for item in items %}<p>{{ item }}</p>{% endfor %}",
        "attachments": [
            {
                "name": "a.pdf",
                "contentType": "application/pdf",
                "configMapKeyRef": {"name": "files", "key": "a.pdf"},
            },
            {"name": "b.txt", "contentType": "text/plain", "data": "aGVsbG8="},
        ],
    }
    told = await answered(world, "MailTemplate", spec)
    assert (told.ready, told.reason) == (True, "Compiled")
    assert told.found["variables"] == ["items", "name"]
    assert (told.found["text"], told.found["textBytes"]) == ("PerRecipient", 0)
    assert told.found["attachmentBytes"] == 1005
    assert (await answered(world, "MailTemplate", {**spec, "text": "Hi"})).found["text"] == "Written"


async def test_every_problem_of_a_template_is_told_by_the_fields_of_its_spec(world: World) -> None:
    told = await answered(world, "MailTemplate", {"subject": "{{ name", "text": "{{ name|uper }}", "html": "{% if %}"})
    assert (told.reason, told.outlook) == ("DoesNotCompile", Outlook.EDIT)
    assert "spec.subject, line 1:" in told.message
    assert "spec.text, line 1: there is no filter 'uper' (did you mean 'upper'?)" in told.message
    assert "spec.html, line 1:" in told.message


@pytest.mark.parametrize(
    "text", ["{{ 'a' * 500000000 }}", "{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}"]
)
async def test_a_template_that_nobody_can_be_sent_is_not_called_fit(world: World, text: str) -> None:
    told = await answered(world, "MailTemplate", {"text": text})
    assert (told.ready, told.reason, told.outlook) == (False, "DoesNotRender", Outlook.EDIT)
    assert "more than" in told.message


async def test_an_attachment_that_is_not_there_yet_is_tried_again(world: World) -> None:
    file = {"name": "a", "contentType": "text/plain", "configMapKeyRef": {"name": "files", "key": "a"}}
    told = await answered(world, "MailTemplate", {"text": "Hi", "attachments": [file]})
    assert (told.reason, told.outlook) == ("ConfigMapMissing", Outlook.PERSON)
    assert "ConfigMap files has no key 'a'" in told.message


# --- Audience --------------------------------------------------------------------------------------------------------


async def test_who_said_no_is_counted_as_suppressed_once_on_any_copy(world: World) -> None:
    key = (await installation(world.db)).hash_key
    probe, number = await asked(world, "Audience", {})  # makes the tenant
    await probes.answer(world.db, probe, number, {})
    refusal = NewSuppression(hash_identity(key, "no@x.example"), "no@x.example", "Unsubscribed")
    await suppressions.add(world.db, Target(Scope.TENANT, TENANT), [refusal])
    emails = ["no@x.example", "NO@x.example", "yes@x.example", "abuse@x.example", "", "", "broken"]
    spec = {"inline": {"recipients": [{"email": email or "?", "variables": {"a": 1}} for email in emails]}}
    found = (await answered(world, "Audience", spec)).found
    assert found["lastCount"] == {
        "rowsRead": 7,
        "recipients": 5,
        "eligible": 1,
        "duplicates": 2,
        "invalid": 2,
        "suppressed": 2,
    }
    assert found["columns"] == ["a"]


async def test_a_list_is_told_with_its_members_by_status(world: World) -> None:
    key = (await installation(world.db)).hash_key
    await asked(world, "Audience", {})
    await lists.create_list(world.db, TENANT, "news", double_opt_in=True)
    members = [
        NewMember(hash_identity(key, f"{status}@x.example"), f"{status}@x.example", status=status)
        for status in MemberStatus
    ]
    await lists.import_members(world.db, TENANT, "news", members)
    told = await answered(world, "Audience", {"list": {"name": "news"}})
    assert told.found["lists"] == [{"name": "news", "confirmed": 1, "unconfirmed": 1, "unsubscribed": 1}]
    assert (told.found["lastCount"]["eligible"], told.found["lastCount"]["suppressed"]) == (1, 2)


async def test_a_source_that_is_away_may_come_back_and_one_that_is_wrong_needs_a_person(world: World) -> None:
    secret(world, "crm", dsn="host=127.0.0.1 port=1 dbname=nothing")
    spec = {"postgres": {"dsnSecretRef": {"name": "crm"}, "query": "SELECT 1 AS x"}}
    away = await answered(world, "Audience", spec)
    assert (away.reason, away.outlook) == ("DatabaseUnreachable", Outlook.ITSELF)
    (world.mounts.secrets_dir / "crm" / "dsn").write_text(world.dsn)
    wrong = await answered(world, "Audience", spec)
    assert (wrong.reason, wrong.outlook) == ("MissingColumn", Outlook.PERSON)
    assert "its columns are x" in wrong.message
    empty = {"postgres": {**spec["postgres"], "query": "SELECT 'a' AS email LIMIT 0"}}
    assert (await answered(world, "Audience", empty)).reason == "EmptyAudience"
    assert (await answered(world, "Audience", {**empty, "allowEmpty": True})).ready


# --- The Job ---------------------------------------------------------------------------------------------------------


def test_without_a_ledger_the_job_fails_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--probe", "1", "--number", "1", "--mounts", str(tmp_path)]
    assert main(arguments) == 2
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "dsn").write_text("host=127.0.0.1 port=1 dbname=nothing")
    assert main(arguments) == 1
    assert "LedgerUnavailable" in capsys.readouterr().err
