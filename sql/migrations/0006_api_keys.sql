-- What keys have besides their limits: a description, an end, accounts that they are narrowed to, the minute of their last
-- use, and secrets that were replaced and open for a while.

ALTER TABLE api_keys
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN description text CONSTRAINT api_keys_description_check CHECK (length(description) <= 1000),
    -- How ids begin of the accounts that the key sees; null is the whole ledger. No prefix begins with another one.
    ADD COLUMN accounts account_id[] CONSTRAINT api_keys_accounts_check CHECK (cardinality(accounts) BETWEEN 1 AND 20),
    -- Of the secrets that the present one has replaced, newest first, and until when each opens.
    ADD COLUMN former_digests bytea[] NOT NULL DEFAULT '{}',
    ADD COLUMN former_until timestamptz[] NOT NULL DEFAULT '{}'
        CONSTRAINT api_keys_former_check CHECK (cardinality(former_digests) = cardinality(former_until));

-- The list of a ledger's keys, newest first.
-- squawk-ignore require-concurrent-index-creation -- no key is made or changed while the migration runs, and few are there
CREATE INDEX api_keys_created_index ON api_keys (ledger_id, created_at, id);

GRANT UPDATE (digest, expires_at, last_used_at, description, accounts, former_digests, former_until)
    ON api_keys TO tallystick_service;
