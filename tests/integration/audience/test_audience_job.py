"""The plan Job ends with a code and one line that say what became of the plan."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from fullsend.audience.plan import plan
from fullsend.ledger.view import PlanState
from fullsend.states import CampaignId
from support.audience_world import TENANT, World, inline


def job_file(world: World, campaign_id: CampaignId, **changes: Any) -> Path:
    (world.mounts.base_dir / "dsn").write_text(world.dsn + "\n")
    path = world.mounts.base_dir / "job.json"
    job = {
        "dsn_file": str(world.mounts.base_dir / "dsn"),
        "tenant": TENANT,
        "campaign": campaign_id,
        "secrets_dir": str(world.mounts.secrets_dir),
        "config_dir": str(world.mounts.config_dir),
        "base_dir": str(world.mounts.base_dir),
    }
    path.write_text(json.dumps({**job, **changes}))
    return path


async def start(path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fullsend.audience", "--job", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def run(path: Path) -> tuple[int | None, str, str]:
    process = await start(path)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_a_plan_that_is_sealed_ends_with_zero_and_its_numbers(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de", "ANN@x.de", "oops", "abuse@x.de")))
    assert await run(job_file(world, campaign)) == (
        0, "sealed: 4 rows, 1 eligible, 1 suppressed, 1 invalid, 1 duplicates\n", "",
    )  # fmt: skip


async def test_a_plan_that_fails_ends_with_one_and_one_line(world: World) -> None:
    campaign = await world.campaign(("june", world.csv("june.csv", "mail\n")))
    code, out, err = await run(job_file(world, campaign))
    assert (code, out) == (1, "")
    assert err.startswith("MissingColumn: audience june: june.csv has no column 'email'")
    assert err.count("\n") == 1
    assert (await world.latest(campaign)).reason == "MissingColumn"


async def test_input_that_no_second_try_can_mend_ends_with_two(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de")), message={"text": "{{ x ", "html": "{% y %}"})
    code, _, err = await run(job_file(world, campaign))
    assert code == 2
    assert err.startswith("invalid input: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"campaign": "x"}, 2, "campaign"),
        ({"surplus": 1}, 2, "surplus"),
        ({"dsn_file": "/nowhere"}, 2, "/nowhere: the ledger's DSN cannot be read"),
        ({"campaign": 99}, 1, "LedgerError: "),
    ],
)
async def test_a_job_that_cannot_be_done_says_why_in_one_line(
    world: World, changes: dict[str, Any], code: int, said: str
) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de")))
    ended, _, err = await run(job_file(world, campaign, **changes))
    assert ended == code
    assert said in err
    assert err.count("\n") == 1


async def test_a_ledger_that_cannot_be_reached_ends_with_one(world: World) -> None:
    campaign = await world.campaign(("june", inline("ann@x.de")))
    path = job_file(world, campaign)
    (world.mounts.base_dir / "dsn").write_text("postgresql://u:hunter2@/x?host=/nowhere")
    code, _, err = await run(path)
    assert code == 1
    assert err.startswith("LedgerUnavailable: ")
    assert "hunter2" not in err


async def test_a_planner_that_is_killed_leaves_an_unsealed_plan_and_the_next_run_seals_another(world: World) -> None:
    world.secret("crm", world.dsn)
    query = (
        "SELECT n || '@x.de' AS email FROM generate_series(1, 20000) n WHERE n < 15000 OR pg_sleep(0.01) IS NOT NULL"
    )
    campaign = await world.campaign(("crm", {"postgres": {"dsnSecretRef": {"name": "crm"}, "query": query}}))
    process = await start(job_file(world, campaign))
    try:
        for _ in range(300):
            if world.query("SELECT count(*) FROM fullsend.recipient") != [(0,)]:
                break
            await asyncio.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
    await process.communicate()
    left = await world.latest(campaign)
    assert left.state is PlanState.RUNNING
    assert 0 < left.inserted < 20_000
    world.query("UPDATE fullsend.campaign SET content = jsonb_set(content, '{audiences}', %s)", json.dumps(
        [{"name": "june", "spec": inline("ann@x.de")}]))  # fmt: skip
    sealed = await plan(world.db, campaign, tenant=TENANT, mounts=world.mounts)
    assert (sealed.generation, sealed.inserted) == (left.generation + 1, 1)
    assert list(world.rows(campaign)) == ["ann@x.de"]
    assert world.query("SELECT count(*) FROM fullsend.delivery") == [(1,)]
