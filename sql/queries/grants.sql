-- name: grant_list(functions)
-- The privileges that the service's role needs and lacks, each with the statement that grants it.
WITH needed (relation, privilege, columns) AS (
    -- The service reads, opens accounts and posts. It cannot change or remove a transfer. It can remove only what the
    -- relay takes out of the outbox, webhooks and sinks.
    VALUES
        ('schema_migrations', 'SELECT', NULL),
        ('schema_functions', 'SELECT', NULL),
        ('ledgers', 'SELECT', NULL),
        ('ledgers', 'INSERT', NULL),
        ('api_keys', 'SELECT', NULL),
        ('api_keys', 'INSERT', NULL),
        ('api_keys', 'UPDATE', 'revoked_at rate_quota rate_window burst concurrency digest expires_at last_used_at description accounts former_digests former_until'),
        ('accounts', 'SELECT', NULL),
        ('accounts', 'INSERT', NULL),
        ('accounts', 'UPDATE', 'balance held_in held_out floor ceiling version limits_version last_entry_at closed metadata'),
        ('transfers', 'SELECT', NULL),
        ('transfers', 'INSERT', NULL),
        ('transfer_progress', 'SELECT', NULL),
        ('transfer_progress', 'INSERT', NULL),
        ('transfer_progress', 'UPDATE', 'captured remaining reversed state'),
        ('outbox', 'SELECT', NULL),
        ('outbox', 'INSERT', NULL),
        ('outbox', 'DELETE', NULL),
        -- To lock rows: nobody can set a generated column.
        ('outbox', 'UPDATE', 'size'),
        ('feed_heads', 'SELECT', NULL),
        ('feed_heads', 'INSERT', NULL),
        ('feed_heads', 'UPDATE', 'position peak link'),
        ('feed', 'SELECT', NULL),
        ('feed', 'INSERT', NULL),
        ('feed_accounts', 'SELECT', NULL),
        ('feed_accounts', 'INSERT', NULL),
        ('audit_rounds', 'SELECT', NULL),
        ('audit_rounds', 'INSERT', NULL),
        ('audit_rounds', 'UPDATE', 'revision began_at ended_at findings running last'),
        ('webhook_endpoints', 'SELECT', NULL),
        ('webhook_endpoints', 'INSERT', NULL),
        ('webhook_endpoints', 'DELETE', NULL),
        ('webhook_endpoints', 'UPDATE', 'position version replay types url description disabled secrets secrets_until'),
        ('webhook_retries', 'SELECT', NULL),
        ('webhook_retries', 'INSERT', NULL),
        ('webhook_retries', 'DELETE', NULL),
        ('webhook_retries', 'UPDATE', 'attempted_at due_at attempts'),
        ('webhook_attempts', 'SELECT', NULL),
        ('webhook_attempts', 'INSERT', NULL),
        ('webhook_attempts', 'DELETE', NULL),
        ('sinks', 'SELECT', NULL),
        ('sinks', 'INSERT', NULL),
        ('sinks', 'UPDATE', 'state revision failing_since error error_at refused_ledger_id refused_position'),
        ('sinks', 'DELETE', NULL),
        ('sink_positions', 'SELECT', NULL),
        ('sink_positions', 'INSERT', NULL),
        ('sink_positions', 'UPDATE', 'position')
), place AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname = 'tallystick'
), lacking (what, granted) AS (
    SELECT 'USAGE on the schema ' || nspname, format('USAGE ON SCHEMA %I', nspname)
    FROM place
    WHERE NOT has_schema_privilege('tallystick_service', oid, 'USAGE')
    UNION ALL
    SELECT format('%s on %s', n.privilege, n.relation), format('%s ON %I.%I', n.privilege, p.nspname, n.relation)
    FROM needed AS n
    CROSS JOIN place AS p
    JOIN pg_class AS c ON c.relnamespace = p.oid AND c.relname = n.relation
    WHERE n.columns IS NULL AND NOT has_table_privilege('tallystick_service', c.oid, n.privilege)
    UNION ALL
    SELECT format('%s (%s) on %s', n.privilege, m.columns, n.relation),
           format('%s (%s) ON %I.%I', n.privilege, m.columns, p.nspname, n.relation)
    FROM needed AS n
    CROSS JOIN place AS p
    JOIN pg_class AS c ON c.relnamespace = p.oid AND c.relname = n.relation
    CROSS JOIN LATERAL (
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
        FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attname = ANY (string_to_array(n.columns, ' '))
          -- Asked only for columns: a privilege of a whole table, such as DELETE, is an error here.
          AND CASE WHEN n.columns IS NOT NULL
                   THEN NOT has_column_privilege('tallystick_service', c.oid, a.attnum, n.privilege) END
    ) AS m (columns)
    WHERE m.columns IS NOT NULL
    UNION ALL
    SELECT 'EXECUTE on ' || f.proname, format('EXECUTE ON FUNCTION %s', f.oid::regprocedure)
    FROM place AS p
    JOIN pg_proc AS f ON f.pronamespace = p.oid AND f.proname = ANY ($1::text[])
    WHERE NOT has_function_privilege('tallystick_service', f.oid, 'EXECUTE')
)
SELECT what, format('GRANT %s TO tallystick_service', granted) AS statement FROM lacking ORDER BY what;

-- name: owner_list(tables, functions)
-- Objects of the schema that belong to another role than its owner's, each with the statement that changes that.
WITH place AS (
    SELECT oid, nspname, nspowner FROM pg_namespace WHERE nspname = 'tallystick'
), ours AS (
    SELECT c.oid, c.relname, c.relowner FROM place AS p JOIN pg_class AS c ON c.relnamespace = p.oid
    WHERE c.relkind IN ('r', 'p') AND c.relname = ANY ($1::text[])
), owned (rank, what, owner, altered) AS (
    -- The schema first: its owner may have objects in it.
    SELECT 1, 'schema ' || nspname, nspowner, format('SCHEMA %I', nspname) FROM place
    UNION ALL
    SELECT 2, 'table ' || relname, relowner, format('TABLE tallystick.%I', relname) FROM ours
    UNION ALL
    -- The domains of the tables' columns.
    SELECT DISTINCT 3, 'domain ' || t.typname, t.typowner, format('DOMAIN tallystick.%I', t.typname)
    FROM ours AS o
    JOIN pg_attribute AS a ON a.attrelid = o.oid
    JOIN pg_type AS t ON t.oid = a.atttypid AND t.typtype = 'd'
    JOIN place AS p ON p.oid = t.typnamespace
    UNION ALL
    SELECT 4, 'function ' || f.proname, f.proowner, format('FUNCTION %s', f.oid::regprocedure)
    FROM place AS p
    JOIN pg_proc AS f ON f.pronamespace = p.oid AND f.proname = ANY ($2::text[])
)
SELECT what, pg_get_userbyid(owner) AS owner, format('ALTER %s OWNER TO tallystick_owner', altered) AS statement
FROM owned
WHERE pg_get_userbyid(owner) <> 'tallystick_owner'
ORDER BY rank, what;
