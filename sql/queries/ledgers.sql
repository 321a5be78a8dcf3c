-- name: ledger_create(name)
-- Create a ledger unless one of that name exists.
INSERT INTO ledgers (name) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: ledger_by_name(name)
-- The ledger of that name.
SELECT id FROM ledgers WHERE name = $1;

-- name: ledger_list()
-- All ledgers, oldest first.
SELECT id, name, created_at FROM ledgers ORDER BY id;

-- name: api_key_create(ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency)
-- Keep the digest of a new key's secret, and its limits.
INSERT INTO api_keys (ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: api_key_limit(ledger_id, id, rate_quota, rate_window, burst, concurrency)
-- Change a key's limits; null takes the service's defaults.
UPDATE api_keys SET rate_quota = $3, rate_window = $4, burst = $5, concurrency = $6
WHERE ledger_id = $1 AND id = $2
RETURNING id;

-- name: api_key_read_many(ledger_ids, ids)
-- What is known of those keys that have not been revoked; whose they are is what is asked, so it spans ledgers.
SELECT k.ledger_id, k.id, k.digest, k.role, k.rate_quota, k.rate_window, k.burst, k.concurrency
FROM unnest($1::bigint[], $2::text[]) AS w (ledger_id, id)
JOIN api_keys AS k ON k.ledger_id = w.ledger_id AND k.id = w.id
WHERE k.revoked_at IS NULL;

-- name: api_key_list(ledger_id)
-- All keys of a ledger, revoked ones too.
SELECT id, role, created_at, revoked_at, rate_quota, rate_window, burst, concurrency FROM api_keys WHERE ledger_id = $1 ORDER BY created_at, id;

-- name: api_key_revoke(ledger_id, id)
-- Revoke a key for ever; revoking it again changes nothing.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE ledger_id = $1 AND id = $2 RETURNING id;
