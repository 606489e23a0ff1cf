-- ensure_tenant --
-- A tenant's row, made at its first use
INSERT INTO fullsend.tenant (name) VALUES (%(tenant)s) ON CONFLICT (name) DO NOTHING;

-- tenant_exists --
-- Whether a tenant has its row
SELECT t.id FROM fullsend.tenant AS t WHERE t.name = %(tenant)s;

-- register_campaign --
-- A new ledger key; nothing happens where the key is known
INSERT INTO fullsend.campaign (tenant_id, ledger_key, name, fingerprint, content)
SELECT t.id, %(key)s, %(name)s, %(fingerprint)s, %(content)s::jsonb
FROM fullsend.tenant AS t WHERE t.name = %(tenant)s
ON CONFLICT (tenant_id, ledger_key) DO NOTHING
RETURNING id;

-- lock_campaign_by_key --
-- The campaign of a ledger key, and whether its owner's lease still runs
SELECT c.id, c.fingerprint, c.content, c.owner_cluster, c.owner_uid, c.phase,
    c.owner_heartbeat_at IS NOT NULL AND c.owner_heartbeat_at + c.owner_lease > clock_timestamp() AS owned
FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE t.name = %(tenant)s AND c.ledger_key = %(key)s
FOR UPDATE OF c;

-- replace_unsealed_content --
-- What could not be planned as it was, mended; the lists that it named go with it
UPDATE fullsend.campaign
SET name = %(name)s, fingerprint = %(fingerprint)s, content = %(content)s::jsonb, list_ids = '{}',
    revision = revision + 1
WHERE id = %(campaign)s AND phase = 'registered' AND compiled IS NULL;

-- take_ownership --
-- The owner reconciles this key until its lease runs out
UPDATE fullsend.campaign
SET owner_cluster = %(cluster)s, owner_uid = %(uid)s, owner_heartbeat_at = clock_timestamp(),
    owner_lease = make_interval(secs => %(lease)s),
    revision = revision + CASE WHEN owner_cluster = %(cluster)s AND owner_uid = %(uid)s THEN 0 ELSE 1 END
WHERE id = %(campaign)s
    AND ((owner_cluster = %(cluster)s AND owner_uid = %(uid)s)
        OR owner_heartbeat_at IS NULL OR owner_heartbeat_at + owner_lease <= clock_timestamp())
RETURNING id;

-- release_ownership --
-- The owner lets go, so that another need not wait for the lease
UPDATE fullsend.campaign
SET owner_heartbeat_at = NULL, owner_cluster = '', owner_uid = '', revision = revision + 1
WHERE id = %(campaign)s AND owner_cluster = %(cluster)s AND owner_uid = %(uid)s;

-- find_campaign --
-- The campaign of a tenant's ledger key
SELECT c.id FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE t.name = %(tenant)s AND c.ledger_key = %(key)s;

-- list_campaigns --
-- Every campaign of one tenant or of all, with what a poll wants to know
SELECT c.id, t.name AS tenant, c.ledger_key, c.name, c.phase, c.fingerprint, c.created_at, c.finished_at,
    c.revision + coalesce((SELECT sum(n.revision) FROM fullsend.counter AS n WHERE n.campaign_id = c.id), 0)::bigint
        AS revision,
    EXISTS (SELECT FROM fullsend.reopen_request AS r WHERE r.campaign_id = c.id AND r.done_at IS NULL) AS reopen_waits
FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE %(tenant)s::text IS NULL OR t.name = %(tenant)s
ORDER BY t.name, c.ledger_key;

