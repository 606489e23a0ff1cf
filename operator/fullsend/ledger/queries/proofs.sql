-- proof_of_rows --
-- Every row of the campaign, once: by state, and whether sequence numbers are dense
SELECT count(*) AS rows, coalesce(min(d.seq), 0) AS first, coalesce(max(d.seq), 0) AS last,
    jsonb_build_object(
        'pending', count(*) FILTER (WHERE d.state = 'pending'), 'claimed', count(*) FILTER (WHERE d.state = 'claimed'),
        'armed', count(*) FILTER (WHERE d.state = 'armed'), 'deferred', count(*) FILTER (WHERE d.state = 'deferred'),
        'unknown', count(*) FILTER (WHERE d.state = 'unknown'),
        'accepted', count(*) FILTER (WHERE d.state = 'accepted'),
        'rejected', count(*) FILTER (WHERE d.state = 'rejected'),
        'suppressed', count(*) FILTER (WHERE d.state = 'suppressed'),
        'invalid', count(*) FILTER (WHERE d.state = 'invalid'), 'expired', count(*) FILTER (WHERE d.state = 'expired'),
        'unrenderable', count(*) FILTER (WHERE d.state = 'unrenderable'),
        'held', count(*) FILTER (WHERE d.state = 'held'),
        'cancelled', count(*) FILTER (WHERE d.state = 'cancelled')) AS counts
FROM fullsend.delivery AS d JOIN fullsend.campaign AS c ON c.id = d.campaign_id
WHERE d.campaign_id = %(campaign)s AND d.seq <= c.sealed_seq;

-- proof_of_recipients --
-- Every recipient of the campaign, once: how many, and the digest of their identities
SELECT count(*) AS rows, coalesce(sum(fullsend.identity_head(r.identity_hash)), 0)::numeric AS digest,
    coalesce(min(r.seq), 0) AS first, coalesce(max(r.seq), 0) AS last
FROM fullsend.recipient AS r JOIN fullsend.campaign AS c ON c.id = r.campaign_id
WHERE r.campaign_id = %(campaign)s AND r.seq <= c.sealed_seq;

-- proof_of_books --
-- What the seals and the counters say, and who is still at work
SELECT clock_timestamp() AS at, c.sealed_seq,
    c.revision + coalesce((SELECT sum(k.revision) FROM fullsend.counter AS k WHERE k.campaign_id = c.id), 0)::bigint
        AS revision,
    (SELECT count(*) FROM fullsend.plan AS p WHERE p.campaign_id = c.id AND p.state = 'sealed') AS seals,
    (SELECT coalesce(sum(p.inserted), 0)::bigint FROM fullsend.plan AS p
        WHERE p.campaign_id = c.id AND p.state = 'sealed') AS sealed_rows,
    (SELECT coalesce(sum(p.digest), 0) FROM fullsend.plan AS p
        WHERE p.campaign_id = c.id AND p.state = 'sealed') AS sealed_digest,
    (SELECT count(*) FROM fullsend.plan AS p WHERE p.campaign_id = c.id AND p.state = 'running') AS running_plans,
    (SELECT count(*) FROM fullsend.session AS s WHERE s.campaign_id = c.id AND s.ended_at IS NULL) AS sessions,
    (SELECT jsonb_build_object(
            'pending', sum(k.pending), 'claimed', sum(k.claimed), 'armed', sum(k.armed),
            'deferred', sum(k.deferred), 'unknown', sum(k.unknown), 'accepted', sum(k.accepted),
            'rejected', sum(k.rejected), 'suppressed', sum(k.suppressed), 'invalid', sum(k.invalid),
            'expired', sum(k.expired), 'unrenderable', sum(k.unrenderable), 'held', sum(k.held),
            'cancelled', sum(k.cancelled))
        FROM fullsend.counter AS k WHERE k.campaign_id = c.id) AS counts
FROM fullsend.campaign AS c WHERE c.id = %(campaign)s;

-- discard_dead_plans --
-- Plans whose writer is gone; what they wrote lies beyond the last sealed number and was never part of the campaign
UPDATE fullsend.plan SET state = 'discarded'
WHERE campaign_id = %(campaign)s AND state = 'running'
    AND heartbeat_at + make_interval(secs => %(lease)s) <= clock_timestamp();

-- store_proof --
-- The newest proof, and the revision it speaks of
UPDATE fullsend.campaign SET proof = %(proof)s::jsonb, proof_revision = %(revision)s
WHERE id = %(campaign)s AND phase <> 'purged';

-- lock_for_finish --
-- The campaign as it is at the moment it would be finished
SELECT c.phase, c.proof, c.proof_revision,
    EXISTS (SELECT FROM fullsend.plan AS p WHERE p.campaign_id = c.id AND p.state = 'sealed') AS sealed,
    EXISTS (SELECT FROM fullsend.plan AS p WHERE p.campaign_id = c.id AND p.state = 'running') AS planning
FROM fullsend.campaign AS c WHERE c.id = %(campaign)s FOR UPDATE;

-- state_for_finish --
-- Read under the lock: revision, live sessions and open rows
SELECT
    c.revision + coalesce((SELECT sum(k.revision) FROM fullsend.counter AS k WHERE k.campaign_id = c.id), 0)::bigint,
    (SELECT count(*) FROM fullsend.session AS s WHERE s.campaign_id = c.id AND s.ended_at IS NULL),
    (SELECT coalesce(sum(k.pending + k.claimed + k.armed + k.deferred + k.unknown), 0)::bigint
        FROM fullsend.counter AS k WHERE k.campaign_id = c.id)
FROM fullsend.campaign AS c WHERE c.id = %(campaign)s;

-- finish_campaign --
-- The campaign has ended
UPDATE fullsend.campaign
SET phase = %(phase)s::fullsend.campaign_phase, finished_at = clock_timestamp(), revision = revision + 1,
    proof_revision = NULL
WHERE id = %(campaign)s;
