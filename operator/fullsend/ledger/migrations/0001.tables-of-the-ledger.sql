-- What has happened, as rows. The schema itself is created by the migrator, which keeps its own tables in it too.
-- No foreign keys from recipient, delivery and attempt: each would cost a lookup and a shared lock on the campaign's
-- row for every message. What they would guarantee is proved instead (see campaigns.prove).

CREATE TYPE fullsend.delivery_state AS ENUM (
    'pending', 'claimed', 'armed', 'deferred', 'unknown',
    'accepted', 'rejected', 'suppressed', 'invalid',
    'expired', 'unrenderable', 'held', 'cancelled'
);

CREATE TYPE fullsend.campaign_phase AS ENUM ('registered', 'sending', 'complete', 'failed', 'cancelled', 'purged');

CREATE TYPE fullsend.plan_state AS ENUM ('running', 'sealed', 'failed', 'discarded');

CREATE TYPE fullsend.suppression_scope AS ENUM ('installation', 'tenant', 'list');

-- One row: the version of this schema, and the oldest program (by the schema version it was built for) that may use it.
CREATE TABLE fullsend.meta (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    schema_version integer NOT NULL,
    oldest_program integer NOT NULL
);

-- One row, written by the migrator: hash_key keys the identity hashes, role_key the passwords of the tenants' roles.
CREATE TABLE fullsend.installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id uuid NOT NULL,
    hash_key bytea NOT NULL,
    role_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE fullsend.tenant (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    role_name text UNIQUE
);

