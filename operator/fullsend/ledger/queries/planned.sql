-- planned_identities --
-- Who is in the sealed plan of a campaign, a page at a time
SELECT r.seq, r.identity_hash FROM fullsend.recipient AS r JOIN fullsend.campaign AS c ON c.id = r.campaign_id
WHERE r.campaign_id = %(campaign)s AND r.seq > %(after)s AND r.seq <= c.sealed_seq
ORDER BY r.seq LIMIT %(page)s;

-- planned_people --
-- Who is in the sealed plan and with which variables, a page at a time; erased people have no address
SELECT r.seq, r.identity_hash, r.address, r.variables, d.state <> 'invalid' AS usable
FROM fullsend.recipient AS r
JOIN fullsend.campaign AS c ON c.id = r.campaign_id
JOIN fullsend.delivery AS d ON d.campaign_id = r.campaign_id AND d.seq = r.seq
WHERE r.campaign_id = %(campaign)s AND r.seq > %(after)s AND r.seq <= c.sealed_seq
ORDER BY r.seq LIMIT %(page)s;

-- note_plan --
-- What a person should know about a plan that will be sealed
UPDATE fullsend.plan SET message = %(message)s
WHERE campaign_id = %(campaign)s AND generation = %(generation)s AND state = 'running';

-- planned_recipient --
-- One recipient of the sealed plan as a message is built for them: the one of an identity, or the first who is eligible
SELECT r.address, r.variables, r.token
FROM fullsend.recipient AS r JOIN fullsend.campaign AS c ON c.id = r.campaign_id
WHERE r.campaign_id = %(campaign)s AND r.seq <= c.sealed_seq AND r.address IS NOT NULL
    AND CASE WHEN %(identity)s::bytea IS NULL THEN r.eligible ELSE r.identity_hash = %(identity)s::bytea END
ORDER BY r.seq LIMIT 1;
