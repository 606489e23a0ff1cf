"""An import into a list takes every row or says why not, and never takes back a no."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

import pytest

from fullsend.audience.cleaning import clean
from fullsend.audience.importing import ImportReport, import_list
from fullsend.audience.plan import plan
from fullsend.audience.sources.csv_file import CsvSource
from fullsend.audience.sources.lists import ListSource
from fullsend.errors import InvalidInput
from fullsend.ledger import lists
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.lists import MemberStatus
from support.audience_world import TENANT, World


async def imported(world: World, text: str, **settings: object) -> ImportReport:
    path = world.mounts.base_dir / "people.csv"
    path.write_text(text, encoding="utf-8")
    return await import_list(world.db, TENANT, "news", CsvSource(path), **settings)  # type: ignore[arg-type]


async def members(world: World) -> dict[str, lists.Member]:
    return {member.address: member async for member in lists.list_members(world.db, TENANT, "news")}


def numbers(report: ImportReport) -> dict[str, int]:
    return {name: value for name, value in asdict(report).items() if name != "examples" and value}


async def test_every_row_is_taken_or_told(world: World) -> None:
    text = "email,name,status\nann@x.de,Ann,\nANN@x.de,Ann,\noops,Eve,\nbob@x.de,Bob,maybe\nzoe@x.de,Zoe,confirmed\n"
    report = await imported(world, text, double_opt_in=True)
    assert numbers(report) == {"rows": 5, "inserted": 2, "duplicate": 1, "invalid": 2}
    assert report.examples[0].startswith("row 4 (oops): NoAtSign: ")
    assert report.examples[1].startswith("row 5 (bob@x.de): UnknownStatus: 'maybe' is not a status; known are ")
    found = await members(world)
    assert {address: (each.status, each.variables) for address, each in found.items()} == {
        "ann@x.de": (MemberStatus.UNCONFIRMED, '{"name":"Ann"}'),
        "zoe@x.de": (MemberStatus.CONFIRMED, '{"name":"Zoe"}'),
    }


async def test_consent_is_kept_as_evidence_and_not_as_a_variable(world: World) -> None:
    await imported(
        world,
        "email,consent_at,consent_source,consent_ip\nann@x.de,2026-01-02T03:04:05Z,shop form,192.0.2.7\nbob@x.de,,,\n",
        double_opt_in=False,
        status=MemberStatus.CONFIRMED,
    )
    found = await members(world)
    assert json.loads(found["ann@x.de"].evidence) == {
        "consent_at": "2026-01-02T03:04:05Z",
        "consent_source": "shop form",
        "consent_ip": "192.0.2.7",
    }
    assert found["bob@x.de"].evidence == ""
    assert found["ann@x.de"].variables == "{}"
    assert found["ann@x.de"].status is MemberStatus.CONFIRMED


async def test_the_same_file_again_changes_nothing(world: World) -> None:
    text = "email,name,consent_source\nann@x.de,Ann,shop\nbob@x.de,Bob,\n"
    await imported(world, text, double_opt_in=False)
    before = await members(world)
    assert numbers(await imported(world, text)) == {"rows": 2, "unchanged": 2}
    assert await members(world) == before


async def test_changed_people_are_updated(world: World) -> None:
    await imported(world, "email,name\nann@x.de,Ann\nbob@x.de,Bob\n", double_opt_in=False)
    report = await imported(world, "email,name\nann@x.de,Anna\nbob@x.de,Bob\n")
    assert numbers(report) == {"rows": 2, "updated": 1, "unchanged": 1}
    assert (await members(world))["ann@x.de"].variables == '{"name":"Anna"}'


async def test_a_file_that_does_not_know_of_a_confirmation_does_not_undo_it(world: World) -> None:
    await imported(world, "email,status\nann@x.de,confirmed\n", double_opt_in=True)
    report = await imported(world, "email,status\nann@x.de,unconfirmed\n")
    assert numbers(report) == {"rows": 1, "unchanged": 1}
    assert (await members(world))["ann@x.de"].status is MemberStatus.CONFIRMED


@pytest.mark.parametrize("status", ["", "enabled", "confirmed", "unconfirmed"])
async def test_who_unsubscribed_is_never_resubscribed(world: World, status: str) -> None:
    await imported(world, "email\nann@x.de\nbob@x.de\n", double_opt_in=False)
    hashed = hash_identity((await installation(world.db)).hash_key, "ann@x.de")
    await lists.set_status(world.db, TENANT, "news", hashed, MemberStatus.UNSUBSCRIBED, "link")
    text = f"email,name,status\nann@x.de,Ann,{status}\nANN@x.de,Ann,{status}\n"
    report = await imported(world, text, status=MemberStatus.CONFIRMED)
    assert numbers(report) == {"rows": 2, "kept_unsubscribed": 1, "duplicate": 1}
    found = (await members(world))["ann@x.de"]
    assert (found.status, found.evidence) == (MemberStatus.UNSUBSCRIBED, "link")


@pytest.mark.parametrize("word", ["unsubscribed", "disabled", "blocklisted"])
@pytest.mark.parametrize("order", [1, -1])
async def test_a_no_on_any_copy_of_the_file_counts(world: World, word: str, order: int) -> None:
    copies = [f"ann@x.de,{word}", "Ann@x.de,confirmed"][::order]
    await imported(world, "\n".join(["email,status", *copies, ""]), double_opt_in=False)
    [member] = (await members(world)).values()
    assert member.status is MemberStatus.UNSUBSCRIBED


async def test_a_member_who_leaves_by_a_file_has_left(world: World) -> None:
    await imported(world, "email,status\nann@x.de,confirmed\n", double_opt_in=True)
    assert numbers(await imported(world, "email,status\nann@x.de,unsubscribed\n")) == {"rows": 1, "updated": 1}
    assert (await members(world))["ann@x.de"].status is MemberStatus.UNSUBSCRIBED


async def test_the_blocked_are_blocked_everywhere_and_stay_so(world: World) -> None:
    report = await imported(
        world, "email,status\nann@x.de,blocklisted\nbob@x.de,disabled\nzoe@x.de,\n", double_opt_in=False
    )
    assert numbers(report) == {"rows": 3, "inserted": 3, "blocked": 2}
    await imported(world, "email,status\nann@x.de,confirmed\nbob@x.de,confirmed\n")
    campaign = await world.campaign(("everybody", world.csv("all.csv", "email\nann@x.de\nBOB@x.de\nzoe@x.de\n")))
    await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert world.rows(campaign) == {
        "ann@x.de": ("suppressed", "Blocked"),
        "BOB@x.de": ("suppressed", "Blocked"),
        "zoe@x.de": ("pending", ""),
    }


async def test_a_list_is_made_only_when_its_kind_is_said_and_keeps_its_kind(world: World) -> None:
    with pytest.raises(InvalidInput, match="there is no list news in the namespace default"):
        await imported(world, "email\nann@x.de\n")
    await imported(world, "email\nann@x.de\n", double_opt_in=True)
    with pytest.raises(InvalidInput, match="news is a double opt-in list already"):
        await imported(world, "email\nann@x.de\n", double_opt_in=False)


async def test_an_import_is_more_than_one_chunk_and_duplicates_are_found_across_them(world: World) -> None:
    text = "email\n" + "".join(f"u{n}@x.de\n" for n in range(12_000)) + "U0@x.de\n"
    report = await imported(world, text, double_opt_in=False)
    assert numbers(report) == {"rows": 12_001, "inserted": 12_000, "duplicate": 1}


async def test_a_list_can_be_cleaned_as_a_file_can(world: World) -> None:
    await imported(world, "email,status\nann@x.de,\nabuse@x.de,\nbob@x.de,unsubscribed\n", double_opt_in=False)
    out = io.StringIO()
    report = await clean(ListSource(world.db, TENANT, ["news"], ["news"]), out)
    assert (report.rows, report.usable, report.role, report.refused) == (3, 1, 1, 1)
    assert sorted(line[1:3] for line in list(csv.reader(io.StringIO(out.getvalue())))[1:]) == [
        ["abuse@x.de", "role"],
        ["bob@x.de", "refused"],
    ]
