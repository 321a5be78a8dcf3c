-- columns: webhook_endpoint_columns
-- id, url, types, description, disabled, position, replay, version, created_at,
-- ARRAY(
--     SELECT s.secret FROM unnest(secrets, secrets_until) WITH ORDINALITY AS s (secret, until, number)
--     WHERE s.until > ledger_clock() ORDER BY s.number
-- ) AS secrets

-- name: webhook_endpoint_create(ledger_id, id, url, types, description, secret, places)
-- Create an endpoint at the present end of the feed, in the ledger's first free place; no row if no place was free.
INSERT INTO webhook_endpoints (ledger_id, id, url, types, description, position, place, secrets, secrets_until)
SELECT $1, $2, $3, $4, $5, coalesce((SELECT h.position FROM feed_heads AS h WHERE h.ledger_id = $1), 0), n.place,
       ARRAY[$6::bytea], ARRAY['infinity'::timestamptz]
FROM generate_series(1, $7::integer) AS n (place)
WHERE NOT EXISTS (SELECT FROM webhook_endpoints AS e WHERE e.ledger_id = $1 AND e.place = n.place)
ORDER BY n.place
LIMIT 1
ON CONFLICT DO NOTHING
RETURNING {webhook_endpoint_columns};

-- name: webhook_endpoint_read(ledger_id, id)
-- One endpoint.
SELECT {webhook_endpoint_columns} FROM webhook_endpoints WHERE ledger_id = $1 AND id = $2;

-- name: webhook_endpoint_page(ledger_id, after, limit)
-- One page of the endpoints of a ledger, in the order of their creation.
SELECT {webhook_endpoint_columns} FROM webhook_endpoints WHERE ledger_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: webhook_endpoint_locked_many(ledger_id, ids)
-- The endpoints whose rows another transaction has locked, found without waiting; each write gives another version.
WITH free AS (
    SELECT id FROM webhook_endpoints
    WHERE ledger_id = $1 AND id = ANY ($2::text[]::uuid[])
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
)
SELECT id::text AS name, xmin::text::bigint AS version FROM webhook_endpoints
WHERE ledger_id = $1 AND id = ANY ($2::text[]::uuid[]) AND id NOT IN (SELECT id FROM free);

-- name: webhook_endpoint_change(ledger_id, id, url, types, describes, description, enabled)
-- Change what is not null of an endpoint, and its description if asked; enabling it removes the reason it was disabled.
UPDATE webhook_endpoints
SET url = coalesce($3, url),
    types = coalesce($4, types),
    description = CASE WHEN $5::boolean THEN $6 ELSE description END,
    disabled = CASE $7::boolean WHEN true THEN NULL WHEN false THEN coalesce(disabled, 'requested') ELSE disabled END,
    version = version + 1
WHERE ledger_id = $1 AND id = $2
RETURNING {webhook_endpoint_columns};

-- name: webhook_endpoint_delete(ledger_id, id)
-- Remove an endpoint with everything that is known of it.
DELETE FROM webhook_endpoints WHERE ledger_id = $1 AND id = $2 RETURNING id;

-- name: webhook_endpoint_rotate(ledger_id, id, secret, overlap_seconds, secrets_max)
-- Give an endpoint a new secret; the old one signs for a while, and still older ones until their instants.
UPDATE webhook_endpoints
SET secrets = ($3::bytea || secrets)[1:$5::integer],
    secrets_until = (
        ARRAY['infinity', ledger_clock() + $4::float8 * interval '1 second'] || secrets_until[2:]
    )[1:$5::integer],
    version = version + 1
WHERE ledger_id = $1 AND id = $2
RETURNING {webhook_endpoint_columns};

-- name: webhook_endpoint_replay(ledger_id, id, from_position)
-- Move an endpoint back, never forward; events from there on that waited or were given up are sent with the others.
WITH forgotten AS (
    DELETE FROM webhook_retries WHERE ledger_id = $1 AND endpoint_id = $2 AND position >= $3
)
UPDATE webhook_endpoints
SET position = least(position, $3 - 1), replay = replay + 1, version = version + 1
WHERE ledger_id = $1 AND id = $2
RETURNING {webhook_endpoint_columns};

-- name: webhook_attempt_page(ledger_id, endpoint_id, before, limit)
-- One page of the recent attempts at an endpoint, newest first.
SELECT id, position, type, attempt, outcome, status, error, attempted_at, duration_ms, answer
FROM webhook_attempts
WHERE ledger_id = $1 AND endpoint_id = $2 AND id < $3
ORDER BY id DESC
LIMIT $4;

