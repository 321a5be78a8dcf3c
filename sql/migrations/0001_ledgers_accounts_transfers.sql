-- The book itself: ledgers, the keys that open them, accounts and transfers.
--
-- ledger_id leads every primary key, unique constraint and index: it is the wall between tenants
-- and the column by which the tables can be distributed over several machines.

-- Domains rather than table checks: a domain is checked when a value enters, a table check at every update of the row.
CREATE DOMAIN account_id AS text COLLATE "C" CONSTRAINT account_id_check CHECK (VALUE ~ '^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$');
CREATE DOMAIN currency_code AS text COLLATE "C" CONSTRAINT currency_code_check CHECK (VALUE ~ '^[A-Z0-9]{3,8}$');

CREATE TABLE ledgers (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    name        text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ledgers_pkey PRIMARY KEY (id),
    -- Two processes that create the same ledger at once meet here.
    CONSTRAINT ledgers_name_unique UNIQUE (name),
    CONSTRAINT ledgers_name_check CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$')
);

-- Of a key only the public id and the digest of its 256-bit secret are kept: a copy of this table opens nothing.
CREATE TABLE api_keys (
    ledger_id   bigint NOT NULL,
    id          text COLLATE "C" NOT NULL,
    digest      bytea NOT NULL,
    role        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz,
    -- What the key may ask for; null takes the service's defaults. Requests that come in every window, and the window
    -- in seconds; requests that may come at once; requests that may run at once in one worker.
    rate_quota  integer,
    rate_window integer,
    burst       integer,
    concurrency integer,
    CONSTRAINT api_keys_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT api_keys_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id),
    CONSTRAINT api_keys_role_check CHECK (role IN ('read', 'write', 'admin')),
    CONSTRAINT api_keys_digest_check CHECK (octet_length(digest) = 32),
    CONSTRAINT api_keys_rate_check CHECK (
        (rate_quota IS NULL) = (rate_window IS NULL)
        AND rate_quota BETWEEN 1 AND 1000000 AND rate_window BETWEEN 1 AND 86400
    ),
    CONSTRAINT api_keys_burst_check CHECK (burst BETWEEN 1 AND 1000000),
    CONSTRAINT api_keys_concurrency_check CHECK (concurrency BETWEEN 1 AND 100000)
);

