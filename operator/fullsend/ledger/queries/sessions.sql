-- open_session --
-- A sender's identity, while the campaign sends; the shared lock keeps it from being finished at the same moment
WITH sending AS (
    SELECT id, tenant_id FROM fullsend.campaign WHERE id = %(campaign)s AND phase = 'sending' FOR SHARE
)
INSERT INTO fullsend.session (campaign_id, tenant_id, wave, holder, connections)
SELECT s.id, s.tenant_id, %(wave)s, %(holder)s, %(connections)s FROM sending AS s
RETURNING id, tenant_id, started_at;

-- heartbeat_session --
-- The sender is alive
UPDATE fullsend.session
SET heartbeat_at = clock_timestamp(), connections = coalesce(%(connections)s, connections),
    reply_ms = coalesce(%(reply_ms)s, reply_ms)
WHERE id = %(session)s AND fenced_at IS NULL AND ended_at IS NULL;

-- share_connections --
-- How many connections the session may hold from now on
SELECT fullsend.share_connections(%(session)s, %(open)s);

-- learn_connections --
-- The relay said that there are too many connections
SELECT fullsend.learn_connections(%(session)s, %(open)s, %(message)s);

-- session_sees --
-- What a sender obeys until its next heart-beat
SELECT s.fenced_at IS NULL AND s.ended_at IS NULL AS live, c.phase, c.control, c.control_revision, c.breaker,
    clock_timestamp() AS now,
    (SELECT count(*) FROM fullsend.session AS o
        WHERE o.campaign_id = c.id AND o.ended_at IS NULL AND o.fenced_at IS NULL
            AND o.heartbeat_at + make_interval(secs => %(silent)s) > clock_timestamp()) AS beating,
    (SELECT count(*) FROM fullsend.session AS o
        WHERE o.campaign_id = c.id AND o.ended_at IS NULL AND o.fenced_at IS NULL
            AND o.heartbeat_at + make_interval(secs => %(silent)s) > clock_timestamp() AND o.id < s.id) AS rank,
    (SELECT jsonb_build_object(
            'pending', sum(k.pending), 'claimed', sum(k.claimed), 'armed', sum(k.armed),
            'deferred', sum(k.deferred), 'unknown', sum(k.unknown), 'accepted', sum(k.accepted),
            'rejected', sum(k.rejected), 'suppressed', sum(k.suppressed), 'invalid', sum(k.invalid),
            'expired', sum(k.expired), 'unrenderable', sum(k.unrenderable), 'held', sum(k.held),
            'cancelled', sum(k.cancelled))
        FROM fullsend.counter AS k WHERE k.campaign_id = c.id) AS counts,
    c.revision + coalesce((SELECT sum(k.revision) FROM fullsend.counter AS k WHERE k.campaign_id = c.id), 0)::bigint
        AS revision
FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
WHERE s.id = %(session)s;

-- lock_session --
-- The guard: every write of a sender waits here first, so that what follows sees all that was done to the session; it
-- fails in a ledger that is older than what the sender was told
SELECT CASE WHEN s.started_at = %(started)s AND %(told)s <= coalesce((
        SELECT c.revision FROM fullsend.counter AS c WHERE c.campaign_id = s.campaign_id AND c.session_id = s.id
    ), s.last_revision) THEN s.fenced_at IS NULL AND s.ended_at IS NULL ELSE fullsend.went_back(s.id, %(told)s) END AS live
FROM fullsend.session AS s WHERE s.id = %(session)s FOR UPDATE OF s;

-- walk_in_order --
-- For this transaction: claim by walking the index. Of a campaign that was sealed a moment ago the planner knows nothing,
-- takes it for a handful of rows, and would fetch and sort all of them for each claim
SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true);

-- fresh_bound --
-- The seq of the nth eligible recipient of the sealed plans
SELECT r.seq FROM fullsend.recipient AS r
WHERE r.campaign_id = %(campaign)s AND r.eligible AND r.seq <= %(sealed_seq)s
ORDER BY r.seq OFFSET %(skip)s LIMIT 1;

