-- name_tenant_role --
-- The role whose logins see this tenant's rows
UPDATE fullsend.tenant SET role_name = %(role)s WHERE name = %(tenant)s AND role_name IS DISTINCT FROM %(role)s;

-- tenant_secrets --
-- What a role's name and password are derived from
SELECT id, role_key FROM fullsend.installation;

-- role_exists --
-- Whether the cluster has such a role
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s);