CREATE TABLE accounts (
    ledger_id       bigint NOT NULL,
    -- May be negative: a funding account without a floor is the outside world.
    balance         bigint NOT NULL DEFAULT 0,
    -- Reserved by holds: on its way in, and set aside to go out. Holds whose expiry is due and not posted yet count here,
    -- and in no answer.
    held_in         bigint NOT NULL DEFAULT 0,
    held_out        bigint NOT NULL DEFAULT 0,
    -- Lowest available balance a transfer out may leave behind; null is no limit.
    floor           bigint DEFAULT 0,
    -- Highest balance plus held_in a transfer in may reach; null is no limit.
    ceiling         bigint,
    -- Grows by one with each transfer or change that touches the account. The expiry of a hold counts from its instant on,
    -- and here when it is posted.
    version         bigint NOT NULL DEFAULT 1,
    -- The version at which floor and ceiling took their present values: an audit judges later entries by them.
    limits_version  bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    -- Instant of the newest entry. A statement never steps back in time, whatever a new primary's clock says.
    last_entry_at   timestamptz,
    closed          boolean NOT NULL DEFAULT false,
    id              account_id NOT NULL,
    currency        currency_code NOT NULL,
    metadata        json NOT NULL DEFAULT '{}',
    CONSTRAINT accounts_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT accounts_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id),
    CONSTRAINT accounts_held_check CHECK (held_in >= 0 AND held_out >= 0),
    CONSTRAINT accounts_limits_check CHECK (floor <= ceiling)
)
-- Balances change in place: room on the page keeps every such update off the index (a HOT update).
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- One row is one attempt bound to one idempotency key: what was asked, and either what it did or why not.
-- Append-only. The first answer can be rendered from the row alone, for ever.
CREATE TABLE transfers (
    ledger_id            bigint NOT NULL,
    -- Minor units that moved, or that were reserved or released. Null where all that remains was asked for and refused.
    amount               bigint,
    -- Both sides after it; null in a row that records a refusal.
    source_balance       bigint,
    destination_balance  bigint,
    source_version       bigint,
    destination_version  bigint,
    created_at           timestamptz NOT NULL,
    -- The instant it counts for, where one was asked for; null is the instant of posting.
    effective_at         timestamptz,
    -- Of a hold: from this instant on it reserves nothing.
    expires_at           timestamptz,
    -- What it adds to held_out of the source and to held_in of the destination; null where it touches no hold.
    held                 bigint,
    -- The amount that a capture or a reversal asked for; null is all that remains, and every other kind.
    amount_asked         bigint,
    id                   uuid NOT NULL,
    -- The hold of a capture, void or expiry; the transfer or capture of a reversal.
    parent               uuid,
    -- Whether balances changed; null in a row that records a refusal.
    moves                boolean,
    -- Of a capture: whether it releases what it leaves of the hold.
    release_rest         boolean,
    idempotency_key      text COLLATE "C" NOT NULL,
    -- SHA-256 over method, path and body as received.
    fingerprint          bytea NOT NULL,
    kind                 text COLLATE "C" NOT NULL,
    -- Sides and currency are null only where the parent that would name them does not exist.
    source               text COLLATE "C",
    destination          text COLLATE "C",
    currency             text COLLATE "C",
    reference            text COLLATE "C",
    description          text,
    conditions           json,
    metadata             json NOT NULL,
    -- The idempotency key by which a parent was named, where it was not named by its id.
    parent_key           text COLLATE "C",
    -- The code of the refusal, the member of the request it is about, and the request that met it.
    refusal              text COLLATE "C",
    refusal_pointer      text,
    refusal_request_id   text,
    CONSTRAINT transfers_pkey PRIMARY KEY (ledger_id, id),
    -- A key moves money once: two transactions with the same key meet here, and the second one waits for the first.
    CONSTRAINT transfers_idempotency_key_unique UNIQUE (ledger_id, idempotency_key),
    CONSTRAINT transfers_kind_check CHECK (kind IN ('transfer', 'hold', 'capture', 'void', 'expiry', 'reversal')),
    CONSTRAINT transfers_amount_check CHECK (amount > 0),
    CONSTRAINT transfers_sides_check CHECK (source <> destination),
    CONSTRAINT transfers_fingerprint_check CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT transfers_outcome_check CHECK (
        (refusal IS NULL) = (moves IS NOT NULL)
        AND num_nulls(source_balance, destination_balance, source_version, destination_version)
            = CASE WHEN refusal IS NULL THEN 0 ELSE 4 END
        AND (refusal IS NOT NULL OR num_nulls(amount, source, destination, currency) = 0)
    )
);

-- The statement of an account, newest first, from either side; its versions follow its times.
CREATE INDEX transfers_source_index ON transfers (ledger_id, source, created_at) WHERE moves;
CREATE INDEX transfers_destination_index ON transfers (ledger_id, destination, created_at) WHERE moves;
-- What counts for an earlier instant than that of its posting, in the order of statements by that instant: many may count
-- for one midnight. Balances are summed over it without a look at the rows.
CREATE INDEX transfers_effective_source_index
    ON transfers (ledger_id, source, effective_at, created_at, source_version) INCLUDE (amount)
    WHERE moves AND effective_at IS NOT NULL;
CREATE INDEX transfers_effective_destination_index
    ON transfers (ledger_id, destination, effective_at, created_at, destination_version) INCLUDE (amount)
    WHERE moves AND effective_at IS NOT NULL;
