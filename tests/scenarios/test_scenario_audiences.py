"""Who is written to: nobody is lost between those who are not, and nobody is judged by one row of several."""

from __future__ import annotations

import psycopg
import pytest

from support.sink_account import EVERYBODY_ONCE, account
from support.workspace import Workspace, secret

LISTMONK = """
CREATE TABLE subscribers (id serial PRIMARY KEY, uuid uuid DEFAULT gen_random_uuid(), email text, name text,
    status text NOT NULL DEFAULT 'enabled');
CREATE TABLE lists (id int PRIMARY KEY, name text, optin text);
CREATE TABLE subscriber_lists (subscriber_id int, list_id int, status text, PRIMARY KEY (subscriber_id, list_id));
INSERT INTO lists VALUES (1, 'weekly', 'single'), (2, 'offers', 'double');
"""
ELIGIBLE = """
SELECT s.email, s.name, s.uuid AS id FROM subscribers AS s
WHERE s.status = 'enabled' AND EXISTS (
    SELECT FROM subscriber_lists AS m JOIN lists AS l ON l.id = m.list_id
    WHERE m.subscriber_id = s.id AND l.id IN (1, 2)
        AND (m.status = 'confirmed' OR (l.optin = 'single' AND m.status <> 'unsubscribed')))
ORDER BY s.id
"""


@pytest.mark.parametrize("said_no", ["before the plan", "between plan and sending"])
def test_blocklisted_run_longer_than_a_batch(workspace: Workspace, said_no: str):
    """A. 5,000 people, 1,000 of them in a row blocklisted.

    Listmonk 3.0.0: finished at 2,000 of 4,000: a batch of 1,000 that the blocklist empties means "finished".
    Fullsend: a suppressed person is a row with a reason, and an empty claim ends nothing: the other 4,000 get it.
    """
    people = workspace.recipients(5000)
    blocked = people[2000:3000]
    workspace.csv([(address,) for address in blocked], header="email", file="../blocked.csv")
    sink = workspace.sink()

    def block() -> None:
        file = str(workspace.folder / "blocked.csv")
        assert workspace.fullsend("suppress", "import", file, "--reason", "blocklisted").code == 0

    if said_no == "before the plan":
        assert workspace.fullsend("migrate").code == 0
        block()
    else:
        workspace.campaign(sink.port, spec={"suspend": True})
        assert workspace.run().code == 5
        block()
    workspace.campaign(sink.port)
    done = workspace.run()
    assert done.code == 0, done.err
    assert account([*people[:2000], *people[3000:]], sink) == EVERYBODY_ONCE
    counts = done.result[0]["report"]["counts"]
    assert (counts["accepted"], counts["suppressed"]) == (4000, 1000)


def _from_listmonk(workspace: Workspace, port: int, dsn: str) -> None:
    source = {"postgres": {"dsnSecretRef": {"name": "crm"}, "query": ELIGIBLE}}
    crm = secret("crm", "fullsend.dev/postgres-dsn", {"dsn": dsn})
    workspace.campaign(port, source=source, extra=[crm])


def test_people_on_two_lists_of_different_opt_in(workspace: Workspace, empty_dsn: str):
    """B. 1,000 people on one list with single opt-in, and unconfirmed on another one with double opt-in.

    Listmonk 3.0.0: mailed 502: DISTINCT ON picks one of a person's rows and judges the person by that.
    Fullsend: a person is judged over all rows; one list that makes them eligible suffices, and they get one message.
    """
    with psycopg.connect(empty_dsn) as crm:
        crm.execute(LISTMONK)
        crm.execute(
            "INSERT INTO subscribers (email, name) SELECT format('user%s@example.com', n), 'P' || n"
            " FROM generate_series(1, 1000) AS n"
        )
        crm.execute(
            "INSERT INTO subscriber_lists SELECT id, l, 'unconfirmed' FROM subscribers, unnest('{1,2}'::int[]) AS l"
        )
    sink = workspace.sink()
    _from_listmonk(workspace, sink.port, empty_dsn)
    done = workspace.run()
    assert done.code == 0, done.err
    assert account([f"user{n}@example.com" for n in range(1, 1001)], sink) == EVERYBODY_ONCE


