-- name: leader_lock(key)
-- Become the leader unless another session leads; the lock lasts as long as this session.
SELECT pg_try_advisory_lock($1::bigint) AS leads;

-- name: leader_ping()
-- Show the server that this session is alive.
SELECT true AS lives;

-- name: ledger_expiry_page(after, limit)
-- One page of all ledgers with the seconds until their next hold expires, negative once it is due; null without one.
SELECT l.id, extract(epoch FROM h.expires_at - ledger_clock())::float8 AS seconds
FROM (SELECT id FROM ledgers WHERE id > $1 ORDER BY id LIMIT $2) AS l
LEFT JOIN LATERAL (
    SELECT expires_at FROM transfer_progress WHERE ledger_id = l.id AND remaining > 0 ORDER BY expires_at LIMIT 1
) AS h ON true
ORDER BY l.id;

-- name: hold_due_page(ledger_id, after_at, after_id, limit)
-- One page of a ledger's due holds, by the instant of their expiry.
SELECT id, expires_at
FROM transfer_progress
WHERE ledger_id = $1 AND remaining > 0 AND expires_at >= $2::timestamptz AND (expires_at, id) > ($2::timestamptz, $3::uuid)
    AND expires_at <= (SELECT ledger_clock())
ORDER BY expires_at, id
LIMIT $4;
