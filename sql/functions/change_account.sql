-- Change an account and return it as it then is, without its due holds.
--
-- Arguments: p_if_versions are the versions that the caller saw, null where any will do. A flag tells whether a limit is
-- set at all, since null is a value of it. p_merge holds the metadata to set, where a null removes an entry; p_clear
-- removes all of it. p_keys_max bounds the entries. p_wait_ms (milliseconds) bounds the wait for a locked row.
--
-- The change is written to the outbox, as `account.closed` where it closes the account, otherwise as `account.updated`.
-- Its instant counts as one of an entry: whatever a clock does, the feed has it in the order of versions.
--
-- No row is returned, and nothing is changed, where there is no such account, where it has moved on from these versions,
-- or where it would hold too much metadata.
CREATE OR REPLACE FUNCTION change_account(
    p_ledger_id   bigint,
    p_account     text,
    p_if_versions bigint[],
    p_set_floor   boolean,
    p_floor       bigint,
    p_set_ceiling boolean,
    p_ceiling     bigint,
    p_closed      boolean,
    p_merge       jsonb,
    p_clear       boolean,
    p_keys_max    integer,
    p_wait_ms     text
) RETURNS TABLE (
    id text, currency text, balance bigint, held_in bigint, held_out bigint, floor bigint, ceiling bigint, version bigint,
    closed boolean, metadata json, created_at timestamptz, expires_in_ms bigint
) LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    a       accounts;
    due     record;
    merge   jsonb;
    closes  boolean;
    instant timestamptz;
BEGIN
    PERFORM set_config('lock_timeout', p_wait_ms, true);
    -- Locked first: what is due is then read as it was left by whoever held the lock before.
    SELECT * INTO a FROM accounts WHERE ledger_id = p_ledger_id AND id = p_account FOR NO KEY UPDATE;
    IF NOT found THEN
        RETURN;
    END IF;
    -- Later than all that happened to it. What is due is told by that instant, so that versions never go back.
    instant := greatest(ledger_clock(), greatest(a.created_at, a.last_entry_at) + interval '1 microsecond');
    SELECT * INTO due FROM due_holds(p_ledger_id, p_account, instant) WHERE a.held_in > 0 OR a.held_out > 0;
    due.holds := coalesce(due.holds, 0);
    merge := jsonb_strip_nulls(a.metadata::jsonb || p_merge);
    IF a.version + due.holds <> ALL (p_if_versions)
       OR (SELECT count(*) FROM jsonb_object_keys(merge)) > p_keys_max THEN
        RETURN;
    END IF;
    closes := p_closed AND NOT a.closed;
    UPDATE accounts
    SET version = version + 1,
        last_entry_at = instant,
        limits_version = CASE WHEN p_set_floor OR p_set_ceiling THEN version + due.holds + 1 ELSE limits_version END,
        floor = CASE WHEN p_set_floor THEN p_floor ELSE floor END,
        ceiling = CASE WHEN p_set_ceiling THEN p_ceiling ELSE ceiling END,
        closed = coalesce(p_closed, closed),
        metadata = CASE WHEN p_clear THEN '{}'::json ELSE coalesce(merge::json, metadata) END
    WHERE ledger_id = p_ledger_id AND id = p_account
    RETURNING * INTO a;
    a.held_in := a.held_in - coalesce(due.held_in, 0);
    a.held_out := a.held_out - coalesce(due.held_out, 0);
    a.version := a.version + due.holds;
    INSERT INTO outbox (ledger_id, posted_at, account, change)
    VALUES (p_ledger_id, a.last_entry_at, a.id,
            account_event(CASE WHEN closes THEN 'account.closed' ELSE 'account.updated' END, a));
    RETURN QUERY SELECT a.id::text, a.currency::text, a.balance, a.held_in, a.held_out, a.floor, a.ceiling, a.version,
                        a.closed, a.metadata, a.created_at, due.expires_in_ms;
END
$$;
