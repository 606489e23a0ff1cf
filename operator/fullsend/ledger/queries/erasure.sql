-- campaigns_of_identity --
-- The campaigns that know a person, of one tenant or of all
SELECT c.id FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE (%(tenant)s::text IS NULL OR t.name = %(tenant)s)
    AND EXISTS (SELECT FROM fullsend.recipient AS r WHERE r.campaign_id = c.id AND r.identity_hash = %(identity)s)
ORDER BY c.id;

-- erase_from_campaign --
-- Forgets a person in one campaign: texts go, the hash stays; a row that waits ends by name, one on the wire is left
WITH found AS MATERIALIZED (
    SELECT d.seq, d.state, c.tenant_id, d.state = 'armed' OR d.seq > c.sealed_seq AS busy
    FROM fullsend.recipient AS r
    JOIN fullsend.delivery AS d ON d.campaign_id = r.campaign_id AND d.seq = r.seq
    JOIN fullsend.campaign AS c ON c.id = r.campaign_id
    WHERE r.campaign_id = %(campaign)s AND r.identity_hash = %(identity)s
    FOR UPDATE OF d
), forgotten AS (
    UPDATE fullsend.recipient AS r SET address = NULL, variables = NULL, token = NULL
    FROM found AS f WHERE r.campaign_id = %(campaign)s AND r.seq = f.seq AND NOT f.busy
    RETURNING r.seq
), silenced AS (
    UPDATE fullsend.attempt AS a SET text = ''
    FROM found AS f WHERE a.campaign_id = %(campaign)s AND a.seq = f.seq AND NOT f.busy
), ended AS (
    UPDATE fullsend.delivery AS d
    SET state = 'suppressed', reason = 'Erased', due_at = NULL, session_id = NULL, updated_at = clock_timestamp()
    FROM found AS f
    WHERE d.campaign_id = %(campaign)s AND d.seq = f.seq AND NOT f.busy
        AND f.state IN ('pending', 'claimed', 'deferred', 'unknown')
    RETURNING f.state AS was, d.state, f.tenant_id
), asked AS (
    UPDATE fullsend.reopen_request AS q SET identities = array_remove(q.identities, %(identity)s::bytea)
    WHERE q.campaign_id = %(campaign)s AND %(identity)s::bytea = ANY (q.identities)
), counted AS MATERIALIZED (
    SELECT fullsend.count_moves(%(campaign)s, 0, min(e.tenant_id), array_agg(e.was), array_agg(e.state), 0)
    FROM ended AS e
)
SELECT (SELECT count(*) FROM forgotten), (SELECT count(*) FROM found WHERE busy), (SELECT count(*) FROM counted);

-- erase_members --
-- Forgets a person's memberships
DELETE FROM fullsend.member AS m USING fullsend.tenant AS t
WHERE t.id = m.tenant_id AND (%(tenant)s::text IS NULL OR t.name = %(tenant)s) AND m.identity_hash = %(identity)s
RETURNING m.id;

-- erase_suppressions --
-- The hash is enough to go on honouring what was said
UPDATE fullsend.suppression AS s SET address = NULL
WHERE s.identity_hash = %(identity)s AND s.address IS NOT NULL
    AND (%(tenant)s::text IS NULL
        OR s.tenant_id = (SELECT t.id FROM fullsend.tenant AS t WHERE t.name = %(tenant)s))
RETURNING s.id;

-- contents_that_name --
-- Frozen contents in which an address is written (an inline audience)
SELECT c.id, c.content FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE (%(tenant)s::text IS NULL OR t.name = %(tenant)s) AND strpos(lower(c.content::text), %(needle)s) > 0
ORDER BY c.id;

-- replace_content --
-- A frozen content without the address; the fingerprint stays what it was
UPDATE fullsend.campaign SET content = %(content)s::jsonb, revision = revision + 1 WHERE id = %(campaign)s;

-- export_deliveries --
-- Everything the campaigns hold of a person
SELECT t.name AS tenant, c.ledger_key, r.address, r.variables, r.token, r.source, r.source_row, r.source_status,
    d.state, d.reason, d.updated_at,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('attempt', a.attempt, 'at', a.recorded_at, 'state', a.state,
            'reason', a.reason, 'code', a.code, 'text', a.text, 'relay', a.relay) ORDER BY a.attempt), '[]')
        FROM fullsend.attempt AS a WHERE a.campaign_id = r.campaign_id AND a.seq = r.seq) AS attempts
FROM fullsend.recipient AS r
JOIN fullsend.delivery AS d ON d.campaign_id = r.campaign_id AND d.seq = r.seq
JOIN fullsend.campaign AS c ON c.id = r.campaign_id
JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE r.campaign_id = ANY (%(campaigns)s::bigint[]) AND r.identity_hash = %(identity)s ORDER BY c.id;

-- export_memberships --
-- Everything the lists hold of a person
SELECT t.name AS tenant, l.name AS list, m.address, m.variables, m.status, m.evidence, m.created_at, m.updated_at
FROM fullsend.member AS m
JOIN fullsend.list AS l ON l.id = m.list_id
JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE m.identity_hash = %(identity)s AND (%(tenant)s::text IS NULL OR t.name = %(tenant)s) ORDER BY m.id;

-- export_suppressions --
-- What a person said no to
SELECT s.scope, t.name AS tenant, l.name AS list, s.address, s.reason, s.source, s.created_at
FROM fullsend.suppression AS s
LEFT JOIN fullsend.tenant AS t ON t.id = s.tenant_id
LEFT JOIN fullsend.list AS l ON l.id = s.list_id
WHERE s.identity_hash = %(identity)s
    AND (%(tenant)s::text IS NULL OR s.scope = 'installation' OR t.name = %(tenant)s)
ORDER BY s.id;
