"""What people ask: reports, lists, suppressions, erasure; each answer is from rows."""

from __future__ import annotations

import pytest

from fullsend.errors import InvalidInput
from fullsend.ledger import campaigns, erasure, lists, reports, sessions, suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.lists import MemberStatus, NewMember
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world


async def test_a_report_counts_every_row_and_quotes_the_replies(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 10)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 8)
    await world.armed(ledger, session, rows)
    no_such_user = {"code": 550, "enhanced": "5.1.1", "text": "no such user", "reason": "MailboxUnknown"}
    records = [world.accepted(row) for row in rows[:4]]
    records += [world.accepted(row, state=S.REJECTED, charged=True, **no_such_user) for row in rows[4:7]]
    records.append(world.outcome(rows[7], S.DEFERRED, delay=900.0, reason="Greylisted"))
    await world.record(ledger, session, *records)
    report = await reports.report(ledger, campaign)
    assert {(r.state, r.reason): r.count for r in report.reasons} == {
        (S.PENDING, ""): 2,
        (S.ACCEPTED, ""): 4,
        (S.REJECTED, "MailboxUnknown"): 3,
        (S.DEFERRED, "Greylisted"): 1,
    }
    assert [(r.state, r.code, r.text, r.count) for r in report.replies] == [(S.REJECTED, 550, "no such user", 3)]
    assert report.first_accepted_at is not None
    assert [(m.seq, m.state) async for m in reports.missing(ledger, campaign)] == [
        (8, S.DEFERRED),
        (9, S.PENDING),
        (10, S.PENDING),
    ]
    story = await reports.why(ledger, campaign, world.identity(5))
    assert story is not None
    assert (story.seq, story.state, story.source_row, story.token) == (5, S.REJECTED, 5, "t5")
    assert [(a.attempt, a.state, a.code, a.relay) for a in story.attempts] == [
        (1, S.REJECTED, 550, "relay[127.0.0.1]:25")
    ]
    assert await reports.why(ledger, campaign, world.identity(99)) is None


async def test_an_import_never_takes_back_what_a_person_said(ledger: Database) -> None:
    one, two = world.identity(1), world.identity(2)
    assert await lists.create_list(ledger, "ns", "news", double_opt_in=True)
    assert not await lists.create_list(ledger, "ns", "news", double_opt_in=False)
    members = [NewMember(one, "one@example.com", status=MemberStatus.CONFIRMED, evidence="form")]
    members.append(NewMember(two, "two@example.com"))
    assert await lists.import_members(ledger, "ns", "news", members) == lists.Imported(2, 0)
    assert await lists.set_status(ledger, "ns", "news", one, MemberStatus.UNSUBSCRIBED, "link")
    again = [NewMember(one, "one@example.com", status=MemberStatus.CONFIRMED, evidence="file")]
    assert await lists.import_members(ledger, "ns", "news", again) == lists.Imported(0, 1)
    found = {m.identity_hash: (m.status, m.evidence) async for m in lists.list_members(ledger, "ns", "news")}
    assert found == {one: (MemberStatus.UNSUBSCRIBED, "link"), two: (MemberStatus.UNCONFIRMED, "")}
    assert [s.reason async for s in suppressions.list_suppressions(ledger, "ns")] == ["Unsubscribed"]
    assert await lists.set_status(ledger, "ns", "news", one, MemberStatus.CONFIRMED, "asked again")
    assert [s async for s in suppressions.list_suppressions(ledger, "ns")] == []
    with pytest.raises(InvalidInput, match="no list other"):
        await lists.import_members(ledger, "ns", "other", members)


async def test_lifting_one_reason_lifts_no_other(ledger: Database) -> None:
    who = world.identity(1)
    target = Target(Scope.TENANT, "ns")
    entries = [NewSuppression(who, "one@example.com", reason) for reason in ("Unsubscribed", "MailboxRefused")]
    assert await suppressions.add(ledger, target, entries) == 2
    assert await suppressions.add(ledger, target, entries) == 0
    assert await suppressions.remove(ledger, target, who, reason="MailboxRefused") == 1
    assert [s.reason async for s in suppressions.list_suppressions(ledger, "ns")] == ["Unsubscribed"]
    assert [s async for s in suppressions.list_suppressions(ledger, "other")] == []
    await suppressions.add(ledger, Target.installation(), [NewSuppression(who, None, "complaint")])
    assert [s.scope async for s in suppressions.list_suppressions(ledger, "other")] == [Scope.INSTALLATION]


async def test_erasure_takes_the_texts_and_keeps_the_proof(ledger: Database) -> None:
    campaign = await world.sealed(ledger, 4)
    session = await world.opened(ledger, campaign)
    rows = await world.claimed(ledger, session, 3)
    await world.armed(ledger, session, rows[:2])
    await world.record(ledger, session, world.accepted(rows[0], text="queued for user1@example.com"))
    erased = await erasure.erase(ledger, "ns", world.identity(1), "user1@example.com")
    assert (erased.deliveries, erased.in_flight) == (1, 0)
    assert (await erasure.erase(ledger, None, world.identity(2), "user2@example.com")).in_flight == 1
    assert (await erasure.erase(ledger, None, world.identity(3), "user3@example.com")).deliveries == 1
    assert (await erasure.erase(ledger, "ns", world.identity(4), "user4@example.com")).deliveries == 1
    assert await world.counts(ledger, campaign) == {S.ACCEPTED: 1, S.ARMED: 1, S.SUPPRESSED: 2}
    assert (await world.armed(ledger, session, rows[2:])).refused == {3}
    await world.record(ledger, session, world.accepted(rows[1]))
    await sessions.close_session(ledger, session, "done")
    assert (await campaigns.prove(ledger, campaign)).holds
    exported = await erasure.export(ledger, None, world.identity(1))
    assert [d["address"] for d in exported["deliveries"]] == [None]
    assert exported["deliveries"][0]["attempts"][0]["text"] == ""


async def test_erasure_reaches_lists_suppressions_and_frozen_contents(ledger: Database) -> None:
    who = world.identity(1)
    registered = await campaigns.register(
        ledger,
        tenant="ns",
        key="inline",
        name="inline",
        owner=world.OWNER,
        content={"audiences": [{"inline": ["User1@example.com", "a.user1@example.com"]}], "class": "Marketing"},
        fingerprint="f",
    )
    await lists.create_list(ledger, "ns", "news", double_opt_in=False)
    await lists.import_members(ledger, "ns", "news", [NewMember(who, "user1@example.com")])
    await suppressions.add(ledger, Target(Scope.TENANT, "ns"), [NewSuppression(who, "user1@example.com", "manual")])
    erased = await erasure.erase(ledger, "ns", who, "user1@example.com")
    assert (erased.members, erased.suppressions, erased.contents) == (1, 1, 1)
    assert await campaigns.content(ledger, registered.campaign) == {
        "audiences": [{"inline": ["[erased]", "a.user1@example.com"]}],
        "class": "Marketing",
    }
    assert [(s.identity_hash, s.address) async for s in suppressions.list_suppressions(ledger, "ns")] == [(who, None)]
    assert (await erasure.erase(ledger, "ns", who, "user1@example.com")) == erasure.Erased(0, 0, 0, 0, 0)
