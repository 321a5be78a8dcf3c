-- columns: api_key_columns
-- id, role, description, accounts::text[] AS accounts, rate_quota, rate_window, burst, concurrency, created_at, expires_at,
-- revoked_at, last_used_at,
-- (SELECT max(f.until) FROM unnest(former_until) AS f (until) WHERE f.until > ledger_clock() AND revoked_at IS NULL)
-- AS former_until

-- Whether the key sees only accounts whose ids begin with one of these prefixes; null is the whole ledger.
-- columns: api_key_is_within
-- ($3::text[] IS NULL OR accounts IS NOT NULL AND NOT EXISTS (
--     SELECT FROM unnest(accounts::text[]) AS p (prefix) WHERE NOT p.prefix ^@ ANY ($3::text[])
-- ))

-- name: api_key_create(ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency, description, expires_at, accounts, keys_max)
-- Store the digest of a new key's secret, and what the key may do; the same key again changes nothing; no row if full.
-- Keys that are made at the same moment do not count one another: some few may be too many.
INSERT INTO api_keys AS k
    (ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency, description, expires_at, accounts)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text[]
WHERE (
    SELECT count(*) FROM (
        SELECT FROM api_keys AS l WHERE l.ledger_id = $1 AND l.revoked_at IS NULL LIMIT $12::integer
    ) AS live
) < $12 OR EXISTS (SELECT FROM api_keys AS s WHERE s.ledger_id = $1 AND s.id = $2)
ON CONFLICT (ledger_id, id) DO UPDATE SET revoked_at = k.revoked_at
RETURNING {api_key_columns};

-- name: api_key_withdraw(ledger_id, id, digest, role)
-- Revoke a key that may or may not have been made: its row exists afterwards, and no later attempt makes it live.
INSERT INTO api_keys (ledger_id, id, digest, role, revoked_at) VALUES ($1, $2, $3, $4, now())
ON CONFLICT (ledger_id, id) DO UPDATE SET revoked_at = coalesce(api_keys.revoked_at, excluded.revoked_at);

-- name: api_key_read(ledger_id, id, within)
-- A key, revoked or not.
SELECT {api_key_columns} FROM api_keys WHERE ledger_id = $1 AND id = $2 AND {api_key_is_within};

-- name: api_key_page(ledger_id, limit, within, before_at, before_id)
-- One page of the keys of a ledger, newest first, revoked ones too.
SELECT {api_key_columns} FROM api_keys
WHERE ledger_id = $1 AND (created_at, id) < ($4::timestamptz, $5::text) AND {api_key_is_within}
ORDER BY created_at DESC, id DESC
LIMIT $2;

