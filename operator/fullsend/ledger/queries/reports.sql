-- report_states --
-- Every row of the campaign, grouped by state and reason
SELECT d.state, d.reason, count(*) AS count, min(d.updated_at) AS first, max(d.updated_at) AS last
FROM fullsend.delivery AS d JOIN fullsend.campaign AS c ON c.id = d.campaign_id
WHERE d.campaign_id = %(campaign)s AND d.seq <= c.sealed_seq
GROUP BY d.state, d.reason ORDER BY d.state, count(*) DESC, d.reason;

-- report_replies --
-- What relays last said to rows that were not accepted, the most frequent first, at most so many a state
SELECT g.state, g.code, g.enhanced, g.text, g.count
FROM (
    SELECT d.state, a.code, a.enhanced, a.text, count(*) AS count,
        row_number() OVER (PARTITION BY d.state ORDER BY count(*) DESC, a.code, a.enhanced, a.text) AS place
    FROM fullsend.delivery AS d
    JOIN fullsend.campaign AS c ON c.id = d.campaign_id
    JOIN fullsend.attempt AS a ON a.campaign_id = d.campaign_id AND a.seq = d.seq AND a.attempt = d.attempts
    WHERE d.campaign_id = %(campaign)s AND d.seq <= c.sealed_seq AND d.state <> 'accepted' AND a.text <> ''
    GROUP BY d.state, a.code, a.enhanced, a.text
) AS g
WHERE g.place <= %(top)s ORDER BY g.state, g.place;

-- missing_page --
-- Who has not been delivered to, a page at a time, with the last thing a relay said
SELECT d.seq, r.address, d.state, d.reason, d.attempts, d.due_at, a.code, a.text
FROM fullsend.delivery AS d
JOIN fullsend.campaign AS c ON c.id = d.campaign_id
JOIN fullsend.recipient AS r ON r.campaign_id = d.campaign_id AND r.seq = d.seq
LEFT JOIN fullsend.attempt AS a ON a.campaign_id = d.campaign_id AND a.seq = d.seq AND a.attempt = d.attempts
WHERE d.campaign_id = %(campaign)s AND d.seq > %(after)s AND d.seq <= c.sealed_seq
    AND d.state IN ('pending', 'claimed', 'armed', 'deferred', 'unknown', 'expired', 'unrenderable', 'held', 'cancelled')
ORDER BY d.seq LIMIT %(page)s;

-- why_recipient --
-- One person in one campaign
SELECT d.seq, r.address, r.source, r.source_row, r.source_status, r.token, r.generation, d.state, d.reason,
    d.attempts, d.unknowns, d.due_at, d.first_charged_at, d.updated_at
FROM fullsend.recipient AS r
JOIN fullsend.delivery AS d ON d.campaign_id = r.campaign_id AND d.seq = r.seq
JOIN fullsend.campaign AS c ON c.id = r.campaign_id
WHERE r.campaign_id = %(campaign)s AND r.identity_hash = %(identity)s AND r.seq <= c.sealed_seq;

-- why_attempts --
-- Every attempt for one row, in order
SELECT a.attempt, a.armed_at, a.recorded_at, a.state, a.reason, a.charged, a.content_sent, a.stage, a.code, a.enhanced,
    a.text, a.relay, a.took_ms
FROM fullsend.attempt AS a WHERE a.campaign_id = %(campaign)s AND a.seq = %(seq)s ORDER BY a.attempt;

-- why_suppressions --
-- The suppressions of one person that bind this campaign today
SELECT s.scope, l.name AS list, s.reason, s.source, s.created_at
FROM fullsend.suppression AS s
JOIN fullsend.campaign AS c ON c.id = %(campaign)s
LEFT JOIN fullsend.list AS l ON l.id = s.list_id
WHERE s.identity_hash = %(identity)s
    AND (s.scope = 'installation' OR (s.scope = 'tenant' AND s.tenant_id = c.tenant_id)
        OR (s.scope = 'list' AND s.list_id = ANY (c.list_ids)))
ORDER BY s.created_at;
