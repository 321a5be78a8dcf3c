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
-- Keep the digest of a new key's secret, and its limits; the same key again changes nothing.
INSERT INTO api_keys (ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (ledger_id, id) DO NOTHING;

-- name: api_key_withdraw(ledger_id, id, digest, role)
-- Revoke a key that may have been made, or may yet be: the row is there afterwards, and no later attempt makes it live.
INSERT INTO api_keys (ledger_id, id, digest, role, revoked_at) VALUES ($1, $2, $3, $4, now())
ON CONFLICT (ledger_id, id) DO UPDATE SET revoked_at = coalesce(api_keys.revoked_at, excluded.revoked_at);

-- name: api_key_read(ledger_id, id)
-- A key, revoked or not.
SELECT l.name AS ledger, k.id, k.role, k.created_at, k.revoked_at, k.rate_quota, k.rate_window, k.burst, k.concurrency
FROM api_keys AS k
JOIN ledgers AS l ON l.id = k.ledger_id
WHERE k.ledger_id = $1 AND k.id = $2;

-- name: api_key_limit(ledger_id, id, named, rate_quota, rate_window, burst, concurrency, quota_seen, window_seen, burst_seen)
-- Change those limits of a key that are named, unless its rate or burst is no longer as seen; null takes the defaults.
UPDATE api_keys
SET rate_quota = CASE WHEN 'rate' = ANY ($3::text[]) THEN $4::integer ELSE rate_quota END,
    rate_window = CASE WHEN 'rate' = ANY ($3::text[]) THEN $5::integer ELSE rate_window END,
    burst = CASE WHEN 'burst' = ANY ($3::text[]) THEN $6::integer ELSE burst END,
    concurrency = CASE WHEN 'concurrency' = ANY ($3::text[]) THEN $7::integer ELSE concurrency END
WHERE ledger_id = $1 AND id = $2
  AND rate_quota IS NOT DISTINCT FROM $8::integer
  AND rate_window IS NOT DISTINCT FROM $9::integer
  AND burst IS NOT DISTINCT FROM $10::integer
RETURNING rate_quota, rate_window, burst, concurrency;

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
