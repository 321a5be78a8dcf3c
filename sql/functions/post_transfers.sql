-- Post a batch of transfers of one ledger in one transaction and say what became of each.
--
-- Arguments: p_accounts holds the ids of all accounts named by the batch, distinct and ascending; the
-- other arrays hold one element a request, in the order in which the requests are to be decided; a null stands for an
-- array of nothing but nulls.
-- p_sources and p_destinations are positions in p_accounts. Keys are distinct within a batch.
-- p_sets numbers the linked sets (atomic bulk) from 1, and other bulks from -1 downwards; 0 is a request that stands
-- alone. The requests of a set or bulk stand side by side. The last three arrays are the conditions, null where none is
-- asked.
-- p_waits tells whether to wait, up to lock_timeout, for accounts that another transaction has locked. Without it they
-- are left alone, and so are the requests that name them.
--
-- Result: outcomes[i] is
--   'posted'    the money moved; balances and versions after it are in the other arrays
--   'known'     the key was bound before: the caller reads the row and compares what was asked for
--   'unbound'   nothing was done and no key was bound, because the linked set meets keys bound before
--   'locked'    nothing was done and no key was bound, because another transaction has locked an account of the
--               request, or of its set or bulk, whose order would be lost; `locked` names these accounts
--   otherwise   the code of the refusal, bound to the key, with the member it is about in pointers[i]
--
-- Locks are taken in one order: accounts by id, then idempotency keys by key. Every batch takes them
-- in that order and takes none after them, so two batches can wait for one another but never in a circle.
CREATE OR REPLACE FUNCTION post_transfers(
    p_ledger_id            bigint,
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
    p_waits                boolean,
    OUT posted_at            timestamptz,
    OUT outcomes             text[],
    OUT pointers             text[],
    OUT source_balances      bigint[],
    OUT destination_balances bigint[],
    OUT source_versions      bigint[],
    OUT destination_versions bigint[],
    OUT locked               text[]
) LANGUAGE plpgsql VOLATILE
-- A plan may have been made before the tables were filled and analyzed, and is kept. Whatever was believed of them then,
-- rows are found by index: keys one by one, which a sub-select cannot do otherwise, and accounts by the list of their
-- ids, which no join may take the place of.
SET enable_seqscan = off
SET enable_nestloop = off
AS $$
DECLARE
    balance_min CONSTANT bigint := -9223372036854775808;
    balance_max CONSTANT bigint := 9223372036854775807;
    n           CONSTANT integer := cardinality(p_keys);
    -- The accounts of the batch, aligned with p_accounts; currency is null where an account does not exist.
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
    entry_at    timestamptz;
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
    -- Positions of the locked accounts in p_accounts.
    skipped     integer[];
