-- Post a batch of transfers of any ledgers in one transaction and say what became of each.
--
-- Arguments: p_ledgers holds the ids of all ledgers of the batch, distinct and ascending. p_accounts holds the ids of
-- all accounts that the batch names, by ledger and then by id, distinct and ascending within a ledger. p_last_accounts
-- are the positions of each ledger's last one, and p_account_ledgers the positions of the accounts' ledgers in p_ledgers.
-- The other arrays hold one element a request, in the order in which the requests are to be decided; a null stands for
-- an array of nothing but nulls.
-- p_request_ledgers are the positions of the requests' ledgers. p_sources and p_destinations are positions in
-- p_accounts. Keys are distinct within a ledger. A kind that is null is a transfer.
-- A request with a parent has no sides, no currency and perhaps no amount: all of them are found by the parent, which
-- is named by its id, or by the key that it is bound to, here by an earlier request or long ago.
-- A hold is due after p_expires_ins seconds, or at the instant in p_expires_ats; not before it is posted. An expiry
-- that releases the rest may come before its hold is due: books that are imported have it where it took effect.
-- p_sets numbers the linked sets (atomic bulk) from 1, and other bulks from -1 downwards; 0 is a request that stands
-- alone. The requests of a set or bulk stand side by side. The three arrays after it are the conditions, null where none
-- is asked.
-- p_waits tells of each ledger whether to wait for accounts that another transaction has locked, up to p_wait_ms
-- (milliseconds) for each. Without it they are left alone, and so are the requests that name them. Where it is null,
-- the batch is a preview: it is decided as all others, takes no lock and writes nothing.
-- p_looks_up tells whether keys of the batch may be bound already. Without it they are taken for new, and the batch fails
-- on the unique constraint where one is not.
--
-- Result: posted_ats[i] is the instant of all that was posted in the ledger at p_ledgers[i]. outcomes[i] is
--   'posted'    it was done; balances and versions after it are in the other arrays
--   'known'     the key was bound before: the caller reads the row and compares what was asked for
--   'unbound'   nothing was done and no key was bound, because the linked set meets keys bound before, or has an instant
--               that has not come; or because the hold of an expiry is not due
--   'future'    nothing was done and no key was bound, because effective_at has not come
--   'locked'    nothing was done and no key was bound, because another transaction has locked an account of the
--               request, or the progress of its parent, or one of its set or bulk, whose order would be lost; `locked`
--               has the names of these rows, as row_locked_many takes them, locked_ledgers the positions of their
--               ledgers
--   otherwise   the code of the refusal, bound to the key, with the member it is about in pointers[i]
--
-- The arrays child_* tell what requests with a parent could not: null where the batch has none.
--
-- A hold is due from its expires_at on, and reserves nothing any more, whether or not its expiry has been posted. The
-- stored held_in and held_out count it until then, and the stored version counts its expiry from then on; every decision
-- is made against what they are without due holds. So nothing here writes an account that the batch does not name.
--
-- Locks are taken in one order: accounts by ledger and id, then idempotency keys by ledger and key. Every batch takes
-- them in that order and takes none after them, so two batches can wait for one another but never in a circle.
-- The progress of a parent is changed only under the locks of both its accounts. So no other batch has it locked, and
-- no batch waits for it.
CREATE OR REPLACE FUNCTION post_transfers(
    p_ledgers              bigint[],
    p_last_accounts        integer[],
    p_account_ledgers      integer[],
    p_accounts             text[],
    p_request_ledgers      integer[],
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
    p_effective_ats        timestamptz[],
    p_kinds                text[],
    p_expires_ins          integer[],
    p_parents              uuid[],
    p_parent_keys          text[],
    p_releases_rest        boolean[],
    p_expires_ats          timestamptz[],
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
    OUT child_parents        uuid[],
    OUT child_sources        text[],
    OUT child_destinations   text[],
    OUT child_amounts        bigint[],
    OUT child_currencies     text[],
    OUT locked               text[],
    OUT locked_ledgers       integer[]
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
    previews    CONSTANT boolean := p_waits[1] IS NULL;
    -- Of each kind but a transfer, which moves all of its amount and has no parent: how much of the amount moves and how
    -- much is reserved; the refusals where the parent is unfit, and where it has less left; and the state of the hold
    -- that it ends. Set where a batch has such kinds.
    kinds       text[];
    moving      integer[];
    reserving   integer[];
    unfit       text[];
    exceeding   text[];
    ending      text[];
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
    any_held    boolean;
    -- Of the accounts: what their due holds reserve in the stored columns, and how many these are; null where none is.
    due_ins     bigint[];
    due_outs    bigint[];
    dues        integer[];
    -- Where the locked rows lie. They stay there, since nobody else can change them.
    places      tid[];
    clock       timestamptz;
    newest      timestamptz;
    -- The positions of accounts that are locked.
    locked_at   integer[];
    -- Of requests with a parent: its row, where there is one, and else the position of the request that makes it.
    parent_ids          uuid[];
    parent_kinds        text[];
    parent_moves        boolean[];
    parent_amounts      bigint[];
    parent_requests     integer[];
    asked               bigint[];
    -- What each request adds to what is held.
    helds               bigint[];
    -- What has become of holds and parents: rows of transfer_progress as they are and as they are to be.
    progress_count integer := 0;
    progress_ids   uuid[];
    ledger_of      integer[];
    amount_of      bigint[];
    captured_of    bigint[];
    remaining_of   bigint[];
    reversed_of    bigint[];
    state_of       text[];
    expiry_of      timestamptz[];
    -- Whether another transaction has locked the row.
    progress_locked boolean[];
    -- Sides as positions of accounts, and whether the row is to be written.
    source_of      integer[];
    destination_of integer[];
    changed        boolean[];
    -- The progress that a request makes, by its position.
    progress_at    integer[];
    -- The request being decided: its sides, its kind, its parent with its progress, whether it may have this kind of
    -- child and what remains of it; the amount, what of it moves and is reserved, and the sum of both.
    s           integer;
    d           integer;
    kind        text;
    k           integer;
    parent      integer;
    p           integer;
    fits        boolean;
    remains     bigint;
    amount      bigint;
    moved       bigint;
    held        bigint;
    delta       bigint;
    refusal     text;
    pointer     text;
    -- Whether the hold that it ends is due.
    due         boolean;
    -- The set or bulk being decided: its first and last position, whether one of its keys is known, whether it names a
    -- locked account, whether one of its instants has not come, and what was before it.
    set_first      integer;
    set_last       integer;
    set_known      boolean;
    set_locked     boolean;
    set_future     boolean;
    set_balances   bigint[];
    set_held_ins   bigint[];
    set_held_outs  bigint[];
    set_versions   bigint[];
    set_captured   bigint[];
    set_remaining  bigint[];
    set_reversed   bigint[];
    set_state      text[];
    set_changed    boolean[];
    set_progress   integer;
    set_progress_at integer[];
    known       integer[];
    updated     integer;
BEGIN
    PERFORM set_config('lock_timeout', p_wait_ms::text, true);

    -- (0) The parents, and with them the accounts of the requests that name them.
    IF p_parents IS NOT NULL OR p_parent_keys IS NOT NULL THEN
        SELECT * INTO parent_ids, parent_kinds, parent_moves, parent_amounts, parent_requests, p_currencies, p_accounts,
                      p_account_ledgers, p_last_accounts, p_sources, p_destinations
        FROM find_parents(p_ledgers, p_account_ledgers, p_accounts, p_request_ledgers, p_keys, p_sources, p_destinations,
                          p_currencies, p_kinds, p_parents, p_parent_keys);
        asked := p_amounts;
        p_amounts := coalesce(p_amounts, array_fill(NULL::bigint, ARRAY[n]));
    END IF;

    -- (1) Lock every account of the batch, ledger by ledger, and by id within each. A version that a concurrent batch
    -- commits while we wait is the one read. Of the three parts one runs for each ledger. A ledger's ids are cut out once
    -- (OFFSET 0 keeps that apart), and not again for each row that has changed while we waited.
    SELECT array_agg(l.position::integer), array_agg(a.id), array_agg(a.place), array_agg(a.currency),
           array_agg(a.balance), array_agg(a.held_in), array_agg(a.held_out), array_agg(a.floor), array_agg(a.ceiling),
           array_agg(a.version), array_agg(a.closed), array_agg(greatest(a.created_at, a.last_entry_at)),
           max(greatest(a.created_at, a.last_entry_at)),
           bool_or(a.held_in > 0 OR a.held_out > 0)
    INTO found_in, found, places, currencies, balances, held_ins, held_outs, floors, ceilings, versions, closeds,
         entries_at, newest, any_held
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
        UNION ALL
        SELECT w.* FROM (
            SELECT accounts.ctid AS place, accounts.* FROM accounts
            WHERE previews AND ledger_id = l.id AND id = ANY (l.names)
            ORDER BY id
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
        SELECT array_agg(w.position), array_agg(w.id), array_agg(w.ledger)
        INTO locked_at, locked, locked_ledgers
        FROM unnest(p_account_ledgers, p_accounts, currencies) WITH ORDINALITY AS w (ledger, id, currency, position)
        WHERE w.currency IS NULL AND NOT p_waits[w.ledger]
          AND (SELECT true FROM accounts AS a WHERE a.ledger_id = p_ledgers[w.ledger] AND a.id = w.id);
    END IF;
    before := versions;
    -- Taken under the locks, and later than any entry or change that these accounts already have: whatever a clock does,
    -- an instant is of one batch, a page of a statement never has more than that to tell apart by version, and the feed
    -- has events of an account in the order of its versions. What a clock did to one ledger is nothing to another.
    clock := ledger_clock();
    posted_ats := array_fill(clock, ARRAY[cardinality(p_ledgers)]);
    IF newest >= clock THEN
        FOR i IN 1 .. cardinality(p_accounts) LOOP
            IF entries_at[i] >= posted_ats[p_account_ledgers[i]] THEN
                posted_ats[p_account_ledgers[i]] := entries_at[i] + interval '1 microsecond';
            END IF;
        END LOOP;
    END IF;
    IF any_held THEN
        -- What is due by then is gone.
        SELECT array_agg(coalesce(i.remaining, 0) ORDER BY w.position),
               array_agg(coalesce(o.remaining, 0) ORDER BY w.position),
               array_agg(coalesce(i.holds, 0) + coalesce(o.holds, 0) ORDER BY w.position)
        INTO due_ins, due_outs, dues
        FROM unnest(p_account_ledgers, p_accounts, held_ins, held_outs)
            WITH ORDINALITY AS w (ledger, id, held_in, held_out, position)
        LEFT JOIN LATERAL (
            SELECT sum(remaining)::bigint AS remaining, count(*)::integer AS holds FROM transfer_progress
            WHERE w.held_in > 0 AND ledger_id = p_ledgers[w.ledger] AND destination = w.id AND remaining > 0
              AND expires_at <= posted_ats[w.ledger]
        ) AS i ON true
        LEFT JOIN LATERAL (
            SELECT sum(remaining)::bigint AS remaining, count(*)::integer AS holds FROM transfer_progress
            WHERE w.held_out > 0 AND ledger_id = p_ledgers[w.ledger] AND source = w.id AND remaining > 0
              AND expires_at <= posted_ats[w.ledger]
        ) AS o ON true;
        FOR i IN 1 .. cardinality(p_accounts) LOOP
            IF dues[i] > 0 THEN
                held_ins[i] := held_ins[i] - due_ins[i];
                held_outs[i] := held_outs[i] - due_outs[i];
                versions[i] := versions[i] + dues[i];
            END IF;
        END LOOP;
    END IF;
    IF parent_ids IS NOT NULL THEN
        SELECT array_agg(w.parent), array_agg(w.ledger), array_agg(w.amount), array_agg(w.source),
               array_agg(w.destination), array_agg(coalesce(t.captured, 0)), array_agg(coalesce(t.remaining, 0)),
               array_agg(coalesce(t.reversed, 0)), array_agg(t.state), array_agg(t.expires_at), array_agg(false),
               array_agg(CASE WHEN w.locks AND t.id IS NULL THEN (
                   SELECT true FROM transfer_progress AS f WHERE f.ledger_id = p_ledgers[w.ledger] AND f.id = w.parent
               ) END),
               count(*)
        INTO progress_ids, ledger_of, amount_of, source_of, destination_of, captured_of, remaining_of, reversed_of,
             state_of, expiry_of, changed, progress_locked, progress_count
        FROM (
            SELECT DISTINCT ON (r.parent) r.ledger, r.parent, r.amount,
                   CASE WHEN r.kind = 'reversal' THEN r.destination ELSE r.source END AS source,
                   CASE WHEN r.kind = 'reversal' THEN r.source ELSE r.destination END AS destination,
                   -- Without its accounts, the progress may be another batch's.
                   NOT previews AND currencies[r.source] IS NOT NULL AND currencies[r.destination] IS NOT NULL AS locks
            FROM unnest(p_request_ledgers, parent_ids, parent_amounts, p_kinds, p_sources, p_destinations)
                AS r (ledger, parent, amount, kind, source, destination)
            WHERE r.parent IS NOT NULL
        ) AS w
        -- One by one: OFFSET 0 keeps the planner from joining all that the ledger has.
        LEFT JOIN LATERAL (
            SELECT f.* FROM (
                SELECT * FROM transfer_progress
                WHERE w.locks AND ledger_id = p_ledgers[w.ledger] AND id = w.parent
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS f
            UNION ALL
            SELECT f.* FROM (
                SELECT * FROM transfer_progress
                WHERE previews AND ledger_id = p_ledgers[w.ledger] AND id = w.parent OFFSET 0
            ) AS f
        ) AS t ON true;
        IF true = ANY (progress_locked) THEN
            -- Requests that need it, and those that follow such requests, get a locked account of no place.
            locked_at := locked_at || 0;
            FOR i IN 1 .. n LOOP
                p := array_position(progress_ids, parent_ids[i]);
                IF progress_locked[p] OR p_sources[parent_requests[i]] = 0 THEN
                    p_sources[i] := 0;
                END IF;
            END LOOP;
            FOR i IN 1 .. progress_count LOOP
                IF progress_locked[i] THEN
                    locked := locked || ('parent ' || progress_ids[i]);
                    locked_ledgers := locked_ledgers || ledger_of[i];
                END IF;
            END LOOP;
        END IF;
    END IF;

    outcomes := array_fill('posted'::text, ARRAY[n]);
    pointers := array_fill(NULL::text, ARRAY[n]);
    source_balances := array_fill(NULL::bigint, ARRAY[n]);
    destination_balances := source_balances;
    source_versions := source_balances;
    destination_versions := source_balances;
    IF p_kinds IS NOT NULL THEN
        kinds     := ARRAY['hold', 'capture', 'void', 'expiry', 'reversal'];
        moving    := ARRAY[0, 1, 0, 0, 1];
        reserving := ARRAY[1, -1, -1, -1, 0];
        unfit     := ARRAY[NULL, 'hold_not_open', 'hold_not_open', NULL, 'reversal_exceeds_transfer'];
        exceeding := ARRAY[NULL, 'capture_exceeds_hold', NULL, NULL, 'reversal_exceeds_transfer'];
        ending    := ARRAY[NULL, 'captured', 'voided', 'expired', NULL];
        helds := source_balances;
        progress_at := array_fill(NULL::integer, ARRAY[n]);
    END IF;

    -- (2) Look the keys up, under the locks: whoever held them before us has committed what it did. Requests that are
    -- left alone are not inserted, so only here can one of them be known.
    IF p_looks_up OR locked IS NOT NULL THEN
        SELECT array_agg(w.position) INTO known
        FROM unnest(p_keys, p_request_ledgers) WITH ORDINALITY AS w (key, ledger, position)
        WHERE (SELECT true FROM transfers AS t
               WHERE t.ledger_id = p_ledgers[w.ledger] AND t.idempotency_key = w.key);
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
            set_locked := locked_at && (p_sources[set_first:set_last] || p_destinations[set_first:set_last]);
            set_future := posted_ats[p_request_ledgers[i]] < ANY (p_effective_ats[set_first:set_last]);
            IF p_sets[i] > 0 THEN
                -- What is taken back if one of the set is refused.
                set_balances := balances;
                set_versions := versions;
                IF p_kinds IS NOT NULL THEN
                    set_progress := progress_count;
                    set_progress_at := progress_at;
                    set_held_ins := held_ins;
                    set_held_outs := held_outs;
                    set_captured := captured_of;
                    set_remaining := remaining_of;
                    set_reversed := reversed_of;
                    set_state := state_of;
                    set_changed := changed;
                END IF;
            END IF;
        END IF;
        CONTINUE WHEN outcomes[i] <> 'posted';
        s := p_sources[i];
        d := p_destinations[i];
        IF p_sets[i] = 0 THEN
            IF s = ANY (locked_at) OR d = ANY (locked_at) THEN
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
        IF p_effective_ats IS NOT NULL THEN
            IF p_effective_ats[i] > posted_ats[p_request_ledgers[i]] THEN
                outcomes[i] := 'future';
                CONTINUE;
            ELSIF p_sets[i] > 0 AND set_future THEN
                outcomes[i] := 'unbound';
                CONTINUE;
            END IF;
        END IF;
        amount := p_amounts[i];
        moved := amount;
        held := 0;
        delta := amount;
        refusal := NULL;
        kind := p_kinds[i];
        IF kind IS NOT NULL THEN
            k := array_position(kinds, kind);
            remains := NULL;
            p := NULL;
            fits := NULL;
            IF kind <> 'hold' THEN
                parent := parent_requests[i];
                IF parent IS NULL THEN
                    p := array_position(progress_ids, parent_ids[i]);
                    fits := parent_moves[i] AND parent_kinds[i] <> 'reversal';
                ELSIF outcomes[parent] = 'known' THEN
                    -- Bound since the parents were looked for.
                    RAISE unique_violation USING MESSAGE = 'a parent was bound meanwhile';
                ELSIF outcomes[parent] IN ('locked', 'unbound', 'future') THEN
                    parent := NULL;
                    parent_requests[i] := NULL;
                ELSIF outcomes[parent] = 'posted' THEN
                    fits := coalesce(p_kinds[parent], 'transfer') IN ('transfer', 'capture');
                    p := progress_at[parent];
                    IF p IS NULL AND fits THEN
                        progress_count := progress_count + 1;
                        p := progress_count;
                        progress_at[parent] := p;
                        progress_ids[p] := p_ids[parent];
                        ledger_of[p] := p_request_ledgers[parent];
                        amount_of[p] := p_amounts[parent];
                        captured_of[p] := 0;
                        remaining_of[p] := 0;
                        reversed_of[p] := 0;
                        state_of[p] := NULL;
                        expiry_of[p] := NULL;
                        source_of[p] := p_sources[parent];
                        destination_of[p] := p_destinations[parent];
                        changed[p] := false;
                    END IF;
                ELSE
                    fits := false;
                END IF;
                IF kind = 'reversal' THEN
                    remains := amount_of[p] - reversed_of[p];
                ELSE
                    remains := remaining_of[p];
                    due := expiry_of[p] <= posted_ats[p_request_ledgers[i]];
                    fits := state_of[p] = 'open' AND (due = (kind = 'expiry') OR kind = 'expiry' AND p_releases_rest[i]);
                END IF;
                amount := coalesce(amount, remains);
                p_amounts[i] := nullif(amount, 0);
                IF parent_ids[i] IS NULL AND parent IS NULL THEN
                    refusal := 'transfer_not_found'; pointer := '/parent';
                ELSIF fits IS NOT TRUE OR amount = 0 THEN
                    refusal := unfit[k]; pointer := '/parent';
                END IF;
                IF kind = 'expiry' AND (refusal IS NOT NULL OR fits IS NOT TRUE) THEN
                    outcomes[i] := 'unbound';
                    CONTINUE;
                END IF;
            END IF;
            moved := amount * moving[k];
            held := amount * reserving[k];
            IF p_releases_rest[i] THEN
                held := held - (remains - amount);
            END IF;
            delta := moved + held;
        END IF;
        IF refusal IS NOT NULL THEN
            NULL;
        ELSIF currencies[s] IS NULL THEN
            refusal := 'account_not_found'; pointer := '/source';
        ELSIF currencies[d] IS NULL THEN
            refusal := 'account_not_found'; pointer := '/destination';
        ELSIF currencies[s] <> p_currencies[i] THEN
            refusal := 'currency_mismatch'; pointer := '/source';
        ELSIF currencies[d] <> p_currencies[i] THEN
            refusal := 'currency_mismatch'; pointer := '/destination';
        -- What only releases passes.
        ELSIF closeds[s] AND (moved > 0 OR held > 0) THEN
            refusal := 'account_closed'; pointer := '/source';
        ELSIF closeds[d] AND (moved > 0 OR held > 0) THEN
            refusal := 'account_closed'; pointer := '/destination';
        ELSIF kind IS NOT NULL AND amount > remains THEN
            refusal := exceeding[k]; pointer := '/amount';
        ELSIF p_source_versions[i] <> versions[s] THEN
            refusal := 'condition_failed'; pointer := '/conditions/source_version';
        ELSIF p_destination_versions[i] <> versions[d] THEN
            refusal := 'condition_failed'; pointer := '/conditions/destination_version';
        ELSIF balances[s] - held_outs[s] < p_source_availables[i] THEN
            refusal := 'condition_failed'; pointer := '/conditions/source_available_gte';
        -- What leaves as much available as before is asked for no more. Each sum below is compared with room left, so
        -- that no intermediate value can overflow, nor a stored column, which still counts what is due.
        ELSIF delta <= 0 THEN
            NULL;
        ELSIF balances[s] < balance_min + delta + held_outs[s]
              OR (held > 0 AND held_outs[s] > balance_max - held - coalesce(due_outs[s], 0)) THEN
            refusal := CASE WHEN floors[s] IS NULL THEN 'balance_overflow' ELSE 'insufficient_funds' END;
            pointer := '/source';
        ELSIF balances[s] - held_outs[s] - delta < floors[s] THEN
            refusal := 'insufficient_funds'; pointer := '/source';
        ELSIF balances[d] > balance_max - delta - held_ins[d]
              OR (held > 0 AND held_ins[d] > balance_max - held - coalesce(due_ins[d], 0)) THEN
            refusal := CASE WHEN ceilings[d] IS NULL THEN 'balance_overflow' ELSE 'ceiling_exceeded' END;
            pointer := '/destination';
        ELSIF balances[d] + held_ins[d] + delta > ceilings[d] THEN
            refusal := 'ceiling_exceeded'; pointer := '/destination';
        END IF;

        IF refusal IS NULL THEN
            IF kind IS NOT NULL THEN
                IF kind = 'expiry' AND due AND parent IS NULL THEN
                    -- Gone since its instant: counted once more, for this row to release it.
                    held_ins[d] := held_ins[d] + amount;
                    held_outs[s] := held_outs[s] + amount;
                    due_ins[d] := due_ins[d] - amount;
                    due_outs[s] := due_outs[s] - amount;
                    dues[s] := dues[s] - 1;
                    dues[d] := dues[d] - 1;
                    versions[s] := versions[s] - 1;
                    versions[d] := versions[d] - 1;
                END IF;
                held_outs[s] := held_outs[s] + held;
                held_ins[d] := held_ins[d] + held;
                helds[i] := nullif(held, 0);
                IF kind = 'hold' THEN
                    progress_count := progress_count + 1;
                    p := progress_count;
                    progress_at[i] := p;
                    progress_ids[p] := p_ids[i];
                    ledger_of[p] := p_request_ledgers[i];
                    amount_of[p] := amount;
                    captured_of[p] := 0;
                    remaining_of[p] := 0;
                    reversed_of[p] := 0;
                    state_of[p] := 'open';
                    expiry_of[p] := greatest(p_expires_ats[i], posted_ats[p_request_ledgers[i]]
                                             + coalesce(make_interval(secs => p_expires_ins[i]), '1 microsecond'));
                    source_of[p] := s;
                    destination_of[p] := d;
                ELSIF kind = 'reversal' THEN
                    reversed_of[p] := reversed_of[p] + amount;
                ELSE
                    captured_of[p] := captured_of[p] + moved;
                END IF;
                remaining_of[p] := remaining_of[p] + held;
                changed[p] := true;
                IF held < 0 AND remaining_of[p] = 0 THEN
                    state_of[p] := ending[k];
                END IF;
            END IF;
            balances[s] := balances[s] - moved;
            balances[d] := balances[d] + moved;
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
            -- All or nothing: what this set did before it is taken back.
            balances := set_balances;
            versions := set_versions;
            IF p_kinds IS NOT NULL THEN
                held_ins := set_held_ins;
                held_outs := set_held_outs;
                progress_count := set_progress;
                progress_at := set_progress_at;
                captured_of := set_captured;
                remaining_of := set_remaining;
                reversed_of := set_reversed;
                state_of := set_state;
                changed := set_changed;
            END IF;
            FOR j IN set_first .. i - 1 LOOP
                source_balances[j] := NULL;
                destination_balances[j] := NULL;
                source_versions[j] := NULL;
                destination_versions[j] := NULL;
                helds[j] := NULL;
            END LOOP;
            FOR j IN set_first .. set_last LOOP
                outcomes[j] := 'linked_failed';
            END LOOP;
            outcomes[i] := refusal;
            pointers[i] := pointer;
        END IF;
    END LOOP;

    IF parent_ids IS NOT NULL THEN
        -- Of a parent that does not exist, what was asked for.
        SELECT array_agg(coalesce(r.parent, p_ids[r.parent_request], r.asked) ORDER BY r.position),
               array_agg(p_accounts[r.source] ORDER BY r.position), array_agg(p_accounts[r.destination] ORDER BY r.position)
        INTO child_parents, child_sources, child_destinations
        FROM unnest(parent_ids, parent_requests, p_parents, p_sources, p_destinations)
            WITH ORDINALITY AS r (parent, parent_request, asked, source, destination, position);
        child_amounts := p_amounts;
        child_currencies := p_currencies;
    END IF;
    IF previews THEN
        RETURN;
    END IF;

    -- (4) One row a request, by ledger and key: two batches that share new keys wait for one another in one order. A key
    -- that was not looked up, or that a concurrent batch on other accounts has bound meanwhile, fails the whole batch on
    -- the unique constraint; whoever called sends it again and then finds the key known.
    INSERT INTO transfers (
        ledger_id, amount, source_balance, destination_balance, source_version, destination_version, created_at,
        effective_at, expires_at, held, amount_asked, id, parent, moves, release_rest, idempotency_key, fingerprint, kind,
        source, destination, currency, reference, description, conditions, metadata, parent_key, refusal,
        refusal_pointer, refusal_request_id
    )
    SELECT p_ledgers[r.ledger], r.amount, r.source_balance, r.destination_balance, r.source_version,
           r.destination_version, posted_ats[r.ledger], r.effective_at,
           CASE WHEN r.kind = 'hold' THEN greatest(r.expires_at, posted_ats[r.ledger]
               + coalesce(make_interval(secs => r.expires_in), '1 microsecond')) END, r.held,
           CASE WHEN r.kind <> 'hold' THEN r.asked END, r.id, r.parent,
           CASE WHEN r.outcome = 'posted' THEN r.kind IS NULL OR moving[array_position(kinds, r.kind)] > 0 END,
           r.release_rest, r.key, r.fingerprint, coalesce(r.kind, 'transfer'), p_accounts[r.source],
           p_accounts[r.destination], r.currency, r.reference, r.description, r.conditions, r.metadata, r.parent_key,
           nullif(r.outcome, 'posted'), r.pointer, CASE WHEN r.outcome <> 'posted' THEN r.request_id END
    FROM unnest(
        p_request_ledgers, p_amounts, source_balances, destination_balances, source_versions, destination_versions,
        p_effective_ats, p_expires_ats, p_expires_ins, helds, asked, p_ids, child_parents, p_releases_rest, p_keys,
        p_fingerprints, p_kinds, p_sources, p_destinations, p_currencies, p_references, p_descriptions, p_conditions,
        p_metadata, p_parent_keys, outcomes, pointers, p_request_ids
    ) AS r (
        ledger, amount, source_balance, destination_balance, source_version, destination_version,
        effective_at, expires_at, expires_in, held, asked, id, parent, release_rest, key,
        fingerprint, kind, source, destination, currency, reference, description, conditions,
        metadata, parent_key, outcome, pointer, request_id
    )
    WHERE r.outcome NOT IN ('known', 'unbound', 'future', 'locked')
    ORDER BY r.ledger, r.key COLLATE "C";
    -- For the feed: a row a ledger, with the rows above in the order in which they were decided.
    INSERT INTO outbox (ledger_id, posted_at, transfers)
    SELECT p_ledgers[r.ledger], posted_ats[r.ledger], array_agg(r.id ORDER BY r.position)
    FROM unnest(p_request_ledgers, p_ids, outcomes) WITH ORDINALITY AS r (ledger, id, outcome, position)
    WHERE r.outcome NOT IN ('known', 'unbound', 'future', 'locked')
    GROUP BY r.ledger;
    IF progress_count > 0 THEN
        -- Under the locks of both accounts, as every change of these rows.
        INSERT INTO transfer_progress AS t (
            ledger_id, amount, captured, remaining, reversed, expires_at, id, source, destination, state
        )
        SELECT p_ledgers[r.ledger], r.amount, r.captured, r.remaining, r.reversed, r.expires_at, r.id,
               p_accounts[r.source], p_accounts[r.destination], r.state
        FROM unnest(ledger_of, amount_of, captured_of, remaining_of, reversed_of, expiry_of, progress_ids, source_of,
                    destination_of, state_of, changed)
            AS r (ledger, amount, captured, remaining, reversed, expires_at, id, source, destination, state, changed)
        WHERE r.changed
        ON CONFLICT ON CONSTRAINT transfer_progress_pkey DO UPDATE
        SET captured = excluded.captured, remaining = excluded.remaining, reversed = excluded.reversed,
            state = excluded.state;
    END IF;

    -- (5) Each account once, whatever the number of its transfers in this batch, where it was found.
    UPDATE accounts AS a
    SET balance = u.balance, held_in = u.held_in + coalesce(u.due_in, 0), held_out = u.held_out + coalesce(u.due_out, 0),
        version = u.version - coalesce(u.due, 0), last_entry_at = posted_ats[u.ledger]
    FROM unnest(places, p_account_ledgers, balances, held_ins, held_outs, versions, before, due_ins, due_outs, dues)
        AS u (place, ledger, balance, held_in, held_out, version, old_version, due_in, due_out, due)
    WHERE a.ctid = ANY (places) AND a.ctid = u.place AND a.ledger_id = p_ledgers[u.ledger] AND a.version = u.old_version
      AND u.version - coalesce(u.due, 0) <> u.old_version;
    GET DIAGNOSTICS updated = ROW_COUNT;
    IF updated <> (SELECT count(*) FROM unnest(versions, before, dues) AS u (new, old, due)
                   WHERE u.new - coalesce(u.due, 0) <> u.old) THEN
        RAISE 'locked accounts were changed by another transaction';
    END IF;
END
$$;
