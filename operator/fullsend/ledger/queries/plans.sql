-- lock_plan_for_start --
-- The campaign a new plan is for
SELECT tenant_id, phase, sealed_seq FROM fullsend.campaign WHERE id = %(campaign)s FOR UPDATE;

-- discard_running_plans --
-- A new plan fences the one before it
UPDATE fullsend.plan SET state = 'discarded', heartbeat_at = clock_timestamp()
WHERE campaign_id = %(campaign)s AND state = 'running';

-- unsealed_left --
-- Whether rows of a discarded or failed plan are still there
SELECT EXISTS (SELECT FROM fullsend.recipient WHERE campaign_id = %(campaign)s AND seq > %(sealed_seq)s);

-- start_plan --
-- The next generation, running
INSERT INTO fullsend.plan (campaign_id, generation, tenant_id, after_seq)
SELECT c.id, 1 + coalesce((SELECT max(p.generation) FROM fullsend.plan AS p WHERE p.campaign_id = c.id), 0),
    c.tenant_id, c.sealed_seq
FROM fullsend.campaign AS c WHERE c.id = %(campaign)s
RETURNING generation;

-- note_plan_lists --
-- The lists whose suppressions bind this campaign from now on
UPDATE fullsend.campaign AS c
SET list_ids = ARRAY(
        SELECT unnest(c.list_ids) UNION
        SELECT l.id FROM fullsend.list AS l WHERE l.tenant_id = c.tenant_id AND l.name = ANY (%(lists)s::text[])
    ),
    revision = revision + 1
WHERE c.id = %(campaign)s;

-- delete_unsealed_chunk --
-- Some rows of plans that were discarded or failed
WITH gone AS (
    DELETE FROM fullsend.recipient AS r
    WHERE r.campaign_id = %(campaign)s AND r.seq = ANY (ARRAY(
        SELECT x.seq FROM fullsend.recipient AS x
        WHERE x.campaign_id = %(campaign)s
            AND x.seq > (SELECT c.sealed_seq FROM fullsend.campaign AS c WHERE c.id = %(campaign)s)
            AND x.generation IN (
                SELECT p.generation FROM fullsend.plan AS p
                WHERE p.campaign_id = %(campaign)s AND p.state IN ('discarded', 'failed'))
        ORDER BY x.seq LIMIT %(chunk)s))
    RETURNING r.seq
), gone_too AS (
    DELETE FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.seq = ANY (ARRAY(SELECT seq FROM gone))
)
SELECT count(*) FROM gone;

-- lock_running_plan --
-- The plan, if it still runs: whoever writes for it holds this lock
SELECT tenant_id, after_seq, rows_read, inserted FROM fullsend.plan
WHERE campaign_id = %(campaign)s AND generation = %(generation)s AND state = 'running' FOR UPDATE;

-- heartbeat_plan --
-- The planner is alive
UPDATE fullsend.plan SET heartbeat_at = clock_timestamp()
WHERE campaign_id = %(campaign)s AND generation = %(generation)s AND state = 'running'
RETURNING generation;

