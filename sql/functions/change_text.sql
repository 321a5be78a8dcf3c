-- All that a row of the feed says of a change of an account, as one text, the same on every server and after every
-- restore: the instant is microseconds since 1970. It is what the chain is made of, as `transfer_text` is: it never
-- changes. Null where there is no change.
CREATE OR REPLACE FUNCTION change_text(p_posted_at timestamptz, p_account text, p_change json) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT ROW((extract(epoch FROM p_posted_at) * 1000000)::bigint, p_account)::text || E'\n' || p_change::text
$$;
