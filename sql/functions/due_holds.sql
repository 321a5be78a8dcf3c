-- What the due holds of an account still count in its stored columns, and when the next of its holds is due: now, or at
-- p_at.
--
-- Result, one row: due holds of which the account is the destination and the source, in minor units; their number; and
-- the milliseconds until the next open hold expires, on either side, null where none is open.
CREATE OR REPLACE FUNCTION due_holds(p_ledger_id bigint, p_account text, p_at timestamptz DEFAULT NULL)
RETURNS TABLE (held_in bigint, held_out bigint, holds bigint, expires_in_ms bigint) LANGUAGE sql STABLE AS $$
    SELECT coalesce(i.remaining, 0), coalesce(o.remaining, 0), i.holds + o.holds,
           floor(extract(epoch FROM least(j.expires_at, p.expires_at) - c.clock) * 1000)::bigint
    FROM (SELECT coalesce(p_at, ledger_clock()) AS clock OFFSET 0) AS c
    CROSS JOIN LATERAL (
        SELECT sum(remaining)::bigint AS remaining, count(*) AS holds FROM transfer_progress
        WHERE ledger_id = p_ledger_id AND destination = p_account AND remaining > 0 AND expires_at <= c.clock
    ) AS i
    CROSS JOIN LATERAL (
        SELECT sum(remaining)::bigint AS remaining, count(*) AS holds FROM transfer_progress
        WHERE ledger_id = p_ledger_id AND source = p_account AND remaining > 0 AND expires_at <= c.clock
    ) AS o
    CROSS JOIN LATERAL (
        SELECT min(expires_at) AS expires_at FROM transfer_progress
        WHERE ledger_id = p_ledger_id AND destination = p_account AND remaining > 0 AND expires_at > c.clock
    ) AS j
    CROSS JOIN LATERAL (
        SELECT min(expires_at) AS expires_at FROM transfer_progress
        WHERE ledger_id = p_ledger_id AND source = p_account AND remaining > 0 AND expires_at > c.clock
    ) AS p
$$;
