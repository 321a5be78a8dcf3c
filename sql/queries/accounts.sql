-- columns: account_columns
-- id, currency, balance, held_in, held_out, floor, ceiling, version, closed, metadata, created_at

-- name: account_create_many(ledger_id, ids, currencies, floors, ceilings, metadata, wait_ms)
-- Open those that do not exist yet, in id order so that two such calls cannot deadlock; of equal ids the first counts.
INSERT INTO accounts (ledger_id, id, currency, floor, ceiling, metadata, created_at)
SELECT $1, r.id, r.currency, r.floor, r.ceiling, r.metadata, clock_timestamp()
FROM set_config('lock_timeout', $7, true),
    unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::json[])
    WITH ORDINALITY AS r (id, currency, floor, ceiling, metadata, place)
ORDER BY r.id COLLATE "C", r.place
ON CONFLICT DO NOTHING
RETURNING {account_columns};

-- name: account_read_many(ledger_id, ids)
-- The accounts of these ids, in any order; those that do not exist are left out.
SELECT {account_columns}
FROM accounts
WHERE ledger_id = $1 AND id = ANY ($2::text[]);

-- name: account_locked_many(ledger_id, ids)
-- Those of the accounts whose rows another transaction has locked; waits for none of them.
WITH free AS (
    SELECT id FROM accounts
    WHERE ledger_id = $1 AND id = ANY ($2::text[])
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT id, version FROM accounts
WHERE ledger_id = $1 AND id = ANY ($2::text[]) AND id NOT IN (SELECT id FROM free);

-- name: account_clock_many(ledger_id, ids)
-- An instant for each account that no other transaction has locked: its entries not committed by then are later.
WITH free AS (
    SELECT id, clock_timestamp() AS clock
    FROM accounts
    WHERE ledger_id = $1 AND id = ANY ($2::text[])
    ORDER BY id
    FOR SHARE SKIP LOCKED
)
SELECT a.id, free.clock
FROM accounts AS a LEFT JOIN free ON free.id = a.id
WHERE a.ledger_id = $1 AND a.id = ANY ($2::text[]);

-- name: account_clock_many_waiting(ledger_id, ids)
-- The same for all of the accounts, waiting up to lock_timeout for those that another transaction has locked.
SELECT id, clock_timestamp() AS clock
FROM accounts
WHERE ledger_id = $1 AND id = ANY ($2::text[])
ORDER BY id
FOR SHARE;

-- name: account_page(ledger_id, prefix, prefix_end, after, limit)
-- One page of the accounts whose ids begin with a prefix, by id.
SELECT {account_columns}
FROM accounts
WHERE ledger_id = $1 AND id >= $2 AND id < $3 AND id > $4
ORDER BY id
LIMIT $5;

-- name: account_patch(ledger_id, id, if_versions, set_floor, floor, set_ceiling, ceiling, closed, merge, clear, keys_max, wait_ms)
-- Change an account, unless it moved on from the versions the caller saw or its metadata would hold too many keys.
UPDATE accounts
SET version = version + 1,
    limits_version = CASE WHEN $4::boolean OR $6::boolean THEN version + 1 ELSE limits_version END,
    floor = CASE WHEN $4::boolean THEN $5::bigint ELSE floor END,
    ceiling = CASE WHEN $6::boolean THEN $7::bigint ELSE ceiling END,
    closed = coalesce($8::boolean, closed),
    metadata = CASE
        WHEN $10::boolean THEN '{}'::json
        WHEN $9::jsonb IS NULL THEN metadata
        ELSE jsonb_strip_nulls(metadata::jsonb || $9::jsonb)::json
    END
FROM set_config('lock_timeout', $12, true)
WHERE ledger_id = $1 AND id = $2 AND ($3::bigint[] IS NULL OR version = ANY ($3))
  AND ($9::jsonb IS NULL
       OR (SELECT count(*) FROM jsonb_object_keys(jsonb_strip_nulls(metadata::jsonb || $9::jsonb))) <= $11::integer)
RETURNING {account_columns};

-- name: entry_page(ledger_id, account, from, to, before_at, before_version, limit)
-- One page of an account's statement, newest first, from both sides of its transfers.
SELECT e.* FROM (
    (SELECT id, kind, -amount AS amount, destination AS counterparty, source_balance AS balance,
            source_version AS version, reference, created_at
     FROM transfers
     WHERE ledger_id = $1 AND source = $2 AND refusal IS NULL
       AND created_at >= $3::timestamptz AND created_at < $4::timestamptz AND created_at <= $5::timestamptz
       AND (created_at, source_version) < ($5::timestamptz, $6::bigint)
     ORDER BY created_at DESC, source_version DESC
     LIMIT $7)
    UNION ALL
    (SELECT id, kind, amount, source AS counterparty, destination_balance AS balance,
            destination_version AS version, reference, created_at
     FROM transfers
     WHERE ledger_id = $1 AND destination = $2 AND refusal IS NULL
       AND created_at >= $3::timestamptz AND created_at < $4::timestamptz AND created_at <= $5::timestamptz
       AND (created_at, destination_version) < ($5::timestamptz, $6::bigint)
     ORDER BY created_at DESC, destination_version DESC
     LIMIT $7)
) AS e
ORDER BY e.created_at DESC, e.version DESC
LIMIT $7;

-- name: account_balance_at(ledger_id, account, at)
-- The account's newest entry at or before an instant, and whether that instant is still to come.
SELECT a.currency, e.balance, e.version, clock_timestamp() < $3::timestamptz AS is_future
FROM accounts AS a
LEFT JOIN LATERAL (
    SELECT s.balance, s.version FROM (
        (SELECT source_balance AS balance, source_version AS version
         FROM transfers
         WHERE ledger_id = $1 AND source = $2 AND refusal IS NULL AND created_at <= $3::timestamptz
         ORDER BY created_at DESC, source_version DESC
         LIMIT 1)
        UNION ALL
        (SELECT destination_balance AS balance, destination_version AS version
         FROM transfers
         WHERE ledger_id = $1 AND destination = $2 AND refusal IS NULL AND created_at <= $3::timestamptz
         ORDER BY created_at DESC, destination_version DESC
         LIMIT 1)
    ) AS s
    ORDER BY s.version DESC
    LIMIT 1
) AS e ON true
WHERE a.ledger_id = $1 AND a.id = $2;
