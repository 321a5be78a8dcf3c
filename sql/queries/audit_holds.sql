-- name: audit_unswept(ledger_id, samples)
-- Holds whose expiry was not posted within a minute of its instant, or of their own posting if that was later.
-- This is asked before all else, since the clock runs on while the snapshot stands still.
SELECT 'hold_not_swept' AS kind, count(*) OVER () AS total,
       format('hold %s: due since %s and still open, %s from %s to %s', p.id, p.expires_at, p.remaining, p.source,
              p.destination) AS detail
FROM transfer_progress AS p
LEFT JOIN transfers AS t ON t.ledger_id = $1 AND t.id = p.id
WHERE p.ledger_id = $1 AND p.remaining > 0
    AND greatest(p.expires_at, t.created_at) < (SELECT ledger_clock()) - interval '60 s'
ORDER BY p.expires_at, p.id
LIMIT $2;

-- name: audit_parents(ledger_id, samples, first, last)
-- Captures, voids, expiries and reversals that their parents, in a part of the ledger, do not allow.
SELECT kind, total, CASE bit
    WHEN 1 THEN format('%s %s: there is no posted transfer %s', child, id, parent)
    WHEN 2 THEN format('%s %s: of a %s, %s', child, id, parent_kind, parent)
    WHEN 4 THEN format('%s %s: %s from %s to %s, its parent %s: %s from %s to %s', child, id, currency, source,
                       destination, parent, parent_currency, parent_source, parent_destination)
    WHEN 8 THEN format('%s %s: at %s, its parent %s at %s', child, id, created_at, parent, parent_created_at)
    ELSE format('%s %s: at %s, the hold %s expires at %s', child, id, created_at, parent, expires_at)
    END AS detail
FROM (
    SELECT *, count(*) OVER (PARTITION BY bit) AS total, row_number() OVER (PARTITION BY bit ORDER BY id) AS place
    FROM (
        SELECT c.id, c.kind AS child, c.parent, c.currency, c.source, c.destination, c.created_at,
               p.kind AS parent_kind, p.currency AS parent_currency, p.source AS parent_source,
               p.destination AS parent_destination, p.created_at AS parent_created_at, p.expires_at,
               CASE WHEN p.id IS NULL THEN 1 ELSE 0 END
                   | CASE WHEN CASE WHEN c.kind = 'reversal' THEN p.kind NOT IN ('transfer', 'capture')
                                    ELSE p.kind <> 'hold' END THEN 2 ELSE 0 END
                   | CASE WHEN c.currency <> p.currency OR CASE
                          WHEN c.kind = 'reversal' THEN c.source <> p.destination OR c.destination <> p.source
                          ELSE c.source <> p.source OR c.destination <> p.destination END THEN 4 ELSE 0 END
                   | CASE WHEN c.created_at < p.created_at THEN 8 ELSE 0 END
                   | CASE WHEN c.kind <> 'expiry' AND c.created_at >= p.expires_at THEN 16 ELSE 0 END
                   -- An imported expiry is marked as one that need not be due.
                   | CASE WHEN c.kind = 'expiry' AND c.release_rest IS NULL AND c.created_at < p.expires_at
                          THEN 32 ELSE 0 END AS faults
        FROM transfers AS c
        LEFT JOIN (
            SELECT * FROM transfers WHERE ledger_id = $1 AND id >= $3 AND id <= $4 AND refusal IS NULL
        ) AS p ON p.id = c.parent
        WHERE c.ledger_id = $1 AND c.parent >= $3 AND c.parent <= $4 AND c.refusal IS NULL AND c.kind NOT IN ('transfer', 'hold')
    ) AS c
    JOIN (VALUES
        (1, 'parent_missing'), (2, 'parent_unfit'), (4, 'parent_elsewhere'), (8, 'parent_later'),
        (16, 'hold_outlived'), (32, 'hold_cut_short')
    ) AS k (bit, kind) ON faults & k.bit <> 0
    WHERE faults <> 0
) AS w
WHERE place <= $2
ORDER BY bit, place;

