-- name: statement_page(ledger_id, account, after_at, after_version, until, limit)
-- One page of an account's entries in the order of posting, oldest first, from both sides of its transfers.
SELECT e.* FROM (
    (SELECT id, kind, -amount AS amount, destination AS counterparty, source_version AS version, reference,
            effective_at, created_at
     FROM transfers
     WHERE ledger_id = $1 AND source = $2 AND moves
       AND created_at >= $3::timestamptz AND created_at < $5::timestamptz
       AND (created_at, source_version) > ($3::timestamptz, $4::bigint)
     ORDER BY created_at, source_version
     LIMIT $6)
    UNION ALL
    (SELECT id, kind, amount, source AS counterparty, destination_version AS version, reference,
            effective_at, created_at
     FROM transfers
     WHERE ledger_id = $1 AND destination = $2 AND moves
       AND created_at >= $3::timestamptz AND created_at < $5::timestamptz
       AND (created_at, destination_version) > ($3::timestamptz, $4::bigint)
     ORDER BY created_at, destination_version
     LIMIT $6)
) AS e
ORDER BY e.created_at, e.version
LIMIT $6;

-- name: statement_page_back_dated(ledger_id, account, after_effective, after_at, after_version, until, as_of, limit)
-- One page of back-dated entries posted by as_of, in the order of the instants that they count for.
SELECT e.* FROM (
    (SELECT id, kind, -amount AS amount, destination AS counterparty, source_version AS version, reference,
            effective_at, created_at
     FROM transfers
     WHERE ledger_id = $1 AND source = $2 AND moves AND effective_at < $6::timestamptz
       AND (effective_at, created_at, source_version) > ($3::timestamptz, $4::timestamptz, $5::bigint)
       AND created_at <= $7::timestamptz
     ORDER BY effective_at, created_at, source_version
     LIMIT $8)
    UNION ALL
    (SELECT id, kind, amount, source AS counterparty, destination_version AS version, reference,
            effective_at, created_at
     FROM transfers
     WHERE ledger_id = $1 AND destination = $2 AND moves AND effective_at < $6::timestamptz
       AND (effective_at, created_at, destination_version) > ($3::timestamptz, $4::timestamptz, $5::bigint)
       AND created_at <= $7::timestamptz
     ORDER BY effective_at, created_at, destination_version
     LIMIT $8)
) AS e
ORDER BY e.effective_at, e.created_at, e.version
LIMIT $8;

-- name: clock_read()
-- The clock of the books.
SELECT ledger_clock() AS clock;

-- name: trial_balance(ledger_id, prefixes, prefix_ends, limit)
-- Sums over the accounts whose ids begin with one of the prefixes, by currency, as they are now.
SELECT currency,
       coalesce(-sum(balance) FILTER (WHERE balance < 0), 0) AS debit,
       coalesce(sum(balance) FILTER (WHERE balance > 0), 0) AS credit,
       count(*) AS accounts
FROM unnest($2::text[], $3::text[]) AS p (prefix, prefix_end)
JOIN accounts ON ledger_id = $1 AND id >= p.prefix AND id < p.prefix_end
GROUP BY currency
ORDER BY currency
LIMIT $4;

-- name: trial_balance_at(ledger_id, prefixes, prefix_ends, at, limit)
-- The same at an instant: each account at its newest entry by then. Accounts opened later are left out.
SELECT a.currency,
       coalesce(-sum(e.balance) FILTER (WHERE e.balance < 0), 0) AS debit,
       coalesce(sum(e.balance) FILTER (WHERE e.balance > 0), 0) AS credit,
       count(*) AS accounts
FROM unnest($2::text[], $3::text[]) AS p (prefix, prefix_end)
JOIN accounts AS a ON a.ledger_id = $1 AND a.id >= p.prefix AND a.id < p.prefix_end
LEFT JOIN LATERAL (
    SELECT s.balance FROM (
        (SELECT source_balance AS balance, source_version AS version
         FROM transfers
         WHERE ledger_id = $1 AND source = a.id AND moves AND created_at <= $4::timestamptz
         ORDER BY created_at DESC, source_version DESC
         LIMIT 1)
        UNION ALL
        (SELECT destination_balance AS balance, destination_version AS version
         FROM transfers
         WHERE ledger_id = $1 AND destination = a.id AND moves AND created_at <= $4::timestamptz
         ORDER BY created_at DESC, destination_version DESC
         LIMIT 1)
    ) AS s
    ORDER BY s.version DESC
    LIMIT 1
) AS e ON true
-- An account may have an entry from before it was opened: the clock may have been set back between the two.
WHERE a.created_at <= $4::timestamptz OR e.balance IS NOT NULL
GROUP BY a.currency
ORDER BY a.currency
LIMIT $5;
