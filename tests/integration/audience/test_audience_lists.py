"""Our own lists as an audience: a person is judged over all of their memberships, never over one row."""

from __future__ import annotations

from typing import Any

import pytest

from fullsend.audience.plan import plan
from fullsend.audience.sources.lists import ListSource
from fullsend.ledger.identity_hash import hash_identity, installation
from fullsend.ledger.membership import find_lists, judged_members
from support.audience_world import TENANT, World

PENDING = ("pending", "")


async def make_list(world: World, name: str, *members: tuple[str, str], double: bool) -> None:
    """Members are (address, status)."""
    key = (await installation(world.db)).hash_key
    world.query("INSERT INTO fullsend.tenant (name) VALUES (%s) ON CONFLICT DO NOTHING", TENANT)
    [(tenant,)] = world.query("SELECT id FROM fullsend.tenant WHERE name = %s", TENANT)
    [(list_id,)] = world.query(
        "INSERT INTO fullsend.list (tenant_id, name, double_opt_in) VALUES (%s, %s, %s) RETURNING id",
        tenant, name, double,
    )  # fmt: skip
    for address, status in members:
        world.query(
            "INSERT INTO fullsend.member (list_id, tenant_id, identity_hash, address, variables, status)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            list_id, tenant, hash_identity(key, address.lower()), address, f'{{"list":"{name}"}}', status,
        )  # fmt: skip


def spec(*names: str) -> dict[str, Any]:
    return {"list": {"names": list(names)}}


@pytest.fixture
async def lists(world: World) -> World:
    await make_list(
        world, "single",
        ("both@x.de", "unconfirmed"), ("new@x.de", "unconfirmed"), ("sure@x.de", "confirmed"),
        ("left@x.de", "unsubscribed"), ("left-one@x.de", "unsubscribed"),
        double=False,
    )  # fmt: skip
    await make_list(
        world, "double",
        ("BOTH@x.de", "unconfirmed"), ("waiting@x.de", "unconfirmed"), ("yes@x.de", "confirmed"),
        ("left-one@x.de", "confirmed"), ("gone@x.de", "unsubscribed"),
        double=True,
    )  # fmt: skip
    return world


JUDGED = {
    "both@x.de": PENDING,  # single opt-in on one list: eligible, whatever the other list's row says
    "new@x.de": PENDING,
    "sure@x.de": PENDING,
    "left@x.de": ("suppressed", "Unsubscribed"),
    "left-one@x.de": PENDING,  # left one list, confirmed on the other
    "waiting@x.de": ("suppressed", "Unconfirmed"),
    "yes@x.de": PENDING,
    "gone@x.de": ("suppressed", "Unsubscribed"),
}


@pytest.mark.parametrize(
    "audiences",
    [
        [("all", spec("single", "double"))],
        [("all", spec("double", "single"))],
        [("one", spec("single")), ("two", spec("double"))],
        [("two", spec("double")), ("one", spec("single"))],
    ],
)
async def test_everybody_is_judged_over_all_of_the_campaigns_lists(
    lists: World, audiences: list[tuple[str, dict[str, Any]]]
) -> None:
    campaign = await lists.campaign(*audiences)
    view = await plan(lists.db, campaign, tenant=TENANT, mounts=lists.mounts)
    assert (view.rows_read, view.inserted, view.duplicates) == (10, 8, 2)
    found = {address.lower(): verdict for address, verdict in lists.rows(campaign).items()}
    assert found == JUDGED


async def test_on_one_list_alone_only_that_list_counts(lists: World) -> None:
    campaign = await lists.campaign(("two", spec("double")))
    await plan(lists.db, campaign, tenant=TENANT, mounts=lists.mounts)
    assert lists.rows(campaign)["BOTH@x.de"] == ("suppressed", "Unconfirmed")


async def test_the_blocked_are_suppressed_on_every_list(lists: World) -> None:
    key = (await installation(lists.db)).hash_key
    lists.query(
        "INSERT INTO fullsend.suppression (scope, tenant_id, identity_hash, reason)"
        " SELECT 'tenant', id, %s, 'Blocked' FROM fullsend.tenant WHERE name = %s",
        hash_identity(key, "sure@x.de"), TENANT,
    )  # fmt: skip
    campaign = await lists.campaign(("all", spec("single", "double")))
    await plan(lists.db, campaign, tenant=TENANT, mounts=lists.mounts)
    assert lists.rows(campaign)["sure@x.de"] == ("suppressed", "Blocked")


async def test_excluding_a_list_leaves_out_all_of_its_members_the_unsubscribed_too(lists: World) -> None:
    campaign = await lists.campaign(("two", spec("double")), exclude=[("one", spec("single"))])
    await plan(lists.db, campaign, tenant=TENANT, mounts=lists.mounts)
    assert lists.rows(campaign)["left-one@x.de"] == ("suppressed", "Excluded")
    assert lists.rows(campaign)["yes@x.de"] == PENDING


async def test_a_list_of_another_namespace_is_not_found(lists: World) -> None:
    assert await find_lists(lists.db, "other", ["single"]) == {}


async def test_members_come_in_the_order_they_joined_whatever_the_page(lists: World) -> None:
    ids = await find_lists(lists.db, TENANT, ["single", "double"])
    whole = [m async for page in judged_members(lists.db, ids["single"], ids.values()) for m in page]
    paged = [m async for page in judged_members(lists.db, ids["single"], ids.values(), page=2) for m in page]
    assert whole == paged
    assert [member.address for member in whole][:2] == ["both@x.de", "new@x.de"]


async def test_a_members_variables_are_the_rows(lists: World) -> None:
    source = ListSource(lists.db, TENANT, ["double"], ["double"])
    rows = [row async for chunk in source.chunks() for row in chunk]
    assert rows[0].variables == {"list": "double"}
    assert [row.row for row in rows] == [1, 2, 3, 4, 5]
