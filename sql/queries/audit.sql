-- name: audit_key_constraint()
-- Whether the constraint that binds a key to one row exists, on these columns, and its index is in use.
SELECT EXISTS (
    SELECT FROM pg_constraint AS c
    JOIN pg_index AS i ON i.indexrelid = c.conindid
    WHERE c.conrelid = to_regclass('transfers') AND c.conname = 'transfers_idempotency_key_unique'
      AND c.convalidated AND pg_get_constraintdef(c.oid) = 'UNIQUE (ledger_id, idempotency_key)'
      AND i.indisunique AND i.indisvalid AND i.indisready AND i.indislive
) AS holds;

-- name: audit_count(ledger_id)
-- How much there is to check.
SELECT (SELECT count(*) FROM accounts WHERE ledger_id = $1) AS accounts, count(*) AS transfers,
       2 * count(*) FILTER (WHERE moves) AS entries, count(*) FILTER (WHERE kind = 'hold' AND refusal IS NULL) AS holds,
       count(*) FILTER (WHERE kind <> 'transfer' OR held IS NOT NULL OR parent IS NOT NULL)
           + (SELECT count(*) FROM transfer_progress WHERE ledger_id = $1) AS more_than_transfers,
       coalesce((SELECT position FROM feed_heads WHERE ledger_id = $1), 0) AS events,
       coalesce((SELECT link FROM feed_heads WHERE ledger_id = $1), '') AS link
FROM transfers
WHERE ledger_id = $1;

-- name: audit_currencies(ledger_id, samples)
-- Currencies whose balances do not sum to zero.
SELECT 'sum_not_zero' AS kind, count(*) OVER () AS total,
       format('currency %s: the balances sum to %s', currency, sum(balance)) AS detail
FROM accounts
WHERE ledger_id = $1
GROUP BY currency
HAVING sum(balance) <> 0
ORDER BY currency
LIMIT $2;

-- name: audit_rows(ledger_id, samples, first, last)
-- Rows of a part of the transfers that are wrong by themselves, or are not what their kind says.
SELECT kind, total, detail
FROM (
    SELECT k.kind, count(*) OVER (PARTITION BY k.bit) AS total,
           row_number() OVER (PARTITION BY k.bit ORDER BY t.id) AS place,
           format('%s %s: %s %s from %s to %s%s', t.kind, t.id, t.amount, t.currency, t.source, t.destination,
                  CASE k.bit
                      WHEN 32 THEN format(', moves %L', t.moves)
                      WHEN 64 THEN format(', held %L', t.held)
                      WHEN 128 THEN format(', parent %L', t.parent)
                      WHEN 256 THEN format(' at %s, expires at %L', t.created_at, t.expires_at)
                      WHEN 512 THEN format(', asked for %L, releases the rest %L', t.amount_asked, t.release_rest)
                      WHEN 1024 THEN format(' at %s, effective at %s', t.created_at, t.effective_at)
                  END) AS detail, k.bit
    FROM (
        -- Nearly all rows are whole transfers, which this condition recognises.
        SELECT *, CASE WHEN kind = 'transfer' AND moves AND refusal IS NULL AND source <> destination AND amount > 0
                            AND num_nulls(source_balance, destination_balance, source_version, destination_version,
                                          currency) = 0
                            AND num_nonnulls(held, parent, expires_at, amount_asked, release_rest) = 0
                            AND (effective_at > created_at) IS NOT TRUE THEN 0 ELSE
            CASE WHEN source = destination THEN 1 ELSE 0 END
            | CASE WHEN amount <= 0 THEN 2 ELSE 0 END
            | CASE num_nonnulls(source_balance, destination_balance, source_version, destination_version)
                  WHEN CASE WHEN refusal IS NULL THEN 4 ELSE 0 END THEN 0
                  ELSE CASE WHEN refusal IS NULL THEN 8 ELSE 4 END END
            | CASE WHEN refusal IS NULL AND num_nulls(amount, source, destination, currency) > 0 THEN 16 ELSE 0 END
            | CASE WHEN moves IS DISTINCT FROM CASE WHEN refusal IS NULL THEN kind IN ('transfer', 'capture', 'reversal')
                                               END THEN 32 ELSE 0 END
            | CASE WHEN CASE
                  WHEN refusal IS NOT NULL OR kind IN ('transfer', 'reversal') THEN held IS NOT NULL
                  WHEN kind = 'hold' THEN held IS DISTINCT FROM amount
                  -- Only the capture that ends its hold releases more than it moves.
                  WHEN kind = 'capture' AND release_rest THEN (held <= -amount::numeric) IS NOT TRUE
                  ELSE held IS DISTINCT FROM -amount::numeric END THEN 64 ELSE 0 END
            | CASE WHEN CASE WHEN kind IN ('transfer', 'hold') THEN parent IS NOT NULL
                             ELSE refusal IS NULL AND parent IS NULL END THEN 128 ELSE 0 END
            -- The instant of a hold that was imported may have passed before it was posted.
            | CASE WHEN CASE WHEN kind = 'hold'
                             THEN refusal IS NULL AND (expires_at > coalesce(effective_at, created_at)) IS NOT TRUE
                             ELSE expires_at IS NOT NULL END THEN 256 ELSE 0 END
            | CASE WHEN CASE WHEN kind IN ('capture', 'reversal') THEN refusal IS NULL AND amount_asked <> amount
                             ELSE amount_asked IS NOT NULL END
                        OR CASE kind WHEN 'capture' THEN refusal IS NULL AND release_rest IS NULL
                                     WHEN 'expiry' THEN NOT release_rest
                                     ELSE release_rest IS NOT NULL END THEN 512 ELSE 0 END
            | CASE WHEN effective_at > created_at THEN 1024 ELSE 0 END END AS faults
        FROM transfers
        WHERE ledger_id = $1 AND id >= $3 AND id <= $4
    ) AS t
    JOIN (VALUES
        (1, 'sides_equal'), (2, 'amount_not_positive'), (4, 'refused_with_balances'), (8, 'posted_without_balances'),
        (16, 'posted_incomplete'), (32, 'moves_wrong'), (64, 'held_wrong'), (128, 'parent_wrong'),
        (256, 'expires_at_wrong'), (512, 'asked_wrong'), (1024, 'effective_later')
    ) AS k (bit, kind) ON t.faults & k.bit <> 0
    WHERE t.faults <> 0
) AS w
WHERE place <= $2
ORDER BY bit, place;