CREATE TABLE fullsend.campaign (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES fullsend.tenant (id),
    ledger_key text NOT NULL,
    name text NOT NULL,
    fingerprint text NOT NULL,
    content jsonb,
    compiled bytea,
    list_ids bigint[] NOT NULL DEFAULT '{}',
    phase fullsend.campaign_phase NOT NULL DEFAULT 'registered',
    sealed_seq bigint NOT NULL DEFAULT 0,
    control jsonb NOT NULL DEFAULT '{}',
    control_revision bigint NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 1,
    wave integer NOT NULL DEFAULT 0,
    owner_cluster text NOT NULL DEFAULT '',
    owner_uid text NOT NULL DEFAULT '',
    owner_heartbeat_at timestamptz,
    owner_lease interval NOT NULL DEFAULT '0',
    breaker jsonb NOT NULL DEFAULT '{}',
    proof jsonb,
    proof_revision bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    -- Read at every flush, so kept apart from the documents they come from.
    stopped boolean NOT NULL GENERATED ALWAYS AS (
        coalesce((control ->> 'stop')::boolean, false) OR coalesce((control ->> 'cancel')::boolean, false)
    ) STORED,
    metered boolean NOT NULL GENERATED ALWAYS AS (
        jsonb_array_length(coalesce(control -> 'rates', '[]'))
        + jsonb_array_length(coalesce(control #> '{relay,rates}', '[]')) > 0
    ) STORED,
    max_unknown_resends integer NOT NULL GENERATED ALWAYS AS (
        coalesce((control #>> '{retry,max_unknown_resends}')::integer, 1)
    ) STORED,
    breaker_resets boolean NOT NULL GENERATED ALWAYS AS (
        coalesce((breaker ->> 'failures')::integer, 0) > 0 AND coalesce(breaker ->> 'state', 'closed') = 'closed'
    ) STORED,
    -- Whose limits it shares with others: a pool's, or its transport's.
    outlet text NOT NULL GENERATED ALWAYS AS (
        CASE WHEN coalesce(control #>> '{relay,pool}', '') = ''
            THEN 'transport:' || tenant_id || '/' || coalesce(control #>> '{relay,name}', '')
            ELSE 'pool:' || (control #>> '{relay,pool}') END
    ) STORED,
    UNIQUE (tenant_id, ledger_key)
);

CREATE INDEX campaign_outlet ON fullsend.campaign (outlet) WHERE phase = 'sending';

CREATE TABLE fullsend.plan (
    campaign_id bigint NOT NULL REFERENCES fullsend.campaign (id),
    generation integer NOT NULL,
    tenant_id integer NOT NULL,
    state fullsend.plan_state NOT NULL DEFAULT 'running',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    after_seq bigint NOT NULL,
    rows_read bigint NOT NULL DEFAULT 0,
    inserted bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    invalid bigint NOT NULL DEFAULT 0,
    suppressed bigint NOT NULL DEFAULT 0,
    digest numeric NOT NULL DEFAULT 0,
    render_checked bigint NOT NULL DEFAULT 0,
    render_failed bigint NOT NULL DEFAULT 0,
    sealed_at timestamptz,
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    PRIMARY KEY (campaign_id, generation)
);

CREATE UNIQUE INDEX plan_one_running ON fullsend.plan (campaign_id) WHERE state = 'running';

-- Wide, and written once: who is in the plan. Only erasure changes it, and it leaves identity_hash alone.
CREATE TABLE fullsend.recipient (
    campaign_id bigint NOT NULL,
    seq bigint NOT NULL,
    source_row bigint NOT NULL,
    tenant_id integer NOT NULL,
    generation integer NOT NULL,
    identity_hash bytea NOT NULL CHECK (octet_length(identity_hash) = 16),
    eligible boolean NOT NULL,
    address text,
    domain text NOT NULL,
    variables text,
    token text,
    source text NOT NULL,
    source_status text NOT NULL,
    PRIMARY KEY (campaign_id, seq),
    UNIQUE (campaign_id, identity_hash)
);

-- Narrow, and written about three times a message: where each recipient stands.
-- pardoned is what unknowns was when a person reopened the row: those don't keep it from being sent once more.
-- due_at is set exactly while a row waits, session_id exactly while a session holds it: both indexes stay small.
-- Autovacuum by a share of a huge table would come too late for the rows of the campaign that is running.
CREATE TABLE fullsend.delivery (
    campaign_id bigint NOT NULL,
    seq bigint NOT NULL,
    session_id bigint,
    due_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_charged_at timestamptz,
    tenant_id integer NOT NULL,
    state fullsend.delivery_state NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    unknowns smallint NOT NULL DEFAULT 0,
    pardoned smallint NOT NULL DEFAULT 0,
    charges smallint NOT NULL DEFAULT 0,
    reason text NOT NULL DEFAULT '',
    PRIMARY KEY (campaign_id, seq),
    CONSTRAINT due_exactly_while_waiting CHECK ((due_at IS NOT NULL) = (state IN ('deferred', 'unknown'))),
    CONSTRAINT held_by_a_session_exactly_while_in_hand
        CHECK ((session_id IS NOT NULL) = (state IN ('claimed', 'armed')))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_limit = 2000,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE INDEX delivery_due ON fullsend.delivery (campaign_id, due_at) WHERE due_at IS NOT NULL;

-- Costs nothing while a row is in hand: it changes with those two.
CREATE INDEX delivery_waits_for ON fullsend.delivery (campaign_id, reason) WHERE due_at IS NOT NULL;

CREATE INDEX delivery_session ON fullsend.delivery (session_id) WHERE session_id IS NOT NULL;

-- Append-only, but for one thing: an attempt whose end nobody knew may be told later by the session that made it.
CREATE TABLE fullsend.attempt (
    campaign_id bigint NOT NULL,
    seq bigint NOT NULL,
    session_id bigint NOT NULL,
    armed_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tenant_id integer NOT NULL,
    attempt integer NOT NULL,
    took_ms integer NOT NULL DEFAULT 0,
    state fullsend.delivery_state NOT NULL,
    code smallint,
    charged boolean NOT NULL DEFAULT false,
    content_sent boolean NOT NULL DEFAULT false,
    stage text NOT NULL DEFAULT '',
    enhanced text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    text text NOT NULL DEFAULT '',
    relay text NOT NULL DEFAULT '',
    PRIMARY KEY (campaign_id, seq, attempt)
);

-- Live: neither fenced_at nor ended_at. Fenced but not ended: rows it held are still to be swept. last_revision: of its
-- counters, once they are folded, so that its sender can still tell whether this ledger is as new as what it was told.
CREATE TABLE fullsend.session (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id bigint NOT NULL REFERENCES fullsend.campaign (id),
    tenant_id integer NOT NULL,
    wave integer NOT NULL,
    holder text NOT NULL,
    connections integer NOT NULL,
    allowed integer NOT NULL DEFAULT 0,
    tokens integer NOT NULL DEFAULT 0,
    starved_at timestamptz,
    reply_ms integer NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_armed_at timestamptz,
    fenced_at timestamptz,
    ended_at timestamptz,
    end_reason text NOT NULL DEFAULT '',
    last_revision bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX session_of_campaign ON fullsend.session (campaign_id, id);

CREATE INDEX session_open ON fullsend.session (campaign_id) WHERE ended_at IS NULL;

-- Recipients by state as deltas: one row a session, changed by that session alone in the transaction that changes the
-- rows; session 0 is the base, into which a session's row is folded when it ends. The sum over a campaign is the truth.
CREATE TABLE fullsend.counter (
    campaign_id bigint NOT NULL,
    session_id bigint NOT NULL,
    tenant_id integer NOT NULL,
    revision bigint NOT NULL,
    resent bigint NOT NULL DEFAULT 0,
    last_settled_at timestamptz,
    pending bigint NOT NULL DEFAULT 0,
    claimed bigint NOT NULL DEFAULT 0,
    armed bigint NOT NULL DEFAULT 0,
    deferred bigint NOT NULL DEFAULT 0,
    unknown bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    suppressed bigint NOT NULL DEFAULT 0,
    invalid bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    unrenderable bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    -- Attempts by what came of them, and how long their conversations took (see fullsend.ledger.figures): never reset.
    tried_accepted bigint NOT NULL DEFAULT 0,
    tried_rejected bigint NOT NULL DEFAULT 0,
    tried_deferred bigint NOT NULL DEFAULT 0,
    tried_unknown bigint NOT NULL DEFAULT 0,
    took_ms bigint NOT NULL DEFAULT 0,
    took bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (campaign_id, session_id)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05);

-- One rate of a campaign, a transport or a pool; touched only by the functions of 0002. ``slots`` is how many messages
-- ended in each 120th of the window, newest last; ``taken`` is how many were granted and had not ended at the last look.
CREATE TABLE fullsend.bucket (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner text NOT NULL,
    seconds double precision NOT NULL CHECK (seconds > 0),
    level double precision NOT NULL,
    filled_at timestamptz NOT NULL,
    slot bigint NOT NULL DEFAULT 0,
    slots integer[] NOT NULL DEFAULT array_fill(0, ARRAY[121]) CHECK (cardinality(slots) = 121),
    taken bigint NOT NULL DEFAULT 0,
    UNIQUE (owner, seconds)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05);

-- Whose turn it is at a bucket that several campaigns share; touched only by the functions of 0002.
CREATE TABLE fullsend.turn (
    bucket_id bigint NOT NULL REFERENCES fullsend.bucket (id) ON DELETE CASCADE,
    campaign_id bigint NOT NULL,
    served bigint NOT NULL,
    hungry_at timestamptz NOT NULL,
    PRIMARY KEY (bucket_id, campaign_id)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.05);

-- What is known of a transport or pool over all its campaigns: how many connections the relay has said it takes.
CREATE TABLE fullsend.outlet (
    name text PRIMARY KEY,
    learned integer CHECK (learned > 0),
    learned_at timestamptz,
    try_more_at timestamptz,
    patience double precision NOT NULL DEFAULT 60,
    message text NOT NULL DEFAULT ''
);

CREATE TABLE fullsend.list (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES fullsend.tenant (id),
    name text NOT NULL,
    double_opt_in boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant_id, name)
);

CREATE TABLE fullsend.member (
    list_id bigint NOT NULL REFERENCES fullsend.list (id) ON DELETE CASCADE,
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id integer NOT NULL,
    identity_hash bytea NOT NULL CHECK (octet_length(identity_hash) = 16),
    address text NOT NULL,
    variables text NOT NULL DEFAULT '{}',
    status text NOT NULL CHECK (status IN ('unconfirmed', 'confirmed', 'unsubscribed')),
    evidence text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (list_id, id),
    UNIQUE (list_id, identity_hash)
);

-- Who said no, and where it counts. One row a reason, so that lifting one (a retried mailbox) lifts no other.
CREATE TABLE fullsend.suppression (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope fullsend.suppression_scope NOT NULL,
    tenant_id integer REFERENCES fullsend.tenant (id),
    list_id bigint REFERENCES fullsend.list (id) ON DELETE CASCADE,
    identity_hash bytea NOT NULL CHECK (octet_length(identity_hash) = 16),
    address text,
    reason text NOT NULL,
    source text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((tenant_id IS NULL) = (scope = 'installation')),
    CHECK ((list_id IS NOT NULL) = (scope = 'list')),
    UNIQUE NULLS NOT DISTINCT (identity_hash, scope, tenant_id, list_id, reason)
);

CREATE TABLE fullsend.reopen_request (
    campaign_id bigint NOT NULL REFERENCES fullsend.campaign (id),
    id text NOT NULL,
    tenant_id integer NOT NULL,
    states fullsend.delivery_state[] NOT NULL,
    identities bytea[],
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    after_seq bigint NOT NULL DEFAULT 0,
    reopened bigint NOT NULL DEFAULT 0,
    done_at timestamptz,
    PRIMARY KEY (campaign_id, id)
);

-- What a probe of an Audience, a MailTemplate or a MailTransport is asked, and what it has found: one row an object.
-- content is there only until it is answered: it may name people. The result is a tenant's word, so it has a limit.
CREATE TABLE fullsend.probe (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id integer NOT NULL REFERENCES fullsend.tenant (id),
    uid text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    number integer NOT NULL DEFAULT 1,
    generation bigint NOT NULL,
    failures integer NOT NULL DEFAULT 0,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    content jsonb,
    answered_number integer NOT NULL DEFAULT 0,
    answered_generation bigint NOT NULL DEFAULT 0,
    answered_at timestamptz,
    result jsonb CHECK (octet_length(result::text) <= 65536),
    UNIQUE (tenant_id, uid)
);

INSERT INTO fullsend.meta (schema_version, oldest_program) VALUES (1, 1);
