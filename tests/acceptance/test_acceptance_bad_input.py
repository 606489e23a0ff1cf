"""What a user can get wrong in manifests, messages and audiences: said clearly, nobody sent to, and mended in place.

The claim is always the same: the exit code and the words say what is wrong, where, and what to do; nothing is half
sent; and once the input is mended, the same command completes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from support.workspace import Finished, Workspace, declared, eventually, secret

MESSAGE = {"from": {"address": "desk@sender.example"}, "subject": "Notice for {{ name }}", "text": "Dear {{ name }},"}
PEOPLE = ["ada@example.com", "grace@example.com"]


def campaign(name: str, audience: str = "", **message: Any) -> dict[str, Any]:
    return declared(
        "Campaign",
        name,
        {
            "class": "Transactional",
            "audiences": [{"name": audience or name}],
            "transportRef": {"name": "relay"},
            "message": {**MESSAGE, **message},
            "senders": {"maxPods": 1},
            "retry": {"minBackoff": "1s", "maxBackoff": "1s"},
        },
    )


def relay(port: int) -> dict[str, Any]:
    smtp = {"host": "127.0.0.1", "port": port, "tls": "Disabled"}
    return declared("MailTransport", "relay", {"smtp": smtp, "limits": {"connections": 2}})


def csv(name: str, file: str) -> dict[str, Any]:
    return declared("Audience", name, {"csv": {"file": file}})


def query(name: str, text: str) -> dict[str, Any]:
    return declared("Audience", name, {"postgres": {"dsnSecretRef": {"name": "shop"}, "query": text}})


def results(done: Finished) -> Mapping[str, Mapping[str, Any]]:
    return {result["campaign"].removeprefix("default/"): result for result in done.result}


def test_every_problem_of_the_manifests_is_named_at_once_with_its_place_and_its_remedy(workspace: Workspace):
    sink = workspace.sink()
    workspace.csv([(PEOPLE[0], "Ada"), (PEOPLE[1], "Grace")])
    folder = workspace.manifests
    (folder / "broken.yaml").write_text("kind: Campaign\nspec:\n  a: [1, 2\n")
    (folder / "twice.yaml").write_text("apiVersion: fullsend.dev/v1alpha1\nkind: Audience\nkind: Audience\n")
    workspace.write(
        {"apiVersion": "fullsend.dev/v1alpha1", "kind": "Campaing", "metadata": {"name": "x"}, "spec": {}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "y"}, "spec": {}},
        relay(sink.port),
        {**campaign("launch", "people"), "spec": {**campaign("launch", "people")["spec"], "subjct": "Hi"}},
        campaign("lost", "nowhere"),
        csv("no-file", "missing.csv"),
    )
    done = workspace.run()
    assert done.code == 2
    for words in (
        ("broken.yaml:4", "not YAML"),
        ("twice.yaml:3", "'kind' is given twice"),
        ("campaign.yaml", "Campaing", "Campaign"),
        ("Deployment",),
        ("Campaign launch", "spec.subjct"),
        ("Campaign lost", "spec.audiences[0]", "nowhere"),
        ("Campaign launch", "people"),
        ("Audience no-file", "missing.csv does not exist"),
    ):
        assert any(all(word in line for word in words) for line in done.err.splitlines()), (words, done.err)
    assert "Traceback" not in done.err
    assert not sink.copies()

    (folder / "broken.yaml").unlink()
    (folder / "twice.yaml").unlink()
    workspace.write(relay(sink.port), campaign("launch", "people"), csv("people", "people.csv"))
    assert workspace.fullsend("validate", str(folder), ledger=False).code == 0
    assert workspace.run().code == 0
    assert sink.copies() == dict.fromkeys(PEOPLE, 1)


def test_what_cannot_be_planned_says_why_and_completes_under_the_same_name_once_mended(workspace: Workspace):
    sink = workspace.sink()
    workspace.csv([(address, "Somebody") for address in PEOPLE])
    workspace.csv([(address, "Somebody") for address in PEOPLE], header="adress,name", file="column.csv")
    workspace.csv([], file="nobody.csv")
    (workspace.manifests / "nul.csv").write_bytes(b"email,name\nada@example.com,A\x00da\n")
    with psycopg.connect(workspace.database, autocommit=True) as shop:
        shop.execute("CREATE TABLE customer (email text, name text)")
        shop.cursor().executemany("INSERT INTO customer VALUES (%s, 'Somebody')", [(address,) for address in PEOPLE])
    good = (csv("people", "people.csv"), relay(sink.port))
    shop_dsn = secret("shop", "fullsend.dev/postgres-dsn", {"dsn": workspace.database})
    select = "SELECT email, name FROM customer"
    workspace.write(
        *good,
        shop_dsn,
        campaign("syntax", "people", text="Dear {{ name }"),
        campaign("gigabyte", "people", text="{{ 'a' * 500000000 }}"),
        campaign("nobody-has-it", "people", text="Dear {{ nmae }}"),
        campaign("column"),
        csv("column", "column.csv"),
        campaign("nobody"),
        csv("nobody", "nobody.csv"),
        campaign("nul"),
        csv("nul", "nul.csv"),
        campaign("no-table"),
        query("no-table", "SELECT email FROM custommer"),
        campaign("writes"),
        query("writes", "DELETE FROM customer RETURNING email, name"),
        campaign("hides-a-write"),
        query("hides-a-write", "WITH gone AS (DELETE FROM customer RETURNING *) SELECT email, name FROM gone"),
        campaign("no-email"),
        query("no-email", "SELECT email AS address, name FROM customer"),
        campaign("no-rows"),
        query("no-rows", f"{select} WHERE false"),
    )
    done = workspace.run()
    assert done.code == 2, done.err
    found = results(done)
    for name, reason, words in (
        ("syntax", "InvalidMessage", ("message.text", "line 1")),
        ("gigabyte", "NothingRenders", ("text, line 1", "4,000,000 characters")),
        ("nobody-has-it", "MissingVariable", ("nmae", "columns are name")),
        ("column", "MissingColumn", ("audience column", "column.csv", "'email'", "adress, name")),
        ("nobody", "EmptyAudience", ("audience nobody", "allowEmpty")),
        ("nul", "BadCsv", ("nul.csv", "row 2", "NUL")),
        ("no-table", "QueryFailed", ("custommer", "does not exist")),
        ("writes", "QueryWrites", ("must be a SELECT", "DELETE")),
        ("hides-a-write", "QueryWrites", ("must only read",)),
        ("no-email", "MissingColumn", ("email", "address, name")),
        ("no-rows", "EmptyAudience", ("audience no-rows", "allowEmpty")),
    ):
        result = found[name]
        assert (result["exitCode"], result["reason"]) == (2, reason), result
        for word in words:
            assert word in result["message"], result
        assert "run the same command again" in result["message"]
        assert result["report"]["total"] == 0
    assert not sink.copies()
    with psycopg.connect(workspace.database) as shop:
        assert shop.execute("SELECT count(*) FROM customer").fetchone() == (len(PEOPLE),)

    workspace.write(
        *good,
        shop_dsn,
        *(campaign(name, "people") for name in ("syntax", "gigabyte", "nobody-has-it", "column", "nul")),
        campaign("no-table", "shop"),
        campaign("writes", "shop"),
        campaign("hides-a-write", "shop"),
        campaign("no-email", "shop"),
        campaign("no-rows", "shop"),
        query("shop", select),
        campaign("nobody"),
        declared("Audience", "nobody", {"csv": {"file": "nobody.csv"}, "allowEmpty": True}),
    )
    again = workspace.run()
    assert again.code == 0, again.out
    assert {name: result["report"]["counts"]["accepted"] for name, result in results(again).items()} == {
        name: 0 if name == "nobody" else 2 for name in found
    }
    assert sink.copies() == dict.fromkeys(PEOPLE, len(found) - 1)


def test_one_person_without_a_variable_is_named_and_everybody_else_is_delivered_to(workspace: Workspace):
    sink = workspace.sink()
    people = [{"email": f"user{number}@example.com", "variables": {"name": f"N{number}"}} for number in range(1000)]
    del people[617]["variables"]
    workspace.write(
        declared("Audience", "people", {"inline": {"recipients": people}}), relay(sink.port), campaign("most", "people")
    )
    done = workspace.run()
    assert done.code == 4, done.err
    [result] = done.result
    counts = result["report"]["counts"]
    assert (counts["accepted"], counts["unrenderable"]) == (999, 1)
    assert "1 unrenderable" in result["message"]
    missing = workspace.fullsend("missing", "most")
    assert [line.split(",")[:2] for line in missing.out.splitlines()[1:]] == [["user617@example.com", "unrenderable"]]
    why = workspace.fullsend("why", "most", "user617@example.com")
    assert "name" in why.out
    assert "user617@example.com" not in sink.copies()
    assert workspace.run().code == 4
    assert sink.copies().total() == 999


def test_a_mark_a_duplicate_and_unusable_addresses_are_no_reason_to_stop(workspace: Workspace):
    sink = workspace.sink()
    folder: Path = workspace.manifests
    folder.mkdir(parents=True)
    rows = "Ada@Example.com,Ada\nada@example.COM,Ada again\ngrace@example.com,Grace\nnot an address,X\n,Y\n"
    (folder / "people.csv").write_bytes(b"\xef\xbb\xbf" + f"email,name\n{rows}".encode())
    workspace.write(csv("people", "people.csv"), relay(sink.port), campaign("launch", "people"))
    done = workspace.run()
    assert done.code == 0, done.out
    report = done.result[0]["report"]
    assert (report["counts"]["accepted"], report["counts"]["invalid"]) == (2, 2)
    assert (report["plan"]["rowsRead"], report["plan"]["duplicates"]) == (5, 1)
    assert sink.copies() == {"Ada@example.com": 1, "grace@example.com": 1}


def test_a_planner_that_is_killed_half_way_is_started_again_and_nobody_is_planned_twice(workspace: Workspace):
    sink = workspace.sink()
    with psycopg.connect(workspace.database, autocommit=True) as shop:
        shop.execute(
            "CREATE TABLE customer AS SELECT format('user%s@example.com', n) AS email, 'N' AS name"
            " FROM generate_series(1, 50) AS n"
        )
    slow = "SELECT email, name FROM customer CROSS JOIN (SELECT pg_sleep(1)) AS wait"
    workspace.write(
        secret("shop", "fullsend.dev/postgres-dsn", {"dsn": workspace.database}),
        query("shop", slow),
        relay(sink.port),
        campaign("launch", "shop"),
    )
    with workspace.running() as run:
        [planner] = eventually("a planner that reads", 30, lambda: workspace.processes("fullsend.audience"))
        eventually("its plan", 30, lambda: _plans(workspace))
        os.kill(planner, signal.SIGKILL)
        assert run.wait(60) == 0
    assert len(sink.copies()) == sink.copies().total() == 50


def _plans(workspace: Workspace) -> int:
    with psycopg.connect(workspace.database) as ledger:
        row = ledger.execute("SELECT count(*) FROM fullsend.plan").fetchone()
    return row[0] if row is not None else 0
