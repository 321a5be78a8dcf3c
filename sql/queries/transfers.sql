-- columns: transfer_columns
-- id, idempotency_key, fingerprint, kind, parent, source, destination, amount, currency, source_balance,
-- destination_balance, source_version, destination_version, reference, description, conditions, metadata, refusal,
-- refusal_pointer, refusal_request_id, created_at

-- name: transfer_post_many(ledgers, last_accounts, account_ledgers, accounts, keys, fingerprints, ids, sources, destinations, amounts, currencies, references, descriptions, metadata, conditions, request_ids, sets, source_versions, destination_versions, source_availables, waits, wait_ms, looks_up)
-- Post a batch in one transaction: the function says what became of each.
SELECT * FROM post_transfers($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23);

-- name: transfer_by_keys(ledgers, keys)
-- The attempts that these idempotency keys of these ledgers are bound to, in the order of the arrays.
SELECT {transfer_columns}
FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS w (ledger, key, position)
CROSS JOIN LATERAL (SELECT * FROM transfers WHERE ledger_id = w.ledger AND idempotency_key = w.key) AS t
ORDER BY w.position;

-- name: transfer_by_key(ledger_id, key)
-- The attempt that an idempotency key is bound to.
SELECT {transfer_columns}
FROM transfers
WHERE ledger_id = $1 AND idempotency_key = $2;

-- name: transfer_by_id(ledger_id, id)
-- The attempt of this id.
SELECT {transfer_columns}
FROM transfers
WHERE ledger_id = $1 AND id = $2;

-- name: transfer_page(ledger_id, before_at, before_id, limit)
-- One page of all transfers of a ledger, newest first.
SELECT {transfer_columns}
FROM transfers
WHERE ledger_id = $1 AND (created_at, id) < ($2::timestamptz, $3::uuid) AND refusal IS NULL
ORDER BY created_at DESC, id DESC
LIMIT $4;

-- name: transfer_page_by_reference(ledger_id, reference, before_at, before_id, limit)
-- One page of the transfers that carry a reference, newest first.
SELECT {transfer_columns}
FROM transfers
WHERE ledger_id = $1 AND reference = $2 AND (created_at, id) < ($3::timestamptz, $4::uuid) AND refusal IS NULL
ORDER BY created_at DESC, id DESC
LIMIT $5;

-- name: transfer_page_by_reference_and_account(ledger_id, reference, account, before_at, before_id, limit)
-- One page of the transfers of an account that carry a reference, from both sides, newest first.
SELECT {transfer_columns}
FROM (
    (SELECT * FROM transfers
     WHERE ledger_id = $1 AND source = $3 AND reference = $2 AND refusal IS NULL
       AND (created_at, id) < ($4::timestamptz, $5::uuid)
     ORDER BY created_at DESC, id DESC
     LIMIT $6)
    UNION ALL
    (SELECT * FROM transfers
     WHERE ledger_id = $1 AND destination = $3 AND reference = $2 AND refusal IS NULL
       AND (created_at, id) < ($4::timestamptz, $5::uuid)
     ORDER BY created_at DESC, id DESC
     LIMIT $6)
) AS t
ORDER BY created_at DESC, id DESC
LIMIT $6;

-- name: transfer_page_by_account(ledger_id, account, before_at, before_id, limit)
-- One page of the transfers of an account, from both sides, newest first.
SELECT {transfer_columns}
FROM (
    (SELECT * FROM transfers
     WHERE ledger_id = $1 AND source = $2 AND refusal IS NULL
       AND created_at <= $3::timestamptz AND (created_at, id) < ($3::timestamptz, $4::uuid)
     ORDER BY created_at DESC, id DESC
     LIMIT $5)
    UNION ALL
    (SELECT * FROM transfers
     WHERE ledger_id = $1 AND destination = $2 AND refusal IS NULL
       AND created_at <= $3::timestamptz AND (created_at, id) < ($3::timestamptz, $4::uuid)
     ORDER BY created_at DESC, id DESC
     LIMIT $5)
) AS t
ORDER BY created_at DESC, id DESC
LIMIT $5;
