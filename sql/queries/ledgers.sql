-- name: ledger_create(name)
-- Create a ledger unless one of that name exists.
INSERT INTO ledgers (name) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: ledger_by_name(name)
-- The ledger of that name.
SELECT id FROM ledgers WHERE name = $1;

-- name: ledger_list()
-- All ledgers, oldest first.
SELECT id, name, created_at FROM ledgers ORDER BY id;
