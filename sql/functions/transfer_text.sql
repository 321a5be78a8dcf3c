-- All that a row of `transfers` says, as one text, the same on every server and after every restore: instants are
-- microseconds since 1970, bytes are hexadecimal digits. It is what the chain of the feed is made of: its text never
-- changes. A column that is added later gets a function of its own.
CREATE OR REPLACE FUNCTION transfer_text(t transfers) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT ROW(
        t.ledger_id, t.amount, t.source_balance, t.destination_balance, t.source_version, t.destination_version,
        (extract(epoch FROM t.created_at) * 1000000)::bigint, (extract(epoch FROM t.effective_at) * 1000000)::bigint,
        (extract(epoch FROM t.expires_at) * 1000000)::bigint, t.held, t.amount_asked, t.id, t.parent, t.moves,
        t.release_rest, t.idempotency_key, encode(t.fingerprint, 'hex'), t.kind, t.source, t.destination, t.currency,
        t.reference, t.description, t.conditions, t.metadata, t.parent_key, t.refusal, t.refusal_pointer,
        t.refusal_request_id
    )::text
$$;