-- name: api_key_locked_many(ledger_id, ids)
-- The keys whose rows another transaction has locked, found without waiting for any; each write gives another version.
WITH free AS (
    SELECT id FROM api_keys
    WHERE ledger_id = $1 AND id = ANY ($2::text[])
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT id AS name, xmin::text::bigint AS version FROM api_keys
WHERE ledger_id = $1 AND id = ANY ($2::text[]) AND id NOT IN (SELECT id FROM free);

-- name: api_key_change(ledger_id, id, within, named, rate_quota, rate_window, burst, concurrency, description, expires_at, accounts, quota_seen, window_seen, burst_seen)
-- Change the named fields of a key that is not revoked, unless its rate or burst is not as seen; a null resets a field.
UPDATE api_keys
SET rate_quota = CASE WHEN 'rate' = ANY ($4::text[]) THEN $5::integer ELSE rate_quota END,
    rate_window = CASE WHEN 'rate' = ANY ($4::text[]) THEN $6::integer ELSE rate_window END,
    burst = CASE WHEN 'burst' = ANY ($4::text[]) THEN $7::integer ELSE burst END,
    concurrency = CASE WHEN 'concurrency' = ANY ($4::text[]) THEN $8::integer ELSE concurrency END,
    description = CASE WHEN 'description' = ANY ($4::text[]) THEN $9::text ELSE description END,
    expires_at = CASE WHEN 'expires_at' = ANY ($4::text[]) THEN $10::timestamptz ELSE expires_at END,
    accounts = CASE WHEN 'accounts' = ANY ($4::text[]) THEN $11::text[] ELSE accounts END
WHERE ledger_id = $1 AND id = $2 AND {api_key_is_within} AND revoked_at IS NULL
  AND rate_quota IS NOT DISTINCT FROM $12::integer
  AND rate_window IS NOT DISTINCT FROM $13::integer
  AND burst IS NOT DISTINCT FROM $14::integer
RETURNING {api_key_columns};

-- name: api_key_rotate(ledger_id, id, within, digest, overlap_seconds, former_max)
-- Give a live key a new secret; earlier ones open it for the overlap and no longer. The same again changes little.
UPDATE api_keys
SET digest = $4,
    (former_digests, former_until) = (
        SELECT coalesce(array_agg(f.digest ORDER BY f.place), '{}'),
               coalesce(array_agg(least(f.until, ledger_clock() + $5::float8 * interval '1 second') ORDER BY f.place), '{}')
        FROM (
            SELECT * FROM unnest(digest || former_digests, 'infinity'::timestamptz || former_until)
                WITH ORDINALITY AS u (digest, until, place)
            WHERE u.digest <> $4 AND u.until > ledger_clock()
            ORDER BY u.place
            LIMIT $6
        ) AS f
    )
WHERE ledger_id = $1 AND id = $2 AND {api_key_is_within}
  AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ledger_clock())
RETURNING {api_key_columns};

-- name: api_key_revoke(ledger_id, id, within)
-- Revoke a key for ever; revoking it again changes nothing.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
WHERE ledger_id = $1 AND id = $2 AND {api_key_is_within}
RETURNING {api_key_columns};

-- name: api_key_read_many(ledger_ids, ids)
-- Those of these keys that still open something, with the seconds for which their secrets do.
-- The question is whose keys they are, so it spans ledgers.
SELECT k.ledger_id, k.id, k.digest, k.role, k.accounts::text[] AS accounts, k.rate_quota, k.rate_window, k.burst,
       k.concurrency, extract(epoch FROM k.expires_at - ledger_clock())::float8 AS seconds_left, k.former_digests,
       ARRAY(
           SELECT extract(epoch FROM f.until - ledger_clock())::float8
           FROM unnest(k.former_until) WITH ORDINALITY AS f (until, place) ORDER BY f.place
       ) AS former_seconds_left
FROM unnest($1::bigint[], $2::text[]) AS w (ledger_id, id)
JOIN api_keys AS k ON k.ledger_id = w.ledger_id AND k.id = w.id
WHERE k.revoked_at IS NULL;

-- name: api_key_use_many(ledger_ids, ids, seconds_ago)
-- Record the minutes in which keys were last used, and return the keys that are left because their rows are locked; it spans ledgers.
WITH used AS (
    SELECT k.ledger_id, k.id, date_trunc('minute', ledger_clock() - w.seconds_ago * interval '1 second') AS at
    FROM unnest($1::bigint[], $2::text[], $3::float8[]) AS w (ledger_id, id, seconds_ago)
    JOIN api_keys AS k ON k.ledger_id = w.ledger_id AND k.id = w.id
    FOR NO KEY UPDATE OF k SKIP LOCKED
), written AS (
    UPDATE api_keys AS k SET last_used_at = used.at
    FROM used
    WHERE k.ledger_id = used.ledger_id AND k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < used.at)
)
SELECT w.ledger_id, w.id
FROM unnest($1::bigint[], $2::text[]) AS w (ledger_id, id)
JOIN api_keys AS k ON k.ledger_id = w.ledger_id AND k.id = w.id
WHERE (w.ledger_id, w.id) NOT IN (SELECT u.ledger_id, u.id FROM used AS u);
