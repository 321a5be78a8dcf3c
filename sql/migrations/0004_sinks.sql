-- Brokers that are sent every event, as operators set them up, and how far each of them is.

-- A few rows, of no ledger: a sink may be sent the events of all of them.
CREATE TABLE sinks (
    id                 bigint GENERATED ALWAYS AS IDENTITY,
    name               text COLLATE "C" NOT NULL,
    kind               text COLLATE "C" NOT NULL,
    -- Whose events it is sent; null is every ledger's.
    ledger_id          bigint,
    -- How its broker is reached. Of a password they say where it is, never what it is.
    options            json NOT NULL,
    state              text COLLATE "C" NOT NULL DEFAULT 'running',
    -- Grows when an operator changes something: whoever sends begins anew then.
    revision           bigint NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT now(),
    -- Since when nothing is confirmed; and what went wrong last, and when, whether or not it still does.
    failing_since      timestamptz,
    error              text,
    error_at           timestamptz,
    -- The event that its broker will never take. Nothing is sent until an operator has decided.
    refused_ledger_id  bigint,
    refused_position   bigint,
    CONSTRAINT sinks_pkey PRIMARY KEY (id),
    CONSTRAINT sinks_name_unique UNIQUE (name),
    CONSTRAINT sinks_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id),
    CONSTRAINT sinks_name_check CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$'),
    CONSTRAINT sinks_state_check CHECK (state IN ('running', 'paused', 'halted')),
    CONSTRAINT sinks_refused_check CHECK (
        num_nonnulls(refused_ledger_id, refused_position) = CASE state WHEN 'halted' THEN 2 ELSE 0 END
    )
);

-- Up to which position a sink's broker has confirmed the events of a ledger; without a row, none.
CREATE TABLE sink_positions (
    ledger_id  bigint NOT NULL,
    sink_id    bigint NOT NULL,
    position   bigint NOT NULL,
    CONSTRAINT sink_positions_pkey PRIMARY KEY (ledger_id, sink_id),
    CONSTRAINT sink_positions_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id),
    CONSTRAINT sink_positions_sink_fkey FOREIGN KEY (sink_id) REFERENCES sinks (id) ON DELETE CASCADE
)
-- A row changes with every batch: room on the page keeps it there.
WITH (fillfactor = 50);

GRANT SELECT, INSERT, DELETE ON sinks TO tallystick_service;
GRANT UPDATE (state, revision, failing_since, error, error_at, refused_ledger_id, refused_position)
    ON sinks TO tallystick_service;
GRANT SELECT, INSERT, UPDATE (position) ON sink_positions TO tallystick_service;
