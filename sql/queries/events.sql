-- name: outbox_relay(since, running, rows, events, locked)
-- Give committed events their positions in the feed, and return which ledgers have new ones.
SELECT rows_relayed, events_relayed, oldest, whole, ledgers, since::text, running::text[], locked
FROM relay_outbox($1::text::xid8, $2::text[]::xid8[], $3, $4, $5);

-- name: feed_positions(ledgers)
-- The newest position of each of these ledgers; a ledger without events has no row.
SELECT ledger_id, position FROM feed_heads WHERE ledger_id = ANY ($1::bigint[]);

-- name: ledger_name(ledger_id)
-- The name of a ledger.
SELECT name FROM ledgers WHERE id = $1;

-- The first transfer from an id on is looked up: only the index of ids serves that, whatever the planner believes.
-- columns: event_with_transfer
-- SELECT e.position, e.posted_at, e.account, e.change, t.*
-- FROM event AS e
-- LEFT JOIN LATERAL (
--     SELECT * FROM transfers WHERE ledger_id = $1 AND id >= e.id ORDER BY id LIMIT 1
-- ) AS t ON t.id = e.id

-- name: event_page(ledger_id, after, examined, types, limit, accounts)
-- Events of some types after a position, in order, from so many that are examined; each row says how far the look went.
-- If prefixes of accounts are given, only events that name such an account. If plain transfers are not asked for, an
-- index of their own finds the other types.
WITH batch AS (
    SELECT b.*, (sum(b.events) OVER (ORDER BY b.position))::bigint - b.events AS before
    FROM (
        SELECT f.*, f.position - greatest(f.position - f.size, $2) AS events FROM (
            (SELECT * FROM feed
             WHERE ledger_id = $1 AND position > $2 AND $4::integer & 1 <> 0
             ORDER BY position
             LIMIT $3)
            UNION ALL
            (SELECT * FROM feed
             WHERE ledger_id = $1 AND position > $2 AND types <> 1 AND $4 & 1 = 0
             ORDER BY position
             LIMIT $3)
        ) AS f
    ) AS b
), event AS (
    -- The events of a batch that are after the position, as far as they are examined.
    SELECT b.position - b.size + i.place AS position, b.posted_at, b.account, b.change, i.id
    FROM batch AS b
    CROSS JOIN LATERAL (
        SELECT 1 AS place, NULL::uuid AS id WHERE b.change IS NOT NULL
        UNION ALL
        SELECT i.place, i.id FROM unnest(b.transfers) WITH ORDINALITY AS i (id, place)
        WHERE i.place > b.size - b.events AND i.place <= b.size - b.events + $3 - b.before
    ) AS i
    WHERE b.before < $3 AND b.types & $4 <> 0
), look AS (
    SELECT (SELECT position FROM feed_heads WHERE ledger_id = $1) AS head,
           -- Null if nothing is left.
           (SELECT max(position - events + least(events, $3 - before)) FROM batch WHERE before < $3
            HAVING sum(events) >= $3) AS examined
)
SELECT l.head, l.examined, t.position, t.posted_at, t.account, t.change, {transfer_columns}
FROM look AS l
LEFT JOIN LATERAL (
    {event_with_transfer}
    WHERE event_type(coalesce(t.kind, e.change ->> 'type'), t.refusal) & $4 <> 0
      AND ($6::text[] IS NULL OR e.account ^@ ANY ($6) OR t.source ^@ ANY ($6) OR t.destination ^@ ANY ($6))
    ORDER BY e.position
    LIMIT $5
) AS t ON true
ORDER BY t.position;

