-- depends: 0001.tables-of-the-ledger
-- The arithmetic that must be the same whoever does it: counters that follow the rows, and tokens.

-- Two rows of a histogram, added; the shorter one may be empty.
CREATE FUNCTION fullsend.add_up(p_one bigint[], p_other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_other = '{}' THEN p_one ELSE
        ARRAY(SELECT coalesce(a.n, 0) + coalesce(a.m, 0) FROM unnest(p_one, p_other) AS a (n, m)) END
$$;

CREATE AGGREGATE fullsend.add_all (bigint[]) (SFUNC = fullsend.add_up, STYPE = bigint[], INITCOND = '{}');

-- Adds what p_becomes gained and p_was lost to one counter row, in the caller's transaction. Both arrays have one
-- element a row that moved (p_was is empty for rows that are new). p_took_ms and p_took, where moves are the ends of
-- attempts: how long they took in all, and how many by duration.
CREATE FUNCTION fullsend.count_moves(
    p_campaign bigint,
    p_session bigint,
    p_tenant bigint,
    p_was fullsend.delivery_state[],
    p_becomes fullsend.delivery_state[],
    p_resent bigint,
    p_took_ms bigint DEFAULT 0,
    p_took bigint[] DEFAULT '{}'
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(cardinality(p_becomes), 0) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO fullsend.counter AS c (
        campaign_id, session_id, tenant_id, revision, resent, last_settled_at,
        pending, claimed, armed, deferred, unknown, accepted, rejected, suppressed, invalid,
        expired, unrenderable, held, cancelled,
        tried_accepted, tried_rejected, tried_deferred, tried_unknown, took_ms, took
    )
    WITH tried AS MATERIALIZED (
        SELECT count(*) FILTER (WHERE x.becomes = 'accepted') AS accepted,
            count(*) FILTER (WHERE x.becomes = 'rejected') AS rejected,
            count(*) FILTER (WHERE x.was = 'armed' AND x.becomes IN ('deferred', 'expired')) AS deferred,
            count(*) FILTER (WHERE x.was = 'armed' AND x.becomes IN ('unknown', 'held')) AS unknown
        FROM unnest(p_was, p_becomes) AS x (was, becomes)
    )
    SELECT p_campaign, p_session, p_tenant, 1, p_resent,
        CASE WHEN bool_or(m.n > 0 AND m.state >= 'accepted') THEN clock_timestamp() END,
        coalesce(sum(m.n) FILTER (WHERE m.state = 'pending'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'claimed'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'armed'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'deferred'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'unknown'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'accepted'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'rejected'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'suppressed'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'invalid'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'expired'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'unrenderable'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'held'), 0),
        coalesce(sum(m.n) FILTER (WHERE m.state = 'cancelled'), 0),
        (SELECT t.accepted FROM tried AS t), (SELECT t.rejected FROM tried AS t),
        (SELECT t.deferred FROM tried AS t), (SELECT t.unknown FROM tried AS t), p_took_ms, p_took
    FROM (
        SELECT b.state, 1 AS n FROM unnest(p_becomes) AS b (state)
        UNION ALL
        SELECT w.state, -1 FROM unnest(p_was) AS w (state)
    ) AS m
    ON CONFLICT (campaign_id, session_id) DO UPDATE SET
        revision = c.revision + 1,
        resent = c.resent + excluded.resent,
        last_settled_at = greatest(c.last_settled_at, excluded.last_settled_at),
        pending = c.pending + excluded.pending,
        claimed = c.claimed + excluded.claimed,
        armed = c.armed + excluded.armed,
        deferred = c.deferred + excluded.deferred,
        unknown = c.unknown + excluded.unknown,
        accepted = c.accepted + excluded.accepted,
        rejected = c.rejected + excluded.rejected,
        suppressed = c.suppressed + excluded.suppressed,
        invalid = c.invalid + excluded.invalid,
        expired = c.expired + excluded.expired,
        unrenderable = c.unrenderable + excluded.unrenderable,
        held = c.held + excluded.held,
        cancelled = c.cancelled + excluded.cancelled,
        tried_accepted = c.tried_accepted + excluded.tried_accepted,
        tried_rejected = c.tried_rejected + excluded.tried_rejected,
        tried_deferred = c.tried_deferred + excluded.tried_deferred,
        tried_unknown = c.tried_unknown + excluded.tried_unknown,
        took_ms = c.took_ms + excluded.took_ms,
        took = fullsend.add_up(c.took, excluded.took);
END
$$;

-- How often a session has moved rows, by its counters: only it moves them, so this never falls in one ledger.
CREATE FUNCTION fullsend.session_revision(p_session bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT c.revision FROM fullsend.counter AS c WHERE c.campaign_id = s.campaign_id AND c.session_id = s.id),
        s.last_revision
    ) FROM fullsend.session AS s WHERE s.id = p_session
$$;

-- Ends the transaction of a sender that was told more than this ledger knows, or whose session is another's here.
CREATE FUNCTION fullsend.as_told(p_session bigint, p_same boolean, p_told bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_revision bigint := fullsend.session_revision(p_session);
BEGIN
    IF NOT p_same THEN
        RAISE EXCEPTION 'session % is another one here', p_session USING ERRCODE = 'FS001';
    END IF;
    IF v_revision < p_told THEN
        RAISE EXCEPTION 'session % is at revision % here, and was told % before', p_session, v_revision, p_told
            USING ERRCODE = 'FS001';
    END IF;
    RETURN true;
END
$$;

-- The first 8 bytes of an identity hash, signed and big-endian: what a plan's digest sums.
CREATE FUNCTION fullsend.identity_head(p_hash bytea) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT ('x' || encode(substr(p_hash, 1, 8), 'hex'))::bit(64)::bigint
$$;

-- The tenant whose role this connection logged in as; null for the operator.
CREATE FUNCTION fullsend.current_tenant_id() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.id FROM fullsend.tenant AS t WHERE t.role_name = session_user
$$;

-- The rates a session is under, as (scope, key, messages, seconds). A pool's key is the same in every tenant.
CREATE FUNCTION fullsend.rates_of(p_campaign bigint)
RETURNS TABLE (scope text, key text, messages double precision, seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.scope, r.key, min(r.messages), r.seconds
    FROM (
        SELECT 'campaign' AS scope, c.id::text AS key,
            (e ->> 'messages')::double precision AS messages, (e ->> 'seconds')::double precision AS seconds
        FROM fullsend.campaign AS c, jsonb_array_elements(coalesce(c.control -> 'rates', '[]')) AS e
        WHERE c.id = p_campaign
        UNION ALL
        SELECT CASE WHEN coalesce(c.control #>> '{relay,pool}', '') = '' THEN 'transport' ELSE 'pool' END,
            coalesce(nullif(c.control #>> '{relay,pool}', ''), c.tenant_id || '/' || (c.control #>> '{relay,name}')),
            (e ->> 'messages')::double precision, (e ->> 'seconds')::double precision
        FROM fullsend.campaign AS c, jsonb_array_elements(coalesce(c.control #> '{relay,rates}', '[]')) AS e
        WHERE c.id = p_campaign
    ) AS r
    GROUP BY r.scope, r.key, r.seconds
$$;

-- Moves up to p_want tokens from every bucket the session is under into the session. The clock is read after the
-- buckets are locked: time spent waiting for the lock must not be minted twice. A bucket holds one second's worth.
CREATE FUNCTION fullsend.grant_tokens(p_session bigint, p_want bigint)
RETURNS TABLE (live boolean, granted integer, retry_after double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_campaign bigint;
    v_tenant integer := fullsend.current_tenant_id();
    v_now timestamptz;
    v_buckets bigint[];
BEGIN
    SELECT s.campaign_id INTO v_campaign FROM fullsend.session AS s
    WHERE s.id = p_session AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND (v_tenant IS NULL OR s.tenant_id = v_tenant)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, 0, 0::double precision;
        RETURN;
    END IF;
    INSERT INTO fullsend.bucket (scope, key, seconds, level, filled_at)
    SELECT r.scope, r.key, r.seconds, greatest(1, r.messages / r.seconds), clock_timestamp()
    FROM fullsend.rates_of(v_campaign) AS r
    WHERE NOT EXISTS (
        SELECT FROM fullsend.bucket AS b WHERE b.scope = r.scope AND b.key = r.key AND b.seconds = r.seconds
    )
    ORDER BY r.scope, r.key, r.seconds
    ON CONFLICT DO NOTHING;
    SELECT array_agg(l.id) INTO v_buckets FROM (
        SELECT b.id FROM fullsend.bucket AS b
        JOIN fullsend.rates_of(v_campaign) AS r USING (scope, key, seconds)
        ORDER BY b.scope, b.key, b.seconds
        FOR UPDATE OF b
    ) AS l;
    IF v_buckets IS NULL THEN
        RETURN QUERY SELECT true, p_want::integer, 0::double precision;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    RETURN QUERY
    WITH filled AS (
        SELECT b.id, r.messages / r.seconds AS per_second,
            least(
                greatest(1, r.messages / r.seconds),
                b.level + greatest(0, extract(epoch FROM v_now - b.filled_at)) * r.messages / r.seconds
            ) AS level
        FROM fullsend.bucket AS b
        JOIN fullsend.rates_of(v_campaign) AS r USING (scope, key, seconds)
        WHERE b.id = ANY (v_buckets)
    ), decided AS (
        SELECT greatest(0, least(p_want, min(floor(f.level + 1e-9))))::integer AS n FROM filled AS f
    ), spent AS (
        UPDATE fullsend.bucket AS b SET level = greatest(0, f.level - d.n), filled_at = v_now
        FROM filled AS f, decided AS d WHERE b.id = f.id
        RETURNING CASE WHEN d.n < p_want THEN greatest(0, (1 - (f.level - d.n)) / f.per_second) ELSE 0 END AS wait
    ), given AS (
        UPDATE fullsend.session AS s SET tokens = s.tokens + d.n FROM decided AS d WHERE s.id = p_session AND d.n > 0
    )
    SELECT true, (SELECT d.n FROM decided AS d), max(spent.wait)::double precision FROM spent;
END
$$;

-- Gives a living session's unspent tokens back to its buckets, never above what a bucket holds.
CREATE FUNCTION fullsend.return_tokens(p_session bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_campaign bigint;
    v_tokens integer;
    v_tenant integer := fullsend.current_tenant_id();
BEGIN
    SELECT s.campaign_id, s.tokens INTO v_campaign, v_tokens FROM fullsend.session AS s
    WHERE s.id = p_session AND s.fenced_at IS NULL AND s.ended_at IS NULL AND s.tokens > 0
        AND (v_tenant IS NULL OR s.tenant_id = v_tenant)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM b.id FROM fullsend.bucket AS b
    JOIN fullsend.rates_of(v_campaign) AS r USING (scope, key, seconds)
    ORDER BY b.scope, b.key, b.seconds
    FOR UPDATE OF b;
    UPDATE fullsend.bucket AS b SET level = least(greatest(1, r.messages / r.seconds), b.level + v_tokens)
    FROM fullsend.rates_of(v_campaign) AS r
    WHERE b.scope = r.scope AND b.key = r.key AND b.seconds = r.seconds;
    UPDATE fullsend.session AS s SET tokens = 0 WHERE s.id = p_session;
END
$$;

REVOKE EXECUTE ON FUNCTION fullsend.rates_of(bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.grant_tokens(bigint, bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.return_tokens(bigint) FROM PUBLIC;

-- A no to one list does not take back a yes to another that the campaign is for as well: the person is judged over all of
-- the campaign's lists. A list's own suppression counts unless there is another of them through which they may be mailed.
CREATE FUNCTION fullsend.welcome_through_another_list(p_identity bytea, p_refusing bigint, p_lists bigint[])
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM fullsend.member AS m JOIN fullsend.list AS l ON l.id = m.list_id
        WHERE m.identity_hash = p_identity AND m.list_id = ANY (p_lists) AND m.list_id <> p_refusing
            AND (m.status = 'confirmed' OR (m.status = 'unconfirmed' AND NOT l.double_opt_in))
            AND NOT EXISTS (
                SELECT FROM fullsend.suppression AS s
                WHERE s.identity_hash = p_identity AND s.scope = 'list' AND s.list_id = m.list_id
            )
    )
$$;