-- name: audit_progress(ledger_id, samples, first, last)
-- Progress of holds and reversed transfers, in a part of the ledger, that does not follow from the later postings.
WITH children AS (
    SELECT parent AS id, coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured,
           coalesce(sum(amount) FILTER (WHERE kind = 'reversal'), 0) AS reversed, coalesce(sum(held), 0) AS held,
           bool_or(kind = 'void') AS voided, bool_or(kind = 'expiry') AS expired,
           -- The first of these ends a hold.
           count(*) FILTER (WHERE kind IN ('void', 'expiry') OR release_rest) AS ends,
           max(source_version) FILTER (WHERE kind IN ('void', 'expiry') OR release_rest) AS ended,
           max(source_version) AS newest
    FROM transfers
    WHERE ledger_id = $1 AND parent >= $3 AND parent <= $4 AND refusal IS NULL
    GROUP BY parent
), facts AS (
    SELECT t.id, t.kind, t.amount, t.source, t.destination, t.expires_at, coalesce(c.captured, 0) AS captured,
           coalesce(c.reversed, 0) AS reversed, CASE WHEN t.kind = 'hold' THEN t.amount + coalesce(c.held, 0) ELSE 0 END
               AS remaining, c.voided, c.expired, c.ends, c.ended, c.newest, c.id IS NOT NULL AS is_parent
    FROM transfers AS t
    LEFT JOIN children AS c ON c.id = t.id
    WHERE t.ledger_id = $1 AND t.id >= $3 AND t.id <= $4 AND t.refusal IS NULL
), judged AS (
    SELECT coalesce(f.id, p.id) AS transfer, coalesce(f.kind, 'transfer') AS what,
           f.amount, f.source, f.destination, f.expires_at, f.captured, f.reversed, f.remaining, s.state,
           p.amount AS told_amount, p.source AS told_source, p.destination AS told_destination,
           p.expires_at AS told_expires_at, p.captured AS told_captured, p.reversed AS told_reversed,
           p.remaining AS told_remaining, p.state AS told_state,
           CASE WHEN p.id IS NULL THEN 1 ELSE 0 END
               | CASE WHEN f.id IS NULL THEN 2 ELSE 0 END
               | CASE WHEN p.amount <> f.amount OR p.source <> f.source OR p.destination <> f.destination
                           OR p.id = f.id AND p.expires_at IS DISTINCT FROM f.expires_at THEN 4 ELSE 0 END
               | CASE WHEN p.captured <> f.captured THEN 8 ELSE 0 END
               | CASE WHEN p.remaining <> f.remaining THEN 16 ELSE 0 END
               | CASE WHEN p.id = f.id AND p.state IS DISTINCT FROM s.state THEN 32 ELSE 0 END
               | CASE WHEN p.reversed <> f.reversed THEN 64 ELSE 0 END
               | CASE WHEN f.reversed > f.amount THEN 128 ELSE 0 END
               | CASE WHEN f.remaining < 0 OR f.kind = 'hold' AND f.captured > f.amount THEN 256 ELSE 0 END
               | CASE WHEN f.kind = 'hold' AND f.ends > 0
                           AND (f.ends > 1 OR f.ended < f.newest OR f.remaining > 0) THEN 512 ELSE 0 END AS faults
    FROM facts AS f
    FULL JOIN (
        SELECT * FROM transfer_progress WHERE ledger_id = $1 AND id >= $3 AND id <= $4
    ) AS p ON p.id = f.id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN f.kind <> 'hold' THEN NULL WHEN f.remaining > 0 THEN 'open' WHEN f.voided THEN 'voided'
                    WHEN f.expired THEN 'expired' ELSE 'captured' END AS state
    ) AS s
    WHERE f.kind = 'hold' OR f.is_parent OR p.id IS NOT NULL
)
SELECT kind, total, CASE bit
    WHEN 1 THEN format('%s %s: nothing says what has become of it', what, transfer)
    WHEN 2 THEN format('transfer %s: was not posted, but is said to have become something', transfer)
    WHEN 4 THEN format('%s %s: %s from %s to %s%s, said to be %s from %s to %s%s', what, transfer, amount, source,
                       destination, ' until ' || expires_at, told_amount, told_source, told_destination,
                       ' until ' || told_expires_at)
    WHEN 8 THEN format('%s %s: %s captured, said to be %s', what, transfer, captured, told_captured)
    WHEN 16 THEN format('%s %s: %s remaining, said to be %s', what, transfer, remaining, told_remaining)
    WHEN 32 THEN format('%s %s: %s, said to be %s', what, transfer, coalesce(state, 'no hold'),
                        coalesce(told_state, 'no hold'))
    WHEN 64 THEN format('%s %s: %s reversed, said to be %s', what, transfer, reversed, told_reversed)
    WHEN 128 THEN format('%s %s: %s reversed of %s', what, transfer, reversed, amount)
    WHEN 256 THEN format('hold %s: of %s, %s captured and %s remaining', transfer, amount, captured, remaining)
    ELSE format('hold %s: goes on after its end, %s remaining', transfer, remaining)
    END AS detail