-- name: webhook_retry_page(ledger_id, endpoint_id, after, limit)
-- One page of the events that have not arrived at an endpoint, in order.
SELECT position, attempts, attempted_at, due_at
FROM webhook_retries
WHERE ledger_id = $1 AND endpoint_id = $2 AND position > $3
ORDER BY position
LIMIT $4;

-- name: webhook_retry_due(ledger_id, endpoint_id, limit)
-- The events whose next attempt at an endpoint is due, the longest due first.
SELECT position, attempts
FROM webhook_retries
WHERE ledger_id = $1 AND endpoint_id = $2 AND due_at <= (SELECT ledger_clock())
ORDER BY due_at
LIMIT $3;

-- name: webhook_work_page(after_ledger, after_id, limit)
-- One page of the endpoints of all ledgers that are sent events, with what each may have to be sent now.
SELECT e.ledger_id, e.id, e.version, greatest(0, coalesce(h.position, 0) - e.position) AS behind,
       coalesce(r.due_at <= c.clock, false) AS due
FROM (SELECT ledger_clock() AS clock) AS c
CROSS JOIN (
    SELECT ledger_id, id, version, position FROM webhook_endpoints
    WHERE (ledger_id, id) > ($1, $2) AND disabled IS NULL
    ORDER BY ledger_id, id LIMIT $3
) AS e
LEFT JOIN LATERAL (SELECT position FROM feed_heads WHERE ledger_id = e.ledger_id) AS h ON true
LEFT JOIN LATERAL (
    SELECT due_at FROM webhook_retries
    WHERE ledger_id = e.ledger_id AND endpoint_id = e.id AND due_at IS NOT NULL
    ORDER BY due_at LIMIT 1
) AS r ON true
ORDER BY e.ledger_id, e.id;

