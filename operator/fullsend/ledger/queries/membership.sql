-- lists_by_name --
-- The lists of a tenant that have one of these names
SELECT l.id, l.name FROM fullsend.list AS l JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE t.name = %(tenant)s AND l.name = ANY (%(names)s::text[]);

-- judged_members --
-- A page of a list's members, each judged over all of their memberships in the chosen lists
SELECT m.id, m.address, m.variables, m.status,
    EXISTS (
        SELECT FROM fullsend.member AS o JOIN fullsend.list AS l ON l.id = o.list_id
        WHERE o.list_id = ANY (%(chosen)s::bigint[]) AND o.identity_hash = m.identity_hash
            AND (o.status = 'confirmed' OR (o.status = 'unconfirmed' AND NOT l.double_opt_in))
    ) AS eligible
FROM fullsend.member AS m
WHERE m.list_id = %(list)s AND m.id > %(after)s
ORDER BY m.id LIMIT %(page)s;

-- members_by_identity --
-- What a list holds of these people
SELECT m.identity_hash, m.address, m.variables, m.status, m.evidence
FROM fullsend.member AS m JOIN fullsend.list AS l ON l.id = m.list_id JOIN fullsend.tenant AS t ON t.id = l.tenant_id
WHERE t.name = %(tenant)s AND l.name = %(list)s AND m.identity_hash = ANY (%(hashes)s::bytea[]);