FROM (
    SELECT *, count(*) OVER (PARTITION BY bit) AS total, row_number() OVER (PARTITION BY bit ORDER BY transfer) AS place
    FROM (SELECT * FROM judged WHERE faults <> 0) AS j
    JOIN (VALUES
        (1, 'progress_missing'), (2, 'progress_without_transfer'), (4, 'progress_differs'), (8, 'captured_differs'),
        (16, 'remaining_differs'), (32, 'state_differs'), (64, 'reversed_differs'), (128, 'reversed_exceeds'),
        (256, 'hold_exceeded'), (512, 'hold_goes_on')
    ) AS k (bit, kind) ON faults & k.bit <> 0
) AS w
WHERE place <= $2
ORDER BY bit, place;

-- name: audit_held(ledger_id, samples, after, upto)
-- Accounts of a part of the ledger that differ from the sums of their open holds, on either side.
SELECT 'held_not_the_holds' AS kind, count(*) OVER () AS total,
       format('account %s: held_out %s and held_in %s, its open holds sum to %s and %s', coalesce(a.id, h.id),
              a.held_out, a.held_in, coalesce(h.held_out, 0), coalesce(h.held_in, 0)) AS detail
FROM (SELECT * FROM accounts WHERE ledger_id = $1 AND id > $3 AND id <= $4) AS a
FULL JOIN (
    SELECT id, sum(held_out) AS held_out, sum(held_in) AS held_in
    FROM (
        SELECT source AS id, remaining AS held_out, 0 AS held_in
        FROM transfer_progress
        WHERE ledger_id = $1 AND source > $3 AND source <= $4 AND remaining > 0
        UNION ALL
        SELECT destination, 0, remaining
        FROM transfer_progress
        WHERE ledger_id = $1 AND destination > $3 AND destination <= $4 AND remaining > 0
    ) AS o
    GROUP BY id
) AS h ON h.id = a.id
WHERE (a.held_out, a.held_in) IS DISTINCT FROM (coalesce(h.held_out, 0), coalesce(h.held_in, 0))
ORDER BY coalesce(a.id, h.id)
LIMIT $2;

