-- The keys of a ledger that are not revoked, which are counted when one is made.
-- squawk-ignore require-concurrent-index-creation -- only changes of keys wait meanwhile, and few keys are there
CREATE INDEX api_keys_live_index ON api_keys (ledger_id) WHERE revoked_at IS NULL;