-- sealed_seq --
-- The last seq of the sealed plans
SELECT sealed_seq FROM fullsend.campaign WHERE id = %(campaign)s;

-- claim_fresh --
-- The next pending rows beyond a low-water mark; OFFSET 0 pins the look-up of each recipient by its key
WITH open AS MATERIALIZED (
    SELECT c.sealed_seq FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = %(session)s AND s.campaign_id = %(campaign)s AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND c.phase = 'sending' AND NOT c.stopped
), picked AS MATERIALIZED (
    SELECT d.seq FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.seq > %(after)s AND d.seq <= %(bound)s
        AND d.seq <= (SELECT o.sealed_seq FROM open AS o) AND d.state = 'pending'
    ORDER BY d.seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE fullsend.delivery AS d
    SET state = 'claimed', session_id = %(session)s, updated_at = clock_timestamp()
    WHERE d.campaign_id = %(campaign)s AND d.seq = ANY (ARRAY(SELECT p.seq FROM picked AS p))
    RETURNING d.seq, d.attempts, d.unknowns, d.charges, d.first_charged_at
), counted AS MATERIALIZED (
    SELECT fullsend.count_moves(%(campaign)s, %(session)s, %(tenant)s,
        array_agg('pending'::fullsend.delivery_state), array_agg('claimed'::fullsend.delivery_state), 0) AS revision
    FROM claimed
)
SELECT c.seq, r.address, r.identity_hash, r.variables, r.token, r.domain, c.attempts, c.unknowns, c.charges,
    c.first_charged_at, false, counted.revision
FROM counted, claimed AS c
CROSS JOIN LATERAL (
    SELECT * FROM fullsend.recipient AS x WHERE x.campaign_id = %(campaign)s AND x.seq = c.seq OFFSET 0
) AS r
ORDER BY c.seq;

-- claim_due --
-- Rows whose time has come, oldest first; the clock is read once so that it can bound the index. Whose resends are used
-- up, since fewer are allowed than when nobody knew of it last, is held, unless a person has reopened it since
WITH open AS MATERIALIZED (
    SELECT clock_timestamp() AS now, c.max_unknown_resends AS resends
    FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = %(session)s AND s.campaign_id = %(campaign)s AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND c.phase = 'sending' AND NOT c.stopped
), picked AS MATERIALIZED (
    SELECT d.seq, d.state, d.due_at, d.unknowns > greatest(d.pardoned, (SELECT o.resends FROM open AS o)) AS used_up
    FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.due_at <= (SELECT o.now FROM open AS o)
    ORDER BY d.due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = CASE WHEN p.used_up THEN 'held' ELSE 'claimed' END::fullsend.delivery_state,
        session_id = CASE WHEN NOT p.used_up THEN %(session)s::bigint END,
        reason = CASE WHEN p.used_up THEN 'ResendsUsedUp' ELSE d.reason END,
        due_at = NULL, updated_at = clock_timestamp()
    FROM picked AS p
    WHERE d.campaign_id = %(campaign)s AND d.seq = p.seq AND d.seq = ANY (ARRAY(SELECT q.seq FROM picked AS q))
    RETURNING d.seq, d.state, d.attempts, d.unknowns, d.charges, d.first_charged_at, p.state AS was, p.due_at
), counted AS MATERIALIZED (
    SELECT fullsend.count_moves(%(campaign)s, %(session)s, %(tenant)s, array_agg(m.was), array_agg(m.state), 0)
        AS revision
    FROM moved AS m
)
SELECT m.seq, r.address, r.identity_hash, r.variables, r.token, r.domain, m.attempts, m.unknowns, m.charges,
    m.first_charged_at, m.state = 'held', counted.revision
