"""A database role for each tenant (namespace), so that row-level security keeps tenants apart.

The planners, senders and probes of a namespace log in as its role; the policies of the schema show it the rows of its
tenant and the grants below let it do what these and an import do, no more. Its password is derived from the
installation's secret, so that handing the DSN out again changes nothing for senders already running.

The fallback: where this connection may not create roles (a managed database, a hand-made owner without CREATEROLE), or
where the new role is not let in (a pooler with a fixed list of users), ``tenant_dsn`` gives the DSN it was called with.
Tenants then share the owner's rights and are kept apart by the program alone; ``TenantAccess.isolated`` says so, for
the shells to show it. See docs/decisions/ledger-roles.md. Invariant: a database that only can't be reached, or takes no
more connections, never puts the owner's DSN into a tenant's hands; that is LedgerUnavailable.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from fullsend.errors import LedgerUnavailable
from fullsend.ledger.database import Connection, Database, with_defaults
from fullsend.ledger.named import query

# Never UPDATE on campaign_id or tenant_id: the policies check whose a row is only when it is new.
_GRANTS: Final = (
    "GRANT USAGE ON SCHEMA fullsend TO {role}",
    "GRANT SELECT ON fullsend.meta, fullsend.tenant, fullsend.campaign, fullsend.plan, fullsend.recipient, "
    "fullsend.delivery, fullsend.attempt, fullsend.session, fullsend.counter, fullsend.list, fullsend.member, "
    "fullsend.suppression, fullsend.reopen_request, fullsend.probe TO {role}",
    "GRANT SELECT (id, hash_key) ON fullsend.installation TO {role}",
    # The planner: rows of an unsealed plan, and the seal.
    "GRANT INSERT, UPDATE (state, heartbeat_at, rows_read, inserted, duplicates, invalid, suppressed, digest, "
    "render_checked, render_failed, sealed_at, reason, message) ON fullsend.plan TO {role}",
    "GRANT INSERT, DELETE, UPDATE (eligible) ON fullsend.recipient TO {role}",
    "GRANT INSERT, DELETE, UPDATE (state, session_id, due_at, updated_at, first_charged_at, attempts, unknowns, "
    "pardoned, charges, reason) ON fullsend.delivery TO {role}",
    "GRANT UPDATE (phase, compiled, sealed_seq, list_ids, breaker, revision) ON fullsend.campaign TO {role}",
    # The sender: its session, its counters, the history, and mailboxes that refuse.
    "GRANT INSERT, UPDATE (state, reason, charged, content_sent, stage, code, enhanced, text, relay, took_ms, "
    "recorded_at) ON fullsend.attempt TO {role}",
    "GRANT INSERT, UPDATE (connections, reply_ms, tokens, heartbeat_at, first_armed_at, fenced_at, ended_at, "
    "end_reason, last_revision) ON fullsend.session TO {role}",
    "GRANT INSERT, DELETE, UPDATE (revision, resent, last_settled_at, pending, claimed, armed, deferred, unknown, "
    "accepted, rejected, suppressed, invalid, expired, unrenderable, held, cancelled, tried_accepted, tried_rejected, "
    "tried_deferred, tried_unknown, took_ms, took) ON fullsend.counter TO {role}",
    "GRANT INSERT, DELETE ON fullsend.suppression TO {role}",
    "GRANT EXECUTE ON FUNCTION fullsend.grant_tokens(bigint, bigint), fullsend.return_tokens(bigint), "
    "fullsend.share_connections(bigint, bigint), fullsend.learn_connections(bigint, bigint, text), "
    "fullsend.see_outlet(text) TO {role}",
    # An import into a list of the tenant's (kubectl fullsend import).
    "GRANT INSERT ON fullsend.list TO {role}",
    "GRANT INSERT, UPDATE (address, variables, status, evidence, updated_at) ON fullsend.member TO {role}",
    # A refusal that turns out to be everybody's trouble: the sender reopens what it had rejected.
    "GRANT INSERT, UPDATE (after_seq, reopened, done_at) ON fullsend.reopen_request TO {role}",
    # The probe: its answer.
    "GRANT UPDATE (content, answered_number, answered_generation, answered_at, result) ON fullsend.probe TO {role}",
)

_NOT_LET_IN: Final = re.compile("authentication failed|no such user|user not found", re.IGNORECASE)
"""What poolers say without a name."""


@dataclass(frozen=True, slots=True)
class TenantAccess:
    """How a tenant's processes log in. ``isolated`` False: no role could be made, the DSN is the owner's."""

    dsn: str = field(repr=False)
    role: str
    isolated: bool


async def tenant_dsn(dsn: str, tenant: str) -> str:
    """The DSN of a tenant's own role, or ``dsn`` where there cannot be one."""
    return (await tenant_access(dsn, tenant)).dsn


