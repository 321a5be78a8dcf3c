-- From an account to its newest change, which the audit holds the account against.
-- squawk-ignore require-concurrent-index-creation -- only the relay waits meanwhile
CREATE INDEX feed_changes_index ON feed (ledger_id, account, position) WHERE change IS NOT NULL;
