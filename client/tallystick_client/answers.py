"""What the ledger answers, as types. Amounts are integers of minor units, instants are in UTC."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Answered(msgspec.Struct, frozen=True):
    """A part of an answer. Members that this version does not know are passed over."""


class Problem(Answered, frozen=True):
    """
    Why something was not done (RFC 9457).

    Attributes:
        code: Names the kind of problem; `/problems/<code>` of a server explains it.

        outcome: On writes: `not_applied`, `refused` (for ever, under this key) or `unknown`.

        retry: On writes: `same_key`, `new_key` or `never`.

        retry_after_ms: On 429: until there is room again.

        pointer: On refusals: the member of the request that it is about.

        fields: On 409 and 422: in what the request differs from the one before.

        transfer_id: On 422: what the key is bound to.
    """

    status: int
    code: str = ""
    title: str = ""
    detail: str = ""
    request_id: str = ""
    outcome: str | None = None
    retry: str | None = None
    retry_after_ms: int | None = None
    errors: tuple["FieldError", ...] = ()
    pointer: str | None = None
    fields: tuple[str, ...] = ()
    transfer_id: str | None = None


class FieldError(Answered, frozen=True):
    """What is wrong with one member, header or parameter of a request."""

    pointer: str
    detail: str


class Account(Answered, frozen=True):
    """An account; `available` is the balance without what is held on it."""

    id: str
    currency: str
    balance: int
    held_in: int
    held_out: int
    available: int
    floor: int | None
    ceiling: int | None
    version: int
    closed: bool
    metadata: dict[str, str]
    created_at: datetime


class Hold(Answered, frozen=True):
    """What has become of a hold: it is `open`, `captured`, `voided` or `expired`."""

    state: str
    captured: int
    remaining: int
    expires_at: datetime


class Transfer(Answered, frozen=True):
    """
    A transfer, hold, capture, void, expiry or reversal.

    Attributes:
        kind: One of these.

        state: `posted` or `refused`.

        parent: The id of the transfer that it captures, voids or reverses.

        hold: What has become of a hold, where the transfer was read; the answer to posting one does not tell.

        reversed: How much of it was moved back, where it was read.

        problem: Of a refused one: why.
    """

    id: str
    kind: str
    state: str
    source: str | None
    destination: str | None
    amount: int | None
    currency: str | None
    parent: str | None
    source_balance: int | None
    destination_balance: int | None
    source_version: int | None
    destination_version: int | None
    effective_at: datetime
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    created_at: datetime
    hold: Hold | None = None
    reversed: int | None = None
    problem: Problem | None = None


class AccountResult(Answered, frozen=True):
    """What became of an account of `create_many`: it is there, or there is a problem."""

    status: int
    replayed: bool
    account: Account | None = None
    problem: Problem | None = None


class TransferResult(Answered, frozen=True):
    """What became of an item of `create_many`, or what would become of it: a transfer or a problem."""

    status: int
    replayed: bool
    transfer: Transfer | None = None
    problem: Problem | None = None


class Results(Answered, Generic[T], frozen=True):
    """What became of the items of a bulk, in their order."""

    results: list[T]

    def __iter__(self) -> Iterator[T]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> T:
        return self.results[index]


class Page(Answered, Generic[T], frozen=True):
    """A page of a list; the cursor is None on the last one."""

    data: list[T]
    next_cursor: str | None


class Entry(Answered, frozen=True):
    """A line of an account: a transfer that moved money on it, with the balance after it."""

    transfer_id: str
    kind: str
    amount: int
    counterparty: str | None
    balance: int
    version: int
    reference: str | None
    created_at: datetime
    effective_at: datetime | None = None


class PastBalance(Answered, frozen=True):
    """The balance of an account at an instant; the version is that of the newest posting in it."""

    account: str
    currency: str
    at: datetime
    balance: int
    version: int | None


class Statement(Answered, frozen=True, rename={"since": "from", "until": "to"}):
    """The entries of a period, oldest first: the opening balance and all amounts make the closing balance."""

    account: str
    currency: str
    since: datetime | None
    until: datetime | None
    by: str
    as_of: datetime
    opening_balance: int
    entries: list[Entry]
    closing_balance: int


class CurrencyTotal(Answered, frozen=True):
    """The accounts of one currency: the sums of balances below zero, of those above, and of both."""

    currency: str
    debit: int
    credit: int
    net: int
    accounts: int


class TrialBalance(Answered, frozen=True):
    """The sums of all balances by currency."""

    prefix: str | None
    at: datetime | None
    data: list[CurrencyTotal]


class Event(Answered, frozen=True):
    """
    Something that happened, a CloudEvent 1.0.

    Attributes:
        id: The same wherever and however often it arrives.

        type: As in `tallystick.transfer.posted.v1`.

        subject: The id of the transfer or account.

        position: Its place in the feed of the ledger: 1, 2, 3 and so on.

        data: What its GET showed then, as it came; `transfer` and `account` give it a type.
    """

    id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    position: int
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """The type as filters name it: `transfer.posted`."""
        return self.type.removeprefix("tallystick.").rpartition(".")[0]

    @property
    def transfer(self) -> Transfer | None:
        """What was posted or refused, if that is what it tells."""
        return msgspec.convert(self.data, Transfer) if self.name.startswith(("transfer.", "hold.")) else None

    @property
    def account(self) -> Account | None:
        """What was opened or changed, if that is what it tells."""
        return msgspec.convert(self.data, Account) if self.name.startswith("account.") else None


class EventPage(Answered, frozen=True):
    """Events in order; `next_after` is where to read on, and the position asked with where nothing is newer."""

    data: list[Event]
    next_after: int


class LimitPolicy(Answered, frozen=True):
    """A limit and what is left of it; after `reset_seconds` all of `burst` is there again."""

    name: str
    quota: int
    window_seconds: int
    burst: int
    remaining: int
    reset_seconds: int


class Concurrency(Answered, frozen=True):
    """How many requests of the key may run at once in a worker, and how many do."""

    limit: int
    running: int


class Limits(Answered, frozen=True):
    """What is left of the limits of a key, counted by the `service` or, without Redis, by the `worker`."""

    policies: list[LimitPolicy]
    concurrency: Concurrency
    counted_by: str


class Rows(Answered, frozen=True):
    """A number of rows; above what is counted at once it is that of the auditor's last round, and not exact."""

    count: int
    exact: bool


