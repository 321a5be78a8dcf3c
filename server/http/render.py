"""Renders what the ledger holds as JSON for callers. The same code makes a first answer and its replay."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from server.http.members import (
    AccountName,
    CurrencyName,
    HoldState,
    Instant,
    Metadata,
    Minor,
    NextCursor,
    ProblemBody,
    Status,
    Sum,
    TransferKind,
    TransferState,
    Uuid,
    Version,
)
from server.http.problems import KINDS, Problem
from server.ledger.accounts import Account
from server.ledger.history import Entry, PastBalance
from server.ledger.transfers import Attempt, Progress

T = TypeVar("T")

# The codes of refusals that are bound to a transfer's key: those with a sentence.
REFUSALS = tuple(code for code, kind in KINDS.items() if kind.sentence is not None)

_encode = msgspec.json.Encoder().encode


class AccountBody(msgspec.Struct, gc=False):
    """An account."""

    id: AccountName
    currency: CurrencyName
    balance: Minor
    held_in: Minor
    held_out: Minor
    available: Minor
    floor: Minor | None
    ceiling: Minor | None
    version: Version
    closed: bool
    metadata: Metadata
    created_at: Instant


class TransferBody(msgspec.Struct, gc=False):
    """
    A transfer as in its first answer; it never changes.

    A key that is narrowed to accounts and sees only one side gets null for the other side, its balance and its version.
    """

    id: Uuid
    kind: TransferKind
    state: TransferState
    source: AccountName | None
    destination: AccountName | None
    amount: Minor | None
    currency: CurrencyName | None
    parent: Uuid | None
    source_balance: Minor | None
    destination_balance: Minor | None
    source_version: Version | None
    destination_version: Version | None
    effective_at: Instant
    reference: str | None
    description: str | None
    metadata: Metadata
    created_at: Instant


class EntryBody(msgspec.Struct, gc=False):
    """A line of a statement."""

    transfer_id: Uuid
    kind: TransferKind
    amount: Minor
    # Null if the key does not see that account.
    counterparty: AccountName | None
    balance: Minor
    version: Version
    reference: str | None
    created_at: Instant


class BalanceBody(msgspec.Struct, gc=False):
    """A balance of the past."""

    account: AccountName
    currency: CurrencyName
    at: Instant
    # By value date it is a running sum of transfers, not a balance that the account ever had.
    balance: Sum
    version: Version | None


class HoldBody(msgspec.Struct, gc=False):
    """The present state of a hold."""

    state: HoldState
    captured: Minor
    remaining: Minor
    expires_at: Instant


class TransferNow(TransferBody, gc=False):
    """A transfer with its present state, or with its refusal."""

    hold: HoldBody | None
    reversed: Minor
    problem: ProblemBody | UnsetType = UNSET


class AccountResult(msgspec.Struct, gc=False):
    """The result of an item of a bulk of accounts."""

    status: Status
    replayed: bool
    account: AccountBody | UnsetType = UNSET
    problem: ProblemBody | UnsetType = UNSET


class TransferResult(msgspec.Struct, gc=False):
    """The result of an item of a bulk of transfers."""

    status: Status
    replayed: bool
    transfer: TransferBody | UnsetType = UNSET
    problem: ProblemBody | UnsetType = UNSET


class Results(msgspec.Struct, Generic[T], gc=False):
    """The results of the items of a bulk, in their order."""

    results: list[T]


class Page(msgspec.Struct, Generic[T], gc=False):
    """A page of a list. The cursor is null on the last page."""

    data: list[T]
    next_cursor: NextCursor | None


# Cached, because all transfers of a batch share their instant.
@lru_cache(maxsize=256)
def instant(at: datetime) -> str:
    """Return an instant as RFC 3339 in UTC with microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def account(value: Account) -> bytes:
    """Return an account as JSON."""
    return _encode(
        AccountBody(
            value.id,
            value.currency,
            value.balance,
            value.held_in,
            value.held_out,
            value.available,
            value.floor,
            value.ceiling,
            value.version,
            value.closed,
            msgspec.Raw(value.metadata.encode()),
            instant(value.created_at),
        )
    )


def transfer(attempt: Attempt) -> bytes:
    """Return a transfer as JSON, byte for byte as in its first answer."""
    created_at = instant(attempt.created_at)
    return _encode(
        TransferBody(
            str(attempt.id),
            attempt.kind,
            "posted" if attempt.refusal is None else "refused",
            attempt.source,
            attempt.destination,
            attempt.amount,
            attempt.currency,
            None if attempt.parent is None else str(attempt.parent),
            attempt.source_balance,
            attempt.destination_balance,
            attempt.source_version,
            attempt.destination_version,
            created_at if attempt.effective_at is None else instant(attempt.effective_at),
            attempt.reference,
            attempt.description,
            msgspec.Raw(attempt.metadata.encode()),
            created_at,
        )
    )


def answer(attempt: Attempt) -> tuple[int, bytes]:
    """Return the status and the body of the answer to an attempt's request, which never change."""
    if attempt.refusal is None:
        return 201, transfer(attempt)
    problem = refusal(attempt)
    return problem.kind.status, problem.body(attempt.refusal_request_id or "", write=True)


def transfer_now(attempt: Attempt, progress: Progress) -> bytes:
    """Return a transfer with its present state, or with its refusal, as JSON."""
    hold = None
    if progress.state is not None and attempt.expires_at is not None:
        hold = HoldBody(progress.state, progress.captured, progress.remaining, instant(attempt.expires_at))
    since = b',"hold":%b,"reversed":%d' % (_encode(hold), progress.reversed)
    if attempt.refusal is not None:
        since += b',"problem":' + refusal(attempt).body(attempt.refusal_request_id or "", write=True)
    return transfer(attempt)[:-1] + since + b"}"


def entry(value: Entry) -> bytes:
    """Return a line of a statement as JSON."""
    return _encode(
        EntryBody(
            str(value.transfer_id),
            value.kind,
            value.amount,
            value.counterparty,
            value.balance,
            value.version,
            value.reference,
            instant(value.created_at),
        )
    )


def past_balance(account_id: str, at: datetime, value: PastBalance) -> bytes:
    """Return a balance of the past as JSON."""
    return _encode(BalanceBody(account_id, value.currency, instant(at), value.balance, value.version))


def page(rows: list[bytes], next_cursor: str | None) -> bytes:
    """Return a page of rows that are already JSON."""
    return _encode(Page([msgspec.Raw(row) for row in rows], next_cursor))


def results(items: list[bytes]) -> bytes:
    """Return the results of a bulk, which are already JSON."""
    return b'{"results":[' + b",".join(items) + b"]}"


def refusal(attempt: Attempt) -> Problem:
    """Return the problem that answers a refused attempt, the same at every replay."""
    code = attempt.refusal
    assert code is not None, "only refused attempts have a refusal"
    pointer = attempt.refusal_pointer
    side = (pointer or "").rpartition("/")[2]
    sentence = KINDS[code].sentence
    assert sentence is not None, "transfers are refused with these codes only"
    detail = sentence.format(side=side, amount=attempt.amount, currency=attempt.currency)
    return Problem(
        code,
        detail,
        outcome="refused",
        members={"pointer": pointer} if pointer else None,
    )
