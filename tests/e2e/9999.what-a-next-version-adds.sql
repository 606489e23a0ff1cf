-- The schema of a version that does not exist: it only adds, as every change does at first, and to the busiest table.
-- Which programs may use it stays as it is, so senders that run go on and a rollback works.
ALTER TABLE fullsend.delivery ADD COLUMN added_by_the_next_version text;
UPDATE fullsend.meta SET schema_version = 9999;
