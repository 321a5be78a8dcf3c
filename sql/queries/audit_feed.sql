-- name: audit_head(ledger_id, samples)
-- A head that differs from the last row of the feed.
SELECT 'head_differs' AS kind, count(*) OVER () AS total,
       format('the head is position %s with link %s, the last row has position %s and link %s', h.position,
              encode(h.link, 'hex'), l.position, encode(l.link, 'hex')) AS detail
FROM (SELECT * FROM feed_heads WHERE ledger_id = $1) AS h
FULL JOIN (SELECT * FROM feed WHERE ledger_id = $1 ORDER BY position DESC LIMIT 1) AS l ON true
WHERE (h.position, h.link, h.peak) IS DISTINCT FROM (l.position, l.link, l.peak)
LIMIT $2;

-- name: audit_waiting(ledger_id, samples)
-- Transfers that wait in the outbox but do not exist.
SELECT 'feed_without_transfer' AS kind, count(*) OVER () AS total,
       format('waiting for their positions: there is no transfer %s', w.id) AS detail
FROM (SELECT unnest(transfers) AS id FROM outbox WHERE ledger_id = $1) AS w
LEFT JOIN transfers AS t ON t.ledger_id = $1 AND t.id = w.id
WHERE t.id IS NULL
ORDER BY w.id
LIMIT $2;

-- name: feed_range(ledger_id, after, events)
-- How far a page of so many events reaches, in whole rows and at least one of them; null if no row follows.
SELECT max(position) AS upto, coalesce(sum(size), 0) AS events
FROM feed
WHERE ledger_id = $1 AND position > $2::bigint AND position <= greatest(
    least($2, 9223372036854775807 - $3::bigint) + $3,
    (SELECT position FROM feed WHERE ledger_id = $1 AND position > $2 ORDER BY position LIMIT 1)
);

-- name: audit_feed(ledger_id, samples, after, upto)
-- Rows of a part of the feed that do not follow the row before them, or do not match what they cover.
WITH page AS MATERIALIZED (
    SELECT *, lag(position, 1, $3) OVER w AS position_before, lag(link, 1, (
               SELECT link FROM feed WHERE ledger_id = $1 AND position = $3
           )) OVER w AS link_before, lag(peak, 1, (
               SELECT peak FROM feed WHERE ledger_id = $1 AND position = $3
           )) OVER w AS peak_before
    FROM feed
    WHERE ledger_id = $1 AND position > $3::bigint AND position <= $4::bigint
    WINDOW w AS (ORDER BY position)
), covered AS (
    SELECT p.position, count(i.id) AS named, min(i.id::text) FILTER (WHERE t.id IS NULL) AS missing,
           bit_or(event_type(t.kind, t.refusal)) AS types, bool_and(t.created_at = p.posted_at) AS is_of_then,
           string_agg(t.text, E'\n' ORDER BY i.place) AS text
    FROM page AS p
    CROSS JOIN LATERAL unnest(p.transfers) WITH ORDINALITY AS i (id, place)
    LEFT JOIN LATERAL (
        -- Found one by one, whatever the planner believes of the tables.
        SELECT t.id, t.kind, t.refusal, t.created_at, transfer_text(t) AS text
        FROM transfers AS t
        WHERE t.ledger_id = $1 AND t.id = i.id
        OFFSET 0
    ) AS t ON true
    GROUP BY p.position
), judged AS (
    SELECT p.*, c.missing,
           CASE WHEN p.position - p.size <> p.position_before THEN 1 ELSE 0 END
               | CASE WHEN c.missing IS NOT NULL THEN 2 ELSE 0 END
               | CASE WHEN c.missing IS NULL AND (
                               (p.size, p.types, p.peak) IS DISTINCT FROM (
                                   coalesce(c.named, 1), coalesce(c.types, event_type(p.change ->> 'type', NULL)),
                                   greatest(p.peak_before, p.posted_at))
                               OR NOT c.is_of_then OR p.account <> p.change -> 'account' ->> 'id')
                      THEN 4 ELSE 0 END
               | CASE WHEN p.link IS DISTINCT FROM sha256(coalesce(p.link_before, '') || int8send($1) || int8send(p.position) || sha256(
                               convert_to(coalesce(change_text(p.posted_at, p.account, p.change), c.text), 'UTF8')))
                      THEN 8 ELSE 0 END AS faults
    FROM page AS p
    LEFT JOIN covered AS c ON c.position = p.position
)
SELECT kind, total, CASE bit
    WHEN 1 THEN format('position %s: its row begins behind position %s, the row before it ends at %s', position,
                       position - size, position_before)
    WHEN 2 THEN format('position %s: there is no transfer %s', position, missing)
    WHEN 4 THEN format('position %s: its row says another size, type, instant or account than what it covers, %s',
                       position, what)
    ELSE format('position %s: the link does not fit what it covers, %s', position, what)
    END AS detail
