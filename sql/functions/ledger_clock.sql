-- The clock of the books: what is posted, expires and is read is judged by it alone. Tests replace it to move time.
CREATE OR REPLACE FUNCTION ledger_clock() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT clock_timestamp()
$$;
