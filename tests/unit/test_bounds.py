"""The table of bounds in docs/reference/bounds.md."""

import re
from pathlib import Path

import pytest

from server.events import pages
from server.events.webhooks import deliveries, endpoints, pruning, records, sender
from server.gate import key_store, keys
from server.http import admission, bulk_admission, limits, streams
from server.ledger import accounts, posting, recent, row_locks, statements
from server.process import postgres_connections
from server.store import lanes, postgres, redis, reports

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "bounds.md"
CONSTANTS = {
    "connections": limits.CONNECTIONS_MAX,
    "unknown keys that wait to be looked up": keys.UNKNOWN_KEYS_QUEUE_MAX,
    "requests under way without a good key": admission.RUNNING_ANONYMOUS_MAX,
    "writes under way": admission.RUNNING_WRITES_MAX,
    "reads under way": admission.RUNNING_READS_MAX,
    "reads and writes under way": admission.RUNNING_MAX,
    "bytes of bodies that are arriving": limits.ARRIVING_MAX_BYTES // 1024**2,
    "transfers of one ledger's bulks under way": bulk_admission.TRANSFERS_MAX,
    "bulks that wait for that": bulk_admission.WAITING_MAX,
    "time a bulk waits for that": bulk_admission.WAIT_SECONDS,
    "postings that wait for a batch": posting.QUEUE_MAX,
    "time a posting waits for a batch": posting.WAIT_MAX_SECONDS,
    "postings of one ledger that have met locked rows and wait for a statement of their own": posting.APART_MAX,
    "time a read of an account waits for a batch": accounts.READ_WAIT_MAX_SECONDS,
    "ledgers whose accounts are read, or wait for locked rows, in one instant": lanes.LANES_MAX,
    "requests that wait for one locked row": row_locks.ROW_WAITERS_MAX,
    "requests that wait for locked rows": row_locks.WAITERS_MAX,
    "reads of the last minute that wait for postings of one ledger": recent.QUEUE_MAX,
    "reads of PostgreSQL that wait for a connection": postgres.READ_WAITERS_MAX,
    "pages of statements that are read at once": statements.PAGES_MAX,
    "long statements that are being sent": streams.STREAMS_MAX,
    "long statements of one ledger": streams.STREAMS_OF_LEDGER_MAX,
    "requests that wait for events": streams.WAITING_MAX,
    "requests of one ledger that wait for events": streams.WAITING_OF_LEDGER_MAX,
    "streams of events": streams.EVENT_STREAMS_MAX,
    "streams of events of one ledger": streams.EVENT_STREAMS_OF_LEDGER_MAX,
    "pages of events that are read at once for those who have waited": pages.PAGES_MAX,
    "connections for trial balances": reports.REPORTS_MAX,
    "trial balances of one ledger that wait for their turn": reports.REPORT_WAITERS_MAX,
    "time a trial balance waits for its turn, and for a connection": reports.REPORT_WAIT_SECONDS,
    "time a trial balance takes": reports.REPORT_SECONDS,
    "time a statement waits for a connection": postgres.ACQUIRE_TIMEOUT_SECONDS,
    "time a posting or a change takes in all": posting.DEADLINE_SECONDS,
    "API keys of a ledger that are not revoked": key_store.KEYS_OF_LEDGER_MAX,
    "webhook endpoints of a ledger": endpoints.ENDPOINTS_OF_LEDGER_MAX,
    "tests of webhook endpoints at once": endpoints.TESTS_MAX,
    "tests of one ledger's webhook endpoints at once": endpoints.TESTS_OF_LEDGER_MAX,
    "webhook endpoints that are sent events at once": deliveries.WALKS_MAX,
    "webhook endpoints at which events are tried again at once": deliveries.RETRYING_MAX,
    "attempts to deliver again at one webhook endpoint at once": deliveries.RETRIES_AT_ONCE,
    "time an attempt to deliver a webhook takes": sender.ATTEMPT_SECONDS,
    "bytes of a webhook's answer that are read": sender.ANSWER_BYTES_MAX,
    "names of webhooks that are looked up at once": sender.LOOKUPS_MAX,
    "events that wait for a retry at one webhook endpoint": records.WAITING_MAX,
    "attempts that are kept of one webhook endpoint": pruning.ATTEMPTS_KEPT,
    "commands to Redis that wait": redis.QUEUE_MAX,
}


@pytest.mark.parametrize("bound", CONSTANTS)
def test_documented_bounds_are_those_in_force(bound: str) -> None:
    """The table states for each bound the value in the code."""
    found = re.search(rf"^\| {re.escape(bound)} \| ([0-9.,]+)", TABLE.read_text(), re.MULTILINE)
    assert found is not None
    assert float(found[1].replace(",", "")) == CONSTANTS[bound]


@pytest.mark.parametrize("page", ["reference/operations.md", "how-to/deployment.md"])
def test_documented_connections_are_those_that_doctor_counts(page: str) -> None:
    """Both pages state the `max_connections` that `doctor` requires."""
    beside = postgres_connections.connections_max(0, 0, 0, background=True)
    said = f"(`posting_connections` + `reading_connections` + {reports.REPORTS_MAX}) + {beside}"
    assert said in " ".join((TABLE.parents[1] / page).read_text().split())
