"""A tenant's role sees and touches the rows of its own tenant and no others, in any table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from psycopg.conninfo import make_conninfo

from fullsend.errors import LedgerError, LedgerUnavailable, SchemaMismatch
from fullsend.ledger import campaigns, lists, probes, sessions, suppressions
from fullsend.ledger.database import Database
from fullsend.ledger.lists import MemberStatus, NewMember
from fullsend.ledger.suppressions import NewSuppression, Scope, Target
from fullsend.ledger.tenants import is_refusal_of, role_name, tenant_access, tenant_dsn
from fullsend.states import CampaignId, Seq
from fullsend.states import DeliveryState as S
from support import ledger_worlds as world

# Tables with rows of tenants, and how many rows of "blue" the world below has in each.
TENANT_TABLES = {
    "tenant": 1,
    "campaign": 1,
    "plan": 1,
    "recipient": 3,
    "delivery": 3,
    "attempt": 1,
    "session": 1,
    "counter": 2,
    "list": 1,
    "member": 1,
    "suppression": 2,  # its own and the installation's
    "reopen_request": 1,
    "probe": 1,
}
# The same for everybody, or out of everybody's reach.
COMMON = {"meta", "installation"}
UNREACHABLE = {"bucket", "turn", "outlet"}
YOYO = {"_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock"}


@dataclass
class Worlds:
    owner: Database
    blue: Database  # as the tenant's role
    campaigns: dict[str, CampaignId]


@pytest.fixture
async def worlds(ledger: Database, postgres_dsn: str) -> AsyncIterator[Worlds]:
    made = {}
    for tenant in ("blue", "red"):
        made[tenant] = await world.sealed(
            ledger, 3, tenant=tenant, control={"rates": [{"messages": 100, "seconds": 1}]}
        )
        session = await world.opened(ledger, made[tenant])
        await sessions.grant(ledger, session, 10)
        rows = await world.claimed(ledger, session, 2)
        await world.armed(ledger, session, rows[:1])
        await world.record(ledger, session, world.accepted(rows[0]))
        await lists.create_list(ledger, tenant, "news", double_opt_in=False)
        await lists.import_members(ledger, tenant, "news", [NewMember(world.identity(9), "nine@example.com")])
        said_no = [NewSuppression(world.identity(8), "eight@example.com", "unsubscribed")]
        await suppressions.add(ledger, Target(Scope.TENANT, tenant), said_no)
        await campaigns.request_reopen(ledger, made[tenant], id="r", states=[S.REJECTED])
        asked = {"kind": "MailTemplate", "name": "news", "generation": 1, "failures": 0, "known": 0}
        await probes.ask(ledger, tenant, f"uid-{tenant}", **asked, content={"subject": "Hello"})
    await suppressions.add(ledger, Target.installation(), [NewSuppression(world.identity(7), None, "complaint")])
    blue = await Database.open(await tenant_dsn(postgres_dsn, "blue"), application="tests")
    yield Worlds(ledger, blue, made)
    await blue.close()


async def test_every_table_is_either_kept_apart_common_or_out_of_reach(worlds: Worlds) -> None:
    tables = await world.sql(worlds.owner, "SELECT tablename FROM pg_tables WHERE schemaname = 'fullsend'")
    assert {name for (name,) in tables} == set(TENANT_TABLES) | COMMON | UNREACHABLE | YOYO
    secured = await world.sql(
        worlds.owner,
        "SELECT relname FROM pg_class WHERE relnamespace = 'fullsend'::regnamespace AND relrowsecurity",
    )
    assert {name for (name,) in secured} == set(TENANT_TABLES) | UNREACHABLE


@pytest.mark.parametrize("table", sorted(TENANT_TABLES))
async def test_a_tenants_role_sees_its_own_rows_only(worlds: Worlds, table: str) -> None:
    seen = await world.sql(worlds.blue, f"SELECT count(*) FROM fullsend.{table}")
    assert seen == [(TENANT_TABLES[table],)]
    there = await world.sql(worlds.owner, f"SELECT count(*) FROM fullsend.{table}")
    assert there[0][0] > TENANT_TABLES[table], "there are others to be hidden"


@pytest.mark.parametrize("table", sorted(set(TENANT_TABLES) - {"tenant"}))
async def test_a_tenants_role_changes_nothing_of_another(worlds: Worlds, table: str) -> None:
    async def theirs() -> list[tuple[object, ...]]:
        return await world.sql(
            worlds.owner,
            f"SELECT to_jsonb(x)::text FROM fullsend.{table} x JOIN fullsend.tenant t ON t.id = x.tenant_id"
            " WHERE t.name = 'red' ORDER BY 1",
        )

    before = await theirs()
    assert before
    for statement in (
        f"UPDATE fullsend.{table} SET tenant_id = tenant_id",
        f"UPDATE fullsend.{table} SET tenant_id = (SELECT max(id) FROM fullsend.tenant)",
        f"DELETE FROM fullsend.{table}",
        f"TRUNCATE fullsend.{table}",
        f"INSERT INTO fullsend.{table} SELECT * FROM fullsend.{table}",
    ):
        with suppress(LedgerError):
            await world.sql(worlds.blue, statement)
    assert await theirs() == before


async def test_a_tenant_cannot_plant_rows_for_another(worlds: Worlds) -> None:
    [(blue,)] = await world.sql(worlds.owner, "SELECT id FROM fullsend.tenant WHERE name = 'blue'")
    [(red,)] = await world.sql(worlds.owner, "SELECT id FROM fullsend.tenant WHERE name = 'red'")
    theirs = worlds.campaigns["red"]
    [(their_list,)] = await world.sql(worlds.owner, f"SELECT id FROM fullsend.list WHERE tenant_id = {red}")
    for statement in (
        f"INSERT INTO fullsend.delivery (campaign_id, seq, tenant_id, state) VALUES ({theirs}, 9, {blue}, 'pending')",
        f"INSERT INTO fullsend.counter (campaign_id, session_id, tenant_id, revision) VALUES ({theirs}, 9, {blue}, 1)",
        "INSERT INTO fullsend.attempt (campaign_id, seq, attempt, tenant_id, session_id, state, armed_at) VALUES"
        f" ({theirs}, 1, 9, {blue}, 1, 'accepted', now())",
        f"INSERT INTO fullsend.plan (campaign_id, generation, tenant_id, after_seq) VALUES ({theirs}, 9, {blue}, 0)",
        "INSERT INTO fullsend.recipient (campaign_id, seq, source_row, tenant_id, generation, identity_hash, eligible,"
        f" domain, source, source_status) VALUES ({theirs}, 9, 9, {blue}, 1, decode(repeat('00', 16), 'hex'), true,"
        " '', '', '')",
        "INSERT INTO fullsend.reopen_request (campaign_id, id, tenant_id, states)"
        f" VALUES ({theirs}, 'x', {blue}, '{{}}')",
        "INSERT INTO fullsend.suppression (scope, tenant_id, list_id, identity_hash, reason) VALUES"
        f" ('list', {blue}, {their_list}, decode(repeat('00', 16), 'hex'), 'MailboxRefused')",
        "INSERT INTO fullsend.suppression (scope, tenant_id, identity_hash, reason) VALUES"
        f" ('tenant', {red}, decode(repeat('00', 16), 'hex'), 'manual')",
        "INSERT INTO fullsend.suppression (scope, identity_hash, reason) VALUES"
        " ('installation', decode(repeat('00', 16), 'hex'), 'manual')",
        "INSERT INTO fullsend.session (campaign_id, tenant_id, wave, holder, connections) VALUES"
        f" ({worlds.campaigns['red']}, {red}, 1, 'x', 1)",
        "INSERT INTO fullsend.delivery (campaign_id, seq, tenant_id, state) VALUES"
        f" ({worlds.campaigns['red']}, 99, {red}, 'pending')",
    ):
        with pytest.raises(LedgerError, match="row-level security policy"):
            await world.sql(worlds.blue, statement)
    for table in ("session", "delivery", "attempt", "counter", "recipient", "plan", "reopen_request", "campaign"):
        with pytest.raises(LedgerError, match="permission denied"):
            await world.sql(worlds.blue, f"UPDATE fullsend.{table} SET tenant_id = {red}")


async def test_secrets_buckets_and_the_migrators_tables_are_out_of_reach(worlds: Worlds) -> None:
    assert await world.sql(worlds.blue, "SELECT count(hash_key) FROM fullsend.installation") == [(1,)]
    for statement in (
        "SELECT role_key FROM fullsend.installation",
        "SELECT * FROM fullsend.bucket",
        "SELECT * FROM fullsend.turn",
        "UPDATE fullsend.outlet SET learned = 1",
        "SELECT * FROM fullsend._yoyo_migration",
        "UPDATE fullsend.meta SET schema_version = 99",
        "UPDATE fullsend.campaign SET control = '{}'",
        "UPDATE fullsend.recipient SET address = 'x'",
        "DELETE FROM fullsend.attempt",
        "CREATE TABLE fullsend.mine (x int)",
    ):
        with pytest.raises(LedgerError, match="permission denied"):
            await world.sql(worlds.blue, statement)


async def test_a_tenant_lifts_what_a_relay_fed_and_never_what_a_person_said(worlds: Worlds) -> None:
    await world.sql(worlds.blue, "DELETE FROM fullsend.suppression")
    reasons = [s.reason async for s in suppressions.list_suppressions(worlds.blue, "blue")]
    assert sorted(reasons) == ["complaint", "unsubscribed"]


async def test_another_tenants_session_and_campaign_do_not_exist_for_a_tenant(worlds: Worlds) -> None:
    red = worlds.campaigns["red"]
    assert await sessions.open_session(worlds.blue, red, wave=1, holder="x", connections=1) is None
    with pytest.raises(LedgerError, match="no campaign"):
        await campaigns.observe(worlds.blue, red, session_lease_seconds=60)
    theirs = await world.opened(worlds.owner, red)
    with pytest.raises(LedgerError):
        await sessions.grant(worlds.blue, theirs, 5)
    with pytest.raises(LedgerError):
        await sessions.claim_fresh(worlds.blue, theirs, after=Seq(0), limit=5, fresh_limit=None)
    assert (await sessions.fence(worlds.blue, theirs.id, 1)).fenced == ()
    mine = replace(theirs, told=sessions.Told())  # to the other tenant's sender the ledger is one without this session
    assert (await sessions.heartbeat(worlds.owner, mine)).live


async def test_another_tenants_transport_is_not_to_be_seen_and_a_pool_is(worlds: Worlds) -> None:
    red = await world.opened(worlds.owner, worlds.campaigns["red"])
    await sessions.heartbeat(worlds.owner, red, connections=3)
    await sessions.learn_connections(worlds.owner, red, open_=3, message="421 4.7.0 too many from red.example")
    [(theirs,)] = await world.sql(
        worlds.owner, "SELECT outlet FROM fullsend.campaign WHERE id = %s", worlds.campaigns["red"]
    )
    [use] = await probes.transport_use(worlds.owner, "red", "relay")
    assert (use.connections, use.learned) == (7, 7)
    see = "SELECT x ->> 'connections', x ->> 'message' FROM fullsend.see_outlet(%s) AS x"
    assert await world.sql(worlds.owner, see, theirs) == [("7", "421 4.7.0 too many from red.example")]
    assert await world.sql(worlds.blue, see, theirs) == [("0", None)]
    await world.controlled(worlds.owner, worlds.campaigns["red"], {"relay": {"name": "relay", "pool": "shared"}})
    assert await world.sql(worlds.blue, see, "pool:shared") == [("7", None)]


async def test_a_tenants_role_can_plan_send_reopen_and_close(worlds: Worlds) -> None:
    campaign = await world.registered(worlds.owner, tenant="blue", key="second")
    blue = worlds.blue
    await world.plan(blue, campaign, world.plan_rows(20))
    session = await world.opened(blue, campaign)
    rows = await world.claimed(blue, session, 10)
    await world.armed(blue, session, rows)
    await world.record(
        blue,
        session,
        *(world.accepted(row) for row in rows[:5]),
        *(world.outcome(row, S.REJECTED, feed_suppression=True) for row in rows[5:8]),
    )
    assert (await sessions.grant(blue, session, 5)).messages == 5
    who = [world.identity(6)]
    await campaigns.request_reopen(blue, campaign, id="everyone-refused", states=[S.REJECTED], identities=who)
    assert await campaigns.carry_out_reopen(blue, campaign) == 1
    [again] = await sessions.claim_due(blue, session, limit=5)
    assert (await world.armed(blue, session, [again])).armed == {6}
    assert (await sessions.heartbeat(blue, session)).live
    await sessions.close_session(blue, session, "done")
    await sessions.sweep(blue, campaign, lease_seconds=60, max_unknown_resends=1)
    await campaigns.update_breaker(blue, campaign, lambda view: view)
    assert await world.counts(worlds.owner, campaign) == {
        S.PENDING: 8,
        S.SUPPRESSED: 2,
        S.ACCEPTED: 5,
        S.REJECTED: 2,
        S.UNKNOWN: 3,
    }


async def test_a_tenants_role_can_import_people_and_what_they_said(worlds: Worlds) -> None:
    source = '{"consent_source": "shop"}'
    assert await lists.create_list(worlds.blue, "blue", "weekly", double_opt_in=True)
    for status in (MemberStatus.CONFIRMED, MemberStatus.UNSUBSCRIBED):
        member = NewMember(world.identity(5), "five@example.com", "{}", status, source)
        await lists.import_members(worlds.blue, "blue", "weekly", [member])
    blocked = [NewSuppression(world.identity(4), "four@example.com", "Blocked", "import into weekly")]
    assert await suppressions.add(worlds.blue, Target(Scope.TENANT, "blue"), blocked) == 1
    [member] = [member async for member in lists.list_members(worlds.owner, "blue", "weekly")]
    assert (member.status, member.evidence) == (MemberStatus.UNSUBSCRIBED, source)
    reasons = {s.reason async for s in suppressions.list_suppressions(worlds.owner, "blue")}
    assert {"Unsubscribed", "Blocked"} <= reasons


async def test_the_same_dsn_is_given_again_and_two_tenants_have_two_roles(postgres_dsn: str, ledger: Database) -> None:
    first = await tenant_access(postgres_dsn, "blue")
    assert first.isolated
    assert await tenant_access(postgres_dsn, "blue") == first
    assert (await tenant_access(postgres_dsn, "red")).role != first.role


async def test_where_roles_cannot_be_made_the_owners_dsn_is_given(postgres_dsn: str, ledger: Database) -> None:
    await world.sql(ledger, "CREATE ROLE plain_owner LOGIN")
    await world.sql(ledger, "GRANT USAGE ON SCHEMA fullsend TO plain_owner")
    await world.sql(ledger, "GRANT ALL ON ALL TABLES IN SCHEMA fullsend TO plain_owner")
    try:
        dsn = make_conninfo(postgres_dsn, user="plain_owner")
        await world.sql(ledger, "CREATE POLICY all_rows ON fullsend.tenant TO plain_owner USING (true)")
        access = await tenant_access(dsn, "blue")
        assert (access.dsn, access.isolated) == (dsn, False)
    finally:
        await world.sql(ledger, "DROP OWNED BY plain_owner")
        await world.sql(ledger, "DROP ROLE plain_owner")


async def test_a_server_without_room_for_the_role_gives_nobody_the_owners_dsn(
    postgres_dsn: str, ledger: Database
) -> None:
    role = (await tenant_access(postgres_dsn, "blue")).role
    await world.sql(ledger, f'ALTER ROLE "{role}" CONNECTION LIMIT 0')
    try:
        with pytest.raises(LedgerUnavailable, match="can't be found out now"):
            await tenant_access(postgres_dsn, "blue")
    finally:
        await world.sql(ledger, f'ALTER ROLE "{role}" CONNECTION LIMIT -1')
    assert (await tenant_access(postgres_dsn, "blue")).isolated


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('FATAL:  password authentication failed for user "fullsend_a"', True),
        ("FATAL:  Passwort-Authentifizierung für Benutzer »fullsend_a« fehlgeschlagen", True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "fullsend_a", database "ledger", no encryption', True),
        ('FATAL:  role "fullsend_a" is not permitted to log in', True),
        ("FATAL:  SASL authentication failed", True),
        ("FATAL:  Tenant or user not found", True),
        ("FATAL:  sorry, too many clients already", False),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", False),
        ('FATAL:  too many connections for role "fullsend_a"', False),
        ("FATAL:  the database system is starting up", False),
        ("FATAL:  no more connections allowed (max_client_conn)", False),
        ("connection timeout expired", False),
        ('connection to server at "10.0.0.1", port 5432 failed: Connection refused', False),
    ],
)
def test_only_who_is_refused_by_name_has_no_login(text: str, refused: bool) -> None:
    assert is_refusal_of("fullsend_a", text) is refused


async def test_a_stranger_is_told_that_the_ledger_is_not_theirs(postgres_dsn: str, ledger: Database) -> None:
    await world.sql(ledger, "CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(SchemaMismatch, match="may not use"):
            await Database.open(make_conninfo(postgres_dsn, user="stranger"), application="tests")
    finally:
        await world.sql(ledger, "DROP ROLE stranger")


def test_role_names_fit_and_differ() -> None:
    one = role_name("0123456789", "a" * 63)
    assert len(one) <= 63
    assert one != role_name("0123456789", "a" * 62 + "b")
    assert role_name("0123456789", "team-a") != role_name("0123456789", "team_a")