-- name: audit_keys(ledger_id, samples)
-- Idempotency keys that more than one row is bound to, found in the rows, not in the index that should forbid it.
WITH attempts AS NOT MATERIALIZED (
    -- In the order of ids, so that no plan reads through the index over keys: rows that it lacks would be missed here,
    -- too.
    SELECT id, idempotency_key, hashtextextended(idempotency_key, 0) AS hash
    FROM transfers
    WHERE ledger_id = $1
    ORDER BY id OFFSET 0
), repeated AS MATERIALIZED (
    -- Eight bytes for each key instead of the key; keys that share them by chance are told apart below.
    SELECT hash FROM attempts GROUP BY hash HAVING count(*) > 1
)
SELECT 'key_bound_twice' AS kind, count(*) OVER () AS total,
       format('key %s: bound to transfers %s', idempotency_key,
              array_to_string((array_agg(id ORDER BY id))[:5], ', ')) AS detail
FROM attempts
-- Asked before the rows are read again, which is rarely necessary.
WHERE (SELECT EXISTS (SELECT FROM repeated)) AND hash IN (SELECT hash FROM repeated)
GROUP BY idempotency_key
HAVING count(*) > 1
ORDER BY idempotency_key
LIMIT $2;

-- name: audit_entries(ledger_id, samples)
-- What is wrong along the rows of each account, in the order of their versions, and compared with the account now.
-- Limits are judged by balances, and the account's version as if no hold were due. Both are right if there never was a
-- hold; `audit_holds` judges all other accounts.
WITH entries AS (
    -- The place of a row identifies its account for the time of a snapshot, and sorts faster than the account's id.
    SELECT a.ctid AS account, t.source_version AS version, t.source_balance AS balance,
           CASE WHEN t.moves THEN -t.amount ELSE 0 END AS signed, t.created_at, t.id,
           CASE WHEN a.id IS NULL THEN t.source END AS missing,
           CASE WHEN a.id IS NULL THEN 1 ELSE 0 END
               | CASE WHEN a.currency::text <> t.currency THEN 2 ELSE 0 END
               | CASE WHEN t.source_version > a.limits_version AND t.source_balance < a.floor THEN 4 ELSE 0 END
               -- No fault: an expiry comes after the row whose version it shares.
               | CASE WHEN t.kind = 'expiry' THEN 4096 ELSE 0 END AS faults
    FROM transfers AS t
    LEFT JOIN accounts AS a ON a.ledger_id = $1 AND a.id = t.source
    WHERE t.ledger_id = $1 AND t.refusal IS NULL
    UNION ALL
    SELECT a.ctid, t.destination_version, t.destination_balance, CASE WHEN t.moves THEN t.amount ELSE 0 END,
           t.created_at, t.id, CASE WHEN a.id IS NULL THEN t.destination END,
           CASE WHEN a.id IS NULL THEN 1 ELSE 0 END
               | CASE WHEN a.currency::text <> t.currency THEN 2 ELSE 0 END
               | CASE WHEN t.destination_version > a.limits_version AND t.destination_balance > a.ceiling
                      THEN 8 ELSE 0 END
               | CASE WHEN t.kind = 'expiry' THEN 4096 ELSE 0 END
    FROM transfers AS t
    LEFT JOIN accounts AS a ON a.ledger_id = $1 AND a.id = t.destination
    WHERE t.ledger_id = $1 AND t.refusal IS NULL
), steps AS (
    SELECT *, lag(balance, 1, 0::bigint) OVER w AS before, lag(version) OVER w AS version_before,
           lag(created_at) OVER w AS created_before, lead(version) OVER w IS NULL AS is_last
    FROM entries
    WINDOW w AS (PARTITION BY account ORDER BY version, created_at, faults)
), judged AS (
    -- Entries of missing accounts follow nothing. Numbers that might overflow are added as numeric, all others fast.
    SELECT *, faults & 4095 | CASE WHEN account IS NULL THEN 0 ELSE
        CASE WHEN CASE WHEN before BETWEEN -4e18::bigint AND 4e18::bigint AND signed BETWEEN -4e18::bigint AND 4e18::bigint
                       THEN balance <> before + signed
                       ELSE balance::numeric <> before::numeric + signed END THEN 16 ELSE 0 END
            | CASE WHEN version = version_before AND faults < 4096 OR version <= 1 THEN 32 ELSE 0 END
            | CASE WHEN created_at < created_before THEN 64 ELSE 0 END
        END AS found
    FROM steps
), met AS (
    SELECT e.id AS transfer, coalesce(e.missing, a.id) AS account, e.version, e.balance, e.before, e.signed,
           e.created_at, e.created_before, a.balance AS balance_now, a.version AS version_now, a.floor, a.ceiling,
           a.currency, a.last_entry_at, coalesce(e.found, 0)
               | CASE WHEN e.is_last AND a.balance <> e.balance THEN 128 ELSE 0 END
               | CASE WHEN e.is_last AND a.version < e.version THEN 256 ELSE 0 END
               | CASE WHEN e.is_last AND (a.last_entry_at >= e.created_at) IS NOT TRUE
                           AND e.account IS NOT NULL THEN 512 ELSE 0 END
               | CASE WHEN e.id IS NULL AND a.balance <> 0 THEN 1024 ELSE 0 END AS found
    FROM (SELECT * FROM judged WHERE is_last OR found <> 0) AS e
    FULL JOIN (SELECT ctid AS place, * FROM accounts WHERE ledger_id = $1) AS a ON a.place = e.account
), told AS (
    -- The rows are read once more only if something is left to `audit_holds`.
    SELECT *, found & CASE WHEN found & (4 | 8 | 256) = 0 THEN 4095
                           WHEN account IN (SELECT source FROM transfers WHERE ledger_id = $1 AND held IS NOT NULL
                                            UNION ALL
                                            SELECT destination FROM transfers WHERE ledger_id = $1 AND held IS NOT NULL)
                           THEN 4095 - (4 | 8 | 256) ELSE 4095 END AS left_over
    FROM met
    WHERE found <> 0
)
SELECT kind, total, CASE bit
    WHEN 1 THEN format('transfer %s: there is no account %s', transfer, account)
    WHEN 2 THEN format('transfer %s: account %s is in %s', transfer, account, currency)
    WHEN 4 THEN format('account %s, transfer %s: left %s, below the floor %s', account, transfer, balance, floor)
    WHEN 8 THEN format('account %s, transfer %s: reached %s, above the ceiling %s', account, transfer, balance, ceiling)
    WHEN 16 THEN format('account %s, transfer %s: balance %s after %s with %s moved',
                        account, transfer, balance, before, signed)
    WHEN 32 THEN format('account %s, transfer %s: version %s is taken', account, transfer, version)
    WHEN 64 THEN format('account %s, transfer %s: at %s, the entry before it at %s',
                        account, transfer, created_at, created_before)
    WHEN 128 THEN format('account %s: balance %s, its last entry (transfer %s) left %s',
                         account, balance_now, transfer, balance)
    WHEN 256 THEN format('account %s: version %s, its last entry (transfer %s) has %s',
                         account, version_now, transfer, version)
    WHEN 512 THEN format('account %s: last entry at %s, but transfer %s is of %s',
                         account, last_entry_at, transfer, created_at)
    ELSE format('account %s: balance %s without any entry', account, balance_now)
    END AS detail
FROM (
    SELECT *, count(*) OVER (PARTITION BY bit) AS total,
           row_number() OVER (PARTITION BY bit ORDER BY account, version) AS place
    FROM told
    JOIN (VALUES
        (1, 'account_missing'), (2, 'currency_differs'), (4, 'floor_broken'), (8, 'ceiling_broken'),
        (16, 'balance_not_the_sum'), (32, 'version_repeated'), (64, 'time_steps_back'), (128, 'balance_differs'),
        (256, 'version_behind'), (512, 'last_entry_behind'), (1024, 'balance_without_entry')
    ) AS k (bit, kind) ON left_over & k.bit <> 0
) AS w
WHERE place <= $2
ORDER BY bit, place;
