-- Post a batch of transfers of any ledgers in one transaction and say what became of each.
--
-- Arguments: p_ledgers holds the ids of all ledgers of the batch, distinct and ascending. p_accounts holds the ids of
-- all accounts that the batch names, by ledger and then by id, distinct and ascending within a ledger. p_last_accounts
-- are the positions of each ledger's last one, and p_account_ledgers the positions of the accounts' ledgers in p_ledgers.
-- The other arrays hold one element a request, in the order in which the requests are to be decided; a null stands for
-- an array of nothing but nulls.
-- p_sources and p_destinations are positions in p_accounts; a request is of the ledger of its accounts. Keys are
-- distinct within a ledger.
-- p_sets numbers the linked sets (atomic bulk) from 1, and other bulks from -1 downwards; 0 is a request that stands
-- alone. The requests of a set or bulk stand side by side. The three arrays after it are the conditions, null where none
-- is asked.
-- p_waits tells of each ledger whether to wait for accounts that another transaction has locked, up to p_wait_ms
-- (milliseconds) for each. Without it they are left alone, and so are the requests that name them.
-- p_looks_up tells whether keys of the batch may be bound already. Without it they are taken for new, and the batch fails
-- on the unique constraint where one is not.
--
-- Result: posted_ats[i] is the instant of all that was posted in the ledger at p_ledgers[i]. outcomes[i] is
--   'posted'    the money moved; balances and versions after it are in the other arrays
--   'known'     the key was bound before: the caller reads the row and compares what was asked for
--   'unbound'   nothing was done and no key was bound, because the linked set meets keys bound before
--   'locked'    nothing was done and no key was bound, because another transaction has locked an account of the
--               request, or of its set or bulk, whose order would be lost; `locked` has the positions of these accounts
--   otherwise   the code of the refusal, bound to the key, with the member it is about in pointers[i]
--
-- Locks are taken in one order: accounts by ledger and id, then idempotency keys by ledger and key. Every batch takes
-- them in that order and takes none after them, so two batches can wait for one another but never in a circle.
CREATE OR REPLACE FUNCTION post_transfers(
    p_ledgers              bigint[],
    p_last_accounts        integer[],
    p_account_ledgers      integer[],
    p_accounts             text[],
    p_keys                 text[],
    p_fingerprints         bytea[],
    p_ids                  uuid[],
    p_sources              integer[],
    p_destinations         integer[],
    p_amounts              bigint[],
    p_currencies           text[],
    p_references           text[],
    p_descriptions         text[],
    p_metadata             json[],
    p_conditions           json[],
    p_request_ids          text[],
    p_sets                 integer[],
    p_source_versions      bigint[],
    p_destination_versions bigint[],
    p_source_availables    bigint[],
    p_waits                boolean[],
    p_wait_ms              integer,
    p_looks_up             boolean,
    OUT posted_ats           timestamptz[],
    OUT outcomes             text[],
    OUT pointers             text[],
    OUT source_balances      bigint[],
    OUT destination_balances bigint[],
    OUT source_versions      bigint[],
    OUT destination_versions bigint[],
    OUT locked               integer[]
) LANGUAGE plpgsql VOLATILE
-- A plan may have been made before the tables were filled and analyzed, and is kept. Whatever was believed of them then,
-- rows are found by index: accounts by the list of a ledger's ids and keys one by one, which a lateral query and a
-- sub-select cannot do otherwise, and locked accounts by their places.
SET enable_seqscan = off
SET enable_nestloop = off
AS $$
DECLARE
    balance_min CONSTANT bigint := -9223372036854775808;
    balance_max CONSTANT bigint := 9223372036854775807;
    n           CONSTANT integer := cardinality(p_keys);
    -- The accounts of the batch, aligned with p_accounts; currency is null where an account does not exist or is locked.
    found_in    integer[];
    found       text[];
    currencies  text[];
    balances    bigint[];
    held_ins    bigint[];
    held_outs   bigint[];
    floors      bigint[];
    ceilings    bigint[];
    versions    bigint[];
    before      bigint[];
    closeds     boolean[];
    entries_at  timestamptz[];
    -- Where the locked rows lie. They stay there, since nobody else can change them.
    places      tid[];
    clock       timestamptz;
    newest      timestamptz;
    -- The request being decided.
    s           integer;
    d           integer;
    amount      bigint;
    refusal     text;
    pointer     text;
    -- The set or bulk being decided: its first and last position, whether one of its keys is known, and whether it names
    -- a locked account.
    set_first   integer;
    set_last    integer;
    set_known   boolean;
    set_locked  boolean;
    known       integer[];
    updated     integer;
