-- connection_facts --
-- Who really serves this connection, and whether it commits synchronously
SELECT pg_backend_pid(), current_setting('synchronous_commit');

-- commit_synchronously --
-- Outcomes must survive a crash of the database, whatever its administrator's default
SET synchronous_commit = on;

-- plan_once --
-- A prepared statement's plan is made once: none of ours gains by knowing its parameters
SET plan_cache_mode = force_generic_plan;

-- schema_version --
-- The version of the schema and the oldest program that may use it
SELECT schema_version, oldest_program FROM fullsend.meta;

-- installation --
-- This installation's id and the key of its identity hashes
SELECT id, hash_key FROM fullsend.installation;
