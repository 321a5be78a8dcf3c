-- name: audit_round_next(after, rest_seconds)
-- The next ledger whose round is in progress or due: its last round began that long ago, or it has had none.
SELECT l.id, coalesce(r.revision, 0) AS revision, r.began_at, r.running, r.last
FROM ledgers AS l
LEFT JOIN audit_rounds AS r ON r.ledger_id = l.id
WHERE l.id > $1 AND (
    r.ledger_id IS NULL OR r.running IS NOT NULL OR r.began_at < clock_timestamp() - make_interval(secs => $2)
)
ORDER BY l.id
LIMIT 1;

-- name: audit_round_save(ledger_id, revision, began_at, ended_at, findings, running, last)
-- Store how far a round has come, unless another auditor has changed the row since it was read.
INSERT INTO audit_rounds AS r (ledger_id, revision, began_at, ended_at, findings, running, last)
VALUES ($1, $2 + 1, $3, $4, $5, $6, $7)
ON CONFLICT ON CONSTRAINT audit_rounds_pkey DO UPDATE
SET revision = excluded.revision, began_at = excluded.began_at, ended_at = coalesce(excluded.ended_at, r.ended_at),
    findings = excluded.findings, running = excluded.running, last = coalesce(excluded.last, r.last)
WHERE r.revision = $2
RETURNING revision;

-- name: audit_round_read(ledger_id)
-- The head of the chain and the rounds of a ledger, one row.
SELECT h.position, h.link, h.peak, r.running, r.last
FROM (SELECT $1::bigint AS id) AS l
LEFT JOIN feed_heads AS h ON h.ledger_id = l.id
LEFT JOIN audit_rounds AS r ON r.ledger_id = l.id;

-- name: audit_round_total()
-- The number of known errors over all ledgers, and the seconds since the ledger that waits longest was checked.
SELECT coalesce(sum(r.findings), 0)::bigint AS findings,
       coalesce(extract(epoch FROM clock_timestamp() - min(coalesce(r.ended_at, l.created_at))), 0)::float8 AS age_seconds
FROM ledgers AS l
LEFT JOIN audit_rounds AS r ON r.ledger_id = l.id;
