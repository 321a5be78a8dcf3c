-- Everything from here on belongs to the owner; first the record of what has been applied. Safe to run again.
SET LOCAL ROLE tallystick_owner;
SET LOCAL search_path = tallystick;

CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer NOT NULL,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schema_migrations_pkey PRIMARY KEY (number)
);
CREATE TABLE IF NOT EXISTS schema_functions (
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schema_functions_pkey PRIMARY KEY (name)
);
