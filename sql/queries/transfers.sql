-- part: transfer_columns
-- id, idempotency_key, fingerprint, kind, parent, source, destination, amount, currency, source_balance,
-- destination_balance, source_version, destination_version, reference, description, conditions, metadata, refusal,
-- refusal_pointer, refusal_request_id, created_at

-- part: entry_columns
-- t.id, t.kind, t.reference, t.created_at,
-- CASE WHEN t.source = $2 THEN -t.amount ELSE t.amount END AS amount,
-- CASE WHEN t.source = $2 THEN t.destination ELSE t.source END AS counterparty,
-- CASE WHEN t.source = $2 THEN t.source_balance ELSE t.destination_balance END AS balance,
-- CASE WHEN t.source = $2 THEN t.source_version ELSE t.destination_version END AS version,
-- CASE WHEN t.source = $2 THEN t.source_previous ELSE t.destination_previous END AS previous

-- part: chain_start
-- coalesce(
--     (SELECT m.id FROM (
--         (SELECT id, created_at, source_version AS version
--          FROM transfers
--          WHERE ledger_id = $1 AND source = $2 AND created_at > $3::timestamptz
--            AND refusal IS NULL AND get_byte(uuid_send(id), 15) & 15 = 0
--          ORDER BY created_at, source_version
--          LIMIT 1)
--         UNION ALL
--         (SELECT id, created_at, destination_version
--          FROM transfers
--          WHERE ledger_id = $1 AND destination = $2 AND created_at > $3::timestamptz
--            AND refusal IS NULL AND get_byte(uuid_send(id), 15) & 15 = 0
--          ORDER BY created_at, destination_version
--          LIMIT 1)
--     ) AS m
--     ORDER BY m.created_at, m.version
--     LIMIT 1),
--     (SELECT last_transfer FROM accounts WHERE ledger_id = $1 AND id = $2)
-- )

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
WITH RECURSIVE chain AS (
    -- `above` counts the rows of the page above this one. When it is full, `full_at` is the instant of its last row, and
    -- the rest of this instant may still come before that row.
    SELECT t.*, CASE WHEN t.source = $2 THEN t.source_previous ELSE t.destination_previous END AS previous,
           0 AS above, NULL::timestamptz AS full_at
    FROM transfers AS t
    WHERE t.ledger_id = $1 AND t.id = {chain_start}
    UNION ALL
    SELECT t.*, CASE WHEN t.source = $2 THEN t.source_previous ELSE t.destination_previous END,
           s.above, coalesce(c.full_at, CASE WHEN s.above >= $5::bigint THEN c.created_at END)
    FROM chain AS c
    CROSS JOIN LATERAL (
        SELECT c.above + CASE WHEN (c.created_at, c.id) < ($3, $4::uuid) THEN 1 ELSE 0 END
    ) AS s (above)
    JOIN transfers AS t ON t.ledger_id = $1 AND t.id = c.previous
    WHERE c.full_at IS NULL OR c.created_at = c.full_at
)
SELECT {transfer_columns}
FROM chain
WHERE (created_at, id) < ($3, $4)
ORDER BY created_at DESC, id DESC
LIMIT $5;

-- name: entry_page(ledger_id, account, before_at, before_version, from, limit)
-- One page of an account's statement, newest first: the entries are followed from one to the one before it.
WITH RECURSIVE chain AS (
    -- `above` counts the lines of the page above this one; the first transfers may still be too new for it.
    SELECT {entry_columns}, 0 AS above
    FROM transfers AS t
    WHERE t.ledger_id = $1 AND t.id = {chain_start}
    UNION ALL
    SELECT {entry_columns}, c.above + CASE WHEN (c.created_at, c.version) < ($3, $4::bigint) THEN 1 ELSE 0 END
    FROM chain AS c
    JOIN transfers AS t ON t.ledger_id = $1 AND t.id = c.previous
    WHERE c.above < $6::bigint AND c.created_at >= $5::timestamptz
)
SELECT id, kind, amount, counterparty, balance, version, reference, created_at
FROM chain
WHERE (created_at, version) < ($3, $4) AND created_at >= $5
ORDER BY created_at DESC, version DESC
LIMIT $6;

-- name: account_balance_at(ledger_id, account, at)
-- The account's newest entry at or before an instant, and whether that instant is still to come.
WITH RECURSIVE chain AS (
    SELECT {entry_columns}
    FROM transfers AS t
    WHERE t.ledger_id = $1 AND t.id = {chain_start}
    UNION ALL
    SELECT {entry_columns}
    FROM chain AS c
    JOIN transfers AS t ON t.ledger_id = $1 AND t.id = c.previous
    WHERE c.created_at > $3
)
SELECT a.currency, e.balance, e.version, clock_timestamp() < $3 AS is_future
FROM accounts AS a
LEFT JOIN chain AS e ON e.created_at <= $3
WHERE a.ledger_id = $1 AND a.id = $2;
