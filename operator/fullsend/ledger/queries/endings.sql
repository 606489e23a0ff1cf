-- end_rows_chunk --
-- Waiting rows that end by a decision on the campaign, in order
WITH picked AS MATERIALIZED (
    SELECT d.seq, d.state FROM fullsend.delivery AS d JOIN fullsend.campaign AS c ON c.id = d.campaign_id
    WHERE d.campaign_id = %(campaign)s AND d.seq > %(after)s AND d.seq <= c.sealed_seq
        AND d.state = ANY (%(states)s::fullsend.delivery_state[]) AND c.phase = 'sending'
    ORDER BY d.seq LIMIT %(chunk)s FOR UPDATE OF d
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = %(becomes)s::fullsend.delivery_state, reason = %(reason)s, due_at = NULL,
        updated_at = clock_timestamp()
    FROM picked AS p WHERE d.campaign_id = %(campaign)s AND d.seq = p.seq
        AND d.seq = ANY (ARRAY(SELECT q.seq FROM picked AS q))
    RETURNING d.seq, d.state, p.state AS was
)
SELECT count(*), max(m.seq), fullsend.count_moves(%(campaign)s, 0,
    (SELECT c.tenant_id FROM fullsend.campaign AS c WHERE c.id = %(campaign)s), array_agg(m.was), array_agg(m.state), 0)
FROM moved AS m;

-- request_reopen --
-- A person's wish to retry what has ended; the same id is the same wish
WITH asked AS (
    INSERT INTO fullsend.reopen_request (campaign_id, id, tenant_id, states, identities)
    SELECT c.id, %(id)s, c.tenant_id, %(states)s::fullsend.delivery_state[], %(identities)s::bytea[]
    FROM fullsend.campaign AS c WHERE c.id = %(campaign)s
    ON CONFLICT (campaign_id, id) DO NOTHING
    RETURNING campaign_id
), bumped AS (
    UPDATE fullsend.campaign SET revision = revision + 1 WHERE id IN (SELECT a.campaign_id FROM asked AS a)
)
SELECT count(*) FROM asked;

-- refused_in_the_run --
-- Who was refused between the last accepted message before a halt and the halt: by every sender, dead ones too
SELECT r.identity_hash FROM fullsend.delivery AS d
JOIN fullsend.recipient AS r ON r.campaign_id = d.campaign_id AND r.seq = d.seq
WHERE d.campaign_id = %(campaign)s AND d.state = 'rejected' AND d.updated_at <= %(halted_at)s + interval '1 minute'
    AND d.updated_at > coalesce((
        SELECT max(a.updated_at) FROM fullsend.delivery AS a
        WHERE a.campaign_id = %(campaign)s AND a.state = 'accepted' AND a.updated_at <= %(halted_at)s
    ), '-infinity');

-- next_reopen --
-- The oldest request that is not carried out
SELECT r.id FROM fullsend.reopen_request AS r
WHERE r.campaign_id = %(campaign)s AND r.done_at IS NULL ORDER BY r.requested_at, r.id LIMIT 1;

-- lock_reopen --
-- The campaign, held open for sending while a chunk is reopened
SELECT tenant_id, sealed_seq, phase FROM fullsend.campaign WHERE id = %(campaign)s FOR UPDATE;

-- reopen_phase --
-- A finished campaign sends again; its proof no longer speaks of it
UPDATE fullsend.campaign
SET phase = 'sending', finished_at = NULL, proof = NULL, proof_revision = NULL, revision = revision + 1
WHERE id = %(campaign)s AND phase IN ('complete', 'failed', 'cancelled');

-- reopen_chunk --
-- Ended rows are due again, with a clean record of charges; a refused mailbox is no longer suppressed for it
WITH request AS MATERIALIZED (
    SELECT r.states, r.identities, r.after_seq FROM fullsend.reopen_request AS r
    WHERE r.campaign_id = %(campaign)s AND r.id = %(id)s AND r.done_at IS NULL FOR UPDATE
), picked AS MATERIALIZED (
    SELECT d.seq, d.state FROM fullsend.delivery AS d
    WHERE d.campaign_id = %(campaign)s AND d.seq > (SELECT q.after_seq FROM request AS q)
        AND d.seq <= %(sealed_seq)s AND d.state = ANY ((SELECT q.states FROM request AS q)::fullsend.delivery_state[])
        AND ((SELECT q.identities IS NULL FROM request AS q) OR d.seq IN (
            SELECT r.seq FROM fullsend.recipient AS r WHERE r.campaign_id = %(campaign)s
                AND r.identity_hash = ANY ((SELECT q.identities FROM request AS q)::bytea[])))
        AND EXISTS (SELECT FROM fullsend.recipient AS r
            WHERE r.campaign_id = %(campaign)s AND r.seq = d.seq AND r.address IS NOT NULL)
    ORDER BY d.seq LIMIT %(chunk)s FOR UPDATE OF d
), moved AS (
    UPDATE fullsend.delivery AS d
    SET state = 'deferred', due_at = clock_timestamp(), reason = 'Reopened', charges = 0, first_charged_at = NULL,
        pardoned = d.unknowns, updated_at = clock_timestamp()
    FROM picked AS p WHERE d.campaign_id = %(campaign)s AND d.seq = p.seq
        AND d.seq = ANY (ARRAY(SELECT x.seq FROM picked AS x))
    RETURNING d.seq, d.state, p.state AS was
), lifted AS (
    DELETE FROM fullsend.suppression AS s USING moved AS m
    JOIN fullsend.recipient AS r ON r.campaign_id = %(campaign)s AND r.seq = m.seq
    WHERE m.was = 'rejected' AND s.identity_hash = r.identity_hash AND s.scope = 'tenant'
        AND s.tenant_id = %(tenant)s AND s.reason = 'MailboxRefused'
), sums AS MATERIALIZED (
    SELECT count(*) AS n, max(m.seq) AS last,
        fullsend.count_moves(%(campaign)s, 0, %(tenant)s, array_agg(m.was), array_agg(m.state), 0)
    FROM moved AS m
)
UPDATE fullsend.reopen_request AS r
SET reopened = r.reopened + s.n, after_seq = coalesce(s.last, r.after_seq),
    done_at = CASE WHEN s.n < %(chunk)s THEN clock_timestamp() END
FROM sums AS s WHERE r.campaign_id = %(campaign)s AND r.id = %(id)s AND r.done_at IS NULL
RETURNING s.n, r.done_at IS NOT NULL;

-- refuse_reopen --
-- A purged campaign has nobody left to reopen
UPDATE fullsend.reopen_request SET done_at = clock_timestamp()
WHERE campaign_id = %(campaign)s AND id = %(id)s AND done_at IS NULL;
