-- name: export_begin()
-- The instant by which an export tells open holds from due ones.
SELECT ledger_clock() AS now;

-- name: export_count(ledger_id, from, to)
-- About how many records an export has, to show its progress.
SELECT (SELECT count(*) FROM accounts WHERE ledger_id = $1)
    + (SELECT count(*) FROM transfers
       WHERE ledger_id = $1 AND moves IS NOT NULL
         AND created_at >= $2::timestamptz AND created_at < $3::timestamptz) AS records;

-- name: export_accounts(ledger_id)
-- All accounts of a ledger, by id.
SELECT id, currency, floor, ceiling, closed, metadata, created_at
FROM accounts
WHERE ledger_id = $1
ORDER BY id;

-- name: export_transfers(ledger_id, from, to, now)
-- Everything posted except expiries, in the order of posting, each with its place in that order; parents by key.
SELECT t.created_at AS place, t.id, t.idempotency_key AS key, t.kind,
       (SELECT p.idempotency_key FROM transfers AS p WHERE p.ledger_id = $1 AND p.id = t.parent) AS parent,
       t.source, t.destination, t.amount, t.currency, coalesce(t.effective_at, t.created_at) AS effective_at, t.created_at,
       -- Only of an open hold; whatever ended any other hold is exported, too.
       CASE WHEN t.kind = 'hold' THEN (
           SELECT p.expires_at FROM transfer_progress AS p
           WHERE p.ledger_id = $1 AND p.id = t.id AND p.remaining > 0 AND p.expires_at > $4::timestamptz
       ) END AS expires_at,
       t.release_rest, t.reference, t.description, t.metadata, t.source_version, t.destination_version
FROM (
    SELECT * FROM transfers
    WHERE ledger_id = $1 AND moves AND created_at >= $2::timestamptz AND created_at < $3::timestamptz
    UNION ALL
    SELECT * FROM transfers
    WHERE ledger_id = $1 AND NOT moves AND kind <> 'expiry'
      AND created_at >= $2::timestamptz AND created_at < $3::timestamptz
) AS t
ORDER BY t.created_at, t.id;

-- name: export_expiries(ledger_id, from, to, now)
-- The expiries of all holds that are gone at an instant, posted or not; each has the place where it took effect.
SELECT least(p.expires_at, e.created_at) AS place, coalesce(e.id, p.id) AS id, NULL::text AS key, 'expiry' AS kind,
       h.idempotency_key AS parent, p.source, p.destination, p.amount - p.captured AS amount, h.currency,
       coalesce(e.effective_at, p.expires_at) AS effective_at, e.created_at, NULL::timestamptz AS expires_at,
       NULL::boolean AS release_rest, NULL::text AS reference, NULL::text AS description, '{}'::json AS metadata,
       e.source_version, e.destination_version
FROM transfer_progress AS p
JOIN transfers AS h ON h.ledger_id = p.ledger_id AND h.id = p.id
-- An expiry that has not been posted yet has no row.
LEFT JOIN transfers AS e ON e.ledger_id = p.ledger_id AND e.idempotency_key = 'expiry ' || p.id
WHERE p.ledger_id = $1 AND (p.state = 'expired' OR p.remaining > 0 AND p.expires_at <= $4::timestamptz)
  AND least(p.expires_at, e.created_at) >= $2::timestamptz AND least(p.expires_at, e.created_at) < $3::timestamptz
ORDER BY place, id;
