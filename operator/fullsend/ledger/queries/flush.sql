-- arm --
-- Content may go on the wire for these rows from here on, except for who said no; spends the session's tokens
WITH open AS MATERIALIZED (
    SELECT s.tokens, c.metered, c.list_ids, c.phase = 'sending' AND NOT c.stopped AS sendable
    FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = %(session)s AND s.campaign_id = %(campaign)s AND s.fenced_at IS NULL AND s.ended_at IS NULL
), wanted AS MATERIALIZED (
    SELECT w.seq, w.attempts, w.place, (
        SELECT min(x.reason) FROM fullsend.suppression AS x
        WHERE x.identity_hash = substr(%(hashes)s::bytea, (w.place * 16 - 15)::integer, 16)
            AND (x.scope = 'installation' OR (x.scope = 'tenant' AND x.tenant_id = %(tenant)s)
                OR (x.scope = 'list' AND x.list_id = ANY ((SELECT o.list_ids FROM open AS o)::bigint[])
                    AND NOT fullsend.welcome_through_another_list(
                        x.identity_hash, x.list_id, (SELECT o.list_ids FROM open AS o))))
    ) AS refusal
    FROM unnest(%(seqs)s::bigint[], %(attempts)s::integer[]) WITH ORDINALITY AS w (seq, attempts, place)
), mine AS MATERIALIZED (
    SELECT d.seq, d.attempts FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.seq = ANY (%(seqs)s::bigint[])
        AND d.state = 'claimed' AND d.session_id = %(session)s AND EXISTS (SELECT FROM open)
    ORDER BY d.seq FOR UPDATE
), judged AS MATERIALIZED (
    SELECT w.seq, w.refusal, row_number() OVER (PARTITION BY w.refusal IS NULL ORDER BY w.place) AS nth
    FROM wanted AS w WHERE (w.seq, w.attempts) IN (SELECT m.seq, m.attempts FROM mine AS m)
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = CASE WHEN j.refusal IS NULL THEN 'armed' ELSE 'suppressed' END::fullsend.delivery_state,
        session_id = CASE WHEN j.refusal IS NULL THEN d.session_id END,
        attempts = d.attempts + CASE WHEN j.refusal IS NULL THEN 1 ELSE 0 END,
        reason = coalesce(j.refusal, d.reason),
        updated_at = clock_timestamp()
    FROM judged AS j, open AS o
    WHERE d.campaign_id = %(campaign)s AND d.seq = j.seq AND d.seq = ANY (%(seqs)s::bigint[])
        AND (j.refusal IS NOT NULL OR (o.sendable AND (NOT o.metered OR j.nth <= o.tokens)))
    RETURNING d.seq, d.state, d.unknowns
), sums AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE m.state = 'armed') AS armed,
        fullsend.count_moves(%(campaign)s, %(session)s, %(tenant)s,
            array_agg('claimed'::fullsend.delivery_state), array_agg(m.state),
            count(*) FILTER (WHERE m.state = 'armed' AND m.unknowns > 0)) AS revision
    FROM moved AS m
), spent AS (
    UPDATE fullsend.session AS s
    SET tokens = s.tokens - CASE WHEN o.metered THEN n.armed ELSE 0 END,
        first_armed_at = coalesce(s.first_armed_at, clock_timestamp())
    FROM open AS o, sums AS n
    WHERE s.id = %(session)s AND n.armed > 0 AND (o.metered OR s.first_armed_at IS NULL)
)
SELECT m.seq, m.state = 'armed', sums.revision FROM sums, moved AS m;

-- still_meant --
-- Of rows that were armed a while ago: whose content may go out now, since nobody has said no and the campaign sends
WITH open AS MATERIALIZED (
    SELECT c.list_ids FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = %(session)s AND s.campaign_id = %(campaign)s AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND c.phase = 'sending' AND NOT c.stopped
), wanted AS MATERIALIZED (
    SELECT w.seq, w.attempts, substr(%(hashes)s::bytea, (w.place * 16 - 15)::integer, 16) AS identity_hash
    FROM unnest(%(seqs)s::bigint[], %(attempts)s::integer[]) WITH ORDINALITY AS w (seq, attempts, place)
)
SELECT d.seq FROM fullsend.delivery AS d JOIN wanted AS w ON w.seq = d.seq AND w.attempts + 1 = d.attempts
WHERE d.campaign_id = %(campaign)s AND d.seq = ANY (%(seqs)s::bigint[])
    AND d.state = 'armed' AND d.session_id = %(session)s AND EXISTS (SELECT FROM open)
    AND NOT EXISTS (
        SELECT FROM fullsend.suppression AS x
        WHERE x.identity_hash = w.identity_hash
            AND (x.scope = 'installation' OR (x.scope = 'tenant' AND x.tenant_id = %(tenant)s)
                OR (x.scope = 'list' AND x.list_id = ANY ((SELECT o.list_ids FROM open AS o)::bigint[])
                    AND NOT fullsend.welcome_through_another_list(
                        x.identity_hash, x.list_id, (SELECT o.list_ids FROM open AS o))))
    );

