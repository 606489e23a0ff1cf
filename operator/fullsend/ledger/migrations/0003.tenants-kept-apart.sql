-- depends: 0002.counting-and-granting
-- Row-level security: a tenant's role sees and touches the rows of its own tenant and no others. The owner of the
-- schema (the operator) is not subject to it. The sub-select makes the lookup happen once a statement, not once a row.
-- What is new must also belong to a campaign of the tenant: its own tenant_id in another's campaign would spoil that
-- one's counters and proof. Updates need no such check, because no role may update the columns that say whose a row is.

ALTER TABLE fullsend.tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.tenant USING (id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.campaign ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.campaign USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.plan ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.plan FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.plan FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.plan FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.recipient ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.recipient FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.recipient FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY drop_own ON fullsend.recipient FOR DELETE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.recipient FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.delivery ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.delivery FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.delivery FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY drop_own ON fullsend.delivery FOR DELETE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.delivery FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.attempt ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.attempt FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.attempt FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.attempt FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.session ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.session FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.session FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.session FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.counter ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.counter FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.counter FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY drop_own ON fullsend.counter FOR DELETE USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.counter FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.reopen_request ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.reopen_request FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.reopen_request FOR UPDATE
    USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.reopen_request FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id())
    AND EXISTS (SELECT FROM fullsend.campaign AS c WHERE c.id = campaign_id));

ALTER TABLE fullsend.list ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.list USING (tenant_id = (SELECT fullsend.current_tenant_id()));

ALTER TABLE fullsend.member ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.member USING (tenant_id = (SELECT fullsend.current_tenant_id()));

-- A probe answers what the operator has asked, and asks nothing itself.
ALTER TABLE fullsend.probe ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.probe FOR SELECT USING (tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY change_own ON fullsend.probe FOR UPDATE USING (tenant_id = (SELECT fullsend.current_tenant_id()));

-- What a recipient said to the whole installation binds every tenant, so every tenant may read it. A sender adds what a
-- relay refused, an import what people said; what a relay refused is lifted again, what a person said never.
ALTER TABLE fullsend.suppression ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON fullsend.suppression FOR SELECT
    USING (scope = 'installation' OR tenant_id = (SELECT fullsend.current_tenant_id()));
CREATE POLICY add_own ON fullsend.suppression FOR INSERT WITH CHECK (
    tenant_id = (SELECT fullsend.current_tenant_id()) AND scope <> 'installation'
    AND (list_id IS NULL OR EXISTS (SELECT FROM fullsend.list AS l WHERE l.id = list_id)));
CREATE POLICY lift_refused ON fullsend.suppression FOR DELETE
    USING (tenant_id = (SELECT fullsend.current_tenant_id()) AND scope = 'tenant' AND reason = 'MailboxRefused');

-- Reached through functions only: no policy, no rows.
ALTER TABLE fullsend.bucket ENABLE ROW LEVEL SECURITY;
ALTER TABLE fullsend.turn ENABLE ROW LEVEL SECURITY;
ALTER TABLE fullsend.outlet ENABLE ROW LEVEL SECURITY;

UPDATE fullsend.meta SET schema_version = 3, oldest_program = 3;
