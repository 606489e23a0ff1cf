-- figures_of_campaigns --
-- What is counted of campaigns that somebody looks after or that have just ended: no row of a delivery is read
SELECT DISTINCT ON (t.name, c.name) t.name AS tenant, c.name, c.ledger_key, c.phase, c.breaker, c.stopped,
    c.control #>> '{relay,name}' AS transport, (c.control ->> 'deadline')::timestamptz AS deadline,
    (c.proof ->> 'holds')::boolean AS proof_holds, n.counts, n.resent, n.last_settled_at,
    n.tried_accepted, n.tried_rejected, n.tried_deferred, n.tried_unknown, s.sessions,
    (SELECT min(p.sealed_at) FROM fullsend.plan AS p WHERE p.campaign_id = c.id AND p.state = 'sealed') AS sealed_at,
    clock_timestamp() AS now
FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(k.resent), 0)::bigint AS resent, max(k.last_settled_at) AS last_settled_at,
        coalesce(sum(k.tried_accepted), 0)::bigint AS tried_accepted,
        coalesce(sum(k.tried_rejected), 0)::bigint AS tried_rejected,
        coalesce(sum(k.tried_deferred), 0)::bigint AS tried_deferred,
        coalesce(sum(k.tried_unknown), 0)::bigint AS tried_unknown,
        jsonb_build_object(
            'pending', sum(k.pending), 'claimed', sum(k.claimed), 'armed', sum(k.armed),
            'deferred', sum(k.deferred), 'unknown', sum(k.unknown), 'accepted', sum(k.accepted),
            'rejected', sum(k.rejected), 'suppressed', sum(k.suppressed), 'invalid', sum(k.invalid),
            'expired', sum(k.expired), 'unrenderable', sum(k.unrenderable), 'held', sum(k.held),
            'cancelled', sum(k.cancelled)) AS counts
    FROM fullsend.counter AS k WHERE k.campaign_id = c.id
) AS n
CROSS JOIN LATERAL (
    SELECT count(*) AS sessions FROM fullsend.session AS s WHERE s.campaign_id = c.id AND s.ended_at IS NULL
) AS s
WHERE c.phase <> 'purged' AND (c.finished_at > clock_timestamp() - make_interval(secs => %(finished_for)s)
    OR (c.finished_at IS NULL AND c.owner_heartbeat_at > clock_timestamp() - make_interval(secs => %(owned_for)s)))
ORDER BY t.name, c.name, c.id DESC LIMIT %(limit)s;

-- figures_of_transports --
-- Connections and durations by transport, over all campaigns that the ledger keeps
SELECT t.name AS tenant, c.control #>> '{relay,name}' AS transport, sum(s.connections)::bigint AS in_use,
    max((c.control #>> '{relay,connections}')::integer) FILTER (WHERE c.finished_at IS NULL) AS allowed,
    max(l.learned) AS learned,
    sum(k.took_ms)::bigint AS took_ms, fullsend.add_all(k.took) AS took
FROM fullsend.campaign AS c JOIN fullsend.tenant AS t ON t.id = c.tenant_id
LEFT JOIN fullsend.outlet AS l ON l.name = c.outlet
CROSS JOIN LATERAL (
    SELECT coalesce(sum(n.took_ms), 0) AS took_ms, fullsend.add_all(n.took) AS took
    FROM fullsend.counter AS n WHERE n.campaign_id = c.id
) AS k
CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.connections), 0) AS connections
    FROM fullsend.session AS o WHERE o.campaign_id = c.id AND o.ended_at IS NULL
) AS s
WHERE c.control #>> '{relay,name}' IS NOT NULL
GROUP BY 1, 2;

-- campaigns_by_phase --
-- How many campaigns the ledger keeps, by phase
SELECT c.phase, count(*) AS count FROM fullsend.campaign AS c GROUP BY 1;