FROM counted, moved AS m
CROSS JOIN LATERAL (
    SELECT * FROM fullsend.recipient AS x WHERE x.campaign_id = %(campaign)s AND x.seq = m.seq OFFSET 0
) AS r
ORDER BY m.due_at, m.seq;

-- give_back --
-- Claimed rows that will not be armed: due now, uncharged; what nobody knew stays unknown
WITH live AS MATERIALIZED (
    SELECT s.id FROM fullsend.session AS s
    WHERE s.id = %(session)s AND s.fenced_at IS NULL AND s.ended_at IS NULL
), picked AS MATERIALIZED (
    SELECT d.seq FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.session_id = (SELECT l.id FROM live AS l) AND d.state = 'claimed'
        AND d.seq = ANY (%(seqs)s::bigint[])
    ORDER BY d.seq FOR UPDATE
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = CASE WHEN d.unknowns > 0 THEN 'unknown' ELSE 'deferred' END::fullsend.delivery_state,
        session_id = NULL, due_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE d.campaign_id = %(campaign)s AND d.seq = ANY (ARRAY(SELECT p.seq FROM picked AS p))
    RETURNING d.state
)
SELECT count(*), fullsend.count_moves(%(campaign)s, %(session)s, %(tenant)s,
    array_agg('claimed'::fullsend.delivery_state), array_agg(m.state), 0)
FROM moved AS m;

-- held_rows --
-- What a session holds, as the ledger has it
SELECT d.seq, d.state, d.attempts FROM fullsend.delivery AS d WHERE d.session_id = %(session)s ORDER BY d.seq;

-- fence_session --
-- From here on nothing of the session is claimed or armed
UPDATE fullsend.session SET fenced_at = clock_timestamp(), tokens = 0
WHERE id = %(session)s AND fenced_at IS NULL AND ended_at IS NULL
    AND (%(lease)s::double precision IS NULL OR heartbeat_at + make_interval(secs => %(lease)s) <= clock_timestamp())
RETURNING id;

-- lock_fenced_session --
-- The session whose rows are swept: fenced, and not yet ended
SELECT campaign_id, tenant_id FROM fullsend.session
WHERE id = %(session)s AND fenced_at IS NOT NULL AND ended_at IS NULL FOR UPDATE;

-- max_unknown_resends --
-- How often an unknown row is sent again
SELECT max_unknown_resends FROM fullsend.campaign WHERE id = %(campaign)s;

-- sessions_to_sweep --
-- Sessions that died: silent for longer than the lease, or fenced with rows left
SELECT s.id, s.tenant_id FROM fullsend.session AS s
WHERE s.campaign_id = %(campaign)s AND s.ended_at IS NULL
    AND (s.fenced_at IS NOT NULL OR s.heartbeat_at + make_interval(secs => %(lease)s) <= clock_timestamp())
ORDER BY s.id;

