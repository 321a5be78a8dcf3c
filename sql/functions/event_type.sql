-- The types of events as bits, so that a row of the feed tells all of its types in one number: what a transfer is told
-- as, or a change of an account.
CREATE OR REPLACE FUNCTION event_type(p_kind text, p_refusal text) RETURNS integer
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE
        WHEN p_refusal IS NOT NULL THEN 2
        ELSE CASE p_kind
            WHEN 'transfer' THEN 1
            WHEN 'hold' THEN 4
            WHEN 'capture' THEN 8
            WHEN 'void' THEN 16
            WHEN 'expiry' THEN 32
            WHEN 'reversal' THEN 64
            WHEN 'account.created' THEN 128
            WHEN 'account.updated' THEN 256
            WHEN 'account.closed' THEN 512
        END
    END
$$;