BEGIN
    PERFORM set_config('lock_timeout', p_wait_ms::text, true);

    -- (1) Lock every account of the batch, ledger by ledger, and by id within each. A version that a concurrent batch
    -- commits while we wait is the one read. Of the two parts one runs for each ledger. A ledger's ids are cut out once
    -- (OFFSET 0 keeps that apart), and not again for each row that has changed while we waited.
    SELECT array_agg(l.position::integer), array_agg(a.id), array_agg(a.place), array_agg(a.currency),
           array_agg(a.balance), array_agg(a.held_in), array_agg(a.held_out), array_agg(a.floor), array_agg(a.ceiling),
           array_agg(a.version), array_agg(a.closed), array_agg(a.last_entry_at), max(a.last_entry_at)
    INTO found_in, found, places, currencies, balances, held_ins, held_outs, floors, ceilings, versions, closeds,
         entries_at, newest
    FROM (
        SELECT o.id, o.waits, o.position, p_accounts[coalesce(p_last_accounts[o.position - 1], 0) + 1 : o.last] AS names
        FROM unnest(p_ledgers, p_last_accounts, p_waits) WITH ORDINALITY AS o (id, last, waits, position)
        OFFSET 0
    ) AS l
    CROSS JOIN LATERAL (
        SELECT w.* FROM (
            SELECT accounts.ctid AS place, accounts.* FROM accounts
            WHERE l.waits AND ledger_id = l.id AND id = ANY (l.names)
            ORDER BY id
            FOR NO KEY UPDATE
        ) AS w
        UNION ALL
        SELECT w.* FROM (
            SELECT accounts.ctid AS place, accounts.* FROM accounts
            WHERE NOT l.waits AND ledger_id = l.id AND id = ANY (l.names)
            ORDER BY id
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS w
    ) AS a;
    IF found IS DISTINCT FROM p_accounts OR found_in IS DISTINCT FROM p_account_ledgers THEN
        -- Some do not exist or are locked: put the others in their places.
        SELECT array_agg(f.place), array_agg(f.currency), array_agg(f.balance), array_agg(f.held_in),
               array_agg(f.held_out), array_agg(f.floor), array_agg(f.ceiling), array_agg(f.version),
               array_agg(f.closed), array_agg(f.entry_at)
        INTO places, currencies, balances, held_ins, held_outs, floors, ceilings, versions, closeds, entries_at
        FROM (
            SELECT f.* FROM unnest(p_account_ledgers, p_accounts) WITH ORDINALITY AS w (ledger, id, position)
            LEFT JOIN unnest(found_in, found, places, currencies, balances, held_ins, held_outs, floors, ceilings,
                             versions, closeds, entries_at)
                AS f (ledger, id, place, currency, balance, held_in, held_out, floor, ceiling, version, closed, entry_at)
                USING (ledger, id)
            ORDER BY w.position
        ) AS f;
        SELECT array_agg(w.position) INTO locked
        FROM unnest(p_account_ledgers, p_accounts, currencies) WITH ORDINALITY AS w (ledger, id, currency, position)
        WHERE w.currency IS NULL AND NOT p_waits[w.ledger]
          AND (SELECT true FROM accounts AS a WHERE a.ledger_id = p_ledgers[w.ledger] AND a.id = w.id);
    END IF;
    before := versions;
    -- Taken under the locks, and later than any entry that these accounts already have: whatever a clock does, an
    -- instant is of one batch, and a page of a statement never has more than that to tell apart by version. What a clock
    -- did to one ledger is nothing to another.
    clock := clock_timestamp();
    posted_ats := array_fill(clock, ARRAY[cardinality(p_ledgers)]);
    IF newest >= clock THEN
        FOR i IN 1 .. cardinality(p_accounts) LOOP
            IF entries_at[i] >= posted_ats[p_account_ledgers[i]] THEN
                posted_ats[p_account_ledgers[i]] := entries_at[i] + interval '1 microsecond';
            END IF;
        END LOOP;
    END IF;

    outcomes := array_fill('posted'::text, ARRAY[n]);
    pointers := array_fill(NULL::text, ARRAY[n]);
    source_balances := array_fill(NULL::bigint, ARRAY[n]);
    destination_balances := source_balances;
    source_versions := source_balances;
    destination_versions := source_balances;

    -- (2) Look the keys up, under the locks: whoever held them before us has committed what it did. Requests that are
    -- left alone are not inserted, so only here can one of them be known.
    IF p_looks_up OR locked IS NOT NULL THEN
        SELECT array_agg(w.position) INTO known
        FROM unnest(p_keys, p_sources) WITH ORDINALITY AS w (key, source, position)
        WHERE (SELECT true FROM transfers AS t
               WHERE t.ledger_id = p_ledgers[p_account_ledgers[w.source]] AND t.idempotency_key = w.key);
        IF known IS NOT NULL THEN
            -- A row that is seen may not have reached the standby. The commit waits for that only if something was
            -- logged, and where accounts are locked or missing nothing else is.
            PERFORM pg_logical_emit_message(true, 'tallystick', '');
            FOREACH s IN ARRAY known LOOP
                outcomes[s] := 'known';
            END LOOP;
        END IF;
    END IF;

    -- (3) Decide, in order, against balances held in memory. The order of the checks is the contract's.
    set_last := 0;
    FOR i IN 1 .. n LOOP
        IF p_sets[i] <> 0 AND i > set_last THEN
            set_first := i;
            set_last := i;
            WHILE set_last < n AND p_sets[set_last + 1] = p_sets[i] LOOP
                set_last := set_last + 1;
            END LOOP;
            set_known := 'known' = ANY (outcomes[set_first:set_last]);
            set_locked := locked && (p_sources[set_first:set_last] || p_destinations[set_first:set_last]);
        END IF;
        CONTINUE WHEN outcomes[i] <> 'posted';
        IF p_sets[i] = 0 THEN
            IF p_sources[i] = ANY (locked) OR p_destinations[i] = ANY (locked) THEN
                outcomes[i] := 'locked';
                CONTINUE;
            END IF;
        ELSIF p_sets[i] > 0 AND set_known THEN
            -- A set that meets a bound key is not the set that bound it, unless all its keys are bound.
            outcomes[i] := 'unbound';
            CONTINUE;
        ELSIF set_locked THEN
            outcomes[i] := 'locked';
            CONTINUE;
        END IF;
        s := p_sources[i];
        d := p_destinations[i];
        amount := p_amounts[i];
        refusal := NULL;
        IF currencies[s] IS NULL THEN
            refusal := 'account_not_found'; pointer := '/source';
        ELSIF currencies[d] IS NULL THEN
            refusal := 'account_not_found'; pointer := '/destination';
        ELSIF currencies[s] <> p_currencies[i] THEN
            refusal := 'currency_mismatch'; pointer := '/source';
        ELSIF currencies[d] <> p_currencies[i] THEN
            refusal := 'currency_mismatch'; pointer := '/destination';
        ELSIF closeds[s] THEN
            refusal := 'account_closed'; pointer := '/source';
        ELSIF closeds[d] THEN
            refusal := 'account_closed'; pointer := '/destination';
        ELSIF p_source_versions[i] <> versions[s] THEN
            refusal := 'condition_failed'; pointer := '/conditions/source_version';
        ELSIF p_destination_versions[i] <> versions[d] THEN
            refusal := 'condition_failed'; pointer := '/conditions/destination_version';
        ELSIF balances[s] - held_outs[s] < p_source_availables[i] THEN
            refusal := 'condition_failed'; pointer := '/conditions/source_available_gte';
        -- Each sum below is compared with room left, so that no intermediate value can overflow.
        ELSIF balances[s] < balance_min + amount + held_outs[s] THEN
            refusal := CASE WHEN floors[s] IS NULL THEN 'balance_overflow' ELSE 'insufficient_funds' END;
            pointer := '/source';
        ELSIF balances[s] - held_outs[s] - amount < floors[s] THEN
            refusal := 'insufficient_funds'; pointer := '/source';
        ELSIF balances[d] > balance_max - amount - held_ins[d] THEN
            refusal := CASE WHEN ceilings[d] IS NULL THEN 'balance_overflow' ELSE 'ceiling_exceeded' END;
            pointer := '/destination';
        ELSIF balances[d] + held_ins[d] + amount > ceilings[d] THEN
            refusal := 'ceiling_exceeded'; pointer := '/destination';
        END IF;

        IF refusal IS NULL THEN
            balances[s] := balances[s] - amount;
            balances[d] := balances[d] + amount;
            versions[s] := versions[s] + 1;
            versions[d] := versions[d] + 1;
            source_balances[i] := balances[s];
            destination_balances[i] := balances[d];
            source_versions[i] := versions[s];
            destination_versions[i] := versions[d];
        ELSIF p_sets[i] <= 0 THEN
            outcomes[i] := refusal;
            pointers[i] := pointer;
        ELSE
            -- All or nothing: take back what this set did before it, newest first.
            FOR j IN REVERSE i - 1 .. set_first LOOP
                s := p_sources[j];
                d := p_destinations[j];
                balances[s] := balances[s] + p_amounts[j];
                balances[d] := balances[d] - p_amounts[j];
                versions[s] := versions[s] - 1;
                versions[d] := versions[d] - 1;
                source_balances[j] := NULL;
                destination_balances[j] := NULL;
                source_versions[j] := NULL;
                destination_versions[j] := NULL;
            END LOOP;
            FOR j IN set_first .. set_last LOOP
                outcomes[j] := 'linked_failed';
            END LOOP;
            outcomes[i] := refusal;
            pointers[i] := pointer;
        END IF;
    END LOOP;

    -- (4) One row a request, by ledger and key: two batches that share new keys wait for one another in one order. A key
    -- that was not looked up, or that a concurrent batch on other accounts has bound meanwhile, fails the whole batch on
    -- the unique constraint; whoever called sends it again and then finds the key known.
    INSERT INTO transfers (
        ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at, id,
        idempotency_key, fingerprint, kind, source, destination, currency, reference, description, conditions, metadata,
        refusal, refusal_pointer, refusal_request_id
    )
    SELECT p_ledgers[p_account_ledgers[r.source]], r.amount, r.source_balance, r.destination_balance, r.source_version,
           r.destination_version, posted_ats[p_account_ledgers[r.source]], r.id, r.key, r.fingerprint, 'transfer',
           p_accounts[r.source], p_accounts[r.destination], r.currency, r.reference, r.description, r.conditions,
           r.metadata, nullif(r.outcome, 'posted'), r.pointer, CASE WHEN r.outcome <> 'posted' THEN r.request_id END
    FROM unnest(
        p_amounts, source_balances, destination_balances, source_versions, destination_versions, p_ids, p_keys,
        p_fingerprints, p_sources, p_destinations, p_currencies, p_references, p_descriptions, p_conditions, p_metadata,
        outcomes, pointers, p_request_ids
    ) AS r (
        amount, source_balance, destination_balance, source_version, destination_version, id, key,
        fingerprint, source, destination, currency, reference, description, conditions, metadata,
        outcome, pointer, request_id
    )
    WHERE r.outcome NOT IN ('known', 'unbound', 'locked')
    ORDER BY p_account_ledgers[r.source], r.key COLLATE "C";

    -- (5) Each account once, whatever the number of its transfers in this batch, where it was found.
    UPDATE accounts AS a
    SET balance = u.balance, version = u.version, last_entry_at = posted_ats[u.ledger]
    FROM unnest(places, p_account_ledgers, balances, versions, before)
        AS u (place, ledger, balance, version, old_version)
    WHERE a.ctid = ANY (places) AND a.ctid = u.place AND a.ledger_id = p_ledgers[u.ledger] AND a.version = u.old_version
      AND u.version <> u.old_version;
    GET DIAGNOSTICS updated = ROW_COUNT;
    IF updated <> (SELECT count(*) FROM unnest(versions, before) AS u (new, old) WHERE u.new <> u.old) THEN
        RAISE 'locked accounts were changed by another transaction';
    END IF;
END
$$;