-- name: audit_holds(ledger_id, samples)
-- What is wrong along the rows of each account that a hold has touched: reserved amounts, limits, and versions.
WITH holders AS (
    SELECT a.ctid AS place, a.*
    FROM accounts AS a
    JOIN (
        SELECT source AS id FROM transfers WHERE ledger_id = $1 AND held IS NOT NULL
        UNION
        SELECT destination FROM transfers WHERE ledger_id = $1 AND held IS NOT NULL
    ) AS h ON h.id = a.id
    WHERE a.ledger_id = $1
), gone AS (
    -- Holds that were open when they fell due, with their expiry if it was posted after that. If the instant had passed
    -- before the hold was posted, as in imported books, it comes after everything that was posted with the hold.
    SELECT h.source, h.destination, g.at, p.amount - p.captured AS rest, x.id AS expiry
    FROM transfer_progress AS p
    JOIN transfers AS h ON h.ledger_id = $1 AND h.id = p.id
    LEFT JOIN transfers AS x ON x.ledger_id = $1 AND x.parent = p.id AND x.kind = 'expiry'
    CROSS JOIN LATERAL (SELECT greatest(p.expires_at, h.created_at + interval '1 microsecond') AS at) AS g
    WHERE p.ledger_id = $1 AND p.state IN ('open', 'expired') AND (x.created_at >= g.at) IS NOT FALSE
), moments AS (
    -- Such a hold reserves nothing from then on, and has raised the version. The stored columns follow when its expiry
    -- is posted: until then, rows differ from them by the amounts that are late.
    SELECT a.place AS account, t.created_at AS at, t.source_version AS version, t.source_balance AS balance, t.id,
           coalesce(t.held, 0) AS held_out, 0::bigint AS held_in, coalesce(g.rest, 0) AS late_out, 0::bigint AS late_in,
           CASE WHEN g.expiry IS NOT NULL THEN -1 ELSE 0 END AS late,
           -- Only a row that takes more than was reserved for it must keep the limits.
           CASE WHEN t.held IS NULL OR t.held > 0 THEN a.floor END AS floor, NULL::bigint AS ceiling
    FROM transfers AS t
    JOIN holders AS a ON a.id = t.source
    LEFT JOIN gone AS g ON g.expiry = t.id
    WHERE t.ledger_id = $1 AND t.refusal IS NULL
    UNION ALL
    SELECT a.place, t.created_at, t.destination_version, t.destination_balance, t.id, 0, coalesce(t.held, 0),
           0, coalesce(g.rest, 0), CASE WHEN g.expiry IS NOT NULL THEN -1 ELSE 0 END,
           NULL, CASE WHEN t.held IS NULL OR t.held > 0 THEN a.ceiling END
    FROM transfers AS t
    JOIN holders AS a ON a.id = t.destination
    LEFT JOIN gone AS g ON g.expiry = t.id
    WHERE t.ledger_id = $1 AND t.refusal IS NULL
    UNION ALL
    SELECT a.place, g.at, NULL, NULL, NULL, 0, 0, -g.rest, 0, 1, NULL, NULL
    FROM gone AS g
    JOIN holders AS a ON a.id = g.source
    UNION ALL
    SELECT a.place, g.at, NULL, NULL, NULL, 0, 0, 0, -g.rest, 1, NULL, NULL
    FROM gone AS g
    JOIN holders AS a ON a.id = g.destination
), sums AS (
    SELECT account, at, version, late AS step, held_out + held_in AS change, balance, id, floor, ceiling,
           sum(held_out) OVER w AS held_out,
           sum(held_in) OVER w AS held_in, sum(late_out) OVER w AS late_out, sum(late_in) OVER w AS late_in,
           version - sum(late) OVER w AS stored_version, lead(at) OVER w IS NULL AS is_last
    FROM moments
    -- Holds that fall due at the instant of a row are gone before it; an expiry comes after the row whose version it
    -- shares.
    WINDOW w AS (PARTITION BY account ORDER BY at, version NULLS FIRST, late DESC ROWS UNBOUNDED PRECEDING)
), steps AS (
    SELECT *, max(stored_version) OVER w AS stored_before
    FROM sums
    WINDOW w AS (PARTITION BY account ORDER BY at, version NULLS FIRST, step DESC
                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), judged AS (
    SELECT s.*, a.id AS name, a.held_out AS held_out_now, a.held_in AS held_in_now, a.version AS version_now,
           CASE WHEN s.change < 0 AND (s.held_out < 0 OR s.held_in < 0) THEN 1 ELSE 0 END
               | CASE WHEN s.version > a.limits_version AND s.balance - s.held_out - s.late_out < s.floor
                      THEN 2 ELSE 0 END
               | CASE WHEN s.version > a.limits_version AND s.balance + s.held_in + s.late_in > s.ceiling
                      THEN 4 ELSE 0 END
               | CASE WHEN s.stored_version <= s.stored_before THEN 8 ELSE 0 END
               | CASE WHEN s.is_last AND a.version < greatest(s.stored_version, s.stored_before) THEN 16 ELSE 0 END
               | CASE WHEN s.is_last AND (a.held_out <> s.held_out OR a.held_in <> s.held_in)
                      THEN 32 ELSE 0 END AS faults
    FROM steps AS s
    JOIN holders AS a ON a.place = s.account
)
SELECT kind, total, CASE bit
    WHEN 1 THEN format('account %s, transfer %s: held_out %s, held_in %s', name, id, held_out, held_in)
    WHEN 2 THEN format('account %s, transfer %s: left %s and %s held, below the floor %s',
                       name, id, balance, held_out + late_out, floor)
    WHEN 4 THEN format('account %s, transfer %s: reached %s and %s held, above the ceiling %s',
                       name, id, balance, held_in + late_in, ceiling)
    WHEN 8 THEN format('account %s, transfer %s: version %s, of which %s holds due, after %s',
                       name, id, version, version - stored_version, stored_before)
    WHEN 16 THEN format('account %s: version %s, its last entries have %s', name, version_now,
                        greatest(stored_version, stored_before))
    ELSE format('account %s: held_out %s and held_in %s, its rows leave %s and %s',
                name, held_out_now, held_in_now, held_out, held_in)
    END AS detail
FROM (
    SELECT *, count(*) OVER (PARTITION BY bit) AS total,
           row_number() OVER (PARTITION BY bit ORDER BY name, at, version) AS place
    FROM (SELECT * FROM judged WHERE faults <> 0) AS j
    JOIN (VALUES
        (1, 'held_negative'), (2, 'floor_broken'), (4, 'ceiling_broken'), (8, 'version_out_of_step'),
        (16, 'version_behind'), (32, 'held_differs')
    ) AS k (bit, kind) ON faults & k.bit <> 0
) AS w
WHERE place <= $2
ORDER BY bit, place;
