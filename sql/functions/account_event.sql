-- A change of an account as the outbox and the feed keep it: the type of the event, the account as it then was, without
-- its due holds, and, for the audit, the version at which its limits took these values.
CREATE OR REPLACE FUNCTION account_event(p_type text, a accounts) RETURNS json
LANGUAGE sql STABLE
AS $$
    SELECT json_build_object(
        'type', p_type,
        'limits_version', a.limits_version,
        'account', json_build_object(
            'id', a.id, 'currency', a.currency, 'balance', a.balance, 'held_in', a.held_in, 'held_out', a.held_out,
            'floor', a.floor, 'ceiling', a.ceiling, 'version', a.version, 'closed', a.closed, 'metadata', a.metadata,
            'created_at', to_char(a.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        )
    )
$$;