-- name: webhook_attempt_record(ledger_ids, endpoint_ids, replays, reached, positions, attempts, outcomes, due_seconds, ids, types, attempted_at, durations_ms, statuses, errors, answers, waiting_max)
-- Record the outcomes of attempts at many endpoints, and return whether the position moved on; null if locked rows kept it from being recorded.
WITH told AS MATERIALIZED (
    SELECT t.*
    FROM unnest(
        $1::bigint[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[], $6::integer[], $7::text[], $8::float8[],
        $9::uuid[], $10::text[], $11::timestamptz[], $12::integer[], $13::integer[], $14::text[], $15::bytea[]
    ) WITH ORDINALITY AS t (
        ledger_id, endpoint_id, replay, reached, position, attempt, outcome, due_seconds,
        id, type, attempted_at, duration_ms, status, error, answer, number
    )
), locked AS MATERIALIZED (
    -- What another session has locked is left: the outcomes at other endpoints do not wait for it.
    SELECT e.ledger_id, e.id, e.replay, e.position
    FROM webhook_endpoints AS e
    WHERE (e.ledger_id, e.id) IN (SELECT t.ledger_id, t.endpoint_id FROM told AS t)
    FOR NO KEY UPDATE SKIP LOCKED
), retries AS MATERIALIZED (
    SELECT r.ledger_id, r.endpoint_id, r.position
    FROM webhook_retries AS r
    WHERE (r.ledger_id, r.endpoint_id, r.position) IN (
        SELECT t.ledger_id, t.endpoint_id, t.position FROM told AS t WHERE t.reached IS NULL
    )
    FOR UPDATE SKIP LOCKED
), held AS MATERIALIZED (
    SELECT t.number FROM told AS t
    WHERE EXISTS (
        SELECT FROM webhook_endpoints AS e
        WHERE e.ledger_id = t.ledger_id AND e.id = t.endpoint_id
          AND (e.ledger_id, e.id) NOT IN (SELECT l.ledger_id, l.id FROM locked AS l)
    ) OR t.reached IS NULL AND EXISTS (
        SELECT FROM webhook_retries AS r
        WHERE r.ledger_id = t.ledger_id AND r.endpoint_id = t.endpoint_id AND r.position = t.position
          AND (r.ledger_id, r.endpoint_id, r.position) NOT IN (
              SELECT w.ledger_id, w.endpoint_id, w.position FROM retries AS w
          )
    )
), judged AS MATERIALIZED (
    -- A first attempt moves the position on, unless another transaction has moved it, the endpoint is gone, or the
    -- attempt failed and too many events wait already.
    SELECT t.*, l.replay = t.replay AND l.position < t.reached AND t.outcome IS DISTINCT FROM 'gone'
        AND CASE WHEN t.reached IS NULL OR t.outcome IS DISTINCT FROM 'failed' THEN true ELSE (
            SELECT count(*) FROM (
                SELECT FROM webhook_retries AS r
                WHERE r.ledger_id = t.ledger_id AND r.endpoint_id = t.endpoint_id AND r.due_at IS NOT NULL
                LIMIT $16::integer
            ) AS waiting
        ) < $16 END AS moves
    FROM told AS t JOIN locked AS l ON l.ledger_id = t.ledger_id AND l.id = t.endpoint_id
    WHERE t.number NOT IN (SELECT h.number FROM held AS h)
), changed AS (
    UPDATE webhook_endpoints AS e
    SET position = greatest(e.position, j.reached),
        disabled = CASE WHEN j.gone THEN 'gone' ELSE e.disabled END,
        version = e.version + j.gone::integer
    FROM (
        SELECT ledger_id, endpoint_id, max(reached) FILTER (WHERE moves) AS reached,
               coalesce(bool_or(outcome = 'gone'), false) AS gone
        FROM judged GROUP BY ledger_id, endpoint_id
    ) AS j
    WHERE e.ledger_id = j.ledger_id AND e.id = j.endpoint_id AND (j.reached IS NOT NULL OR j.gone)
), begun AS (
    INSERT INTO webhook_retries (ledger_id, endpoint_id, position, attempts, attempted_at, due_at)
    SELECT ledger_id, endpoint_id, position, attempt, attempted_at,
           ledger_clock() + due_seconds * interval '1 second'
    FROM judged WHERE moves AND outcome = 'failed'
    ON CONFLICT DO NOTHING
), retried AS (
    UPDATE webhook_retries AS r
    SET attempts = j.attempt, attempted_at = j.attempted_at,
        due_at = ledger_clock() + j.due_seconds * interval '1 second'
    FROM judged AS j
    WHERE r.ledger_id = j.ledger_id AND r.endpoint_id = j.endpoint_id AND r.position = j.position
      AND r.attempts < j.attempt AND j.reached IS NULL AND j.outcome IN ('failed', 'dead')
), arrived AS (
    DELETE FROM webhook_retries AS r
    USING judged AS j
    WHERE r.ledger_id = j.ledger_id AND r.endpoint_id = j.endpoint_id AND r.position = j.position
      AND j.reached IS NULL AND j.outcome = 'delivered'
), logged AS (
    INSERT INTO webhook_attempts (
        ledger_id, endpoint_id, id, position, type, attempt, outcome, status, error, attempted_at, duration_ms, answer
    )
    SELECT ledger_id, endpoint_id, id, position, type, attempt, outcome, status, error, attempted_at, duration_ms, answer
    FROM judged WHERE outcome IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT t.number, CASE WHEN h.number IS NULL THEN coalesce(j.moves, false) END AS moved
FROM told AS t LEFT JOIN judged AS j USING (number) LEFT JOIN held AS h USING (number)
ORDER BY t.number;

-- name: webhook_endpoint_key_page(after_ledger, after_id, limit)
-- One page of the endpoints of all ledgers.
SELECT ledger_id, id FROM webhook_endpoints WHERE (ledger_id, id) > ($1, $2) ORDER BY ledger_id, id LIMIT $3;

-- name: webhook_secret_list(limit)
-- The secrets of endpoints, those of the newest ledgers first.
SELECT secrets FROM webhook_endpoints ORDER BY ledger_id DESC, id DESC LIMIT $1;

-- name: webhook_attempt_prune(ledger_id, endpoint_id, kept, oldest, limit)
-- Remove attempts at an endpoint except the newest, and those before the oldest, a bounded number.
DELETE FROM webhook_attempts
WHERE ledger_id = $1 AND endpoint_id = $2 AND id <= (
    SELECT o.id FROM (
        SELECT a.id FROM webhook_attempts AS a
        WHERE a.ledger_id = $1 AND a.endpoint_id = $2 AND a.id < greatest($4::uuid, (
            SELECT k.id FROM webhook_attempts AS k
            WHERE k.ledger_id = $1 AND k.endpoint_id = $2
            ORDER BY k.id DESC OFFSET $3::bigint - 1 LIMIT 1
        ))
        ORDER BY a.id LIMIT $5
    ) AS o
    ORDER BY o.id DESC LIMIT 1
)
RETURNING id;

-- name: webhook_dead_prune(ledger_id, endpoint_id, days, limit)
-- Remove events of an endpoint that were given up long ago, a bounded number.
DELETE FROM webhook_retries
WHERE ledger_id = $1 AND endpoint_id = $2 AND due_at IS NULL AND attempted_at <= (
    SELECT o.attempted_at FROM (
        SELECT d.attempted_at FROM webhook_retries AS d
        WHERE d.ledger_id = $1 AND d.endpoint_id = $2 AND d.due_at IS NULL
            AND d.attempted_at < (SELECT ledger_clock() - $3::integer * interval '1 day')
        ORDER BY d.attempted_at LIMIT $4
    ) AS o
    ORDER BY o.attempted_at DESC LIMIT 1
)
RETURNING position;
