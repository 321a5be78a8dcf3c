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


class Posted(Transfer, frozen=True):
    """
    A transfer as the answer to posting it.

    Attributes:
        replayed: Whether its key was bound before: by an earlier call, or an attempt of this one whose answer was lost.
    """

    replayed: bool = False


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