FROM (
    SELECT j.*, k.*, CASE WHEN change IS NOT NULL THEN format('%s of %s', change ->> 'type', account)
                          ELSE format('transfers: %s', array_to_string(transfers[:5], ', ')) END AS what, count(*) OVER (PARTITION BY bit) AS total,
           row_number() OVER (PARTITION BY bit ORDER BY position) AS place
    FROM (SELECT * FROM judged WHERE faults <> 0) AS j
    JOIN (VALUES
        (1, 'feed_gap'), (2, 'feed_without_transfer'), (4, 'feed_differs'), (8, 'link_differs')
    ) AS k (bit, kind) ON faults & k.bit <> 0
) AS w
WHERE place <= $2
ORDER BY bit, place;

-- name: transfer_newest(ledger_id)
-- The newest id of all transfers.
SELECT id FROM transfers WHERE ledger_id = $1 ORDER BY id DESC LIMIT 1;

-- name: transfer_range(ledger_id, first, limit)
-- The number of transfers in a page, refused ones too, and the last of them.
SELECT count(*) AS transfers, (array_agg(id ORDER BY id DESC))[1] AS upto
FROM (SELECT id FROM transfers WHERE ledger_id = $1 AND id >= $2 ORDER BY id LIMIT $3) AS t;

-- name: audit_told(ledger_id, samples, first, last, waiting_max)
-- Transfers of a part of a ledger that are not told exactly once: in the feed, or in the outbox, where they wait.
-- If more batches wait than are examined, a transfer that is not in the feed is taken to wait.
WITH page AS MATERIALIZED (
    -- By id, so that no plan reads through the index over keys: rows that it lacks would be missed here, too.
    SELECT id, created_at FROM transfers WHERE ledger_id = $1 AND id >= $3 AND id <= $4 ORDER BY id
), told AS (
    SELECT i.id, count(*) AS times
    FROM (SELECT DISTINCT created_at FROM page) AS p
    CROSS JOIN LATERAL (SELECT * FROM feed WHERE ledger_id = $1 AND posted_at = p.created_at OFFSET 0) AS f
    CROSS JOIN LATERAL unnest(f.transfers) AS i (id)
    GROUP BY i.id
), other AS MATERIALIZED (
    SELECT p.id, coalesce(t.times, 0) AS times FROM page AS p LEFT JOIN told AS t ON t.id = p.id
    WHERE t.times IS DISTINCT FROM 1
), waiting AS MATERIALIZED (
    SELECT transfers FROM outbox WHERE ledger_id = $1 AND (SELECT EXISTS (SELECT FROM other)) LIMIT $5
), judged AS (
    SELECT o.id, o.times + count(w.id) AS times
    FROM other AS o
    LEFT JOIN (SELECT unnest(transfers) AS id FROM waiting) AS w ON w.id = o.id
    GROUP BY o.id, o.times
)
SELECT kind, count(*) OVER (PARTITION BY kind) AS total, format('transfer %s: told %s times', id, times) AS detail
FROM (
    SELECT *, CASE times WHEN 0 THEN 'transfer_untold' ELSE 'transfer_told_twice' END AS kind
    FROM judged
    WHERE times > 1 OR times = 0 AND ((SELECT count(*) FROM waiting) < $5) IS NOT FALSE
) AS j
ORDER BY kind, id
LIMIT $2;
