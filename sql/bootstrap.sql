-- What migrations stand on: two roles and the schema. Safe to run again.
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
