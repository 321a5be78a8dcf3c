-- name: account_range(ledger_id, after, limit)
-- The next accounts, by id.
SELECT id FROM accounts WHERE ledger_id = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: audit_sides(ledger_id, samples, first, last)
-- Sides of a part of the transfers that are not accounts.
SELECT 'account_missing' AS kind, count(*) OVER () AS total,
       format('transfer %s: there is no account %s', s.transfer, s.account) AS detail
FROM (
    SELECT u.account, min(t.id::text) AS transfer
    FROM transfers AS t
    CROSS JOIN LATERAL (VALUES (t.source), (t.destination)) AS u (account)
    WHERE t.ledger_id = $1 AND t.id >= $3 AND t.id <= $4 AND t.refusal IS NULL
    GROUP BY u.account
) AS s
LEFT JOIN LATERAL (SELECT true AS is_there FROM accounts WHERE ledger_id = $1 AND id = s.account OFFSET 0) AS a ON true
WHERE a.is_there IS NULL
ORDER BY s.transfer
LIMIT $2;

-- name: audit_walk(ledger_id, accounts, ats, versions, balances, helds_out, helds_in, limit, until)
-- Follow accounts along their next rows up to an instant, and compare them with their rows if no more follow.
-- One row for each account that exists: how far it was followed from where it was left, and what is wrong on the way.
-- The rows of an instant belong to one batch and are never parted. The next round follows rows posted after the
-- instant, or a busy account would never end. Versions of entries count holds from the instant of their expiry on,
-- versions of accounts only once it is posted; as in `audit_entries`, limits are judged only if there never was a hold.
-- Account and instant are compared as one row, and ordered by both: only the indexes by account serve that, whatever
-- the planner believes of the tables, and no plan reads the rows of all accounts.
WITH walk AS MATERIALIZED (
    SELECT a.*, w.at, w.walked, w.folded, w.folded_out, w.folded_in, EXISTS (
               SELECT FROM transfers
               WHERE ledger_id = $1 AND (source, created_at) >= (a.id, '-infinity')
                   AND (source, created_at) <= (a.id, 'infinity') AND NOT moves
               ORDER BY source, created_at OFFSET 0
           ) OR EXISTS (
               SELECT FROM transfers
               WHERE ledger_id = $1 AND (destination, created_at) >= (a.id, '-infinity')
                   AND (destination, created_at) <= (a.id, 'infinity') AND NOT moves
               ORDER BY destination, created_at OFFSET 0
           ) AS holds
    FROM unnest($2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
        AS w (account, at, walked, folded, folded_out, folded_in)
    CROSS JOIN LATERAL (SELECT * FROM accounts WHERE ledger_id = $1 AND id = w.account OFFSET 0) AS a
), step AS (
    SELECT w.id AS account, w.walked, w.folded, w.folded_out, w.folded_in,
           CASE WHEN e.currency <> w.currency THEN 1 ELSE 0 END
               | CASE WHEN NOT w.holds AND e.version > w.limits_version AND e.balance < w.floor AND e.signed < 0
                      THEN 2 ELSE 0 END
               | CASE WHEN NOT w.holds AND e.version > w.limits_version AND e.balance > w.ceiling AND e.signed > 0
                      THEN 4 ELSE 0 END AS faults, e.*
    FROM walk AS w
    CROSS JOIN LATERAL (
        SELECT e.* FROM (
            (SELECT id AS transfer, created_at, source_version AS version, source_balance AS balance, -amount AS signed,
                    coalesce(held, 0) AS held_out, 0::bigint AS held_in, currency, false AS shares
             FROM transfers
             WHERE ledger_id = $1 AND (source, created_at) > (w.id, w.at) AND (source, created_at) <= (w.id, $9)
                 AND moves
             ORDER BY source, created_at FETCH FIRST $8 ROWS WITH TIES)
            UNION ALL
            (SELECT id, created_at, destination_version, destination_balance, amount, 0, coalesce(held, 0), currency, false
             FROM transfers
             WHERE ledger_id = $1 AND (destination, created_at) > (w.id, w.at) AND (destination, created_at) <= (w.id, $9)
                 AND moves
             ORDER BY destination, created_at FETCH FIRST $8 ROWS WITH TIES)
            UNION ALL
            -- An expiry comes after the row whose version it shares.
            (SELECT id, created_at, source_version, source_balance, 0, coalesce(held, 0), 0, currency, kind = 'expiry'
             FROM transfers
             WHERE ledger_id = $1 AND (source, created_at) > (w.id, w.at) AND (source, created_at) <= (w.id, $9)
                 AND NOT moves
             ORDER BY source, created_at FETCH FIRST $8 ROWS WITH TIES)
            UNION ALL
            (SELECT id, created_at, destination_version, destination_balance, 0, 0, coalesce(held, 0), currency,
                    kind = 'expiry'
             FROM transfers
             WHERE ledger_id = $1 AND (destination, created_at) > (w.id, w.at) AND (destination, created_at) <= (w.id, $9)
                 AND NOT moves
             ORDER BY destination, created_at FETCH FIRST $8 ROWS WITH TIES)
        ) AS e
        ORDER BY created_at FETCH FIRST $8 ROWS WITH TIES
    ) AS e
), followed AS (
    SELECT *, lag(version, 1, walked) OVER o AS version_before, lag(balance, 1, folded) OVER o AS before,
           folded_out + sum(held_out) OVER o AS left_out, folded_in + sum(held_in) OVER o AS left_in,
           row_number() OVER o AS number
    FROM step
    WINDOW o AS (PARTITION BY account ORDER BY created_at, version, shares, transfer ROWS UNBOUNDED PRECEDING)
), judged AS (
    SELECT f.*, f.faults
               | CASE WHEN f.balance::numeric <> f.before::numeric + f.signed THEN 8 ELSE 0 END
               | CASE WHEN f.version = f.version_before AND NOT f.shares OR f.version <= 1 THEN 16 ELSE 0 END
               | CASE WHEN f.version < f.version_before THEN 32 ELSE 0 END AS found
    FROM followed AS f
), told AS (
    SELECT j.account, array_agg(k.kind ORDER BY j.number) AS kinds, array_agg(CASE k.bit
               WHEN 1 THEN format('transfer %s: account %s is in another currency', j.transfer, j.account)
               WHEN 2 THEN format('account %s, transfer %s: left %s, below the floor', j.account, j.transfer, j.balance)
               WHEN 4 THEN format('account %s, transfer %s: reached %s, above the ceiling', j.account, j.transfer,
                                  j.balance)
               WHEN 8 THEN format('account %s, transfer %s: balance %s after %s with %s moved', j.account, j.transfer,
                                  j.balance, j.before, j.signed)
               WHEN 16 THEN format('account %s, transfer %s: version %s is taken', j.account, j.transfer, j.version)
               ELSE format('account %s, transfer %s: version %s after %s', j.account, j.transfer, j.version,
                           j.version_before)
           END ORDER BY j.number) AS details
    FROM judged AS j
    JOIN (VALUES
        (1, 'currency_differs'), (2, 'floor_broken'), (4, 'ceiling_broken'), (8, 'balance_not_the_sum'),
        (16, 'version_repeated'), (32, 'version_out_of_step')
    ) AS k (bit, kind) ON j.found & k.bit <> 0
    WHERE j.found <> 0
    GROUP BY j.account
), newest AS (
    SELECT DISTINCT ON (account) account, number, created_at, version, balance, left_out, left_in
    FROM followed
    ORDER BY account, number DESC
), state AS (
    SELECT w.id AS account, w.balance AS balance_now, w.version AS version_now, w.held_out AS held_out_now,
           w.held_in AS held_in_now, w.last_entry_at, w.holds, coalesce(n.number, 0) AS rows,
           coalesce(n.created_at, w.at) AS at, coalesce(n.version, w.walked) AS version,
           coalesce(n.balance, w.folded) AS balance, coalesce(n.left_out, w.folded_out) AS held_out,
           coalesce(n.left_in, w.folded_in) AS held_in, coalesce(n.number, 0) < $8 AS ended
    FROM walk AS w
    LEFT JOIN newest AS n ON n.account = w.id
)
SELECT s.account, s.rows, s.at, s.version, s.balance, s.held_out::bigint AS held_out, s.held_in::bigint AS held_in,
       s.ended, coalesce(t.kinds, '{}') || l.kinds AS kinds, coalesce(t.details, '{}') || l.details AS details
FROM state AS s
LEFT JOIN told AS t ON t.account = s.account
LEFT JOIN LATERAL (
    -- The very last row of the account.
    SELECT e.* FROM (
        (SELECT created_at, source_version AS version, source_balance AS balance, false AS shares
         FROM transfers
         WHERE ledger_id = $1 AND (source, created_at) >= (s.account, '-infinity')
             AND (source, created_at) <= (s.account, 'infinity') AND moves AND s.ended
         ORDER BY source DESC, created_at DESC FETCH FIRST 1 ROW WITH TIES)
        UNION ALL
        (SELECT created_at, destination_version, destination_balance, false
         FROM transfers
         WHERE ledger_id = $1 AND (destination, created_at) >= (s.account, '-infinity')
             AND (destination, created_at) <= (s.account, 'infinity') AND moves AND s.ended
         ORDER BY destination DESC, created_at DESC FETCH FIRST 1 ROW WITH TIES)
        UNION ALL
        (SELECT created_at, source_version, source_balance, kind = 'expiry'
         FROM transfers
         WHERE ledger_id = $1 AND (source, created_at) >= (s.account, '-infinity')
             AND (source, created_at) <= (s.account, 'infinity') AND NOT moves AND s.ended
         ORDER BY source DESC, created_at DESC FETCH FIRST 1 ROW WITH TIES)
        UNION ALL
        (SELECT created_at, destination_version, destination_balance, kind = 'expiry'
         FROM transfers
         WHERE ledger_id = $1 AND (destination, created_at) >= (s.account, '-infinity')
             AND (destination, created_at) <= (s.account, 'infinity') AND NOT moves AND s.ended
         ORDER BY destination DESC, created_at DESC FETCH FIRST 1 ROW WITH TIES)
    ) AS e
    ORDER BY created_at DESC, version DESC, shares DESC
    LIMIT 1
) AS n ON true
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(e.kind), '{}') AS kinds, coalesce(array_agg(e.detail), '{}') AS details
    FROM (VALUES
        ('balance_differs', s.balance_now <> coalesce(n.balance, 0),
         format('account %s: balance %s, its last entry left %s', s.account, s.balance_now, coalesce(n.balance, 0))),
        -- The sums over all rows, if all were followed.
        ('held_differs', n.created_at > s.at IS NOT TRUE
                         AND (s.held_out_now <> s.held_out OR s.held_in_now <> s.held_in),
         format('account %s: held_out %s and held_in %s, its rows leave %s and %s', s.account, s.held_out_now,
                s.held_in_now, s.held_out, s.held_in)),
        ('version_behind', NOT s.holds AND s.version_now < n.version,
         format('account %s: version %s, its last entry has %s', s.account, s.version_now, n.version)),
        ('last_entry_behind', n.created_at IS NOT NULL AND (s.last_entry_at >= n.created_at) IS NOT TRUE,
         format('account %s: last entry at %s, but there is one of %s', s.account, s.last_entry_at, n.created_at))
    ) AS e (kind, is_wrong, detail)
    WHERE s.ended AND e.is_wrong
) AS l;