-- Lists in the order of posting: by the instant that posting decides, then by id, since an id is made when a request
-- arrives. Holds, voids and expiries lie apart, so that transfers pay nothing for them.
CREATE INDEX transfers_moved_index ON transfers (ledger_id, created_at, id) WHERE moves;
CREATE INDEX transfers_held_index ON transfers (ledger_id, created_at, id) WHERE NOT moves;
CREATE INDEX transfers_held_source_index ON transfers (ledger_id, source, created_at) WHERE NOT moves;
CREATE INDEX transfers_held_destination_index ON transfers (ledger_id, destination, created_at) WHERE NOT moves;
-- What carries a reference: all of it, and that of one account, where both may be common and rarely meet.
CREATE INDEX transfers_reference_index ON transfers (ledger_id, reference, created_at, id)
    WHERE moves IS NOT NULL AND reference IS NOT NULL;
CREATE INDEX transfers_source_reference_index ON transfers (ledger_id, source, reference, created_at, id)
    WHERE moves IS NOT NULL AND reference IS NOT NULL;
CREATE INDEX transfers_destination_reference_index ON transfers (ledger_id, destination, reference, created_at, id)
    WHERE moves IS NOT NULL AND reference IS NOT NULL;

-- What has become of a hold, and of a transfer or capture that was reversed; other transfers have no row here. A row
-- changes only under the locks of both accounts.
CREATE TABLE transfer_progress (
    ledger_id    bigint NOT NULL,
    -- Of the transfer.
    amount       bigint NOT NULL,
    captured     bigint NOT NULL DEFAULT 0,
    -- What a hold still reserves; it does so until expires_at, whether or not its expiry has been posted.
    remaining    bigint NOT NULL DEFAULT 0,
    reversed     bigint NOT NULL DEFAULT 0,
    expires_at   timestamptz,
    id           uuid NOT NULL,
    source       text COLLATE "C" NOT NULL,
    destination  text COLLATE "C" NOT NULL,
    -- Of a hold: what ended it.
    state        text COLLATE "C",
    CONSTRAINT transfer_progress_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT transfer_progress_amounts_check CHECK (
        captured >= 0 AND remaining >= 0 AND reversed >= 0 AND captured <= amount - remaining AND reversed <= amount
    ),
    CONSTRAINT transfer_progress_state_check CHECK (
        state IN ('open', 'captured', 'voided', 'expired') AND (state IS NULL) = (expires_at IS NULL)
        AND coalesce(state = 'open', false) = (remaining > 0)
    )
)
-- Most rows change once or twice; room on the page keeps changes of `captured` and `reversed` off the indexes.
WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- Open holds by the instant of their expiry: of an account, on either side, and of a ledger.
CREATE INDEX transfer_progress_source_index ON transfer_progress (ledger_id, source, expires_at) INCLUDE (remaining)
    WHERE remaining > 0;
CREATE INDEX transfer_progress_destination_index ON transfer_progress (ledger_id, destination, expires_at) INCLUDE (remaining)
    WHERE remaining > 0;
CREATE INDEX transfer_progress_expiry_index ON transfer_progress (ledger_id, expires_at) WHERE remaining > 0;

-- The service reads, opens accounts and posts. It cannot change or remove a transfer, nor remove anything.
GRANT SELECT, INSERT ON ledgers TO tallystick_service;
GRANT SELECT, INSERT ON api_keys TO tallystick_service;
GRANT UPDATE (revoked_at, rate_quota, rate_window, burst, concurrency) ON api_keys TO tallystick_service;
GRANT SELECT, INSERT ON accounts TO tallystick_service;
GRANT UPDATE (balance, held_in, held_out, floor, ceiling, version, limits_version, last_entry_at, closed, metadata)
    ON accounts TO tallystick_service;
GRANT SELECT, INSERT ON transfers TO tallystick_service;
GRANT SELECT, INSERT ON transfer_progress TO tallystick_service;
GRANT UPDATE (captured, remaining, reversed, state) ON transfer_progress TO tallystick_service;
