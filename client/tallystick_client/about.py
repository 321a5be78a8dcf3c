"""The answers about a whole ledger: its limits, its contents, and the auditor's findings."""

from datetime import datetime

from tallystick_client.answers import Answered


class LimitPolicy(Answered, frozen=True):
    """A rate limit and what remains of it; after `reset_seconds` all of `burst` is available again."""

    name: str
    quota: int
    window_seconds: int
    burst: int
    remaining: int
    reset_seconds: int


class Concurrency(Answered, frozen=True):
    """How many requests of the key may run at once in a worker, and how many are running."""

    limit: int
    running: int


class Limits(Answered, frozen=True):
    """What remains of the limits of a key; `counted_by` is `service`, or `worker` while Redis is unavailable."""

    policies: list[LimitPolicy]
    concurrency: Concurrency
    counted_by: str


class Rows(Answered, frozen=True):
    """A number of rows. From 1,000 on it is not exact: it is that of the auditor's last round, if that is larger."""

    count: int
    exact: bool


class LedgerCounts(Answered, frozen=True):
    """How many rows a ledger has; `events` is the newest position of its feed."""

    accounts: Rows
    transfers: Rows
    events: int


class LedgerEnd(Answered, frozen=True):
    """The oldest or the newest transfer."""

    id: str
    created_at: datetime


class RateLimit(Answered, frozen=True):
    """A rate limit: `quota` requests per window, and up to `burst` at once."""

    name: str
    quota: int
    window_seconds: int
    burst: int


class LedgerLimits(Answered, frozen=True):
    """The limits in force for the key of this request."""

    rates: list[RateLimit]
    concurrency: int
    body_bytes: int
    bulk_body_bytes: int
    bulk_items: int
    page_rows: int
    metadata_entries: int
    hold_seconds: int


class Ledger(Answered, frozen=True):
    """The ledger of the key."""

    name: str
    created_at: datetime
    counts: LedgerCounts
    oldest_transfer: LedgerEnd | None
    newest_transfer: LedgerEnd | None
    limits: LedgerLimits


class ChainHead(Answered, frozen=True):
    """The head of the chain of events: its link covers everything up to its position."""

    position: int
    link: str
    at: datetime | None


class Finding(Answered, frozen=True):
    """Errors of one kind in the books: how many there are, and a sentence about each of the first ones."""

    kind: str
    total: int
    details: list[str]


class AuditRound(Answered, frozen=True):
    """One pass of the auditor over the ledger; `finished_at` is None while it is running."""

    started_at: datetime
    finished_at: datetime | None
    rows: int
    findings: list[Finding]


class Integrity(Answered, frozen=True):
    """The auditor's report on the ledger."""

    head: ChainHead
    last_round: AuditRound | None
    current_round: AuditRound | None
