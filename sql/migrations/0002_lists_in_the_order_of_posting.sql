-- Lists of transfers in the order of posting: newest first by the instant that posting decides, then by id.
--
-- An id is made when a request arrives, and requests that arrive together are posted in any order: by id, a row could
-- appear behind rows that were read already.
--
-- Postings wait until the indexes are built, and are refused with 503 and `same_key` when they have waited too long; reads
-- go on. Where the table is large, build the four indexes below by hand beforehand, as the owner of the table and with
-- CREATE INDEX CONCURRENTLY: then there is nothing to wait for. In the end each has the name of the index that it
-- replaces, by which the version before, which runs until it is swapped, asserts that it is there.
--
-- squawk-ignore-file require-concurrent-index-creation, require-concurrent-index-deletion, renaming-object

-- The transfers of a ledger without the refusals, however many of these lie between two of them.
CREATE INDEX IF NOT EXISTS transfers_posted_order ON transfers (ledger_id, created_at, id) WHERE refusal IS NULL;
-- The transfers that carry a reference: all, and those of one account, where both may be common and rarely meet.
CREATE INDEX IF NOT EXISTS transfers_reference_order ON transfers (ledger_id, reference, created_at, id)
    WHERE refusal IS NULL AND reference IS NOT NULL;
CREATE INDEX IF NOT EXISTS transfers_source_reference_order ON transfers (ledger_id, source, reference, created_at, id)
    WHERE refusal IS NULL AND reference IS NOT NULL;
CREATE INDEX IF NOT EXISTS transfers_destination_reference_order ON transfers (ledger_id, destination, reference, created_at, id)
    WHERE refusal IS NULL AND reference IS NOT NULL;

DROP INDEX transfers_posted_index;
DROP INDEX transfers_reference_index;
DROP INDEX transfers_source_reference_index;
DROP INDEX transfers_destination_reference_index;
ALTER INDEX transfers_posted_order RENAME TO transfers_posted_index;
ALTER INDEX transfers_reference_order RENAME TO transfers_reference_index;
ALTER INDEX transfers_source_reference_order RENAME TO transfers_source_reference_index;
ALTER INDEX transfers_destination_reference_order RENAME TO transfers_destination_reference_index;
