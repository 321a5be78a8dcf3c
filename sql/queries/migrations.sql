-- name: migration_lock(key)
-- Wait until no other process migrates this database; the lock is held until the end of the transaction.
SELECT pg_advisory_xact_lock($1::bigint);

-- name: migration_record(number, name, checksum)
-- Record that a migration has been applied.
INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3);

-- name: migration_list()
-- The migrations applied, in order.
SELECT number, name, checksum FROM schema_migrations ORDER BY number;

-- name: function_record(name, checksum)
-- Record the text that a function has.
INSERT INTO schema_functions (name, checksum) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET checksum = excluded.checksum, applied_at = now();

-- name: function_list()
-- The functions and the checksums of their texts.
SELECT name, checksum FROM schema_functions;

-- name: function_bodies()
-- The functions that exist, by their signatures, and their bodies as they would run.
SELECT p.proname AS name, p.oid::regprocedure::text AS signature, p.prosrc AS body
FROM pg_proc AS p
WHERE p.pronamespace = current_schema()::regnamespace;

-- name: session_settings_given()
-- Whether this session has the settings that its client gave it, of which every client of ours gives this one.
SELECT source IN ('client', 'session') AS given FROM pg_settings WHERE name = 'lock_timeout';

-- name: connection_room()
-- Return how many connections the server accepts from users who are not superusers.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS room;

-- name: readiness_settings()
-- The settings that decide whether an acknowledged transfer can be lost, and whether this server takes writes at all.
SELECT current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('server_version_num')::integer AS server_version,
       current_user AS service_role,
       pg_is_in_recovery() AS in_recovery,
       current_setting('transaction_read_only') = 'on' AS read_only;

-- name: readiness_names()
-- The names of the constraints and indexes of the schema that are in force: checked, and with an index in use.
SELECT c.conname AS name FROM pg_constraint AS c LEFT JOIN pg_index AS i ON i.indexrelid = c.conindid
WHERE c.connamespace = current_schema()::regnamespace AND c.convalidated
  AND (i.indexrelid IS NULL OR i.indisvalid AND i.indisready AND i.indislive)
UNION ALL
SELECT r.relname FROM pg_class AS r JOIN pg_index AS i ON i.indexrelid = r.oid
WHERE r.relnamespace = current_schema()::regnamespace AND i.indisvalid AND i.indisready AND i.indislive
UNION ALL
SELECT c.conname FROM pg_constraint AS c JOIN pg_type AS t ON t.oid = c.contypid
WHERE t.typnamespace = current_schema()::regnamespace;

-- name: readiness_grants()
-- What the service's role may do to transfers although it must not.
SELECT has_any_column_privilege('transfers', 'UPDATE') AS updates,
       has_table_privilege('transfers', 'DELETE') OR has_table_privilege('transfers', 'TRUNCATE') AS deletes;

-- name: identity_read()
-- Which database this is, and which run of it.
-- A database cannot be replaced within a run: copied files are put in place between two starts of the server, a
-- promotion begins a timeline, and a dump that is restored into the same database makes new files for its tables.
SELECT to_hex(s.system_identifier) || '.' || to_hex(d.oid::bigint) AS database,
       concat_ws(
           '.', left(pg_walfile_name(pg_current_wal_lsn()), 8), extract(epoch FROM pg_postmaster_start_time()),
           pg_relation_filenode(to_regclass('accounts')), pg_relation_filenode(to_regclass('transfers'))
       ) AS run
FROM pg_control_system() AS s, pg_database AS d
WHERE d.datname = current_database();
