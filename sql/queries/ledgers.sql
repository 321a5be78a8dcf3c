-- name: ledger_create(name)
-- Create a ledger unless one of that name exists.
INSERT INTO ledgers (name) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: ledger_by_name(name)
-- The ledger of that name.
SELECT id FROM ledgers WHERE name = $1;

-- name: ledger_list()
-- All ledgers, oldest first.
SELECT id, name, created_at FROM ledgers ORDER BY id;

-- name: api_key_create(ledger_id, id, digest, role)
-- Keep the digest of a new key's secret.
INSERT INTO api_keys (ledger_id, id, digest, role) VALUES ($1, $2, $3, $4);

-- name: api_key_by_id(ledger_id, id)
-- What is known of a key that has not been revoked.
SELECT digest, role FROM api_keys WHERE ledger_id = $1 AND id = $2 AND revoked_at IS NULL;

-- name: api_key_list(ledger_id)
-- All keys of a ledger, revoked ones too.
SELECT id, role, created_at, revoked_at FROM api_keys WHERE ledger_id = $1 ORDER BY created_at, id;

-- name: api_key_revoke(ledger_id, id)
-- Revoke a key for ever; revoking it again changes nothing.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE ledger_id = $1 AND id = $2 RETURNING id;
