-- Webhooks: who is sent the events of a ledger, what has yet to arrive there, and what was tried.

CREATE TABLE webhook_endpoints (
    ledger_id      bigint NOT NULL,
    -- Events up to here were sent, or wait in webhook_retries.
    position       bigint NOT NULL,
    -- Grows with every change that whoever sends has to notice.
    version        bigint NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- Grows when the position is moved back: what was sent before that no longer moves it on.
    replay         integer NOT NULL DEFAULT 0,
    -- The types of events that are sent, as bits of `event_type`; 0 is all of them.
    types          integer NOT NULL,
    -- The places of a ledger bound its endpoints, of two that are made at once as well.
    place          integer NOT NULL,
    id             uuid NOT NULL,
    url            text NOT NULL,
    description    text,
    -- Why nothing is sent: `requested`, or `gone` where it was answered 410. Null where it is sent.
    disabled       text,
    -- Newest first, encrypted under a key that is not in the database; each signs until its instant.
    secrets        bytea[] NOT NULL,
    secrets_until  timestamptz[] NOT NULL,
    CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (ledger_id, id),
    CONSTRAINT webhook_endpoints_place_unique UNIQUE (ledger_id, place),
    CONSTRAINT webhook_endpoints_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id),
    CONSTRAINT webhook_endpoints_disabled_check CHECK (disabled IN ('requested', 'gone')),
    CONSTRAINT webhook_endpoints_secrets_check CHECK (
        cardinality(secrets) >= 1 AND cardinality(secrets) = cardinality(secrets_until)
    )
)
-- Positions change in place: room on the page keeps them off the indexes.
WITH (fillfactor = 50);

-- Events whose first attempt has failed: until they arrive, or for good.
CREATE TABLE webhook_retries (
    ledger_id     bigint NOT NULL,
    position      bigint NOT NULL,
    attempted_at  timestamptz NOT NULL,
    -- Null once nothing is tried any more.
    due_at        timestamptz,
    -- Made so far.
    attempts      integer NOT NULL,
    endpoint_id   uuid NOT NULL,
    CONSTRAINT webhook_retries_pkey PRIMARY KEY (ledger_id, endpoint_id, position),
    CONSTRAINT webhook_retries_endpoint_fkey FOREIGN KEY (ledger_id, endpoint_id)
        REFERENCES webhook_endpoints (ledger_id, id) ON DELETE CASCADE
);
CREATE INDEX webhook_retries_due_index ON webhook_retries (ledger_id, endpoint_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_retries_dead_index ON webhook_retries (ledger_id, endpoint_id, attempted_at) WHERE due_at IS NULL;

-- What was tried lately. Old rows are removed.
CREATE TABLE webhook_attempts (
    ledger_id     bigint NOT NULL,
    position      bigint NOT NULL,
    attempted_at  timestamptz NOT NULL,
    attempt       integer NOT NULL,
    duration_ms   integer NOT NULL,
    -- Null where there was no answer.
    status        integer,
    endpoint_id   uuid NOT NULL,
    -- Begins with the instant, so it orders the attempts.
    id            uuid NOT NULL,
    type          text NOT NULL,
    -- What became of the event by it.
    outcome       text NOT NULL,
    error         text,
    -- Its first bytes.
    answer        bytea NOT NULL,
    CONSTRAINT webhook_attempts_pkey PRIMARY KEY (ledger_id, endpoint_id, id),
    CONSTRAINT webhook_attempts_endpoint_fkey FOREIGN KEY (ledger_id, endpoint_id)
        REFERENCES webhook_endpoints (ledger_id, id) ON DELETE CASCADE,
    CONSTRAINT webhook_attempts_outcome_check CHECK (outcome IN ('delivered', 'failed', 'dead', 'gone'))
);

GRANT SELECT, INSERT, DELETE, UPDATE (
    position, version, replay, types, url, description, disabled, secrets, secrets_until
) ON webhook_endpoints TO tallystick_service;
GRANT SELECT, INSERT, DELETE, UPDATE (attempted_at, due_at, attempts) ON webhook_retries TO tallystick_service;
GRANT SELECT, INSERT, DELETE ON webhook_attempts TO tallystick_service;
