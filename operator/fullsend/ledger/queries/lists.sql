-- create_list --
-- A list of a tenant; nothing happens where it exists
INSERT INTO fullsend.list (tenant_id, name, double_opt_in)
SELECT t.id, %(name)s, %(double_opt_in)s FROM fullsend.tenant AS t WHERE t.name = %(tenant)s
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING id;

-- tenant_lists --
-- The lists of a tenant, with how many members are in each status
SELECT l.name, l.double_opt_in, l.created_at,
    count(*) FILTER (WHERE m.status = 'confirmed') AS confirmed,
    count(*) FILTER (WHERE m.status = 'unconfirmed') AS unconfirmed,
    count(*) FILTER (WHERE m.status = 'unsubscribed') AS unsubscribed
FROM fullsend.list AS l
JOIN fullsend.tenant AS t ON t.id = l.tenant_id
LEFT JOIN fullsend.member AS m ON m.list_id = l.id
WHERE t.name = %(tenant)s GROUP BY l.id ORDER BY l.name;

-- put_members --
-- Members as given; who unsubscribed stays so, whatever an import says
INSERT INTO fullsend.member AS m (list_id, tenant_id, identity_hash, address, variables, status, evidence)
SELECT l.id, l.tenant_id, i.identity_hash, i.address, i.variables, i.status, i.evidence
FROM fullsend.list AS l JOIN fullsend.tenant AS t ON t.id = l.tenant_id,
    (SELECT DISTINCT ON (u.identity_hash) * FROM unnest(%(hashes)s::bytea[], %(addresses)s::text[],
        %(variables)s::text[], %(statuses)s::text[], %(evidences)s::text[])
        WITH ORDINALITY AS u (identity_hash, address, variables, status, evidence, place)
        ORDER BY u.identity_hash, u.place DESC) AS i
WHERE t.name = %(tenant)s AND l.name = %(list)s
ON CONFLICT (list_id, identity_hash) DO UPDATE SET
    address = excluded.address, variables = excluded.variables,
    status = CASE
        WHEN m.status = 'unsubscribed' OR (m.status = 'confirmed' AND excluded.status = 'unconfirmed') THEN m.status
        ELSE excluded.status END,
    evidence = CASE WHEN excluded.evidence <> '' AND m.status <> 'unsubscribed' THEN excluded.evidence
        ELSE m.evidence END,
    updated_at = clock_timestamp()
RETURNING (xmax = 0) AS inserted;

-- suppress_unsubscribed --
-- Who is unsubscribed from a list is suppressed for it, so that arming honours it too
INSERT INTO fullsend.suppression (scope, tenant_id, list_id, identity_hash, address, reason, source)
SELECT 'list', l.tenant_id, l.id, m.identity_hash, m.address, 'Unsubscribed', 'list'
FROM fullsend.member AS m JOIN fullsend.list AS l ON l.id = m.list_id
JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE t.name = %(tenant)s AND l.name = %(list)s AND m.status = 'unsubscribed'
    AND m.identity_hash = ANY (%(hashes)s::bytea[])
ORDER BY m.identity_hash
ON CONFLICT DO NOTHING;

-- resubscribe --
-- Consent given again lifts the list's own suppression for having unsubscribed, and no other
DELETE FROM fullsend.suppression AS s USING fullsend.list AS l JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE t.name = %(tenant)s AND l.name = %(list)s AND s.list_id = l.id AND s.scope = 'list'
    AND s.identity_hash = %(identity)s AND s.reason = 'Unsubscribed';

-- set_member_status --
-- What a person said last, with the evidence of it
UPDATE fullsend.member AS m SET status = %(status)s, evidence = %(evidence)s, updated_at = clock_timestamp()
FROM fullsend.list AS l JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE t.name = %(tenant)s AND l.name = %(list)s AND m.list_id = l.id AND m.identity_hash = %(identity)s
RETURNING m.id;

-- members_page --
-- The members of a list in the order they joined, a page at a time
SELECT m.id, m.identity_hash, m.address, m.variables, m.status, m.evidence, m.created_at, m.updated_at
FROM fullsend.member AS m
JOIN fullsend.list AS l ON l.id = m.list_id
JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE t.name = %(tenant)s AND l.name = %(list)s AND m.id > %(after)s
ORDER BY m.id LIMIT %(page)s;