-- add_plan_rows --
-- A chunk of the audience: the first copy of an identity is inserted, later ones are counted, a suppression on any wins
WITH input AS MATERIALIZED (
    SELECT i.*, bool_or(i.state = 'suppressed') OVER same AS refused, row_number() OVER same AS copy
    FROM unnest(
        %(addresses)b::text[], %(hashes)b::bytea[], %(domains)b::text[], %(variables)b::text[], %(tokens)b::text[],
        %(sources)b::text[], %(source_rows)s::bigint[], %(statuses)b::text[], %(states)s::fullsend.delivery_state[],
        %(reasons)b::text[]
    ) WITH ORDINALITY AS i (
        address, identity_hash, domain, variables, token, source, source_row, source_status, state, reason, place)
    WINDOW same AS (PARTITION BY i.identity_hash ORDER BY i.place
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
), known AS MATERIALIZED (
    SELECT i.place, r.seq FROM input AS i
    JOIN fullsend.recipient AS r ON r.campaign_id = %(campaign)s AND r.identity_hash = i.identity_hash
    WHERE i.copy = 1
), fresh AS MATERIALIZED (
    SELECT i.*, %(after)s::bigint + row_number() OVER (ORDER BY i.place) AS seq,
        CASE WHEN i.refused AND i.state = 'pending' THEN 'suppressed' ELSE i.state END AS starts,
        CASE WHEN i.refused AND i.state = 'pending' THEN 'SuppressedOnAnotherCopy' ELSE i.reason END AS why
    FROM input AS i
    WHERE i.copy = 1 AND NOT EXISTS (SELECT FROM known AS k WHERE k.place = i.place)
), inserted AS (
    INSERT INTO fullsend.recipient (campaign_id, seq, source_row, tenant_id, generation, identity_hash, eligible,
        address, domain, variables, token, source, source_status)
    SELECT %(campaign)s, f.seq, f.source_row, %(tenant)s, %(generation)s, f.identity_hash, f.starts = 'pending',
        f.address, f.domain, f.variables, f.token, f.source, f.source_status
    FROM fresh AS f
), placed AS (
    INSERT INTO fullsend.delivery (campaign_id, seq, tenant_id, state, reason)
    SELECT %(campaign)s, f.seq, %(tenant)s, f.starts, f.why FROM fresh AS f
), waiting AS MATERIALIZED (
    SELECT d.seq, d.state FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.state IN ('pending', 'deferred', 'unknown')
        AND d.seq = ANY (ARRAY(SELECT k.seq FROM known AS k JOIN input AS i ON i.place = k.place WHERE i.refused))
    ORDER BY d.seq FOR UPDATE
), refused_earlier AS (
    UPDATE fullsend.delivery AS d
    SET state = 'suppressed', reason = 'SuppressedOnAnotherCopy', due_at = NULL, updated_at = clock_timestamp()
    FROM waiting AS w WHERE d.campaign_id = %(campaign)s AND d.seq = w.seq
    RETURNING d.seq, w.state AS was
), counted AS (
    SELECT fullsend.count_moves(%(campaign)s, 0, %(tenant)s, array_agg(e.was),
        array_agg('suppressed'::fullsend.delivery_state), 0)
    FROM refused_earlier AS e WHERE e.seq <= %(sealed_seq)s
), no_longer_eligible AS (
    UPDATE fullsend.recipient AS r SET eligible = false
    FROM refused_earlier AS e
    WHERE r.campaign_id = %(campaign)s AND r.seq = e.seq AND e.seq > %(sealed_seq)s
)
SELECT (SELECT count(*) FROM input), (SELECT count(*) FROM fresh), (SELECT count(*) FROM counted);

-- count_plan_chunk --
-- What a chunk added, and that the planner is alive
UPDATE fullsend.plan
SET rows_read = rows_read + %(read)s, inserted = inserted + %(fresh)s, duplicates = duplicates + %(read)s - %(fresh)s,
    heartbeat_at = clock_timestamp()
WHERE campaign_id = %(campaign)s AND generation = %(generation)s;

-- suppress_planned_chunk --
-- Planned recipients who said no somewhere that counts
WITH refused AS (
    SELECT r.seq, min(s.reason) AS reason
    FROM fullsend.recipient AS r
    JOIN fullsend.suppression AS s ON s.identity_hash = r.identity_hash
    JOIN fullsend.campaign AS c ON c.id = r.campaign_id
    WHERE r.campaign_id = %(campaign)s AND r.seq > %(after)s AND r.seq <= %(upto)s AND r.eligible
        AND (s.scope = 'installation' OR (s.scope = 'tenant' AND s.tenant_id = c.tenant_id)
            OR (s.scope = 'list' AND s.list_id = ANY (c.list_ids)
                AND NOT fullsend.welcome_through_another_list(r.identity_hash, s.list_id, c.list_ids)))
    GROUP BY r.seq
), moved AS (
    UPDATE fullsend.delivery AS d SET state = 'suppressed', reason = f.reason, updated_at = clock_timestamp()
    FROM refused AS f
    WHERE d.campaign_id = %(campaign)s AND d.seq = f.seq AND d.state = 'pending'
    RETURNING d.seq
)
UPDATE fullsend.recipient AS r SET eligible = false
FROM moved AS m WHERE r.campaign_id = %(campaign)s AND r.seq = m.seq;

-- measure_planned_rows --
-- What a plan's rows are: counts by state and the digest
SELECT count(*), coalesce(sum(fullsend.identity_head(r.identity_hash)), 0)::numeric, coalesce(min(r.seq), 0),
    coalesce(max(r.seq), 0), count(*) FILTER (WHERE d.state = 'pending'),
    count(*) FILTER (WHERE d.state = 'suppressed'), count(*) FILTER (WHERE d.state = 'invalid')
FROM fullsend.recipient AS r
JOIN fullsend.delivery AS d ON d.campaign_id = r.campaign_id AND d.seq = r.seq
WHERE r.campaign_id = %(campaign)s AND r.seq > %(after)s AND r.generation = %(generation)s;

-- seal_plan --
-- From here on the plan is what the campaign owes
UPDATE fullsend.plan
SET state = 'sealed', sealed_at = clock_timestamp(), heartbeat_at = clock_timestamp(), invalid = %(invalid)s,
    suppressed = %(suppressed)s, digest = %(digest)s, render_checked = %(render_checked)s,
    render_failed = %(render_failed)s
WHERE campaign_id = %(campaign)s AND generation = %(generation)s AND state = 'running'
RETURNING to_jsonb(plan.*) AS plan;

-- open_campaign_for_sending --
-- The sealed rows may be claimed
UPDATE fullsend.campaign
SET phase = 'sending', compiled = %(compiled)s, sealed_seq = %(sealed_seq)s, revision = revision + 1
WHERE id = %(campaign)s AND phase IN ('registered', 'sending')
RETURNING id;

-- add_planned_counts --
-- The sealed rows enter the counters
INSERT INTO fullsend.counter AS c (campaign_id, session_id, tenant_id, revision, pending, suppressed, invalid)
VALUES (%(campaign)s, 0, %(tenant)s, 1, %(pending)s, %(suppressed)s, %(invalid)s)
ON CONFLICT (campaign_id, session_id) DO UPDATE SET revision = c.revision + 1, pending = c.pending + excluded.pending,
    suppressed = c.suppressed + excluded.suppressed, invalid = c.invalid + excluded.invalid;

-- fail_plan --
-- Why a plan could not be made
UPDATE fullsend.plan SET state = 'failed', reason = %(reason)s, message = %(message)s, heartbeat_at = clock_timestamp()
WHERE campaign_id = %(campaign)s AND generation = %(generation)s AND state = 'running'
RETURNING generation;

-- bump_revision --
-- What the ledger says has changed
UPDATE fullsend.campaign SET revision = revision + 1 WHERE id = %(campaign)s;
