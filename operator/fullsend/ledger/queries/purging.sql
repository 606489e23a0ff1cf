-- start_purge --
-- From here on the key is a tombstone: it never sends
UPDATE fullsend.campaign
SET phase = 'purged', content = NULL, compiled = NULL, control = '{}', breaker = '{}', list_ids = '{}',
    revision = revision + 1
WHERE id = %(campaign)s AND phase IN ('complete', 'failed', 'cancelled')
RETURNING id;

-- purge_chunk --
-- Some recipients, with their rows and attempts
WITH picked AS MATERIALIZED (
    SELECT d.seq FROM fullsend.delivery AS d JOIN fullsend.campaign AS c ON c.id = d.campaign_id
    WHERE d.campaign_id = %(campaign)s AND c.phase = 'purged' ORDER BY d.seq LIMIT %(chunk)s
), attempts AS (
    DELETE FROM fullsend.attempt AS a WHERE a.campaign_id = %(campaign)s
        AND a.seq = ANY (ARRAY(SELECT p.seq FROM picked AS p))
), recipients AS (
    DELETE FROM fullsend.recipient AS r WHERE r.campaign_id = %(campaign)s
        AND r.seq = ANY (ARRAY(SELECT p.seq FROM picked AS p))
), rows AS (
    DELETE FROM fullsend.delivery AS d WHERE d.campaign_id = %(campaign)s
        AND d.seq = ANY (ARRAY(SELECT p.seq FROM picked AS p))
)
SELECT count(*) FROM picked;

-- purge_rest --
-- What else speaks of persons: what failing plans said, and which identities were to be reopened
WITH reopenings AS (
    UPDATE fullsend.reopen_request SET identities = NULL, done_at = coalesce(done_at, clock_timestamp())
    WHERE campaign_id = %(campaign)s
), buckets AS (
    DELETE FROM fullsend.bucket WHERE owner = 'campaign:' || %(campaign)s::bigint
)
UPDATE fullsend.plan SET message = '' WHERE campaign_id = %(campaign)s AND message <> '';
