-- Give what has committed its positions in the feed, ledger by ledger, and link it into the chain.
--
-- Arguments: p_since and p_running are the snapshot that the call before gave back: from the transaction p_since on, and
-- those in p_running, nothing had committed by then. With 0 and an empty array everything is looked at, oldest first; so
-- a relay begins, and so it goes on where a call did not relay all. The snapshot must be of the same session: ids that
-- were given to nothing lasting are given again after a crash, and a standby may know less.
-- p_rows and p_events bound what one call relays. p_locked are ledgers that are left alone.
--
-- Result: how many rows and events were relayed, the instant of the oldest, the ledgers that have new positions, and the
-- snapshot for the next call. Where more waits, `whole` is false, and the snapshot is 0. `locked` are the ledgers of
-- p_locked, and those of which another session locks the head or a row: nothing of them was relayed. The next calls are
-- given them, up to one that is given 0 and none of them: only a look at everything finds what they have left, and
-- nothing of theirs may be relayed before it.
--
-- Positions follow commits, not transaction ids: what is visible and has no position gets the next ones. So nothing ever
-- appears behind a position that was given, however long a transaction runs, and ids may begin anew in a restored copy.
-- Of two batches with an account in common, the later one waited for the first one's commit and has a later instant. So
-- wherever the later one is visible, the first one is, and the order by instant is the order of the account's versions.
-- What a call selects holds, with every batch, all that comes before it.
CREATE OR REPLACE FUNCTION relay_outbox(
    p_since    xid8,
    p_running  xid8[],
    p_rows     integer,
    p_events   integer,
    p_locked   bigint[] DEFAULT '{}',
    OUT rows_relayed    integer,
    OUT events_relayed  bigint,
    OUT oldest          timestamptz,
    OUT ledgers         bigint[],
    OUT whole           boolean,
    OUT locked          bigint[],
    OUT since           xid8,
    OUT running         xid8[]
) LANGUAGE plpgsql VOLATILE
-- Few rows of large tables: each is found by index, whatever is believed of the tables.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET enable_material = off
AS $$
DECLARE
    seen       pg_snapshot;
    found      bigint;
    places     tid[];
    ids        xid8[];
    owners     bigint[];
    owner      bigint;
    heads      feed_heads[];
    held       tid[];
    taken      outbox[];
    digests    bytea[];
    types      integer[];
    positions  bigint[];
    peaks      timestamptz[];
    links      bytea[];
    head       feed_heads;
    batch      outbox;
