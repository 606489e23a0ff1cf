"""An audit tells how far a sealed plan and today's source have drifted apart, and changes nothing."""

from __future__ import annotations

from fullsend.audience.audit import EXAMPLES, audit
from fullsend.audience.plan import plan
from support.audience_world import TENANT, World, inline


async def test_who_has_come_who_has_gone_and_who_has_changed(world: World) -> None:
    spec = world.csv(
        "june.csv", "email,name,city\nann@x.de,Ann,Ulm\nbob@x.de,Bob,Ulm\neve@x.de,Eve,Ulm\noops,Zoe,Ulm\n"
    )
    campaign = await world.campaign(("june", spec))
    await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    before = world.query("SELECT * FROM fullsend.recipient ORDER BY seq")
    world.csv(
        "june.csv",
        "city,name,email\nUlm,Ann,ANN@x.de\nBonn,Bob,bob@x.de\nUlm,Joe,joe@x.de\nUlm,Joe,JOE@x.de\nx,y,bad\n",
    )
    found = await audit(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert (found.planned, found.found, found.erased) == (3, 3, 0)
    assert (found.added.count, found.added.examples) == (1, ["joe@x.de"])
    assert (found.gone.count, found.gone.examples) == (1, ["eve@x.de"])
    assert (found.changed.count, found.changed.examples) == (1, ["bob@x.de: city"])
    assert world.query("SELECT * FROM fullsend.recipient ORDER BY seq") == before


async def test_an_unchanged_source_has_not_drifted(world: World) -> None:
    campaign = await world.campaign(("a", inline(("ann@x.de", {"n": 1}))), ("b", inline(("ANN@x.de", {"n": 2}))))
    await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    found = await audit(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert (found.added.count, found.gone.count, found.changed.count) == (0, 0, 0)


async def test_counts_are_whole_and_examples_are_few(world: World) -> None:
    spec = world.csv("june.csv", "email\n" + "".join(f"old{n}@x.de\n" for n in range(60)))
    campaign = await world.campaign(("june", spec))
    await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    world.csv("june.csv", "email\n" + "".join(f"new{n}@x.de\n" for n in range(70)))
    found = await audit(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert (found.added.count, found.gone.count) == (70, 60)
    assert len(found.added.examples) == len(found.gone.examples) == EXAMPLES


async def test_the_erased_are_neither_gone_nor_changed(world: World) -> None:
    spec = world.csv("june.csv", "email,name\nann@x.de,Ann\nbob@x.de,Bob\n")
    campaign = await world.campaign(("june", spec))
    await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    world.query("UPDATE fullsend.recipient SET address = NULL, variables = NULL, token = NULL WHERE seq = 1")
    found = await audit(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert (found.erased, found.added.count, found.gone.count, found.changed.count) == (1, 0, 0, 0)
