-- What the auditor has checked, which goes through all ledgers round after round.

CREATE TABLE audit_rounds (
    ledger_id  bigint NOT NULL,
    -- Grows with each change of the row: of two auditors the later one finds it changed, and leaves the ledger.
    revision   bigint NOT NULL,
    -- Of the newest round, and the end of the last whole one.
    began_at   timestamptz NOT NULL,
    ended_at   timestamptz,
    -- What is known to be wrong: of both rounds the larger number.
    findings   bigint NOT NULL,
    -- The round under way, with the place from which it goes on; null between two rounds.
    running    json,
    -- The last whole one.
    last       json,
    CONSTRAINT audit_rounds_pkey PRIMARY KEY (ledger_id),
    CONSTRAINT audit_rounds_ledger_fkey FOREIGN KEY (ledger_id) REFERENCES ledgers (id)
);

-- From a transfer to its captures, void, expiry and reversals: mere transfers are not in it.
-- squawk-ignore require-concurrent-index-creation -- what is posted waits as long as for the migrations before it
CREATE INDEX transfers_parent_index ON transfers (ledger_id, parent) WHERE parent IS NOT NULL;

GRANT SELECT, INSERT, UPDATE (revision, began_at, ended_at, findings, running, last) ON audit_rounds TO tallystick_service;