BEGIN
    -- (1) Lock every account of the batch, by id. A version that a concurrent batch commits while we wait is the one
    -- read. Only one of the two parts runs.
    SELECT array_agg(a.id), array_agg(a.currency), array_agg(a.balance), array_agg(a.held_in), array_agg(a.held_out),
           array_agg(a.floor), array_agg(a.ceiling), array_agg(a.version), array_agg(a.closed), max(a.last_entry_at)
    INTO found, currencies, balances, held_ins, held_outs, floors, ceilings, versions, closeds, entry_at
    FROM (
        SELECT w.* FROM (
            SELECT accounts.* FROM accounts
            WHERE p_waits AND ledger_id = p_ledger_id AND id = ANY (p_accounts)
            ORDER BY id
            FOR NO KEY UPDATE
        ) AS w
        UNION ALL
        SELECT w.* FROM (
            SELECT accounts.* FROM accounts
            WHERE NOT p_waits AND ledger_id = p_ledger_id AND id = ANY (p_accounts)
            ORDER BY id
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS w
    ) AS a;
    IF cardinality(found) IS DISTINCT FROM cardinality(p_accounts) THEN
        -- Some do not exist or are locked: put the others in their places.
        SELECT array_agg(f.currency), array_agg(f.balance), array_agg(f.held_in), array_agg(f.held_out),
               array_agg(f.floor), array_agg(f.ceiling), array_agg(f.version), array_agg(f.closed)
        INTO currencies, balances, held_ins, held_outs, floors, ceilings, versions, closeds
        FROM (
            SELECT f.* FROM unnest(p_accounts) WITH ORDINALITY AS w (id, position)
            LEFT JOIN unnest(found, currencies, balances, held_ins, held_outs, floors, ceilings, versions, closeds)
                AS f (id, currency, balance, held_in, held_out, floor, ceiling, version, closed) USING (id)
            ORDER BY w.position
        ) AS f;
        IF NOT p_waits THEN
            SELECT array_agg(w.id), array_agg(w.position) INTO locked, skipped
            FROM unnest(p_accounts, currencies) WITH ORDINALITY AS w (id, currency, position)
            WHERE w.currency IS NULL
              AND (SELECT true FROM accounts AS a WHERE a.ledger_id = p_ledger_id AND a.id = w.id);
        END IF;
    END IF;
    before := versions;
    -- Taken under the locks, and later than any entry that these accounts already have: whatever a clock does, an
    -- instant is of one batch, and a page of a statement never has more than that to tell apart by version.
    posted_at := greatest(clock_timestamp(), entry_at + interval '1 microsecond');

    outcomes := array_fill('posted'::text, ARRAY[n]);
    pointers := array_fill(NULL::text, ARRAY[n]);
    source_balances := array_fill(NULL::bigint, ARRAY[n]);
    destination_balances := source_balances;
    source_versions := source_balances;
    destination_versions := source_balances;

    -- (2) Look the keys up, under the locks: whoever held them before us has committed what it did.
    SELECT array_agg(w.position) INTO known
    FROM unnest(p_keys) WITH ORDINALITY AS w (key, position)
    WHERE (SELECT true FROM transfers AS t WHERE t.ledger_id = p_ledger_id AND t.idempotency_key = w.key);
    FOREACH s IN ARRAY coalesce(known, '{}') LOOP
        outcomes[s] := 'known';
    END LOOP;

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
            set_locked := skipped && (p_sources[set_first:set_last] || p_destinations[set_first:set_last]);
        END IF;
        CONTINUE WHEN outcomes[i] <> 'posted';
        IF p_sets[i] = 0 THEN
            IF p_sources[i] = ANY (skipped) OR p_destinations[i] = ANY (skipped) THEN
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

    -- (4) One row a request, sorted by key: two batches that share new keys wait for one another in one order. A key
    -- that a concurrent batch on other accounts has bound meanwhile fails the whole batch on the unique constraint;
    -- whoever called sends it again and then finds the key known.
    INSERT INTO transfers (
        ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at, id,
        idempotency_key, fingerprint, kind, source, destination, currency, reference, description, conditions, metadata,
        refusal, refusal_pointer, refusal_request_id
    )
    SELECT p_ledger_id, r.amount, r.source_balance, r.destination_balance, r.source_version, r.destination_version,
           posted_at, r.id, r.key, r.fingerprint, 'transfer', p_accounts[r.source], p_accounts[r.destination], r.currency,
           r.reference, r.description, r.conditions, r.metadata,
           nullif(r.outcome, 'posted'), r.pointer, CASE WHEN r.outcome <> 'posted' THEN r.request_id END
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
    ORDER BY r.key COLLATE "C";

    -- (5) Each account once, whatever the number of its transfers in this batch.
    UPDATE accounts AS a
    SET balance = u.balance, version = u.version, last_entry_at = posted_at
    FROM unnest(p_accounts, balances, versions, before) AS u (id, balance, version, before)
    WHERE a.ledger_id = p_ledger_id AND a.id = u.id AND a.id = ANY (p_accounts) AND u.version <> u.before;
END
$$;
