-- columns: account_columns
-- a.id, a.currency, a.balance, a.held_in - coalesce(d.held_in, 0) AS held_in,
-- a.held_out - coalesce(d.held_out, 0) AS held_out, a.floor, a.ceiling, a.version + coalesce(d.holds, 0) AS version,
-- a.closed, a.metadata, a.created_at, CASE WHEN d.holds > 0 THEN 0 ELSE d.expires_in_ms END AS expires_in_ms

-- columns: accounts_without_due_holds
-- accounts AS a LEFT JOIN LATERAL (
--     SELECT * FROM due_holds(a.ledger_id, a.id) WHERE a.held_in > 0 OR a.held_out > 0
-- ) AS d ON true

-- name: account_create_many(ledger_id, ids, currencies, floors, ceilings, metadata, wait_ms)
-- Open accounts that are missing, in id order so that two such calls cannot deadlock; of equal ids the first counts.
WITH opened AS (
    INSERT INTO accounts AS a (ledger_id, id, currency, floor, ceiling, metadata, created_at)
    SELECT $1, r.id, r.currency, r.floor, r.ceiling, r.metadata, ledger_clock()
    FROM set_config('lock_timeout', $7, true),
        unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::json[])
        WITH ORDINALITY AS r (id, currency, floor, ceiling, metadata, place)
    ORDER BY r.id COLLATE "C", r.place
    ON CONFLICT DO NOTHING
    RETURNING a AS account
), told AS (
    INSERT INTO outbox (ledger_id, posted_at, account, change)
    SELECT $1, (account).created_at, (account).id, account_event('account.created', account) FROM opened
)
SELECT (account).id, (account).currency, (account).balance, (account).held_in, (account).held_out, (account).floor,
       (account).ceiling, (account).version, (account).closed, (account).metadata, (account).created_at,
       NULL::bigint AS expires_in_ms
FROM opened;

-- name: account_read_many(ledger_id, ids)
-- The accounts of these ids, in any order; those that do not exist are left out.
SELECT {account_columns}
FROM {accounts_without_due_holds}
WHERE a.ledger_id = $1 AND a.id = ANY ($2::text[]);

