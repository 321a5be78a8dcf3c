-- columns: transfer_columns
-- t.id, t.idempotency_key, t.fingerprint, t.kind, t.parent, t.source, t.destination, t.amount, t.currency,
-- t.source_balance, t.destination_balance, t.source_version, t.destination_version, t.reference, t.description,
-- t.conditions, t.metadata, t.refusal, t.refusal_pointer, t.refusal_request_id, t.created_at, t.effective_at,
-- t.expires_at, t.amount_asked, t.release_rest, t.parent_key

-- name: transfer_post_many(ledgers, last_accounts, account_ledgers, accounts, request_ledgers, keys, fingerprints, ids, sources, destinations, amounts, currencies, references, descriptions, metadata, conditions, request_ids, sets, source_versions, destination_versions, source_availables, effective_ats, kinds, expires_ins, parents, parent_keys, releases_rest, expires_ats, waits, wait_ms, looks_up)
-- Post a batch in one transaction; the function returns the outcome of each request.
SELECT * FROM post_transfers($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31);

-- name: transfer_by_keys(ledgers, keys)
-- The attempts that these idempotency keys of these ledgers are bound to, in the order of the arrays.
SELECT {transfer_columns}
FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS w (ledger, key, position)
CROSS JOIN LATERAL (SELECT * FROM transfers WHERE ledger_id = w.ledger AND idempotency_key = w.key) AS t
ORDER BY w.position;

-- name: transfer_sides_many(ledger_id, ids, keys)
-- The accounts of the attempts with these ids, and of those that these idempotency keys are bound to.
SELECT t.id, t.idempotency_key, t.source, t.destination, t.refusal IS NOT NULL AS refused
FROM (
    -- The first transfer from each id on: only one index serves that, whatever the planner believes of the table.
    SELECT i.* FROM unnest($2::uuid[]) AS w (id)
    CROSS JOIN LATERAL (SELECT * FROM transfers WHERE ledger_id = $1 AND id >= w.id ORDER BY id LIMIT 1) AS i
    WHERE i.id = w.id
    UNION ALL
    SELECT k.* FROM unnest($3::text[]) AS w (key)
    CROSS JOIN LATERAL (SELECT * FROM transfers WHERE ledger_id = $1 AND idempotency_key = w.key) AS k
) AS t;

-- columns: progress_columns
-- p.captured, CASE WHEN p.is_due THEN 0 ELSE p.remaining END AS remaining, p.reversed,
-- CASE WHEN p.is_due THEN 'expired' ELSE p.state END AS state

-- columns: progress_of_it
-- SELECT *, state = 'open' AND expires_at <= ledger_clock() AS is_due
-- FROM transfer_progress WHERE ledger_id = t.ledger_id AND id = t.id OFFSET 0

-- name: transfer_by_key(ledger_id, key)
-- The attempt that an idempotency key is bound to, and its progress.
-- The progress is looked up separately (OFFSET 0): a join may read the whole ledger when ids grow past the statistics.
SELECT {transfer_columns}, {progress_columns}
FROM transfers AS t
LEFT JOIN LATERAL ({progress_of_it}) AS p ON true
WHERE t.ledger_id = $1 AND t.idempotency_key = $2;

-- name: transfer_by_id(ledger_id, id)
-- The attempt with this id, and its progress.
-- The first transfer from the id on: only one index serves that, whatever the planner believes of the table.
SELECT {transfer_columns}, {progress_columns}
FROM (SELECT * FROM transfers WHERE ledger_id = $1 AND id >= $2 ORDER BY id LIMIT 1) AS t
LEFT JOIN LATERAL ({progress_of_it}) AS p ON true
WHERE t.id = $2;

-- name: transfer_children(ledger_id, parent, limit)
-- What was posted on top of a transfer, oldest first: its captures, its void or expiry, and its reversals.
SELECT {transfer_columns}
FROM transfers AS t
WHERE t.ledger_id = $1 AND t.parent = $2 AND t.refusal IS NULL
ORDER BY t.created_at, t.id
LIMIT $3;

