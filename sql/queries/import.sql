-- name: import_clock()
-- The latest instant that imported entries may count for.
SELECT ledger_clock() AS now;

-- name: import_parents(ledger_id, keys)
-- The transfers posted under these keys, by id.
SELECT idempotency_key AS key, id
FROM transfers
WHERE ledger_id = $1 AND idempotency_key = ANY ($2::text[]) AND moves IS NOT NULL;

-- name: import_sides(ledger_id, ids)
-- The currencies of those of the accounts that exist, and whether they are closed.
SELECT id, currency, closed FROM accounts WHERE ledger_id = $1 AND id = ANY ($2::text[]);
