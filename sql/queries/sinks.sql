-- name: sink_create(name, kind, ledger_id, options, from_now, sinks_max)
-- Create a sink that begins after the events so far, or with the first event; no row means that there are too many.
WITH made AS (
    INSERT INTO sinks (name, kind, ledger_id, options)
    SELECT $1::text, $2::text, $3::bigint, $4::json WHERE (SELECT count(*) FROM sinks) < $6::bigint
    RETURNING id
), begun AS (
    INSERT INTO sink_positions (ledger_id, sink_id, position)
    SELECT h.ledger_id, made.id, h.position
    FROM made CROSS JOIN feed_heads AS h
    WHERE $5::boolean AND h.position > 0 AND ($3::bigint IS NULL OR h.ledger_id = $3)
)
SELECT id FROM made;

-- name: sink_list()
-- All sinks by name, those of one ledger with its name.
SELECT s.id, s.name, s.kind, s.ledger_id, l.name AS ledger, s.options, s.state, s.revision, s.created_at,
       s.failing_since, s.error, s.error_at, r.name AS refused_ledger, s.refused_position
FROM sinks AS s
LEFT JOIN ledgers AS l ON l.id = s.ledger_id
LEFT JOIN ledgers AS r ON r.id = s.refused_ledger_id
ORDER BY s.name;

-- name: sink_pause(name)
-- Stop sending to a sink; a halted sink stays halted.
UPDATE sinks SET state = CASE state WHEN 'running' THEN 'paused' ELSE state END, revision = revision + 1
WHERE name = $1
RETURNING state;

-- name: sink_resume(name, skip)
-- Resume sending to a sink, without the event that its broker refused if that is to be skipped; return which it was.
WITH before AS (
    SELECT s.*, l.name AS ledger
    FROM sinks AS s
    LEFT JOIN ledgers AS l ON l.id = s.refused_ledger_id
    WHERE s.name = $1
    FOR NO KEY UPDATE OF s
), skipped AS (
    INSERT INTO sink_positions AS p (ledger_id, sink_id, position)
    SELECT refused_ledger_id, id, refused_position FROM before WHERE $2::boolean AND state = 'halted'
    ON CONFLICT (ledger_id, sink_id) DO UPDATE SET position = greatest(p.position, excluded.position)
)
UPDATE sinks AS s
SET state = 'running', revision = s.revision + 1, failing_since = NULL, refused_ledger_id = NULL, refused_position = NULL
FROM before AS b
WHERE s.id = b.id
RETURNING b.state, b.ledger AS refused_ledger, b.refused_position;

-- name: sink_delete(name)
-- Remove a sink and its positions.
DELETE FROM sinks WHERE name = $1 RETURNING id;

-- name: sink_failed(id, revision, error)
-- Record why nothing can be sent to a sink.
UPDATE sinks SET failing_since = coalesce(failing_since, now()), error = $3, error_at = now()
WHERE id = $1 AND revision = $2;

-- name: sink_works(id)
-- Record that a sink's broker has confirmed something.
UPDATE sinks SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL;

-- name: sink_halt(id, revision, ledger_id, position, error)
-- Stop sending to a sink because of an event that its broker will never take.
UPDATE sinks
SET state = 'halted', refused_ledger_id = $3, refused_position = $4, error = $5, error_at = now(),
    failing_since = coalesce(failing_since, now())
WHERE id = $1 AND revision = $2 AND state = 'running';

-- name: sink_behind_page(sink_id, ledger_id, after, limit)
-- One page of the ledgers that have events for a sink, its own or all, with the age in seconds of the first event.
SELECT b.ledger_id, b.position, b.head, extract(epoch FROM clock_timestamp() - f.posted_at)::float8 AS seconds
FROM (
    SELECT h.ledger_id, coalesce(p.position, 0) AS position, h.position AS head
    FROM feed_heads AS h
    LEFT JOIN sink_positions AS p ON p.ledger_id = h.ledger_id AND p.sink_id = $1
    WHERE h.ledger_id > $3 AND h.ledger_id BETWEEN coalesce($2::bigint, 0) AND coalesce($2::bigint, 9223372036854775807)
        AND h.position > coalesce(p.position, 0)
    ORDER BY h.ledger_id
    LIMIT $4
) AS b
CROSS JOIN LATERAL (
    SELECT posted_at FROM feed WHERE ledger_id = b.ledger_id AND position > b.position ORDER BY position LIMIT 1
) AS f
ORDER BY b.ledger_id;

-- name: sink_position_list(sink_id, ledgers)
-- A sink's position in each of these ledgers; a ledger in which it has not begun has no row.
SELECT ledger_id, position FROM sink_positions WHERE ledger_id = ANY ($2::bigint[]) AND sink_id = $1;

-- name: sink_position_store(sink_id, ledgers, positions)
-- Store a sink's positions, never backwards; nothing is stored for a sink that was removed.
INSERT INTO sink_positions AS p (ledger_id, sink_id, position)
SELECT n.ledger_id, s.id, n.position
FROM unnest($2::bigint[], $3::bigint[]) AS n (ledger_id, position)
JOIN sinks AS s ON s.id = $1
ORDER BY n.ledger_id
ON CONFLICT (ledger_id, sink_id) DO UPDATE SET position = greatest(p.position, excluded.position);