-- columns: examined_columns
-- *, ($5::text IS NULL OR kind = $5) AND ($6::jsonb IS NULL OR metadata::jsonb @> $6)
-- AND ($9::text[] IS NULL OR source ^@ ANY ($9) OR destination ^@ ANY ($9)) AS matches,
-- row_number() OVER (ORDER BY created_at DESC, id DESC) AS number

-- name: transfer_page(ledger_id, before_at, before_id, since, kind, metadata, examined, limit, accounts)
-- One page of all transfers of a ledger, newest first: of those examined, the ones that match, and the last one.
SELECT {transfer_columns}, matches, number
FROM (
    SELECT {examined_columns}
    FROM (
        SELECT * FROM (
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND moves AND coalesce($5::text IN ('transfer', 'capture', 'reversal'), true)
               AND created_at >= $4::timestamptz AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
            UNION ALL
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND NOT moves AND coalesce($5::text IN ('hold', 'void', 'expiry'), true)
               AND created_at >= $4::timestamptz AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
        ) AS u
        ORDER BY created_at DESC, id DESC
        LIMIT $7
    ) AS examined
) AS t
WHERE matches OR number = $7
ORDER BY created_at DESC, id DESC
LIMIT $8;

-- name: transfer_page_by_reference(ledger_id, before_at, before_id, since, kind, metadata, examined, limit, accounts, reference)
-- The same for the transfers that have a reference.
SELECT {transfer_columns}, matches, number
FROM (
    SELECT {examined_columns}
    FROM (
        SELECT * FROM transfers
        WHERE ledger_id = $1 AND reference = $10 AND moves IS NOT NULL
          AND created_at >= $4::timestamptz AND (created_at, id) < ($2::timestamptz, $3::uuid)
        ORDER BY created_at DESC, id DESC
        LIMIT $7
    ) AS examined
) AS t
WHERE matches OR number = $7
ORDER BY created_at DESC, id DESC
LIMIT $8;

-- name: transfer_page_by_reference_and_account(ledger_id, before_at, before_id, since, kind, metadata, examined, limit, accounts, reference, account)
-- The same for the transfers of an account that have a reference, from both sides.
SELECT {transfer_columns}, matches, number
FROM (
    SELECT {examined_columns}
    FROM (
        SELECT * FROM (
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND source = $11 AND reference = $10 AND moves IS NOT NULL
               AND created_at >= $4::timestamptz AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
            UNION ALL
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND destination = $11 AND reference = $10 AND moves IS NOT NULL
               AND created_at >= $4::timestamptz AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
        ) AS u
        ORDER BY created_at DESC, id DESC
        LIMIT $7
    ) AS examined
) AS t
WHERE matches OR number = $7
ORDER BY created_at DESC, id DESC
LIMIT $8;

-- name: transfer_page_by_account(ledger_id, before_at, before_id, since, kind, metadata, examined, limit, accounts, account)
-- The same for the transfers of an account, from both sides.
SELECT {transfer_columns}, matches, number
FROM (
    SELECT {examined_columns}
    FROM (
        SELECT * FROM (
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND source = $10
               AND moves AND coalesce($5::text IN ('transfer', 'capture', 'reversal'), true)
               AND created_at >= $4::timestamptz AND created_at <= $2::timestamptz
               AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
            UNION ALL
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND destination = $10
               AND moves AND coalesce($5::text IN ('transfer', 'capture', 'reversal'), true)
               AND created_at >= $4::timestamptz AND created_at <= $2::timestamptz
               AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
            UNION ALL
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND source = $10
               AND NOT moves AND coalesce($5::text IN ('hold', 'void', 'expiry'), true)
               AND created_at >= $4::timestamptz AND created_at <= $2::timestamptz
               AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
            UNION ALL
            (SELECT * FROM transfers
             WHERE ledger_id = $1 AND destination = $10
               AND NOT moves AND coalesce($5::text IN ('hold', 'void', 'expiry'), true)
               AND created_at >= $4::timestamptz AND created_at <= $2::timestamptz
               AND (created_at, id) < ($2::timestamptz, $3::uuid)
             ORDER BY created_at DESC, id DESC
             LIMIT $7)
        ) AS u
        ORDER BY created_at DESC, id DESC
        LIMIT $7
    ) AS examined
) AS t
WHERE matches OR number = $7
ORDER BY created_at DESC, id DESC
LIMIT $8;