-- name: row_locked_many(ledger_id, names)
-- The rows that another transaction has locked, found without waiting for any.
-- An account is named by its id, the progress of a parent by `parent` and its id, separated by a blank. Every change of
-- a row raises its version.
WITH parents AS (
    SELECT substr(n, 8)::uuid AS id FROM unnest($2::text[]) AS n WHERE starts_with(n, 'parent ')
), free_accounts AS (
    SELECT id FROM accounts
    WHERE ledger_id = $1 AND id = ANY ($2::text[])
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
), free_progress AS (
    SELECT id FROM transfer_progress
    WHERE ledger_id = $1 AND id = ANY (ARRAY (SELECT id FROM parents))
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT id AS name, version FROM accounts
WHERE ledger_id = $1 AND id = ANY ($2::text[]) AND id NOT IN (SELECT id FROM free_accounts)
UNION ALL
SELECT 'parent ' || id, captured + reversed - remaining FROM transfer_progress
WHERE ledger_id = $1 AND id = ANY (ARRAY (SELECT id FROM parents)) AND id NOT IN (SELECT id FROM free_progress);

-- name: account_clock_many(ledger_id, ids)
-- An instant for each account that no other transaction has locked: entries not committed by then get later ones.
WITH free AS (
    SELECT id, ledger_clock() AS clock
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
SELECT id, ledger_clock() AS clock
FROM accounts
WHERE ledger_id = $1 AND id = ANY ($2::text[])
ORDER BY id
FOR SHARE;

-- name: account_page(ledger_id, prefix, prefix_end, after, limit)
-- One page of the accounts whose ids begin with a prefix, by id.
SELECT {account_columns}
FROM {accounts_without_due_holds}
WHERE a.ledger_id = $1 AND a.id >= $2 AND a.id < $3 AND a.id > $4
ORDER BY a.id
LIMIT $5;

-- name: account_patch(ledger_id, id, if_versions, set_floor, floor, set_ceiling, ceiling, closed, merge, clear, keys_max, wait_ms)
-- Change an account, unless its version is none that the caller saw or its metadata would have too many keys.
SELECT * FROM change_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: account_limit_many(ledger_id, ids, floors, ceilings, closeds, wait_ms)
-- Set these limits on the accounts that are open and have none, in id order.
SELECT c.id, c.version
FROM (
    SELECT r.* FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::boolean[]) AS r (id, floor, ceiling, closed)
    JOIN accounts AS a ON a.ledger_id = $1 AND a.id = r.id
    WHERE a.floor IS NULL AND a.ceiling IS NULL AND NOT a.closed
      AND (r.floor IS NOT NULL OR r.ceiling IS NOT NULL OR r.closed)
    ORDER BY a.id
    OFFSET 0
) AS n
CROSS JOIN LATERAL change_account(
    $1, n.id, NULL, true, n.floor, true, n.ceiling, nullif(n.closed, false), NULL, false, 0, $6
) AS c;

-- name: entry_page(ledger_id, account, from, to, before_at, before_version, limit)
-- One page of an account's statement, newest first, from both sides of its transfers.
SELECT e.* FROM (
    (SELECT id, kind, -amount AS amount, destination AS counterparty, source_balance AS balance,
            source_version AS version, reference, created_at
     FROM transfers
     WHERE ledger_id = $1 AND source = $2 AND moves
       AND created_at >= $3::timestamptz AND created_at < $4::timestamptz AND created_at <= $5::timestamptz
       AND (created_at, source_version) < ($5::timestamptz, $6::bigint)
     ORDER BY created_at DESC, source_version DESC
     LIMIT $7)
    UNION ALL
    (SELECT id, kind, amount, source AS counterparty, destination_balance AS balance,
            destination_version AS version, reference, created_at
     FROM transfers
     WHERE ledger_id = $1 AND destination = $2 AND moves
       AND created_at >= $3::timestamptz AND created_at < $4::timestamptz AND created_at <= $5::timestamptz
       AND (created_at, destination_version) < ($5::timestamptz, $6::bigint)
     ORDER BY created_at DESC, destination_version DESC
     LIMIT $7)
) AS e
ORDER BY e.created_at DESC, e.version DESC
LIMIT $7;

-- columns: newest_entry
-- SELECT s.balance, s.version FROM (
--     (SELECT source_balance AS balance, source_version AS version
--      FROM transfers
--      WHERE ledger_id = $1 AND source = $2 AND moves AND created_at <= $3::timestamptz
--      ORDER BY created_at DESC, source_version DESC
--      LIMIT 1)
--     UNION ALL
--     (SELECT destination_balance AS balance, destination_version AS version
--      FROM transfers
--      WHERE ledger_id = $1 AND destination = $2 AND moves AND created_at <= $3::timestamptz
--      ORDER BY created_at DESC, destination_version DESC
--      LIMIT 1)
-- ) AS s
-- ORDER BY s.version DESC
-- LIMIT 1

-- name: account_balance_at(ledger_id, account, at)
-- The account's newest entry at or before an instant, and whether that instant has not come yet.
SELECT a.currency, e.balance, e.version, ledger_clock() < $3::timestamptz AS is_future
FROM accounts AS a
LEFT JOIN LATERAL (
    {newest_entry}
) AS e ON true
WHERE a.ledger_id = $1 AND a.id = $2;

-- name: account_balance_effective_at(ledger_id, account, at, as_of)
-- The balance at one instant as the books show it at another: back-dated entries posted between the two count.
SELECT a.currency, coalesce(e.balance, 0) + coalesce(b.amount, 0) AS balance, greatest(e.version, b.version) AS version,
       ledger_clock() < $3::timestamptz AS is_future
FROM accounts AS a
LEFT JOIN LATERAL (
    {newest_entry}
) AS e ON true
CROSS JOIN LATERAL (
-- OFFSET 0: entries are found by the instants that they count for, not among all that was posted since.
    SELECT sum(s.amount) AS amount, max(s.version) AS version FROM (
        (SELECT -amount AS amount, source_version AS version, created_at
         FROM transfers
         WHERE ledger_id = $1 AND source = $2 AND moves AND effective_at <= $3::timestamptz
         OFFSET 0)
        UNION ALL
        (SELECT amount, destination_version AS version, created_at
         FROM transfers
         WHERE ledger_id = $1 AND destination = $2 AND moves AND effective_at <= $3::timestamptz
         OFFSET 0)
    ) AS s
    WHERE s.created_at > $3::timestamptz AND s.created_at <= $4::timestamptz
) AS b
WHERE a.ledger_id = $1 AND a.id = $2;