async def tenant_access(dsn: str, tenant: str) -> TenantAccess:
    """Makes or finds the tenant's role, brings its grants up to date, checks that it may log in. Raises LedgerError."""
    db = await Database.open(dsn, application="fullsend-tenants")
    try:
        row = await db.fetch_one("tenant_secrets")
        assert row is not None
        role = role_name(str(row["id"]), tenant)
        password = hmac.new(row["role_key"], role.encode(), hashlib.sha256).hexdigest()
        try:
            await db.transaction(lambda connection: _make_role(connection, role, password, tenant))
        except Exception as error:
            if isinstance(error.__cause__, pg.InsufficientPrivilege):
                return TenantAccess(dsn, "", isolated=False)
            raise
    finally:
        await db.close()
    theirs = make_conninfo(dsn, user=role, password=password)
    if await _may_log_in(theirs, role):
        return TenantAccess(theirs, role, isolated=True)
    return TenantAccess(dsn, "", isolated=False)


async def ensure_tenant(db: Database, tenant: str) -> None:
    """The tenant's row is there after this. Its own role may not make it, and need not."""
    if await db.fetch_one("tenant_exists", {"tenant": tenant}) is None:
        await db.unit(("ensure_tenant", {"tenant": tenant}))


def role_name(installation: str, tenant: str) -> str:
    """Roles belong to the whole cluster, so the name carries the installation; 63 bytes at most, unique by a hash."""
    digest = hashlib.sha256(tenant.encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-z0-9_]", "_", tenant.lower())[:32]
    return f"fullsend_{installation[:8]}_{readable}_{digest}"


async def _make_role(connection: Connection, role: str, password: str, tenant: str) -> None:
    await connection.execute(query("ensure_tenant"), {"tenant": tenant})
    cursor = await connection.execute(query("role_exists"), {"role": role})
    verb = "ALTER" if await cursor.fetchone() == (True,) else "CREATE"
    name = sql.Identifier(role)
    await connection.execute(
        sql.SQL("{verb} ROLE {role} LOGIN PASSWORD {password}").format(
            verb=sql.SQL(verb), role=name, password=sql.Literal(password)
        )
    )
    for grant in _GRANTS:
        await connection.execute(sql.SQL(grant).format(role=name))
    await connection.execute(query("name_tenant_role"), {"role": role, "tenant": tenant})


async def _may_log_in(dsn: str, role: str) -> bool:
    """False where the server or a pooler refuses this very role. Raises LedgerUnavailable for everything else."""
    try:
        connection = await psycopg.AsyncConnection.connect(with_defaults(dsn, "fullsend-tenants"))
    except psycopg.OperationalError as error:
        if is_refusal_of(role, str(error)):
            return False
        raise LedgerUnavailable(f"Whether {role} may log in can't be found out now: {error}") from error
    await connection.close()
    return True


def is_refusal_of(role: str, text: str) -> bool:
    """libpq tells no SQLSTATE of a login that failed. What is about the role names it, in every language; what is about
    the server's state doesn't, but for a limit on the role's connections."""
    return "too many connections" not in text and (role in text or bool(_NOT_LET_IN.search(text)))