-- name: event_page_of_account(ledger_id, after, examined, types, limit, account)
-- The same for one account, from so many that are examined in each index; rows with none of the types are left out.
-- Entries and holds are found by their instants, which cannot be far below those at the position: a batch positioned
-- after another one is earlier than it only by as much as it committed late. If an index has more rows than are
-- examined, the look goes as far as nothing unseen can precede, by `peak`.
WITH late AS (
    SELECT max(f.peak - f.posted_at) AS by, count(*) AS number FROM (
        SELECT peak, posted_at FROM feed
        WHERE ledger_id = $1 AND position > $2 AND peak - posted_at > interval '100 milliseconds'
        ORDER BY position
        LIMIT $3
    ) AS f
), start AS (
    -- No row if more batches were late than are examined.
    SELECT f.posted_at - greatest(interval '100 milliseconds', late.by) AS at
    FROM feed AS f, late
    WHERE f.ledger_id = $1 AND f.position > $2 AND late.number < $3
    ORDER BY f.position
    LIMIT 1
), candidate AS (
    (SELECT 1 AS index, id, created_at FROM transfers
     WHERE ledger_id = $1 AND source = $6 AND moves AND created_at >= (SELECT at FROM start) AND $4 & 73 <> 0
     ORDER BY created_at
     LIMIT $3)
    UNION ALL
    (SELECT 2, id, created_at FROM transfers
     WHERE ledger_id = $1 AND destination = $6 AND moves AND created_at >= (SELECT at FROM start) AND $4 & 73 <> 0
     ORDER BY created_at
     LIMIT $3)
    UNION ALL
    (SELECT 3, id, created_at FROM transfers
     WHERE ledger_id = $1 AND source = $6 AND NOT moves AND created_at >= (SELECT at FROM start) AND $4 & 52 <> 0
     ORDER BY created_at
     LIMIT $3)
    UNION ALL
    (SELECT 4, id, created_at FROM transfers
     WHERE ledger_id = $1 AND destination = $6 AND NOT moves AND created_at >= (SELECT at FROM start) AND $4 & 52 <> 0
     ORDER BY created_at
     LIMIT $3)
), told AS (
    SELECT position FROM feed_accounts
    WHERE ledger_id = $1 AND account = $6 AND position > $2 AND $4 & 898 <> 0
    ORDER BY position
    LIMIT $3
), event AS (
    SELECT f.position - f.size + array_position(f.transfers, c.id) AS position, f.posted_at, f.peak, f.account, f.change,
           c.id
    FROM candidate AS c
    CROSS JOIN LATERAL (
        SELECT * FROM feed WHERE ledger_id = $1 AND posted_at = c.created_at AND c.id = ANY (transfers) OFFSET 0
    ) AS f
    UNION ALL
    SELECT told.position, f.posted_at, NULL, f.account, f.change, f.transfers[told.position - f.position + f.size]
    FROM told
    CROSS JOIN LATERAL (
        SELECT * FROM feed WHERE ledger_id = $1 AND position >= told.position ORDER BY position LIMIT 1
    ) AS f
), ending AS (
    -- If an index has more rows, the instant from which it has them.
    SELECT min(m.at) AS at
    FROM (SELECT max(created_at) AS at FROM candidate GROUP BY index HAVING count(*) = $3) AS m
), look AS (
    SELECT (SELECT position FROM feed_heads WHERE ledger_id = $1) AS head,
           least(
               (SELECT coalesce(max(position), $2) FROM event WHERE peak < ending.at HAVING ending.at IS NOT NULL),
               (SELECT max(position) FROM told HAVING count(*) = $3),
               CASE WHEN late.number = $3 THEN $2 END
           ) AS examined
    FROM ending, late
)
SELECT l.head, l.examined, t.position, t.posted_at, t.account, t.change, {transfer_columns}
FROM look AS l
LEFT JOIN LATERAL (
    {event_with_transfer}
    WHERE e.position > $2 AND e.position <= coalesce(l.examined, e.position)
      AND event_type(coalesce(t.kind, e.change ->> 'type'), t.refusal) & $4 <> 0
    ORDER BY e.position
    LIMIT $5
) AS t ON true
ORDER BY t.position;
