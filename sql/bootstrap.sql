-- What migrations stand on: two roles, the schema, and the record of what has been applied. Safe to run again.
--
-- tallystick_owner owns everything and serves nobody; tallystick_service serves and owns nothing. Whoever connects
-- needs to be a member of both. Where that user may not create roles, an administrator creates them beforehand.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallystick_owner') THEN
        CREATE ROLE tallystick_owner NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallystick_service') THEN
        CREATE ROLE tallystick_service NOLOGIN;
    END IF;
EXCEPTION
    -- Roles belong to the whole server: another database's migration can be at this very line.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['tallystick_owner', 'tallystick_service'] LOOP
        IF NOT pg_has_role(current_user, role, 'SET') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS tallystick AUTHORIZATION tallystick_owner;
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
GRANT USAGE ON SCHEMA tallystick TO tallystick_service;
GRANT SELECT ON schema_migrations, schema_functions TO tallystick_service;
