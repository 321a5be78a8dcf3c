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
    -- Reserved by open holds: on its way in, and set aside to go out.
    held_in         bigint NOT NULL DEFAULT 0,
    held_out        bigint NOT NULL DEFAULT 0,
    -- Lowest available balance a transfer out may leave behind; null is no limit.
    floor           bigint DEFAULT 0,
    -- Highest balance plus held_in a transfer in may reach; null is no limit.
    ceiling         bigint,
    -- Grows by one with each transfer or change that touches the account.
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
    CONSTRAINT accounts_limits_check CHECK (floor <= ceiling),
    CONSTRAINT accounts_version_check CHECK (version >= limits_version)
)
-- Balances change in place: room on the page keeps every such update off the index (a HOT update).
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- One row is one attempt bound to one idempotency key: what was asked, and either the money moved or why not.
-- Append-only. The first answer can be rendered from the row alone, for ever.
CREATE TABLE transfers (
    ledger_id            bigint NOT NULL,
    amount               bigint NOT NULL,
    -- Both sides after the transfer; null in a row that records a refusal.
    source_balance       bigint,
    destination_balance  bigint,
    source_version       bigint,
    destination_version  bigint,
    created_at           timestamptz NOT NULL,
    id                   uuid NOT NULL,
    parent               uuid,
    idempotency_key      text COLLATE "C" NOT NULL,
    -- SHA-256 over method, path and body as received.
    fingerprint          bytea NOT NULL,
    kind                 text COLLATE "C" NOT NULL,
    source               text COLLATE "C" NOT NULL,
    destination          text COLLATE "C" NOT NULL,
    currency             text COLLATE "C" NOT NULL,
    reference            text COLLATE "C",
    description          text,
    conditions           json,
    metadata             json NOT NULL,
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
        (refusal IS NULL) = (num_nulls(source_balance, destination_balance, source_version, destination_version) = 0)
    )
);

-- The statement of an account, newest first, from either side; its versions follow its times.
CREATE INDEX transfers_source_index ON transfers (ledger_id, source, created_at) WHERE refusal IS NULL;
CREATE INDEX transfers_destination_index ON transfers (ledger_id, destination, created_at) WHERE refusal IS NULL;
-- The transfers of a ledger without the refusals, however many of these lie between two of them.
CREATE INDEX transfers_posted_index ON transfers (ledger_id, id) WHERE refusal IS NULL;
-- The transfers that carry a reference: all, and those of one account, where both may be common and rarely meet.
CREATE INDEX transfers_reference_index ON transfers (ledger_id, reference, id) WHERE refusal IS NULL AND reference IS NOT NULL;
CREATE INDEX transfers_source_reference_index ON transfers (ledger_id, source, reference, id)
    WHERE refusal IS NULL AND reference IS NOT NULL;
CREATE INDEX transfers_destination_reference_index ON transfers (ledger_id, destination, reference, id)
    WHERE refusal IS NULL AND reference IS NOT NULL;

-- The service reads, opens accounts and posts. It cannot change or remove a transfer, nor remove anything.
GRANT SELECT, INSERT ON ledgers TO tallystick_service;
GRANT SELECT, INSERT ON api_keys TO tallystick_service;
GRANT UPDATE (revoked_at, rate_quota, rate_window, burst, concurrency) ON api_keys TO tallystick_service;
GRANT SELECT, INSERT ON accounts TO tallystick_service;
GRANT UPDATE (balance, held_in, held_out, floor, ceiling, version, limits_version, last_entry_at, closed, metadata)
    ON accounts TO tallystick_service;
GRANT SELECT, INSERT ON transfers TO tallystick_service;