class LedgerCounts(Answered, frozen=True):
    """How much is in a ledger; `events` is the newest position of its feed."""

    accounts: Rows
    transfers: Rows
    events: int


class LedgerEnd(Answered, frozen=True):
    """The oldest or the newest transfer."""

    id: str
    created_at: datetime


class RateLimit(Answered, frozen=True):
    """A limit: `quota` requests come every window, `burst` fit in."""

    name: str
    quota: int
    window_seconds: int
    burst: int


class LedgerLimits(Answered, frozen=True):
    """The limits in force for the key that asks."""

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
    """Errors of one kind in the books: how many, and a sentence on each of the first ones."""

    kind: str
    total: int
    details: list[str]


class AuditRound(Answered, frozen=True):
    """One pass of the auditor over the ledger; `finished_at` is None while it is under way."""

    started_at: datetime
    finished_at: datetime | None
    rows: int
    findings: list[Finding]


class Integrity(Answered, frozen=True):
    """What the auditor says of the ledger."""

    head: ChainHead
    last_round: AuditRound | None
    current_round: AuditRound | None


class WebhookEndpoint(Answered, frozen=True):
    """
    A URL that events are sent to.

    Attributes:
        types: Names of events; empty for all.

        state: `enabled` or `disabled`; then `disabled_reason` says why.

        position: Events up to here were sent, or wait for a retry.

        secret: Shown only by `create` and `rotate_secret`, and left out of `repr`.
    """

    id: str
    url: str
    types: list[str]
    description: str | None
    state: str
    disabled_reason: str | None
    position: int
    created_at: datetime
    secret: str | None = None

    def __repr__(self) -> str:
        return f"WebhookEndpoint(id={self.id!r}, url={self.url!r}, state={self.state!r})"


class Deleted(Answered, frozen=True):
    """Something that is there no more."""

    id: str
    deleted: bool


class WebhookTest(Answered, frozen=True):
    """What came of a test of an endpoint: a status or an error, and the first bytes of the answer."""

    delivered: bool
    status: int | None
    error: str | None
    duration_ms: int
    answer: str


class Delivery(Answered, frozen=True):
    """An attempt to deliver an event: `delivered`, `failed` (tried again), `dead` (given up) or `gone`."""

    position: int
    type: str
    attempt: int
    outcome: str
    status: int | None
    error: str | None
    attempted_at: datetime
    duration_ms: int
    answer: str


class Undelivered(Answered, frozen=True):
    """An event that has not arrived: `waiting` or `dead`."""

    position: int
    state: str
    attempts: int
    attempted_at: datetime
    next_attempt_at: datetime | None


class ApiKey(Answered, frozen=True):
    """
    A key of the ledger.

    Attributes:
        role: `read`, `write` or `admin`.

        accounts: Prefixes of the accounts that it sees; None for all of the ledger.

        rate: As `100/s`; None, as in `burst` and `concurrency`, for what the service gives every key.

        last_used_at: To the minute.

        previous_tokens_until: When the last of the tokens that were replaced ends; None where none works.

        token: What callers send; shown only by `create` and `rotate`, and left out of `repr`.
    """

    id: str
    role: str
    description: str | None
    accounts: list[str] | None
    rate: str | None
    burst: int | None
    concurrency: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous_tokens_until: datetime | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"ApiKey(id={self.id!r}, role={self.role!r})"
