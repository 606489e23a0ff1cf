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
-- attempts: how long they took in all, and how many by duration. Returns the counter's new revision, null if none moved.
CREATE FUNCTION fullsend.count_moves(
    p_campaign bigint,
    p_session bigint,
    p_tenant bigint,
    p_was fullsend.delivery_state[],
    p_becomes fullsend.delivery_state[],
    p_resent bigint,
    p_took_ms bigint DEFAULT 0,
    p_took bigint[] DEFAULT '{}'
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_revision bigint;
BEGIN
    IF coalesce(cardinality(p_becomes), 0) = 0 THEN
        RETURN NULL;
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
        took = fullsend.add_up(c.took, excluded.took)
    RETURNING c.revision INTO v_revision;
    RETURN v_revision;
END
$$;

-- Ends the transaction of a sender that was told more of its session than this ledger knows, or has another of its number.
CREATE FUNCTION fullsend.went_back(p_session bigint, p_told bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'session % is not here as it was, after % moves', p_session, p_told
        USING ERRCODE = 'FS001';
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

-- The rates a campaign is under, as (owner, messages, seconds). A pool is the same in every tenant.
CREATE FUNCTION fullsend.rates_of(p_campaign bigint)
RETURNS TABLE (owner text, messages double precision, seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.owner, min(r.messages), r.seconds
    FROM (
        SELECT 'campaign:' || c.id AS owner,
            (e ->> 'messages')::double precision AS messages, (e ->> 'seconds')::double precision AS seconds
        FROM fullsend.campaign AS c, jsonb_array_elements(coalesce(c.control -> 'rates', '[]')) AS e
        WHERE c.id = p_campaign
        UNION ALL
        SELECT c.outlet, (e ->> 'messages')::double precision, (e ->> 'seconds')::double precision
        FROM fullsend.campaign AS c, jsonb_array_elements(coalesce(c.control #> '{relay,rates}', '[]')) AS e
        WHERE c.id = p_campaign
    ) AS r
    GROUP BY r.owner, r.seconds
$$;

-- Messages under a bucket that were granted and have not ended: unspent tokens, and rows armed without a record.
CREATE FUNCTION fullsend.in_flight(p_owner text) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum(s.tokens + coalesce(k.armed, 0)), 0)::bigint
    FROM fullsend.campaign AS c
    JOIN fullsend.session AS s ON s.campaign_id = c.id AND s.ended_at IS NULL
    LEFT JOIN fullsend.counter AS k ON k.campaign_id = c.id AND k.session_id = s.id
    WHERE c.phase = 'sending'
        AND (c.outlet = p_owner OR c.id = (CASE WHEN p_owner LIKE 'campaign:%' THEN substr(p_owner, 10) END)::bigint)
$$;

-- Brings a locked bucket up to p_now and says how many messages it allows now, and in how many seconds one more.
--
-- The window is the rate's own, or a minute where that is shorter. A message counts from its grant until one window
-- after its end was seen: whenever between the two the relay counted it, no window there holds more than allowed. It
-- is seen to have ended when it is no longer in flight, at the next look by anybody. A rate of a minute or less is also
-- a token bucket, which holds one second's worth and fills at 98%, so that the window need not stop it.
CREATE FUNCTION fullsend.look_at_bucket(
    p_bucket bigint, p_messages double precision, p_now timestamptz, OUT available bigint, OUT wait double precision
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b fullsend.bucket;
    v_now double precision := extract(epoch FROM p_now);
    v_width double precision;
    v_passed bigint;
    v_flying bigint;
    v_used bigint;
    v_allowed bigint;
    v_rate double precision;
BEGIN
    SELECT * INTO b FROM fullsend.bucket WHERE id = p_bucket;
    v_width := greatest(60, b.seconds) / 120;
    v_passed := least(121, greatest(0, floor(v_now / v_width)::bigint - b.slot));
    IF v_passed > 0 THEN
        b.slot := floor(v_now / v_width)::bigint;
        b.slots := b.slots[v_passed + 1 : 121] || array_fill(0, ARRAY[v_passed::integer]);
    END IF;
    v_flying := fullsend.in_flight(b.owner);
    b.slots[121] := b.slots[121] + greatest(0, b.taken - v_flying);
    b.taken := v_flying;
    v_rate := 0.98 * p_messages / b.seconds;
    b.level := least(
        greatest(1, p_messages / b.seconds), b.level + v_rate * greatest(0, extract(epoch FROM p_now - b.filled_at))
    );
    b.filled_at := greatest(b.filled_at, p_now);
    UPDATE fullsend.bucket AS x
    SET slot = b.slot, slots = b.slots, taken = b.taken, level = b.level, filled_at = b.filled_at
    WHERE x.id = p_bucket;

    SELECT sum(n) INTO v_used FROM unnest(b.slots) AS n;
    v_allowed := floor(p_messages * greatest(60, b.seconds) / b.seconds + 1e-9);
    available := greatest(0, v_allowed - v_used - b.taken);
    wait := 0;
    IF available = 0 THEN
        wait := CASE WHEN v_used < v_allowed THEN 0.25 ELSE greatest(0.05, (
            SELECT (b.slot + min(n.place)) * v_width - v_now
            FROM unnest(b.slots) WITH ORDINALITY AS n (used, place) WHERE n.used > 0)) END;
    ELSIF b.seconds <= 60 THEN
        available := least(available, floor(b.level + 1e-9));
        wait := CASE WHEN available = 0 THEN (1 - b.level) / v_rate ELSE 0 END;
    END IF;
END
$$;

-- The share of p_available that is a campaign's, round robin: as if it were poured over those who have lately asked in
-- vain until all of them had been served alike. Who begins to ask is taken to have been served like the least of them.
CREATE FUNCTION fullsend.share_of(
    p_bucket bigint, p_campaign bigint, p_available bigint, p_now timestamptz, OUT share bigint, OUT served bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_others bigint[];
    v_one bigint;
    v_sum numeric := 0;
    v_count integer := 0;
BEGIN
    SELECT array_agg(t.served ORDER BY t.served) INTO v_others FROM fullsend.turn AS t
    WHERE t.bucket_id = p_bucket AND t.campaign_id <> p_campaign AND t.hungry_at > p_now - interval '3 seconds';
    SELECT t.served INTO served FROM fullsend.turn AS t
    WHERE t.bucket_id = p_bucket AND t.campaign_id = p_campaign
        AND (v_others IS NULL OR t.hungry_at > p_now - interval '3 seconds');
    served := coalesce(served, v_others[1], 0);
    share := p_available;
    IF v_others IS NULL OR p_available = 0 THEN
        RETURN;
    END IF;
    FOR v_one IN SELECT n FROM unnest(v_others || served) AS n ORDER BY n LOOP
        EXIT WHEN v_count > 0 AND v_one * v_count - v_sum >= p_available;
        v_sum := v_sum + v_one;
        v_count := v_count + 1;
    END LOOP;
    share := greatest(0, floor((p_available + v_sum) / v_count) - served);
    IF share = 0 AND served <= v_others[1] THEN
        share := 1;  -- too few to go round: those who had least, one each
    END IF;
END
$$;

-- Locks the buckets of a campaign, in one order for all, and returns them with the messages allowed a period.
CREATE FUNCTION fullsend.lock_buckets(p_campaign bigint) RETURNS TABLE (id bigint, messages double precision)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT b.id, r.messages FROM fullsend.bucket AS b
    JOIN fullsend.rates_of(p_campaign) AS r ON r.owner = b.owner AND r.seconds = b.seconds
    ORDER BY b.owner, b.seconds
    FOR UPDATE OF b
$$;

-- Moves up to p_want tokens from every bucket the session is under into the session. The clock is read after the
-- buckets are locked: time spent waiting for the lock must not be minted twice.
CREATE FUNCTION fullsend.grant_tokens(p_session bigint, p_want bigint)
RETURNS TABLE (live boolean, granted integer, retry_after double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_campaign bigint;
    v_tenant integer := fullsend.current_tenant_id();
    v_now timestamptz;
    v_ids bigint[];
    v_messages double precision[];
    v_shares bigint[] := '{}';
    v_served bigint[] := '{}';
    v_share bigint;
    v_had bigint;
    v_available bigint;
    v_bucket_wait double precision;
    v_wait double precision := 0;
    v_give bigint := p_want;
BEGIN
    SELECT s.campaign_id INTO v_campaign FROM fullsend.session AS s
    WHERE s.id = p_session AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND (v_tenant IS NULL OR s.tenant_id = v_tenant)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, 0, 0::double precision;
        RETURN;
    END IF;
    INSERT INTO fullsend.bucket (owner, seconds, level, filled_at)
    SELECT r.owner, r.seconds, greatest(1, r.messages / r.seconds), clock_timestamp()
    FROM fullsend.rates_of(v_campaign) AS r
    WHERE NOT EXISTS (SELECT FROM fullsend.bucket AS b WHERE b.owner = r.owner AND b.seconds = r.seconds)
    ORDER BY r.owner, r.seconds
    ON CONFLICT DO NOTHING;
    SELECT array_agg(l.id), array_agg(l.messages) INTO v_ids, v_messages FROM fullsend.lock_buckets(v_campaign) AS l;
    IF v_ids IS NULL THEN
        RETURN QUERY SELECT true, p_want::integer, 0::double precision;
        RETURN;
    END IF;
    v_now := clock_timestamp();
    FOR i IN 1 .. cardinality(v_ids) LOOP
        SELECT l.available, l.wait INTO v_available, v_bucket_wait
        FROM fullsend.look_at_bucket(v_ids[i], v_messages[i], v_now) AS l;
        SELECT f.share, f.served INTO v_share, v_had
        FROM fullsend.share_of(v_ids[i], v_campaign, v_available, v_now) AS f;
        v_shares := v_shares || v_share;
        v_served := v_served || v_had;
        v_give := least(v_give, v_share);
        v_wait := greatest(v_wait, CASE WHEN v_share < p_want THEN greatest(v_bucket_wait, 0.05) ELSE 0 END);
    END LOOP;
    UPDATE fullsend.bucket AS b SET level = greatest(0, b.level - v_give), taken = b.taken + v_give
    WHERE b.id = ANY (v_ids);
    -- Who asks for the first time clears away who is done: a turn costs the same after thousands of campaigns.
    IF EXISTS (
        SELECT FROM fullsend.bucket AS b WHERE b.id = ANY (v_ids) AND b.owner NOT LIKE 'campaign:%' AND NOT EXISTS (
            SELECT FROM fullsend.turn AS t WHERE t.bucket_id = b.id AND t.campaign_id = v_campaign))
    THEN
        DELETE FROM fullsend.turn AS t USING fullsend.campaign AS c
        WHERE t.bucket_id = ANY (v_ids) AND c.id = t.campaign_id AND c.phase <> 'sending';
    END IF;
    -- Hungry at the buckets that gave least: what another one keeps from a campaign must not be kept for it here.
    INSERT INTO fullsend.turn AS t (bucket_id, campaign_id, served, hungry_at)
    SELECT n.bucket, v_campaign, n.served + v_give,
        CASE WHEN n.share = v_give AND v_give < p_want THEN v_now ELSE '-infinity'::timestamptz END
    FROM unnest(v_ids, v_shares, v_served) AS n (bucket, share, served)
    JOIN fullsend.bucket AS b ON b.id = n.bucket AND b.owner NOT LIKE 'campaign:%'
    ON CONFLICT (bucket_id, campaign_id) DO UPDATE
        SET served = excluded.served, hungry_at = greatest(t.hungry_at, excluded.hungry_at);
    UPDATE fullsend.session AS s
    SET tokens = s.tokens + v_give, starved_at = CASE WHEN v_give < p_want THEN v_now ELSE s.starved_at END
    WHERE s.id = p_session;
    RETURN QUERY SELECT true, v_give::integer, CASE WHEN v_give < p_want THEN v_wait ELSE 0 END;
END
$$;

-- Gives a living session's unspent tokens back to its buckets, never above what a bucket holds.
CREATE FUNCTION fullsend.return_tokens(p_session bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_campaign bigint;
    v_tokens integer;
    v_tenant integer := fullsend.current_tenant_id();
    b record;
BEGIN
    SELECT s.campaign_id, s.tokens INTO v_campaign, v_tokens FROM fullsend.session AS s
    WHERE s.id = p_session AND s.fenced_at IS NULL AND s.ended_at IS NULL AND s.tokens > 0
        AND (v_tenant IS NULL OR s.tenant_id = v_tenant)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR b IN SELECT l.id, l.messages FROM fullsend.lock_buckets(v_campaign) AS l LOOP
        PERFORM fullsend.look_at_bucket(b.id, b.messages, clock_timestamp());
        UPDATE fullsend.bucket AS x
        SET level = least(greatest(1, b.messages / x.seconds), x.level + v_tokens), taken = greatest(0, x.taken - v_tokens)
        WHERE x.id = b.id;
        UPDATE fullsend.turn AS t SET served = t.served - v_tokens
        WHERE t.bucket_id = b.id AND t.campaign_id = v_campaign;
    END LOOP;
    UPDATE fullsend.session AS s SET tokens = 0 WHERE s.id = p_session;
END
$$;

-- How many connections a session may hold from now on, of those of its transport or pool. p_open is how many it holds
-- or is opening. What all are allowed never adds up to more than there are: a share grows only by what others have
-- closed and said so, a dead session's only with its end. Campaigns share alike, and so do the senders of each; where
-- there are fewer connections than campaigns they take turns of ten seconds.
--
-- A relay that has said "too many" (learn_connections) sets the number; after a while it is tried with one more.
CREATE FUNCTION fullsend.share_connections(p_session bigint, p_open bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_tenant integer := fullsend.current_tenant_id();
    v_outlet text;
    v_campaign bigint;
    v_stopped boolean;
    v_now timestamptz;
    v_most integer;
    v_free integer;
    v_had integer;
    v_campaigns bigint[];
    v_mates bigint[];
    v_share integer;
    o fullsend.outlet;
BEGIN
    SELECT c.outlet, c.id, c.stopped INTO v_outlet, v_campaign, v_stopped
    FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = p_session AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND (v_tenant IS NULL OR s.tenant_id = v_tenant);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO fullsend.outlet (name) VALUES (v_outlet) ON CONFLICT DO NOTHING;
    SELECT * INTO o FROM fullsend.outlet AS x WHERE x.name = v_outlet FOR UPDATE;
    v_now := clock_timestamp();
    SELECT min(coalesce((c.control #>> '{relay,connections}')::integer, 8)) FILTER (WHERE NOT c.stopped),
        array_agg(DISTINCT c.id ORDER BY c.id) FILTER (WHERE NOT c.stopped),
        array_agg(s.id ORDER BY s.id) FILTER (WHERE c.id = v_campaign),
        sum(s.allowed), max(s.allowed) FILTER (WHERE s.id = p_session)
    INTO v_most, v_campaigns, v_mates, v_free, v_had
    FROM fullsend.campaign AS c JOIN fullsend.session AS s ON s.campaign_id = c.id AND s.ended_at IS NULL
    WHERE c.outlet = v_outlet AND c.phase = 'sending';
    IF o.learned IS NOT NULL AND v_now >= o.try_more_at THEN
        o.learned := nullif(least(o.learned + 1, v_most), v_most);
        o.patience := greatest(60, o.patience / 2);
        UPDATE fullsend.outlet AS x
        SET learned = o.learned, patience = o.patience,
            try_more_at = v_now + make_interval(secs => o.patience)
        WHERE x.name = v_outlet;
    END IF;
    v_most := least(v_most, o.learned);
    v_share := 0;
    IF NOT v_stopped THEN
        v_share := fullsend.portion(v_most, v_campaigns, v_campaign, floor(extract(epoch FROM v_now) / 10)::bigint);
        v_share := fullsend.portion(v_share, v_mates, p_session, 0);
    END IF;
    v_free := greatest(0, coalesce(v_most, 0) - v_free);
    v_share := coalesce(v_share, 0);  -- not sending any more
    v_had := CASE WHEN v_share < v_had THEN greatest(v_share, least(v_had, p_open::integer))
        ELSE least(v_share, v_had + v_free) END;
    UPDATE fullsend.session AS s SET allowed = v_had WHERE s.id = p_session AND s.allowed <> v_had;
    RETURN least(v_share, v_had);
END
$$;

-- What falls to p_who of p_total, shared among p_all alike; the p_turn-th and those after it get what is left over.
CREATE FUNCTION fullsend.portion(p_total integer, p_all bigint[], p_who bigint, p_turn bigint) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p_total / cardinality(p_all) + CASE
        WHEN (array_position(p_all, p_who) - 1 + CASE WHEN p_total < cardinality(p_all) THEN p_turn ELSE 0 END)
            % cardinality(p_all) < p_total % cardinality(p_all) THEN 1 ELSE 0 END
$$;

-- The relay refused a connection because there are too many: what is open over all senders is what it takes. p_open is
-- how many the session holds itself. Returns how many are open; 0: none of them is ours, so nothing is learnt.
CREATE FUNCTION fullsend.learn_connections(p_session bigint, p_open bigint, p_message text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_tenant integer := fullsend.current_tenant_id();
    v_outlet text;
    v_open integer;
    o fullsend.outlet;
BEGIN
    SELECT c.outlet INTO v_outlet FROM fullsend.session AS s JOIN fullsend.campaign AS c ON c.id = s.campaign_id
    WHERE s.id = p_session AND s.fenced_at IS NULL AND s.ended_at IS NULL
        AND (v_tenant IS NULL OR s.tenant_id = v_tenant);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO fullsend.outlet (name) VALUES (v_outlet) ON CONFLICT DO NOTHING;
    SELECT * INTO o FROM fullsend.outlet AS x WHERE x.name = v_outlet FOR UPDATE;
    SELECT p_open + coalesce(sum(s.connections), 0) INTO v_open
    FROM fullsend.campaign AS c JOIN fullsend.session AS s ON s.campaign_id = c.id AND s.ended_at IS NULL
    WHERE c.outlet = v_outlet AND c.phase = 'sending' AND s.id <> p_session;
    IF v_open > 0 AND (o.learned IS NULL OR v_open < o.learned) THEN
        o.patience := CASE WHEN o.learned_at IS NULL OR o.learned_at < clock_timestamp() - interval '1 day' THEN 60
            WHEN o.learned_at < clock_timestamp() - interval '10 seconds' THEN least(1800, o.patience * 2)
            ELSE o.patience END;
        UPDATE fullsend.outlet AS x
        SET learned = v_open, learned_at = clock_timestamp(), message = p_message, patience = o.patience,
            try_more_at = clock_timestamp() + make_interval(secs => o.patience)
        WHERE x.name = v_outlet;
    END IF;
    RETURN v_open;
END
$$;

-- What is known of a transport or pool: what it has open over all campaigns, and what its relay has said. Of a pool a
-- tenant learns this much of others; of another tenant's transport nothing, not even that it is there.
CREATE FUNCTION fullsend.see_outlet(p_outlet text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'connections', (
            SELECT coalesce(sum(s.connections), 0) FROM fullsend.campaign AS c
            JOIN fullsend.session AS s ON s.campaign_id = c.id AND s.ended_at IS NULL
            WHERE c.outlet = mine.name AND c.phase = 'sending'),
        'learned', o.learned, 'learned_at', o.learned_at, 'try_more_at', o.try_more_at, 'message', o.message)
    FROM (
        SELECT CASE WHEN t.id IS NULL OR starts_with(p_outlet, 'pool:')
            OR starts_with(p_outlet, 'transport:' || t.id || '/') THEN p_outlet END AS name
        FROM (SELECT fullsend.current_tenant_id() AS id) AS t
    ) AS mine LEFT JOIN fullsend.outlet AS o ON o.name = mine.name
$$;

REVOKE EXECUTE ON FUNCTION fullsend.see_outlet(text) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.rates_of(bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.in_flight(text) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.look_at_bucket(bigint, double precision, timestamptz) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.share_of(bigint, bigint, bigint, timestamptz) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.lock_buckets(bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.grant_tokens(bigint, bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.return_tokens(bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.share_connections(bigint, bigint) FROM PUBLIC;

REVOKE EXECUTE ON FUNCTION fullsend.learn_connections(bigint, bigint, text) FROM PUBLIC;

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
