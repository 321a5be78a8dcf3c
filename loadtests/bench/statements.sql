-- Statements of the benchmark, in the format of sql/queries/.

-- name: moves(number, since, accounts)
-- Transfers between the accounts `load:0` and so on, 500 at an instant like a batch. A tenth of them come from the
-- first account, as from one that all callers use.
CREATE TEMPORARY TABLE moves AS
SELECT n, 1 + n % 500 AS amount, $2::timestamptz + (1 + n / 500) * interval '1 millisecond' AS created_at,
       'load:' || source AS source, 'load:' || (source + 1 + step) % $3::bigint AS destination
FROM (
    SELECT n, CASE WHEN n % 10 = 0 THEN 0 ELSE floor(random() * $3::bigint)::bigint END AS source,
           floor(random() * ($3::bigint - 1))::bigint AS step
    FROM generate_series(1, $1::bigint) AS n
) AS m;

-- name: sides(ledger_id)
-- The two sides of each transfer, with the balance and version that its account then has.
CREATE TEMPORARY TABLE sides AS
SELECT s.n, s.account, s.signed < 0 AS is_source, s.created_at,
       a.balance + sum(s.signed) OVER w AS balance, a.version + row_number() OVER w AS version
FROM (
    SELECT n, source AS account, -amount AS signed, created_at FROM moves
    UNION ALL
    SELECT n, destination, amount, created_at FROM moves
) AS s
JOIN tallystick.accounts AS a ON a.ledger_id = $1 AND a.id = s.account
WINDOW w AS (PARTITION BY s.account ORDER BY s.n);

-- name: transfers(ledger_id)
-- Insert the transfers.
INSERT INTO tallystick.transfers (
    ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at, id,
    idempotency_key, fingerprint, kind, moves, source, destination, currency, metadata
)
SELECT $1, m.amount, s.balance, d.balance, s.version, d.version, m.created_at, uuidv7(),
       uuidv7()::text, sha256(m.n::text::bytea), 'transfer', true, m.source, m.destination, 'EUR', '{}'::json
FROM moves AS m
JOIN sides AS s ON s.n = m.n AND s.is_source
JOIN sides AS d ON d.n = m.n AND NOT d.is_source
ORDER BY m.n;

-- name: outbox(ledger_id)
-- Insert their batches for the feed.
INSERT INTO tallystick.outbox (ledger_id, posted_at, transfers)
SELECT $1, created_at, array_agg(id ORDER BY id)
FROM tallystick.transfers
WHERE ledger_id = $1 AND moves AND created_at >= (SELECT min(created_at) FROM moves)
GROUP BY created_at;

-- name: relay()
-- Relay some of the outbox, and return whether nothing is left, so that the relay does not disturb a measurement.
SELECT whole FROM tallystick.relay_outbox('0', '{}', 2000, 10000);

-- name: accounts(ledger_id)
-- Update the accounts to their state after the transfers.
UPDATE tallystick.accounts AS a
SET balance = s.balance, version = s.version, last_entry_at = s.created_at
FROM (
    SELECT DISTINCT ON (account) account, balance, version, created_at FROM sides ORDER BY account, version DESC
) AS s
WHERE a.ledger_id = $1 AND a.id = s.account;

-- name: start(ledger_id)
-- Return an instant that is not before any entry.
SELECT greatest(clock_timestamp(), max(last_entry_at)) FROM tallystick.accounts WHERE ledger_id = $1;

-- name: ledger(account_id)
-- Return the newest ledger that has an account.
SELECT max(ledger_id) FROM tallystick.accounts WHERE id = $1;

-- name: count()
-- Count all transfers.
SELECT count(*) FROM tallystick.transfers;

-- name: new_ledger(name)
-- Make a ledger.
INSERT INTO tallystick.ledgers (name) VALUES ($1) RETURNING id;

-- name: new_key(ledger_id, id, digest)
-- Make an admin key with generous limits, as a command makes it.
INSERT INTO tallystick.api_keys (ledger_id, id, digest, role, rate_quota, rate_window, burst, concurrency)
VALUES ($1, $2, $3, 'admin', 1000000, 1, 1000000, 100000);

-- name: insert()
-- Insert rows with different, ascending keys, as a busy caller does. pgbench runs this.
INSERT INTO tallystick.transfers (
    ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at, id,
    idempotency_key, fingerprint, kind, moves, source, destination, currency, metadata
)
SELECT 1, 1, 1, 1, 1, 1, clock_timestamp(), uuidv7(), uuidv7()::text, sha256(r.a::text::bytea), 'transfer', true,
       'load:' || r.a, 'load:' || r.a + 1, 'EUR', '{}'::json
FROM (SELECT (random() * 998)::int AS a FROM generate_series(1, 500)) AS r;

-- name: pgbench_audit()
-- Return whether pgbench has neither made nor lost money.
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
   AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers);

-- name: peer_accounts(ledger, ids, floors)
-- Open accounts of a peer.
INSERT INTO accounts (ledger, id, currency, balance, floor, version)
SELECT $1, id, 'EUR', 0, floor, 1 FROM unnest($2::text[], $3::bigint[]) AS a (id, floor);

-- name: peer_audit()
-- Return whether the peer has neither made nor lost money and every balance is the sum of its transfers. A constraint
-- ensures that no key moved money twice.
SELECT (SELECT coalesce(sum(balance), 0) FROM accounts) = 0
   AND NOT EXISTS (
        SELECT FROM accounts AS a
        LEFT JOIN (
            SELECT id, sum(amount) AS total FROM (
                SELECT destination AS id, amount FROM transfers UNION ALL SELECT source, -amount FROM transfers
            ) AS sides GROUP BY id
        ) AS s USING (id)
        WHERE a.balance <> coalesce(s.total, 0));
