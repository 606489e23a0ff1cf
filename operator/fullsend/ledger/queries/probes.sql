-- observe_probe --
-- The database's clock, and what is known of one object's probe; a tenant may have written when it was answered
SELECT clock_timestamp() AS now, p.id, p.number, p.generation, p.failures, p.asked_at, p.answered_number,
    p.answered_generation, p.result,
    CASE WHEN p.answered_at IS NOT NULL THEN least(p.answered_at, clock_timestamp()) END AS answered_at
FROM (SELECT 1) AS one
LEFT JOIN fullsend.tenant AS t ON t.name = %(tenant)s
LEFT JOIN fullsend.probe AS p ON p.tenant_id = t.id AND p.uid = %(uid)s;

-- ask_probe --
-- A new question, unless another operator has asked since; rows of objects that are long gone go, and what was asked of
-- an object that went before it was answered, for no probe runs for a day
WITH old AS (
    DELETE FROM fullsend.probe AS o
    WHERE o.asked_at < clock_timestamp() - interval '90 days' AND o.uid <> %(uid)s
), unanswered AS (
    UPDATE fullsend.probe AS o SET content = NULL
    WHERE o.content IS NOT NULL AND o.uid <> %(uid)s
        AND o.asked_at BETWEEN clock_timestamp() - interval '90 days' AND clock_timestamp() - interval '1 day'
)
INSERT INTO fullsend.probe AS p (tenant_id, uid, kind, name, generation, content)
SELECT t.id, %(uid)s, %(kind)s, %(name)s, %(generation)s, %(content)s::jsonb
FROM fullsend.tenant AS t WHERE t.name = %(tenant)s
ON CONFLICT (tenant_id, uid) DO UPDATE
SET number = p.number + 1, generation = excluded.generation, content = excluded.content, failures = %(failures)s,
    asked_at = clock_timestamp()
WHERE p.number = %(known)s
RETURNING p.id, p.number;

-- read_probe --
-- The question, for the probe that was started for it; nothing where another has been asked since
SELECT p.kind, p.name, p.content, t.name AS tenant
FROM fullsend.probe AS p JOIN fullsend.tenant AS t ON t.id = p.tenant_id
WHERE p.id = %(probe)s AND p.number = %(number)s AND p.content IS NOT NULL;

-- answer_probe --
-- The answer, unless another question has been asked since
UPDATE fullsend.probe AS p
SET answered_number = p.number, answered_generation = p.generation, answered_at = clock_timestamp(), content = NULL,
    result = %(result)s::jsonb
WHERE p.id = %(probe)s AND p.number = %(number)s AND p.answered_number < p.number
RETURNING p.id;

-- forget_probe --
-- Its object is gone
DELETE FROM fullsend.probe AS p USING fullsend.tenant AS t
WHERE t.id = p.tenant_id AND t.name = %(tenant)s AND p.uid = %(uid)s;

-- transport_use --
-- The campaigns that send through a transport now
SELECT c.name, c.breaker, (fullsend.see_outlet(c.outlet) ->> 'learned')::integer AS learned,
    (SELECT coalesce(sum(s.connections), 0)::bigint FROM fullsend.session AS s
        WHERE s.campaign_id = c.id AND s.ended_at IS NULL AND s.fenced_at IS NULL) AS connections
FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
WHERE t.name = %(tenant)s AND c.phase = 'sending' AND c.control #>> '{relay,name}' = %(transport)s
ORDER BY c.id;

-- refused_among --
-- Those of these people who said no where it counts for these lists
SELECT DISTINCT s.identity_hash
FROM fullsend.tenant AS t
CROSS JOIN LATERAL (SELECT ARRAY(
    SELECT l.id FROM fullsend.list AS l WHERE l.tenant_id = t.id AND l.name = ANY (%(lists)s::text[])) AS ids) AS chosen
JOIN fullsend.suppression AS s ON s.identity_hash = ANY (%(hashes)s::bytea[])
WHERE t.name = %(tenant)s
    AND (s.scope = 'installation' OR (s.scope = 'tenant' AND s.tenant_id = t.id)
        OR (s.scope = 'list' AND s.list_id = ANY (chosen.ids)
            AND NOT fullsend.welcome_through_another_list(s.identity_hash, s.list_id, chosen.ids)));
