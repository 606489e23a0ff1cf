-- add_suppressions --
-- Who said no, from now on; known ones are left as they are
WITH target AS (
    SELECT t.id AS tenant_id, l.id AS list_id
    FROM (SELECT 1) AS one
    LEFT JOIN fullsend.tenant AS t ON t.name = %(tenant)s
    LEFT JOIN fullsend.list AS l ON l.tenant_id = t.id AND l.name = %(list)s
)
INSERT INTO fullsend.suppression (scope, tenant_id, list_id, identity_hash, address, reason, source)
SELECT %(scope)s::fullsend.suppression_scope, t.tenant_id, t.list_id, s.identity_hash, s.address, s.reason, s.source
FROM target AS t, unnest(%(hashes)s::bytea[], %(addresses)s::text[], %(reasons)s::text[], %(sources)s::text[])
    AS s (identity_hash, address, reason, source)
ORDER BY s.identity_hash
ON CONFLICT DO NOTHING
RETURNING id;

-- remove_suppressions --
-- Lifts a person's suppressions in one scope, for one reason or for all
DELETE FROM fullsend.suppression AS s
WHERE s.identity_hash = %(identity)s AND s.scope = %(scope)s::fullsend.suppression_scope
    AND (s.scope = 'installation' OR s.tenant_id = (SELECT t.id FROM fullsend.tenant AS t WHERE t.name = %(tenant)s))
    AND (s.scope <> 'list' OR s.list_id = (
        SELECT l.id FROM fullsend.list AS l JOIN fullsend.tenant AS t ON t.id = l.tenant_id
        WHERE t.name = %(tenant)s AND l.name = %(list)s))
    AND (%(reason)s::text IS NULL OR s.reason = %(reason)s)
RETURNING s.id;

-- suppressions_page --
-- The suppressions that bind a tenant (or all there are), a page at a time
SELECT s.id, s.scope, t.name AS tenant, l.name AS list, s.identity_hash, s.address, s.reason, s.source, s.created_at
FROM fullsend.suppression AS s
LEFT JOIN fullsend.tenant AS t ON t.id = s.tenant_id
LEFT JOIN fullsend.list AS l ON l.id = s.list_id
WHERE s.id > %(after)s AND (%(tenant)s::text IS NULL OR s.scope = 'installation' OR t.name = %(tenant)s)
ORDER BY s.id LIMIT %(page)s;