-- sweep_chunk --
-- Rows a session leaves behind: claimed ones are due now, armed ones nobody knows
WITH picked AS MATERIALIZED (
    SELECT d.seq, d.state, d.attempts, d.updated_at FROM fullsend.delivery AS d
    WHERE d.session_id = %(session)s ORDER BY d.seq LIMIT %(chunk)s FOR UPDATE
), noted AS (
    INSERT INTO fullsend.attempt (campaign_id, seq, attempt, tenant_id, session_id, state, reason, content_sent,
        armed_at)
    SELECT %(campaign)s, p.seq, p.attempts, %(tenant)s, %(session)s, 'unknown', %(reason)s, true, p.updated_at
    FROM picked AS p WHERE p.state = 'armed'
    ON CONFLICT (campaign_id, seq, attempt) DO NOTHING
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = CASE
            WHEN p.state = 'armed' AND d.unknowns + 1 > %(max_unknown_resends)s THEN 'held'
            WHEN p.state = 'armed' OR d.unknowns > 0 THEN 'unknown'
            ELSE 'deferred' END::fullsend.delivery_state,
        unknowns = d.unknowns + CASE WHEN p.state = 'armed' THEN 1 ELSE 0 END,
        due_at = CASE
            WHEN p.state = 'claimed' THEN clock_timestamp()
            WHEN d.unknowns + 1 <= %(max_unknown_resends)s
                THEN clock_timestamp() + make_interval(secs => %(unknown_delay)s) END,
        reason = CASE WHEN p.state = 'armed' THEN %(reason)s ELSE d.reason END,
        session_id = NULL, updated_at = clock_timestamp()
    FROM picked AS p
    WHERE d.campaign_id = %(campaign)s AND d.seq = p.seq
        AND d.seq = ANY (ARRAY(SELECT q.seq FROM picked AS q))
    RETURNING d.state, p.state AS was
)
SELECT count(*) FILTER (WHERE m.was = 'claimed'), count(*) FILTER (WHERE m.was = 'armed' AND m.state = 'unknown'),
    count(*) FILTER (WHERE m.was = 'armed' AND m.state = 'held'),
    fullsend.count_moves(%(campaign)s, 0, %(tenant)s, array_agg(m.was), array_agg(m.state), 0)
FROM moved AS m;

-- end_session --
-- Nothing of the session is left
UPDATE fullsend.session AS s
SET ended_at = clock_timestamp(), end_reason = %(reason)s, tokens = 0, last_revision = coalesce((
        SELECT c.revision FROM fullsend.counter AS c WHERE c.campaign_id = s.campaign_id AND c.session_id = s.id
    ), s.last_revision)
WHERE id = %(session)s AND ended_at IS NULL;

-- fold_counters --
-- A session's deltas enter the base; the sum stays the same
WITH gone AS (
    DELETE FROM fullsend.counter WHERE campaign_id = %(campaign)s AND session_id = %(session)s RETURNING *
)
INSERT INTO fullsend.counter AS c
SELECT g.campaign_id, 0, g.tenant_id, g.revision, g.resent, g.last_settled_at, g.pending, g.claimed, g.armed,
    g.deferred, g.unknown, g.accepted, g.rejected, g.suppressed, g.invalid, g.expired, g.unrenderable, g.held,
    g.cancelled, g.tried_accepted, g.tried_rejected, g.tried_deferred, g.tried_unknown, g.took_ms, g.took
FROM gone AS g
ON CONFLICT (campaign_id, session_id) DO UPDATE SET
    revision = c.revision + excluded.revision,
    resent = c.resent + excluded.resent,
    last_settled_at = greatest(c.last_settled_at, excluded.last_settled_at),
    pending = c.pending + excluded.pending, claimed = c.claimed + excluded.claimed, armed = c.armed + excluded.armed,
    deferred = c.deferred + excluded.deferred, unknown = c.unknown + excluded.unknown,
    accepted = c.accepted + excluded.accepted, rejected = c.rejected + excluded.rejected,
    suppressed = c.suppressed + excluded.suppressed, invalid = c.invalid + excluded.invalid,
    expired = c.expired + excluded.expired, unrenderable = c.unrenderable + excluded.unrenderable,
    held = c.held + excluded.held, cancelled = c.cancelled + excluded.cancelled,
    tried_accepted = c.tried_accepted + excluded.tried_accepted,
    tried_rejected = c.tried_rejected + excluded.tried_rejected,
    tried_deferred = c.tried_deferred + excluded.tried_deferred,
    tried_unknown = c.tried_unknown + excluded.tried_unknown,
    took_ms = c.took_ms + excluded.took_ms, took = fullsend.add_up(c.took, excluded.took);

-- grant_tokens --
-- Tokens from every bucket the session is under
SELECT live, granted, retry_after FROM fullsend.grant_tokens(%(session)s, %(want)s);

-- return_tokens --
-- What a living session did not spend
SELECT fullsend.return_tokens(%(session)s);
