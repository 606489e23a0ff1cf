"""Everything a user asks and does beside ``run``: what became of whom and why, again for these, never for those."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import json
from typing import Any

import psycopg

from support.workspace import Workspace, declared

HEADERS = email.policy.default


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def transactional(name: str, audience: str, relay: str = "relay", **spec: Any) -> dict[str, Any]:
    return declared(
        "Campaign",
        name,
        {
            "class": "Transactional",
            "audiences": [{"name": audience}],
            "transportRef": {"name": relay},
            "message": {"from": {"address": "desk@sender.example"}, "subject": "x", "text": "Dear {{ email }}"},
            "senders": {"maxPods": 1},
            **spec,
        },
    )


def relay(port: int) -> dict[str, Any]:
    smtp = {"host": "127.0.0.1", "port": port, "tls": "Disabled"}
    return declared("MailTransport", "relay", {"smtp": smtp, "limits": {"connections": 2}})


def members(name: str) -> dict[str, Any]:
    return declared("Audience", name, {"list": {"name": name}})


def test_after_a_run_every_recipient_can_be_asked_about_and_exactly_those_named_are_retried(workspace: Workspace):
    good = [f"user{number}@example.com" for number in range(8)]
    gone = ["one@gone.example", "two@gone.example", "three@gone.example"]
    refused = "no@example.com"
    workspace.csv([(address, "N") for address in (*good, *gone, refused, "not an address")])
    assert workspace.fullsend("suppress", "add", refused, "--reason", "complained").code == 0
    sink = workspace.sink({"rules": [{"fault": "UnknownMailbox", "match": "*@gone.example"}]})
    workspace.campaign(sink.port)
    done = workspace.fullsend("run", str(workspace.manifests))
    assert done.code == 0, done.out
    assert "default/launch: Complete\n8 of 11 eligible recipients accepted by the relay, 3 rejected" in done.out

    text = workspace.fullsend("report", "launch").out
    for words in ("launch: complete", "accepted", "complained", "550 5.1.1 no such user here", "holds", "13 rows read"):
        assert words in text
    report = workspace.fullsend("report", "launch", "-o", "json").result
    counts = {state: count for state, count in report["counts"].items() if count}
    assert counts == {"accepted": 8, "rejected": 3, "suppressed": 1, "invalid": 1}
    assert rows(workspace.fullsend("missing", "launch").out) == []

    for address, words in (
        (good[0], ("accepted", "people, row 2", "Message-ID <", "attempt 1", "250")),
        ("ONE@gone.example", ("rejected", "550 5.1.1 no such user here", "[charged]", "suppressed (tenant)")),
        (refused, ("suppressed (complained)", "suppressed (tenant)", "cli")),
        ("not an address", ("invalid", "people, row 14")),
    ):
        why = workspace.fullsend("why", "launch", address)
        assert why.code == 0, why.err
        for word in words:
            assert word in why.out, why.out
    nobody = workspace.fullsend("why", "launch", "nobody@example.com")
    assert nobody.code == 2
    assert "not in the plan" in nobody.err
    nothing = workspace.fullsend("why", "lunch", good[0])
    assert nothing.code == 2
    assert "it has: launch" in nothing.err

    unnamed = workspace.fullsend("retry", "launch")
    assert unnamed.code == 2
    assert "--state-of" in unnamed.err
    assert workspace.fullsend("retry", "launch", "--address", good[0]).out.startswith("0 reopened")
    mended = workspace.sink()
    workspace.campaign(mended.port)
    assert workspace.fullsend("retry", "launch", "--address", "Two@gone.example").out.startswith("1 reopened")
    assert workspace.run().code == 0
    assert mended.copies() == {"two@gone.example": 1}
    assert workspace.fullsend("retry", "launch", "--state-of", "rejected").out.startswith("2 reopened")
    assert workspace.run().code == 0
    assert mended.copies() == dict.fromkeys(gone, 1)
    assert sink.copies() == dict.fromkeys(good, 1)


def test_a_suspended_campaign_shows_what_everybody_would_get_and_sends_it_only_to_the_testers(workspace: Workspace):
    workspace.csv([("ada@example.com", "Ada"), ("grace@example.com", "Grace")])
    sink = workspace.sink()
    workspace.campaign(sink.port, spec={"suspend": True})
    before = workspace.fullsend("preview", "launch")
    assert before.code == 2
    assert "no such campaign" in before.err
    done = workspace.run()
    assert done.code == 5
    [result] = done.result
    assert result["reason"] == "Suspended"
    assert "spec.suspend" in result["message"]
    assert result["report"]["counts"]["pending"] == 2
    assert result["report"]["plan"]["renderChecked"] == 2

    eml = email.message_from_string(workspace.fullsend("preview", "launch").out, policy=HEADERS)
    assert (eml["To"], eml["Subject"]) == ("ada@example.com", "Hello Ada")
    assert eml["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    other = workspace.fullsend("preview", "launch", "--for", "grace@example.com", "--format", "text").out
    assert other.startswith("Dear Grace,")
    assert (
        "<p>Dear Grace,</p>"
        in workspace.fullsend("preview", "launch", "--for", "grace@example.com", "--format", "html").out
    )
    stranger = workspace.fullsend("preview", "launch", "--for", "stranger@example.com")
    assert stranger.code == 2
    assert "stranger@example.com" in stranger.err

    sent = workspace.fullsend("send-test", "launch", "--to", "me@sender.example", "--for", "grace@example.com")
    assert sent.code == 0, sent.err
    assert sent.out.startswith("me@sender.example: accepted")
    assert sink.copies() == {"me@sender.example": 1}
    [entry] = sink.entries()
    assert "[TEST] Hello Grace" in json.dumps(entry)
    assert workspace.fullsend("report", "launch", "-o", "json").result["counts"]["accepted"] == 0
    early = workspace.fullsend("purge", "launch", "--yes")
    assert early.code == 2
    assert "only what has ended" in early.err

    workspace.campaign(sink.port)
    assert workspace.run().code == 0
    assert sink.copies() == {"me@sender.example": 1, "ada@example.com": 1, "grace@example.com": 1}


def test_a_list_takes_people_in_and_never_takes_back_a_no(workspace: Workspace):
    sink = workspace.sink()
    workspace.csv([("ada@example.com", "Ada", ""), ("bob@example.com", "Bob", "unsubscribed"),
                   ("cy@example.com", "Cy", ""), ("broken", "X", "")], header="email,name,status")  # fmt: skip
    people = str(workspace.manifests / "people.csv")
    unknown = workspace.fullsend("audience", "import", "single", people)
    assert unknown.code == 2
    assert "--opt-in" in unknown.err
    first = workspace.fullsend("audience", "import", "single", people, "--opt-in", "single", "-o", "json").result
    assert (first["rows"], first["inserted"], first["invalid"]) == (4, 3, 1)
    workspace.csv([("ada@example.com", "Ada", "confirmed"), ("bob@example.com", "Bob", "confirmed"),
                   ("cy@example.com", "Cy", "")], header="email,name,status", file="again.csv")  # fmt: skip
    again = workspace.fullsend("audience", "import", "single", str(workspace.manifests / "again.csv"), "-o", "json")
    assert again.result["kept_unsubscribed"] == 1
    double = ("audience", "import", "double", str(workspace.manifests / "again.csv"), "--opt-in", "double")
    assert workspace.fullsend(*double).code == 0

    clean = workspace.fullsend("audience", "clean", people)
    assert [row["address"] for row in rows(clean.out)] == ["broken"], clean.out
    assert "checked" in clean.err or "rows" in clean.err, clean.err

    workspace.write(
        relay(sink.port),
        members("single"),
        members("double"),
        transactional("to-single", "single", rollout={"first": 1}),
        transactional("to-double", "double"),
    )
    assert workspace.run().code == 5
    assert sink.copies().total() == 3
    assert "unsubscribed" in workspace.fullsend("why", "to-single", "bob@example.com").out.lower()

    workspace.csv([("dee@example.com", "Dee")], file="more.csv")
    assert workspace.fullsend("audience", "import", "single", str(workspace.manifests / "more.csv")).code == 0
    audit = workspace.fullsend("audience", "audit", "to-single", "-o", "json").result
    assert (audit["planned"], audit["added"]["count"]) == (3, 1)
    topped = workspace.fullsend("audience", "audit", "to-single", "--top-up")
    assert topped.code == 0, topped.err
    assert "1 added to the plan; run the campaign again" in topped.err
    workspace.write(
        relay(sink.port),
        members("single"),
        transactional("to-single", "single", rollout={"first": 1, "approved": True}),
    )
    assert workspace.run().code == 0
    assert sink.copies() == {"ada@example.com": 2, "bob@example.com": 1, "cy@example.com": 1, "dee@example.com": 1}
    late = workspace.fullsend("audience", "audit", "to-single", "--top-up")
    assert late.code == 2
    assert "is complete" in late.err
    assert "ledgerKey: to-single" in late.err


def test_a_no_counts_where_it_was_said_and_nowhere_else(workspace: Workspace):
    sink = workspace.sink()
    workspace.csv([(f"{name}@example.com",) for name in ("all", "here", "list", "file", "back", "yes")], header="email")
    people = str(workspace.manifests / "people.csv")
    for name in ("news", "offers"):
        assert workspace.fullsend("audience", "import", name, people, "--opt-in", "single").code == 0
    assert workspace.fullsend("audience", "import", "news", people, "--opt-in", "single", "-n", "other").code == 0
    suppress = "suppress"
    assert workspace.fullsend(suppress, "add", "all@example.com", "--installation").out.startswith("1 added")
    assert workspace.fullsend(suppress, "add", "Here@Example.com").out.startswith("1 added")
    assert workspace.fullsend(suppress, "add", "here@example.com").out.startswith("0 added, 1 were suppressed")
    assert workspace.fullsend(suppress, "add", "list@example.com", "--list", "news").out.startswith("1 added")
    assert workspace.fullsend(suppress, "add", "back@example.com").code == 0
    assert workspace.fullsend(suppress, "remove", "back@example.com").out == "back@example.com: 1 lifted\n"
    bad = workspace.fullsend(suppress, "add", "not an address")
    assert bad.code == 2
    workspace.csv([("file@example.com", "abuse"), ("nonsense", "x")], header="email,reason", file="no.csv")
    imported = workspace.fullsend(suppress, "import", str(workspace.manifests / "no.csv"), "-o", "json")
    assert imported.result == {"rows": 2, "added": 1, "known": 0, "invalid": 1}
    assert "nonsense" in imported.err
    listed = {(row["address"].lower(), row["scope"], row["reason"]) for row in rows(
        workspace.fullsend(suppress, "list").out)}  # fmt: skip
    assert listed == {
        ("all@example.com", "installation", "asked"),
        ("here@example.com", "tenant", "asked"),
        ("list@example.com", "list", "asked"),
        ("file@example.com", "tenant", "abuse"),
    }

    elsewhere = [relay(sink.port), members("news"), transactional("news", "news")]
    for document in elsewhere:
        document["metadata"]["namespace"] = "other"
    workspace.write(
        relay(sink.port),
        members("news"),
        members("offers"),
        transactional("news", "news"),
        transactional("offers", "offers"),
        *elsewhere,
    )
    assert workspace.run().code == 0
    assert sink.copies() == {
        "here@example.com": 1,
        "list@example.com": 2,
        "file@example.com": 1,
        "back@example.com": 3,
        "yes@example.com": 3,
    }


def test_an_erased_person_is_in_no_table_the_proof_still_holds_and_they_are_not_mailed_again(workspace: Workspace):
    sink = workspace.sink({"rules": [{"fault": "UnknownMailbox", "match": "forget.me@*"}]})
    people = [{"email": f"user{number}@example.com", "variables": {"name": "N"}} for number in range(5)]
    people.append({"email": "Forget.Me@example.com", "id": "customer-4711", "variables": {"name": "Rumpelstilz"}})
    workspace.csv([("forget.me@example.com", "Rumpelstilz")], file="list.csv")
    assert workspace.fullsend(
        "audience", "import", "news", str(workspace.manifests / "list.csv"), "--opt-in", "single"
    ).code == 0  # fmt: skip
    inline = {"inline": {"recipients": people}}
    workspace.campaign(sink.port, source=inline)
    assert workspace.run().code == 0
    held = json.loads(workspace.fullsend("export", "forget.me@example.com").out)
    assert len(held["deliveries"]) == len(held["memberships"]) == 1
    assert "Rumpelstilz" in json.dumps(held)
    assert texts_with(workspace, "forget.me"), "the search finds what is there"

    done = workspace.fullsend("erase", "Forget.Me@example.com", "--yes")
    assert done.code == 0, done.err
    assert "1 deliveries" in done.out
    assert texts_with(workspace, "forget.me") == []
    assert texts_with(workspace, "Rumpelstilz") == []
    assert texts_with(workspace, "customer-4711") == []
    held = json.loads(workspace.fullsend("export", "forget.me@example.com").out)
    assert "Rumpelstilz" not in json.dumps(held)
    assert "erased" in {suppression["reason"] for suppression in held["suppressions"]}
    report = workspace.fullsend("report", "launch", "-o", "json").result
    assert report["proof"]["holds"]
    assert report["counts"]["rejected"] == 1

    mended = workspace.sink()
    workspace.csv([("forget.me@example.com", "Rumpelstilz"), ("user0@example.com", "N")], file="next.csv")
    workspace.campaign(mended.port, name="second", source={"csv": {"file": "next.csv"}})
    assert workspace.run().code == 0
    assert mended.copies() == {"user0@example.com": 1}
    again = workspace.fullsend("erase", "forget.me@example.com", "--yes")
    assert again.code == 0
    assert texts_with(workspace, "forget.me") == []


def texts_with(workspace: Workspace, needle: str) -> list[str]:
    """The tables and columns of the ledger in which a text is found, whatever type they have."""
    found = []
    with psycopg.connect(workspace.database) as ledger:
        columns = ledger.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'fullsend'"
        ).fetchall()
        for table, column in columns:
            statement = f'SELECT count(*) FROM fullsend."{table}" WHERE strpos(lower("{column}"::text), lower(%s)) > 0'
            as_bytes = (
                f'SELECT count(*) FROM fullsend."{table}" WHERE position(convert_to(%s, \'UTF8\') IN "{column}") > 0'
            )
            is_bytes = ledger.execute(
                "SELECT data_type = 'bytea' FROM information_schema.columns"
                " WHERE table_schema = 'fullsend' AND table_name = %s AND column_name = %s",
                (table, column),
            ).fetchone()
            row = ledger.execute(as_bytes if is_bytes == (True,) else statement, (needle,)).fetchone()
            if row is not None and row[0]:
                found.append(f"{table}.{column}")
    return found


def test_a_purged_campaign_never_sends_again_and_still_says_what_it_was(workspace: Workspace):
    workspace.recipients(10)
    sink = workspace.sink()
    workspace.campaign(sink.port)
    assert workspace.run().code == 0
    done = workspace.fullsend("purge", "launch", "--yes")
    assert done.code == 0, done.err
    assert texts_with(workspace, "user000001@example.com") == []
    assert workspace.run().code == 0
    workspace.campaign(sink.port, message={"subject": "Another"})
    other = workspace.run()
    assert other.code == 2
    assert "another name" in other.result[0]["message"]
    report = workspace.fullsend("report", "launch", "-o", "json").result
    assert report["counts"]["accepted"] == 10
    assert report["proof"]["holds"]
    assert sink.copies().total() == 10


def test_migrate_says_what_it_did_and_may_be_run_at_any_time(workspace: Workspace, empty_dsn: str):
    place = Workspace(workspace.folder / "empty", empty_dsn)
    first = place.fullsend("migrate")
    assert first.code == 0
    assert first.out.startswith("schema version ")
    assert "nothing to do" in place.fullsend("migrate").out