-- record --
-- What became of armed rows, by a living session; by a dead one only that a message was accepted
WITH me AS MATERIALIZED (
    SELECT s.fenced_at IS NULL AND s.ended_at IS NULL AS live, c.max_unknown_resends AS resends
    FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = %(session)s AND s.campaign_id = %(campaign)s
), told AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(told)s::jsonb) AS t (seq bigint, n integer, state fullsend.delivery_state,
        reason text, charged boolean, sent boolean, delay double precision, stage text, code smallint, enhanced text,
        text text, relay text, ms integer, feed boolean)
), found AS MATERIALIZED (
    SELECT d.seq, d.state, d.attempts, d.unknowns, d.updated_at, d.session_id AS holder,
        coalesce(d.session_id = %(session)s, false) AS mine
    FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.seq = ANY (%(seqs)s::bigint[]) AND EXISTS (SELECT FROM me)
    ORDER BY d.seq FOR UPDATE
), judged AS MATERIALIZED (
    SELECT t.*, f.state AS was, f.attempts, f.updated_at, f.holder,
        f.mine AND f.state = 'armed' AND f.attempts = t.n AS in_hand,
        CASE
            WHEN me.live AND f.mine AND f.state = 'armed' AND f.attempts = t.n THEN
                CASE WHEN t.state = 'unknown' AND f.unknowns >= me.resends THEN 'held' ELSE t.state END
            WHEN me.live AND f.mine AND f.state = 'claimed' AND f.attempts + 1 = t.n
                AND t.state IN ('unrenderable', 'deferred', 'unknown') THEN t.state
            WHEN t.state = 'accepted' AND f.state <> 'accepted' AND (
                (f.mine AND f.state = 'armed' AND f.attempts = t.n)
                OR EXISTS (SELECT FROM fullsend.attempt AS a
                    WHERE a.campaign_id = %(campaign)s AND a.seq = t.seq AND a.attempt = t.n
                        AND a.session_id = %(session)s AND a.state = 'unknown')
            ) THEN 'accepted'
        END::fullsend.delivery_state AS becomes
    FROM told AS t JOIN found AS f ON f.seq = t.seq CROSS JOIN me
), noted AS (
    INSERT INTO fullsend.attempt AS a (campaign_id, seq, attempt, tenant_id, session_id, state, reason, charged,
        content_sent, stage, code, enhanced, text, relay, took_ms, armed_at)
    SELECT %(campaign)s, j.seq, j.n, %(tenant)s, %(session)s,
        CASE WHEN j.state = 'held' THEN 'unknown' ELSE j.state END, coalesce(j.reason, ''),
        coalesce(j.charged, false), coalesce(j.sent, false), coalesce(j.stage, ''), j.code,
        coalesce(j.enhanced, ''), coalesce(j.text, ''), coalesce(j.relay, ''), coalesce(j.ms, 0),
        CASE WHEN j.in_hand THEN j.updated_at
            ELSE clock_timestamp() - make_interval(secs => coalesce(j.ms, 0) / 1000.0) END
    FROM judged AS j WHERE j.n <= j.attempts
    ON CONFLICT (campaign_id, seq, attempt) DO UPDATE SET state = excluded.state, reason = excluded.reason,
        charged = excluded.charged, content_sent = excluded.content_sent, stage = excluded.stage,
        code = excluded.code, enhanced = excluded.enhanced, text = excluded.text, relay = excluded.relay,
        took_ms = excluded.took_ms, recorded_at = excluded.recorded_at
        WHERE a.state = 'unknown' AND a.session_id = excluded.session_id
), doubted AS (
    INSERT INTO fullsend.attempt (campaign_id, seq, attempt, tenant_id, session_id, state, reason, armed_at)
    SELECT %(campaign)s, j.seq, j.attempts, %(tenant)s, j.holder, 'unknown', 'AcceptedEarlier', j.updated_at
    FROM judged AS j WHERE j.becomes = 'accepted' AND j.was = 'armed' AND NOT j.in_hand
    ON CONFLICT (campaign_id, seq, attempt) DO NOTHING
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = j.becomes, session_id = NULL, reason = coalesce(j.reason, ''), updated_at = clock_timestamp(),
        due_at = CASE WHEN j.becomes IN ('deferred', 'unknown')
            THEN clock_timestamp() + make_interval(secs => coalesce(j.delay, 0)) END,
        unknowns = d.unknowns + CASE WHEN j.in_hand AND j.state IN ('unknown', 'held') THEN 1 ELSE 0 END,
        charges = d.charges + CASE WHEN j.charged THEN 1 ELSE 0 END,
        first_charged_at = CASE WHEN j.charged THEN coalesce(d.first_charged_at, clock_timestamp())
            ELSE d.first_charged_at END
    FROM judged AS j
    WHERE d.campaign_id = %(campaign)s AND d.seq = j.seq AND d.seq = ANY (%(seqs)s::bigint[])
        AND j.becomes IS NOT NULL
    RETURNING d.seq, d.state, j.was, j.feed,
        -- Counted as sent again when it was armed, and its content was not sent, or was refused: no second copy.
        j.in_hand AND d.unknowns > 0 AND j.state NOT IN ('accepted', 'unknown', 'held') AS spared
), fed AS (
    INSERT INTO fullsend.suppression (scope, tenant_id, identity_hash, address, reason, source)
    SELECT 'tenant', %(tenant)s, r.identity_hash, r.address, 'MailboxRefused', 'campaign:' || r.campaign_id
    FROM moved AS m JOIN fullsend.recipient AS r ON r.campaign_id = %(campaign)s AND r.seq = m.seq
    WHERE m.feed AND m.state = 'rejected' ORDER BY r.identity_hash
    ON CONFLICT DO NOTHING
), healed AS (
    UPDATE fullsend.campaign AS c SET breaker = jsonb_set(c.breaker, '{failures}', '0'), revision = c.revision + 1
    WHERE c.id = %(campaign)s AND c.breaker_resets AND EXISTS (SELECT FROM moved AS m WHERE m.state = 'accepted')
)
SELECT fullsend.count_moves(%(campaign)s, CASE WHEN me.live THEN %(session)s ELSE 0 END, %(tenant)s,
    array_agg(m.was), array_agg(m.state), -count(*) FILTER (WHERE m.spared), %(took_ms)s::bigint, %(took)s::bigint[])
FROM me, moved AS m GROUP BY me.live;
