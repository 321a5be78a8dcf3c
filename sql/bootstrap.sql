-- Create what migrations need: two roles and the schema. Safe to run again.
--
-- tallystick_owner owns everything and does not serve; tallystick_service serves and owns nothing. The user who
-- connects must be a member of both. If that user may not create roles, an administrator creates them beforehand.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallystick_owner') THEN
        CREATE ROLE tallystick_owner NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallystick_service') THEN
        CREATE ROLE tallystick_service NOLOGIN;
    END IF;
EXCEPTION
    -- Roles belong to the whole server: a migration of another database may be creating them, too.
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
