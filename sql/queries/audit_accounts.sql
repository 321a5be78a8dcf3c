-- name: audit_accounts(ledger_id, samples, after, upto, waiting_max)
-- Columns of a part of the accounts that differ from the newest change of the account.
-- A change waits in the outbox until it has its position. If more changes wait than are examined, nothing can be said.
-- An account that was opened before there was a feed has no change until it is changed.
WITH waiting AS MATERIALIZED (
    SELECT account, posted_at, change FROM outbox WHERE ledger_id = $1 LIMIT $5
), newest AS (
    SELECT a.*, coalesce(w.change, f.change) AS change, CASE WHEN w.change IS NULL THEN f.position END AS position
    FROM (SELECT * FROM accounts WHERE ledger_id = $1 AND id > $3 AND id <= $4) AS a
    LEFT JOIN LATERAL (
        SELECT f.position, f.change FROM feed AS f
        WHERE f.ledger_id = $1 AND f.account = a.id AND f.change IS NOT NULL
        ORDER BY f.position DESC
        LIMIT 1
    ) AS f ON true
    LEFT JOIN (
        SELECT DISTINCT ON (account) account, change FROM waiting WHERE change IS NOT NULL ORDER BY account, posted_at DESC
    ) AS w ON w.account = a.id
), judged AS (
    SELECT 'account_untold' AS kind, n.id, 0 AS place, format('account %s: no event tells that it was opened', n.id) AS detail
    FROM newest AS n
    WHERE n.change IS NULL AND n.created_at > (SELECT applied_at FROM schema_migrations WHERE number = 2)
    UNION ALL
    SELECT 'account_differs', n.id, c.place, format('account %s: %s is %s, its newest event, %s, says %s', n.id, c.field,
               coalesce(c.present, 'null'), coalesce('position ' || n.position, 'which waits for a position'),
               coalesce(c.told, 'null'))
    FROM newest AS n
    CROSS JOIN LATERAL (VALUES
        (1, 'currency', n.currency::text, n.change -> 'account' ->> 'currency'),
        (2, 'floor', n.floor::text, n.change -> 'account' ->> 'floor'),
        (3, 'ceiling', n.ceiling::text, n.change -> 'account' ->> 'ceiling'),
        (4, 'closed', n.closed::text, n.change -> 'account' ->> 'closed'),
        (5, 'metadata', n.metadata::text, (n.change -> 'account' -> 'metadata')::text),
        (6, 'created_at', to_char(n.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            n.change -> 'account' ->> 'created_at'),
        -- Changes made by earlier versions do not have it.
        (7, 'limits_version', n.limits_version::text, coalesce(n.change ->> 'limits_version', n.limits_version::text))
    ) AS c (place, field, present, told)
    WHERE n.change IS NOT NULL AND c.present IS DISTINCT FROM c.told
)
SELECT kind, total, detail
FROM (
    SELECT *, count(*) OVER (PARTITION BY kind) AS total, row_number() OVER (PARTITION BY kind ORDER BY id, place) AS number
    FROM judged
    WHERE ((SELECT count(*) FROM waiting) < $5) IS NOT FALSE
) AS j
WHERE number <= $2
ORDER BY kind, number;

-- name: audit_index(ledger_id, samples, after, upto)
-- Events of a part of the feed that the index by accounts lacks, and changes of accounts that do not exist.
WITH page AS MATERIALIZED (
    SELECT * FROM feed WHERE ledger_id = $1 AND position > $3 AND position <= $4
), named AS MATERIALIZED (
    SELECT account, position, true AS changes FROM page WHERE change IS NOT NULL
    UNION ALL
    SELECT n.account, p.position - p.size + i.place, false
    FROM page AS p
    CROSS JOIN LATERAL unnest(p.transfers) WITH ORDINALITY AS i (id, place)
    CROSS JOIN LATERAL (
        SELECT t.source, t.destination FROM transfers AS t
        WHERE t.ledger_id = $1 AND t.id = i.id AND t.refusal IS NOT NULL
        OFFSET 0
    ) AS t
    CROSS JOIN LATERAL (VALUES (t.source), (t.destination)) AS n (account)
    -- Only batches with refusals.
    WHERE p.types & 2 <> 0 AND n.account IS NOT NULL
)
SELECT kind, total, detail
FROM (
    SELECT k.*, count(*) OVER (PARTITION BY k.kind) AS total,
           row_number() OVER (PARTITION BY k.kind ORDER BY n.position, n.account) AS number
    FROM named AS n
    LEFT JOIN LATERAL (
        SELECT true AS is_there FROM feed_accounts AS x
        WHERE x.ledger_id = $1 AND x.account = n.account AND x.position = n.position
        OFFSET 0
    ) AS x ON true
    LEFT JOIN LATERAL (
        SELECT true AS is_there FROM accounts AS a WHERE n.changes AND a.ledger_id = $1 AND a.id = n.account OFFSET 0
    ) AS a ON true
    CROSS JOIN LATERAL (VALUES
        ('event_not_indexed', x.is_there,
         format('account %s: the index of its events lacks position %s', n.account, n.position)),
        ('account_missing', NOT n.changes OR a.is_there,
         format('position %s: there is no account %s', n.position, n.account))
    ) AS k (kind, is_right, detail)
    WHERE k.is_right IS NOT TRUE
) AS w
WHERE number <= $2
ORDER BY kind, number;

-- name: index_range(ledger_id, account, position, until, limit)
-- The number of rows in the next part of the index by accounts, of events up to a position, and the last of them.
SELECT count(*) AS events, (array_agg(account ORDER BY account DESC, position DESC))[1] AS account,
       (array_agg(position ORDER BY account DESC, position DESC))[1] AS position
FROM (
    SELECT account, position FROM feed_accounts
    WHERE ledger_id = $1 AND (account, position) > ($2, $3) AND position <= $4
    ORDER BY account, position
    LIMIT $5
) AS x;

-- name: audit_indexed(ledger_id, samples, account, position, last_account, last_position)
-- Rows of a part of the index by accounts whose event is not about their account.
SELECT 'index_differs' AS kind, count(*) OVER () AS total,
       format('account %s: the index of its events has position %s, which is not about it', x.account, x.position) AS detail
FROM feed_accounts AS x
LEFT JOIN LATERAL (
    SELECT f.account, f.transfers[x.position - f.position + f.size] AS transfer FROM feed AS f
    WHERE f.ledger_id = $1 AND f.position >= x.position
    ORDER BY f.position
    LIMIT 1
) AS f ON true
LEFT JOIN LATERAL (
    SELECT t.source, t.destination FROM transfers AS t
    WHERE t.ledger_id = $1 AND t.id = f.transfer AND t.refusal IS NOT NULL
    OFFSET 0
) AS t ON true
WHERE x.ledger_id = $1 AND (x.account, x.position) > ($3, $4) AND (x.account, x.position) <= ($5, $6)
  AND (x.account = ANY (ARRAY[f.account, t.source, t.destination])) IS NOT TRUE
ORDER BY x.account, x.position
LIMIT $2;
