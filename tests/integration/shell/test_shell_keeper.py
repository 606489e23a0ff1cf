"""A keeper of a ledger key: what it finds, whose it is, and what it lets go."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from psycopg.errors import DiskFull

from fullsend.errors import LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger import plans
from fullsend.ledger.control import RetryControl
from fullsend.ledger.database import Database
from fullsend.reconcile.actions import Register
from fullsend.reconcile.observed import Claimant, DatabaseFault
from fullsend.shell.keeper import Declared, Keeper, problem_of


def declared(subject: str = "Hello") -> Declared:
    return Declared({"message": {"subject": subject}}, f"print of {subject}", RetryControl())


def keeper(uid: str = "one", *, lease: float = 60) -> Keeper:
    us = Claimant("here", uid)
    return Keeper(us, tenant="shop", key="launch", name="launch", lease=timedelta(seconds=lease))


async def registered(db: Database, uid: str = "one", *, lease: float = 60, subject: str = "Hello") -> Keeper:
    made = keeper(uid, lease=lease)
    await made.look(db, declared(subject))
    await made.carry_out(db, Register())
    await made.look(db, declared(subject))
    return made


async def sealed(db: Database, made: Keeper) -> None:
    assert made.campaign is not None
    generation = await plans.begin_plan(db, made.campaign)
    await plans.seal_plan(db, made.campaign, generation, compiled=b"{}", rows_read=0, render_checked=0, render_failed=0)


async def test_what_is_not_there_is_none_and_registered_it_is_ours(ledger: Database) -> None:
    made = keeper()
    assert await made.look(ledger, declared()) is None
    await made.carry_out(ledger, Register())
    view = await made.look(ledger, declared())
    assert view is not None
    assert view.owner is not None
    assert (view.owner.cluster, view.owner.uid) == ("here", "one")
    assert made.conflict == ()


async def test_what_was_never_planned_is_replaced_by_what_is_declared_now(ledger: Database) -> None:
    made = await registered(ledger)
    view = await made.look(ledger, declared("Changed"))
    assert view is not None
    assert view.fingerprint == "print of Changed"
    assert made.conflict == ()


async def test_what_was_planned_stays_and_the_difference_is_told_until_it_is_taken_back(ledger: Database) -> None:
    made = await registered(ledger)
    await sealed(ledger, made)
    await made.look(ledger, declared("Changed"))
    assert "Changed" in made.conflict[0]
    await made.look(ledger, declared())
    assert made.conflict == ()


async def test_a_live_owner_keeps_its_key(ledger: Database) -> None:
    await registered(ledger)
    view = await keeper("two").look(ledger, declared())
    assert view is not None
    assert view.owner is not None
    assert view.owner.uid == "one"


async def test_an_owner_that_has_fallen_silent_loses_it(ledger: Database) -> None:
    await registered(ledger, lease=0.2)
    other = keeper("two")
    await asyncio.sleep(0.3)
    view = await other.look(ledger, declared())
    assert view is not None
    assert view.owner is not None
    assert view.owner.uid == "two"


async def test_a_key_with_other_content_is_not_taken_even_where_its_owner_is_gone(ledger: Database) -> None:
    first = await registered(ledger)
    await sealed(ledger, first)
    await first.release(ledger)
    view = await keeper("two").look(ledger, declared("Changed"))
    assert view is not None
    assert view.owner is None


async def test_an_owner_known_to_be_gone_is_evicted_before_its_lease_ends(ledger: Database) -> None:
    await registered(ledger)
    other = keeper("two")
    view = await other.look(ledger, declared())
    assert view is not None
    assert view.owner is not None
    await other.evict(ledger, view.owner)
    view = await other.look(ledger, declared())
    assert view is not None
    assert view.owner is not None
    assert view.owner.uid == "two"


async def test_a_look_writes_nothing_while_the_lease_is_fresh(ledger: Database) -> None:
    made = await registered(ledger)
    before = await made.look(ledger, declared())
    after = await made.look(ledger, declared())
    assert before is not None
    assert after is not None
    assert (before.owner, before.revision) == (after.owner, after.revision)


async def test_while_references_are_missing_what_was_found_last_stays(ledger: Database) -> None:
    made = await registered(ledger)
    await sealed(ledger, made)
    await made.look(ledger, declared("Changed"))
    await made.look(ledger, Declared())
    assert made.conflict


def test_ledger_trouble_is_told_apart() -> None:
    assert problem_of(LedgerUnavailable("x")).fault is DatabaseFault.UNREACHABLE
    assert problem_of(SchemaMismatch("x")).fault is DatabaseFault.SCHEMA
    assert problem_of(LedgerError("x")).fault is DatabaseFault.REFUSED


def test_a_full_disk_is_not_a_database_that_is_away() -> None:
    error = LedgerUnavailable("no space left")
    error.__cause__ = DiskFull("no space left")
    assert problem_of(error).fault is DatabaseFault.DISK_FULL
