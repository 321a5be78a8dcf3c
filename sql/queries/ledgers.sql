-- name: ledger_create(name)
-- Create a ledger unless one of that name exists.
INSERT INTO ledgers (name) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: ledger_by_name(name)
-- The ledger of that name.
SELECT id FROM ledgers WHERE name = $1;

-- name: ledger_list()
-- All ledgers, oldest first.
SELECT id, name, created_at FROM ledgers ORDER BY id;

-- name: ledger_summary(ledger_id, counted_max)
-- A ledger: its accounts and transfers, counted up to a number, the auditor's counts, and its first and last transfer.
SELECT l.name, l.created_at,
       (SELECT count(*) FROM (SELECT FROM accounts WHERE ledger_id = $1 LIMIT $2) AS a) AS accounts,
       (SELECT count(*) FROM (SELECT FROM transfers WHERE ledger_id = $1 LIMIT $2) AS t) AS transfers,
       coalesce((SELECT position FROM feed_heads WHERE ledger_id = $1), 0) AS events,
       (SELECT last FROM audit_rounds WHERE ledger_id = $1) AS audited,
       oldest.id AS oldest_id, oldest.created_at AS oldest_at, newest.id AS newest_id, newest.created_at AS newest_at
FROM ledgers AS l
LEFT JOIN LATERAL (
    (SELECT id, created_at FROM transfers WHERE ledger_id = $1 AND moves ORDER BY created_at, id LIMIT 1)
    UNION ALL
    (SELECT id, created_at FROM transfers WHERE ledger_id = $1 AND NOT moves ORDER BY created_at, id LIMIT 1)
    ORDER BY created_at, id
    LIMIT 1
) AS oldest ON true
LEFT JOIN LATERAL (
    (SELECT id, created_at FROM transfers WHERE ledger_id = $1 AND moves ORDER BY created_at DESC, id DESC LIMIT 1)
    UNION ALL
    (SELECT id, created_at FROM transfers WHERE ledger_id = $1 AND NOT moves ORDER BY created_at DESC, id DESC LIMIT 1)
    ORDER BY created_at DESC, id DESC
    LIMIT 1
) AS newest ON true
WHERE l.id = $1;
