-- What happened, in one order for each ledger: batches wait in the outbox until the relay gives them their positions in
-- the feed.

-- Batches and changes of accounts that committed and have no position yet, written in their own transactions. Rows are
-- deleted when they are relayed.
CREATE TABLE outbox (
    ledger_id       bigint NOT NULL,
    transaction_id  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Later than everything that happened to the same accounts before.
    posted_at       timestamptz NOT NULL,
    -- Of a batch: the ids of its transfers, refused ones too, in the order in which they were decided.
    transfers       uuid[],
    -- Of a change: the account, and as `change` the type of the event with the account as it then was.
    account         text COLLATE "C",
    change          json,
    -- Events in it.
    size            integer GENERATED ALWAYS AS (coalesce(cardinality(transfers), 1)) STORED,
    CONSTRAINT outbox_content_check CHECK (
        num_nonnulls(transfers, account) = 1 AND (account IS NULL) = (change IS NULL)
    )
)
-- Emptied all the time: what is gone must not pile up, and giving pages back would lock writers out.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, vacuum_truncate = false);
-- The only indexes that no ledger leads: the relay asks what has committed since it looked last, in whatever ledger, or
-- for the oldest of all.
CREATE INDEX outbox_transaction_index ON outbox (transaction_id);
CREATE INDEX outbox_posted_index ON outbox (posted_at);
-- Without a key of its own; logical replication has to be able to delete from it.
ALTER TABLE outbox REPLICA IDENTITY FULL;

-- The newest position of each ledger. Who relays locks these rows, so two relays do no harm.
CREATE TABLE feed_heads (
    ledger_id  bigint NOT NULL,
    position   bigint NOT NULL DEFAULT 0,
    -- The latest instant in the feed.
    peak       timestamptz NOT NULL DEFAULT '-infinity',
    -- Of the chain.
    link       bytea NOT NULL DEFAULT '',
    CONSTRAINT feed_heads_pkey PRIMARY KEY (ledger_id),
    CONSTRAINT feed_heads_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id)
);

-- A row is a batch of transfers or a change of an account: events at the positions up to `position`, `size` of them.
-- Append-only.
CREATE TABLE feed (
    ledger_id  bigint NOT NULL,
    position   bigint NOT NULL,
    size       integer NOT NULL,
    -- Which types of events are in it: the bits are those of `event_type`.
    types      integer NOT NULL,
    posted_at  timestamptz NOT NULL,
    -- The latest instant up to here: later than posted_at where a batch committed long after its instant.
    peak       timestamptz NOT NULL,
    transfers  uuid[],
    account    text COLLATE "C",
    change     json,
    -- SHA-256 over the link before it, the position, and all that the row covers.
    link       bytea NOT NULL,
    CONSTRAINT feed_pkey PRIMARY KEY (ledger_id, position),
    CONSTRAINT feed_content_check CHECK (
        num_nonnulls(transfers, account) = 1 AND (account IS NULL) = (change IS NULL)
        AND size = coalesce(cardinality(transfers), 1) AND size BETWEEN 1 AND position
    )
);
-- From a transfer to its batch.
CREATE INDEX feed_posted_index ON feed (ledger_id, posted_at);
-- What is not mere transfers: types of events that are asked for are rarely those.
CREATE INDEX feed_types_index ON feed (ledger_id, position) WHERE types <> 1;
-- What committed long after its instant.
CREATE INDEX feed_late_index ON feed (ledger_id, position) INCLUDE (posted_at, peak)
    WHERE peak - posted_at > interval '100 milliseconds';

-- Events of an account that none of its entries and holds tells: its changes, and refused transfers that name it.
CREATE TABLE feed_accounts (
    ledger_id  bigint NOT NULL,
    account    text COLLATE "C" NOT NULL,
    position   bigint NOT NULL,
    CONSTRAINT feed_accounts_pkey PRIMARY KEY (ledger_id, account, position)
);

-- What was posted before there was a feed, by instant and id. Nobody may post until this has committed with the functions
-- that write the outbox; a call that is under way goes on with the old ones, so no older process may run.
LOCK TABLE transfers IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO outbox (ledger_id, posted_at, transfers)
SELECT ledger_id, created_at, array_agg(id ORDER BY id) FROM transfers GROUP BY ledger_id, created_at;

GRANT SELECT, INSERT, DELETE ON outbox TO tallystick_service;
GRANT SELECT, INSERT, UPDATE (position, peak, link) ON feed_heads TO tallystick_service;
GRANT SELECT, INSERT ON feed, feed_accounts TO tallystick_service;
