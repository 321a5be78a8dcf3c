-- Find the parents of a batch, and the accounts of the requests that name them, for post_transfers.
--
-- Arguments: those of post_transfers. A parent is named by its id or by the key that it is bound to, which an earlier
-- request of the batch may be about to bind.
--
-- Result, one element a request: parent_ids, parent_kinds, parent_moves and parent_amounts are of the parent's row, null
-- where there is none; parent_requests is the position of the request that makes the parent, where there is no row yet.
-- The other arrays are those of post_transfers with the accounts of the parents in them: currencies, sources and
-- destinations are null where there is no parent. A reversal has its parent's sides the other way round.
--
-- Rows of transfers never change, so they are read before any lock is taken.
CREATE OR REPLACE FUNCTION find_parents(
    p_ledgers         bigint[],
    p_account_ledgers integer[],
    p_accounts        text[],
    p_request_ledgers integer[],
    p_keys            text[],
    p_sources         integer[],
    p_destinations    integer[],
    p_currencies      text[],
    p_kinds           text[],
    p_parents         uuid[],
    p_parent_keys     text[],
    OUT parent_ids      uuid[],
    OUT parent_kinds    text[],
    OUT parent_moves    boolean[],
    OUT parent_amounts  bigint[],
    OUT parent_requests integer[],
    OUT currencies      text[],
    OUT accounts        text[],
    OUT account_ledgers integer[],
    OUT last_accounts   integer[],
    OUT sources         integer[],
    OUT destinations    integer[]
) LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off
SET enable_nestloop = off
AS $$
DECLARE
    n          CONSTANT integer := cardinality(p_keys);
    -- The sides of each request, by id.
    froms      text[];
    tos        text[];
    side       text;
    j          integer;
    last       integer := 0;
BEGIN
    SELECT array_agg(t.id ORDER BY r.position), array_agg(t.kind ORDER BY r.position),
           array_agg(t.moves ORDER BY r.position), array_agg(t.amount ORDER BY r.position),
           array_agg(coalesce(t.currency, r.currency) ORDER BY r.position),
           array_agg(coalesce(t.source, p_accounts[r.source]) ORDER BY r.position),
           array_agg(coalesce(t.destination, p_accounts[r.destination]) ORDER BY r.position)
    INTO parent_ids, parent_kinds, parent_moves, parent_amounts, currencies, froms, tos
    FROM unnest(p_request_ledgers, p_sources, p_destinations, p_currencies, p_parents, p_parent_keys)
        WITH ORDINALITY AS r (ledger, source, destination, currency, parent, parent_key, position)
    LEFT JOIN LATERAL (
        -- The first one from that id on: only the primary key has this order. Without statistics an equal id would be
        -- looked for among all keys of the ledger.
        (SELECT * FROM transfers WHERE ledger_id = p_ledgers[r.ledger] AND id >= r.parent ORDER BY id LIMIT 1)
        UNION ALL
        SELECT * FROM transfers WHERE ledger_id = p_ledgers[r.ledger] AND idempotency_key = r.parent_key
    ) AS t ON t.id = r.parent OR t.idempotency_key = r.parent_key;

    parent_requests := array_fill(NULL::integer, ARRAY[n]);
    FOR i IN 1 .. n LOOP
        IF parent_ids[i] IS NULL AND p_parent_keys[i] IS NOT NULL THEN
            j := array_position(p_keys, p_parent_keys[i]);
            WHILE p_request_ledgers[j] <> p_request_ledgers[i] LOOP
                j := array_position(p_keys, p_parent_keys[i], j + 1);
            END LOOP;
            CONTINUE WHEN j IS NULL OR j >= i;
            parent_requests[i] := j;
            currencies[i] := currencies[j];
            froms[i] := froms[j];
            tos[i] := tos[j];
        END IF;
        IF p_kinds[i] = 'reversal' THEN
            side := froms[i];
            froms[i] := tos[i];
            tos[i] := side;
        END IF;
    END LOOP;

    SELECT coalesce(array_agg(w.id ORDER BY w.ledger, w.id), '{}'), coalesce(array_agg(w.ledger ORDER BY w.ledger, w.id), '{}')
    INTO accounts, account_ledgers
    FROM (
        SELECT r.ledger, r.source COLLATE "C" FROM unnest(p_request_ledgers, froms) AS r (ledger, source)
        WHERE r.source IS NOT NULL
        UNION
        SELECT r.ledger, r.destination COLLATE "C" FROM unnest(p_request_ledgers, tos) AS r (ledger, destination)
        WHERE r.destination IS NOT NULL
    ) AS w (ledger, id);
    SELECT array_agg(s.position::integer ORDER BY r.position), array_agg(d.position::integer ORDER BY r.position)
    INTO sources, destinations
    FROM unnest(p_request_ledgers, froms, tos) WITH ORDINALITY AS r (ledger, source, destination, position)
    LEFT JOIN unnest(account_ledgers, accounts) WITH ORDINALITY AS s (ledger, id, position)
        ON s.ledger = r.ledger AND s.id = r.source
    LEFT JOIN unnest(account_ledgers, accounts) WITH ORDINALITY AS d (ledger, id, position)
        ON d.ledger = r.ledger AND d.id = r.destination;

    last_accounts := array_fill(0, ARRAY[cardinality(p_ledgers)]);
    FOR i IN 1 .. cardinality(accounts) LOOP
        last_accounts[account_ledgers[i]] := i;
    END LOOP;
    -- A ledger whose parents are all unknown has no account.
    FOR i IN 1 .. cardinality(p_ledgers) LOOP
        last := greatest(last, last_accounts[i]);
        last_accounts[i] := last;
    END LOOP;
END
$$;