BEGIN
    -- (1) What has committed since, oldest first.
    SELECT pg_current_snapshot(), max(o.number), array_agg(o.place) FILTER (WHERE o.before < p_events),
           array_agg(o.transaction_id) FILTER (WHERE o.before < p_events),
           array_agg(o.ledger_id) FILTER (WHERE o.before < p_events), coalesce(bool_and(o.before < p_events), true)
    INTO seen, found, places, ids, owners, whole
    FROM (
        SELECT o.*, row_number() OVER w AS number, sum(o.size) OVER w - o.size AS before
        FROM (
            SELECT o.* FROM (
                (SELECT ctid AS place, transaction_id, ledger_id, posted_at, size FROM outbox
                 WHERE p_since = '0' AND ledger_id <> ALL (p_locked)
                 ORDER BY posted_at
                 LIMIT p_rows)
                UNION ALL
                SELECT ctid, transaction_id, ledger_id, posted_at, size FROM outbox
                WHERE p_since <> '0' AND transaction_id >= p_since AND ledger_id <> ALL (p_locked)
                UNION ALL
                SELECT ctid, transaction_id, ledger_id, posted_at, size FROM outbox
                WHERE transaction_id = ANY (p_running) AND ledger_id <> ALL (p_locked)
            ) AS o
            ORDER BY o.posted_at
            LIMIT p_rows
        ) AS o
        WINDOW w AS (ORDER BY o.posted_at, o.place)
    ) AS o;
    rows_relayed := 0;
    events_relayed := 0;
    locked := p_locked;
    whole := whole AND coalesce(found, 0) < p_rows;
    IF whole THEN
        since := pg_snapshot_xmax(seen);
        running := ARRAY(SELECT pg_snapshot_xip(seen));
    ELSE
        since := '0';
        running := '{}';
    END IF;
    IF found IS NULL THEN
        RETURN;
    END IF;

    -- (2) Lock the heads and the rows, and leave the ledgers of which another session has locked one: the others do not
    -- wait for it. Whoever relays the same now is such a session too.
    FOR owner IN
        SELECT DISTINCT l.id FROM unnest(owners) AS l (id)
        WHERE NOT EXISTS (SELECT FROM feed_heads AS h WHERE h.ledger_id = l.id)
        ORDER BY l.id
    LOOP
        BEGIN
            INSERT INTO feed_heads (ledger_id) VALUES (owner) ON CONFLICT DO NOTHING;
        EXCEPTION WHEN lock_not_available THEN
            -- The foreign key has waited for the ledger in vain: without a head, it is left.
            NULL;
        END;
    END LOOP;
    SELECT array_agg(h) INTO heads FROM (
        SELECT * FROM feed_heads WHERE ledger_id = ANY (owners) ORDER BY ledger_id FOR NO KEY UPDATE SKIP LOCKED
    ) AS h;
    SELECT array_agg(h.place) INTO held FROM (
        SELECT ctid AS place FROM outbox WHERE ctid = ANY (places) FOR UPDATE SKIP LOCKED
    ) AS h;
    -- A place alone might by now be another row's, of a transaction that had not ended then.
    SELECT p_locked || coalesce(array_agg(DISTINCT o.ledger_id), '{}') INTO locked
    FROM outbox AS o
    WHERE o.ctid = ANY (places) AND (pg_visible_in_snapshot(o.transaction_id, seen) OR o.transaction_id = ANY (ids))
      AND (o.ctid NOT IN (SELECT unnest(held)) OR o.ledger_id NOT IN (SELECT h.ledger_id FROM unnest(heads) AS h));
    IF cardinality(locked) > cardinality(p_locked) THEN
        whole := false;
        since := '0';
        running := '{}';
    END IF;

    -- (3) Take the rows.
    WITH gone AS (
        DELETE FROM outbox AS o
        WHERE o.ctid = ANY (places) AND o.ledger_id <> ALL (locked)
          AND (pg_visible_in_snapshot(o.transaction_id, seen) OR o.transaction_id = ANY (ids))
        RETURNING o AS batch, o.ctid AS place
    )
    SELECT array_agg(g.batch ORDER BY (g.batch).ledger_id, (g.batch).posted_at, g.place) INTO taken FROM gone AS g;
    IF taken IS NULL THEN
        RETURN;
    END IF;

    -- (4) What each of them covers.
    SELECT array_agg(sha256(convert_to(b.body, 'UTF8')) ORDER BY b.number), array_agg(b.types ORDER BY b.number)
    INTO digests, types
    FROM (
        SELECT b.number, coalesce(change_text(b.posted_at, b.account, b.change),
                                  string_agg(t.text, E'\n' ORDER BY i.place), '') AS body,
               -- Nothing where no row is what an id says: that is for the audit to tell, and holds up no other ledger.
               coalesce(event_type(b.change ->> 'type', NULL), bit_or(t.type), 0) AS types
        FROM unnest(taken) WITH ORDINALITY
            AS b (ledger_id, transaction_id, posted_at, transfers, account, change, size, number)
        LEFT JOIN LATERAL unnest(b.transfers) WITH ORDINALITY AS i (id, place) ON true
        -- The first one from its id on: that has only one index, whatever was believed of the table when the plan was made.
        LEFT JOIN LATERAL (
            SELECT t.id, transfer_text(t) AS text, event_type(t.kind, t.refusal) AS type
            FROM transfers AS t WHERE t.ledger_id = b.ledger_id AND t.id >= i.id
            ORDER BY t.id
            LIMIT 1
        ) AS t ON t.id = i.id
        GROUP BY b.number, change_text(b.posted_at, b.account, b.change), b.change ->> 'type'
    ) AS b;

    -- (5) Positions and links, one after another.
    FOR i IN 1 .. cardinality(taken) LOOP
        batch := taken[i];
        IF head.ledger_id IS DISTINCT FROM batch.ledger_id THEN
            SELECT h.* INTO head FROM unnest(heads) AS h WHERE h.ledger_id = batch.ledger_id;
            ledgers := ledgers || batch.ledger_id;
        END IF;
        head.position := head.position + batch.size;
        head.peak := greatest(head.peak, batch.posted_at);
        head.link := sha256(head.link || int8send(batch.ledger_id) || int8send(head.position) || digests[i]);
        positions[i] := head.position;
        peaks[i] := head.peak;
        links[i] := head.link;
        events_relayed := events_relayed + batch.size;
        oldest := least(oldest, batch.posted_at);
    END LOOP;
    rows_relayed := cardinality(taken);

    INSERT INTO feed (ledger_id, position, size, types, posted_at, peak, transfers, account, change, link)
    SELECT b.ledger_id, b.position, b.size, b.types, b.posted_at, b.peak, b.transfers,
           b.account, b.change, b.link
    FROM unnest(taken, positions, types, peaks, links)
        AS b (ledger_id, transaction_id, posted_at, transfers, account, change, size, position, types, peak, link);
    IF (SELECT bool_or(u.bits & 898 <> 0) FROM unnest(types) AS u (bits)) THEN
        -- 2 is a refusal, 128 to 512 are changes.
        INSERT INTO feed_accounts (ledger_id, account, position)
        SELECT b.ledger_id, n.account, b.position - b.size + n.place
        FROM unnest(taken, positions, types)
            AS b (ledger_id, transaction_id, posted_at, transfers, account, change, size, position, types)
        CROSS JOIN LATERAL (
            SELECT b.account, 1 AS place WHERE b.account IS NOT NULL
            UNION ALL
            SELECT unnest(ARRAY[t.source, t.destination]), i.place
            FROM unnest(b.transfers) WITH ORDINALITY AS i (id, place)
            JOIN LATERAL (
                SELECT t.id, t.source, t.destination, t.refusal FROM transfers AS t
                WHERE t.ledger_id = b.ledger_id AND t.id >= i.id
                ORDER BY t.id
                LIMIT 1
            ) AS t ON t.id = i.id
            WHERE b.types & 2 <> 0 AND t.refusal IS NOT NULL
        ) AS n (account, place)
        WHERE b.types & 898 <> 0 AND n.account IS NOT NULL;
    END IF;
    UPDATE feed_heads AS h
    SET position = n.position, peak = n.peak, link = n.link
    FROM (
        SELECT DISTINCT ON (b.ledger_id) b.ledger_id, b.position, b.peak, b.link
        FROM unnest(taken, positions, peaks, links)
            AS b (ledger_id, transaction_id, posted_at, transfers, account, change, size, position, peak, link)
        ORDER BY b.ledger_id, b.position DESC
    ) AS n
    WHERE h.ledger_id = ANY (owners) AND h.ledger_id = n.ledger_id;
END
$$;
