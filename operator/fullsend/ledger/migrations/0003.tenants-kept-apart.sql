-- depends: 0002.counting-and-granting
-- Row-level security: a tenant's role sees and touches the rows of its own tenant and no others. The owner of the
-- schema (the operator) is not subject to it. The sub-select makes the lookup happen once a statement, not once a row.

ALTER TABLE fullsend.tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.tenant USING (id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.campaign ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.campaign USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.plan ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.plan USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.recipient ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.recipient USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.delivery ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.delivery USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.attempt USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.session ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.session USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.counter ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.counter USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.list ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.list USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.member ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.member USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.reopen_request ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.reopen_request USING (tenant_id = (SELECT fullsend.current_tenant_id()));

-- What one tenant's recipient said to the whole installation binds every tenant, so every tenant may read it.
ALTER TABLE fullsend.suppression ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.suppression FOR SELECT
    USING (scope = 'installation' OR tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.suppression FOR INSERT
    WITH CHECK (tenant_id = (SELECT fullsend.current_tenant_id()));
-- A sender lifts what a relay's refusal fed, never what a person said.
CREATE POLICY lift_refused ON fullsend.suppression FOR DELETE
    USING (tenant_id = (SELECT fullsend.current_tenant_id()) AND reason = 'mailbox-refused');

-- Reached through functions only: no policy, no rows.
ALTER TABLE fullsend.bucket ENABLE ROW LEVEL SECURITY;

UPDATE fullsend.meta SET schema_version = 3, oldest_program = 3;