-- observe_campaign --
-- All that a tick needs, from counters and indexes, in one snapshot
SELECT c.id, clock_timestamp() AS now, c.phase, c.fingerprint, c.wave, c.control, c.breaker, c.proof, c.finished_at,
    c.owner_cluster, c.owner_uid, c.owner_heartbeat_at,
    c.owner_heartbeat_at + c.owner_lease <= clock_timestamp() AS owner_expired,
    c.revision + n.revision AS revision,
    n.last_settled_at, n.resent, n.counts,
    (SELECT to_jsonb(p) FROM fullsend.plan AS p WHERE p.campaign_id = c.id ORDER BY p.generation DESC LIMIT 1) AS plan,
    (SELECT min(s.first_armed_at) FROM fullsend.session AS s WHERE s.campaign_id = c.id) AS first_armed_at,
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'id', s.id, 'wave', s.wave, 'holder', s.holder, 'connections', s.connections,
            'started_at', s.started_at, 'heartbeat_at', s.heartbeat_at,
            'starved_at', s.starved_at, 'reply_ms', s.reply_ms,
            'expired', s.fenced_at IS NOT NULL
                OR s.heartbeat_at + make_interval(secs => %(lease)s) <= clock_timestamp()) ORDER BY s.id), '[]')
        FROM fullsend.session AS s WHERE s.campaign_id = c.id AND s.ended_at IS NULL) AS sessions,
    fullsend.see_outlet(c.outlet) AS outlet,
    (SELECT d.due_at FROM fullsend.delivery AS d
        WHERE d.campaign_id = c.id AND d.due_at IS NOT NULL ORDER BY d.due_at LIMIT 1) AS next_due_at,
    (SELECT count(*) FROM (SELECT FROM fullsend.delivery AS d
        WHERE d.campaign_id = c.id AND d.due_at <= (SELECT clock_timestamp()) LIMIT 10000) AS due) AS due_now,
    jsonb_array_length(coalesce(c.breaker -> 'blocked', '[]')) > 0 AND NOT EXISTS (
        -- A walk from one reason to the next, of which there are few, over as many rows as may be.
        WITH RECURSIVE waits (reason) AS (
            SELECT min(d.reason) FROM fullsend.delivery AS d WHERE d.campaign_id = c.id AND d.due_at IS NOT NULL
            UNION ALL
            SELECT (SELECT min(d.reason) FROM fullsend.delivery AS d
                WHERE d.campaign_id = c.id AND d.due_at IS NOT NULL AND d.reason > w.reason)
            FROM waits AS w WHERE w.reason IS NOT NULL
        )
        SELECT FROM waits AS w WHERE w.reason NOT IN (
            SELECT 'ProviderBlocked:' || (b ->> 'provider') FROM jsonb_array_elements(c.breaker -> 'blocked') AS b)
    ) AS blocked_only,
    (SELECT jsonb_build_object('id', r.id, 'states', r.states, 'requested_at', r.requested_at,
            'done_at', r.done_at, 'reopened', r.reopened)
        FROM fullsend.reopen_request AS r WHERE r.campaign_id = c.id
        ORDER BY r.requested_at DESC, r.id DESC LIMIT 1) AS reopen
FROM fullsend.campaign AS c
CROSS JOIN LATERAL (
    SELECT coalesce(sum(k.revision), 0)::bigint AS revision, max(k.last_settled_at) AS last_settled_at,
        coalesce(sum(k.resent), 0)::bigint AS resent,
        jsonb_build_object(
            'pending', sum(k.pending), 'claimed', sum(k.claimed), 'armed', sum(k.armed),
            'deferred', sum(k.deferred), 'unknown', sum(k.unknown), 'accepted', sum(k.accepted),
            'rejected', sum(k.rejected), 'suppressed', sum(k.suppressed), 'invalid', sum(k.invalid),
            'expired', sum(k.expired), 'unrenderable', sum(k.unrenderable), 'held', sum(k.held),
            'cancelled', sum(k.cancelled)) AS counts
    FROM fullsend.counter AS k WHERE k.campaign_id = c.id
) AS n
WHERE c.id = %(campaign)s;

-- write_control --
-- What senders obey, written only where it differs
UPDATE fullsend.campaign
SET control = %(control)s::jsonb, control_revision = control_revision + 1, revision = revision + 1
WHERE id = %(campaign)s AND control IS DISTINCT FROM %(control)s::jsonb
RETURNING control_revision;

-- campaign_content --
-- What the plan is made from, as it was registered
SELECT content FROM fullsend.campaign WHERE id = %(campaign)s;

-- campaign_compiled --
-- The message as compiled at the seal
SELECT compiled FROM fullsend.campaign WHERE id = %(campaign)s;

-- campaign_exists --
-- Whether there is such a campaign, and its phase
SELECT phase FROM fullsend.campaign WHERE id = %(campaign)s;

-- new_wave --
-- The number of the next sender wave
UPDATE fullsend.campaign SET wave = wave + 1, revision = revision + 1 WHERE id = %(campaign)s RETURNING wave;

-- lock_breaker --
-- The breaker, held until the step is written
SELECT breaker FROM fullsend.campaign WHERE id = %(campaign)s FOR UPDATE;

-- load_breaker --
-- The breaker as it is
SELECT breaker FROM fullsend.campaign WHERE id = %(campaign)s;

-- write_breaker --
-- The breaker after a step
UPDATE fullsend.campaign SET breaker = %(breaker)s::jsonb, revision = revision + 1 WHERE id = %(campaign)s;
