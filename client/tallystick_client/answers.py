"""The types of the ledger's answers. Amounts are integers of minor units, and instants are in UTC."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Answered(msgspec.Struct, frozen=True):
    """The base of all answers. Members that this version does not know are ignored."""


class Problem(Answered, frozen=True):
    """
    A problem (RFC 9457): why a request failed.

    Attributes:
        code: The kind of problem; `/problems/<code>` of a server explains it.

        outcome: On writes: `not_applied`, `refused` (for ever, under this key) or `unknown`.

        retry: On writes: `same_key`, `new_key` or `never`.

        retry_after_ms: On 429: the time until a request is allowed again.

        pointer: On refusals: the member of the request that caused it.

        fields: On 409 and 422: the fields in which the request differs from the earlier one.

        transfer_id: On 422: the transfer that the key is bound to.
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
    """An error in one member, header or parameter of a request."""

    pointer: str
    detail: str


class Account(Answered, frozen=True):
    """An account; `available` is the balance minus `held_out`, the amounts that holds reserve."""

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
    """The state of a hold: it is `open`, `captured`, `voided` or `expired`."""

    state: str
    captured: int
    remaining: int
    expires_at: datetime


class Transfer(Answered, frozen=True):
    """
    A transfer, hold, capture, void, expiry or reversal.

    Attributes:
        kind: Which of these it is.

        state: `posted` or `refused`.

        parent: The id of the transfer that it captures, voids, expires or reverses.

        hold: The state of a hold; only in answers to reads, not in the answer to posting it.

        reversed: How much of it was moved back; only in answers to reads.

        problem: Why it was refused, if it was.
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
    A transfer in the answer to posting it.

    Attributes:
        replayed: Whether it was already posted under its key, by an earlier call or by an attempt of this call whose
            answer was lost.
    """

    replayed: bool = False


class AccountResult(Answered, frozen=True):
    """The result of an item of `create_many`: the account or a problem."""

    status: int
    replayed: bool
    account: Account | None = None
    problem: Problem | None = None


class TransferResult(Answered, frozen=True):
    """The result of an item of `create_many`, or of a preview: the transfer or a problem."""

    status: int
    replayed: bool
    transfer: Transfer | None = None
    problem: Problem | None = None


class Results(Answered, Generic[T], frozen=True):
    """The results of the items of a bulk, in their order."""

    results: list[T]

    def __iter__(self) -> Iterator[T]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> T:
        return self.results[index]


class Page(Answered, Generic[T], frozen=True):
    """A page of a list; the cursor of the last page is None."""

    data: list[T]
    next_cursor: str | None


class Entry(Answered, frozen=True):
    """An entry of an account: a transfer that moved money on it, with the balance after it."""

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
    """The balance of an account at an instant; the version is that after the newest posting it includes."""

    account: str
    currency: str
    at: datetime
    balance: int
    version: int | None


class Statement(Answered, frozen=True, rename={"since": "from", "until": "to"}):
    """The entries of a period, oldest first; the opening balance plus all amounts is the closing balance."""

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
    """The accounts of one currency: the sums of balances below zero, of those above zero, and of all."""

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
    An event, as a CloudEvent 1.0.

    Attributes:
        id: The same wherever and however often the event arrives.

        type: For example `tallystick.transfer.posted.v1`.

        subject: The id of the transfer or account.

        position: Its place in the feed of the ledger: 1, 2, 3 and so on.

        data: What a GET of the subject showed at that time, not decoded; `transfer` and `account` give it a type.
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
        """The type as filters name it, for example `transfer.posted`."""
        return self.type.removeprefix("tallystick.").rpartition(".")[0]

    @property
    def transfer(self) -> Transfer | None:
        """The transfer that was posted or refused, if the event is about one."""
        return msgspec.convert(self.data, Transfer) if self.name.startswith(("transfer.", "hold.")) else None

    @property
    def account(self) -> Account | None:
        """The account that was opened or changed, if the event is about one."""
        return msgspec.convert(self.data, Account) if self.name.startswith("account.") else None


class EventPage(Answered, frozen=True):
    """Events in order; read on after `next_after`, which stays the same if there is nothing newer."""

    data: list[Event]
    next_after: int