def test_disabled_people(workspace: Workspace, empty_dsn: str):
    """People who were disabled, in the source's own tables and in an imported file.

    Listmonk 3.0.0: mails them: only the blocklist is looked at.
    Fullsend: Listmonk's tables are read by a query that asks for `enabled`; an import suppresses them everywhere.
    """
    with psycopg.connect(empty_dsn) as crm:
        crm.execute(LISTMONK)
        crm.execute(
            "INSERT INTO subscribers (email, name, status) VALUES ('on@example.com', 'On', 'enabled'),"
            " ('off@example.com', 'Off', 'disabled'), ('blocked@example.com', 'Blocked', 'blocklisted')"
        )
        crm.execute("INSERT INTO subscriber_lists SELECT id, 1, 'confirmed' FROM subscribers")
    sink = workspace.sink()
    _from_listmonk(workspace, sink.port, empty_dsn)
    assert workspace.run().code == 0
    assert account(["on@example.com"], sink) == EVERYBODY_ONCE

    workspace.csv(
        [("ann@example.com", "Ann", "enabled"), ("bob@example.com", "Bob", "disabled")],
        header="email,name,status",
        file="../import.csv",
    )
    imported = workspace.fullsend(
        "audience", "import", "weekly", str(workspace.folder / "import.csv"), "--opt-in=single"
    )
    assert imported.code == 0, imported.err
    workspace.csv([("ann@example.com", "Ann"), ("bob@example.com", "Bob")])
    second = workspace.sink()
    workspace.campaign(second.port, name="by-file")
    done = workspace.run()
    assert done.code == 0, done.err
    assert account(["ann@example.com"], second) == EVERYBODY_ONCE
    assert "suppressed" in workspace.fullsend("why", "by-file", "bob@example.com").out


def test_confirmed_and_unsubscribed_over_several_lists(workspace: Workspace):
    """People with a yes on one list and a no, or no word yet, on another one.

    Fullsend: judged over all lists of the campaign: a yes on one of them counts, whatever was said to the others.
    """
    asked = {  # (on the list with double opt-in, on the one with single opt-in): whether they are written to
        ("confirmed", "confirmed"): True,
        ("confirmed", ""): True,
        ("unconfirmed", ""): False,
        ("unconfirmed", "unconfirmed"): True,
        ("unsubscribed", "confirmed"): True,
        ("confirmed", "unsubscribed"): True,
        ("unsubscribed", "unsubscribed"): False,
        ("unconfirmed", "unsubscribed"): False,
        ("", "unsubscribed"): False,
        ("", "unconfirmed"): True,
    }
    names = {pair: "-".join(word or "absent" for word in pair) + "@example.com" for pair in asked}
    for place, (list_name, opt_in) in enumerate((("checked", "double"), ("open", "single"))):
        rows = [(names[pair], "x", pair[place]) for pair in asked if pair[place]]
        workspace.csv(rows, header="email,name,status", file=f"../{list_name}.csv")
        file = str(workspace.folder / f"{list_name}.csv")
        if place == 0:
            assert workspace.fullsend("migrate").code == 0
        imported = workspace.fullsend("audience", "import", list_name, file, "--opt-in", opt_in)
        assert imported.code == 0, imported.err
    sink = workspace.sink()
    workspace.campaign(sink.port, source={"list": {"names": ["checked", "open"]}})
    done = workspace.run()
    assert done.code == 0, done.err
    assert account([names[pair] for pair, yes in asked.items() if yes], sink) == EVERYBODY_ONCE
    counts = done.result[0]["report"]["counts"]
    assert counts["suppressed"] == sum(not yes for yes in asked.values())


def test_one_persons_data_breaks_the_template(workspace: Workspace):
    """K. One of 500 people has data for which the message can't be built.

    Listmonk 3.0.0: skips the person and counts it nowhere: the campaign is "finished".
    Fullsend: the person is `unrenderable`, by name and with the reason; the campaign has failed by one, and says so.
    """
    people = workspace.recipients(500)
    broken = people[249]
    workspace.csv([(who, "x", "0" if who == broken else "4") for who in people], header="email,name,parts")
    sink = workspace.sink()
    message = {"subject": "Your share is {{ 100 // (parts | int) }}%"}
    workspace.campaign(sink.port, message=message)
    done = workspace.run()
    assert done.code == 4, done.out
    assert account([who for who in people if who != broken], sink) == EVERYBODY_ONCE
    assert "1 unrenderable" in done.result[0]["message"]
    [missing] = workspace.fullsend("missing", "launch").out.splitlines()[1:]
    assert missing.startswith(f"{broken},unrenderable,RenderError,")
    assert "division" in workspace.fullsend("why", "launch", broken).out

    # Only a person can say that this one may stay behind.
    assert workspace.fullsend("retry", "launch", "--state-of", "unrenderable").out.startswith("1 reopened")
    workspace.campaign(sink.port, message=message, spec={"completion": {"tolerate": {"unrenderable": "1%"}}})
    assert workspace.run().code == 0
    assert account([who for who in people if who != broken], sink) == EVERYBODY_ONCE
