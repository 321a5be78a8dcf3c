"""Transfers: requests, the attempts that they become, and their outcomes."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from server.store.cache import Replay


class TransferRequest(NamedTuple):
    """
    A request for one transfer under one idempotency key, with the shape of all values checked. Its fields are in the
    order of the arrays of `post_transfers`.

    A transfer or a hold names its sides. A capture, void, expiry or reversal names its parent instead, by id or by the
    key that the parent is bound to.
    """

    key: str
    # SHA-256 over method, path and body as received: 32 bytes. Equal ones mean equal requests; unequal ones may, too.
    fingerprint: bytes
    id: UUID
    source: str | None
    destination: str | None
    # Of a capture or a reversal, None is all that remains.
    amount: int | None
    currency: str | None
    reference: str | None
    description: str | None
    # Canonical JSON text (keys sorted, no spaces): an object of strings.
    metadata: str
    # Canonical JSON text of the conditions, or None. The three fields after `request_id` are the same conditions.
    conditions: str | None
    request_id: str
    source_version: int | None = None
    destination_version: int | None = None
    source_available_gte: int | None = None
    effective_at: datetime | None = None
    # None is a transfer.
    kind: str | None = None
    # Seconds after which a hold is released.
    expires_in: int | None = None
    parent: UUID | None = None
    parent_key: str | None = None
    # Of a capture: whether the rest of the hold is released. Of an expiry: whether the hold need not be due.
    release_rest: bool | None = None
    # The instant at which a hold is released, if it is not given in seconds.
    expires_at: datetime | None = None


class Attempt(NamedTuple):
    """A row of `transfers`: a posted or refused attempt that its key is bound to."""

    id: UUID
    idempotency_key: str
    fingerprint: bytes
    kind: str
    parent: UUID | None
    # Sides and currency are None only in the refusal of a request whose parent does not exist.
    source: str | None
    destination: str | None
    amount: int | None
    currency: str | None
    source_balance: int | None
    destination_balance: int | None
    source_version: int | None
    destination_version: int | None
    reference: str | None
    description: str | None
    conditions: str | None
    metadata: str
    refusal: str | None
    refusal_pointer: str | None
    refusal_request_id: str | None
    created_at: datetime
    # None is the instant of posting.
    effective_at: datetime | None = None
    # Of a hold.
    expires_at: datetime | None = None
    # The amount that a capture, void, expiry or reversal asked for: None is all that remained.
    amount_asked: int | None = None
    release_rest: bool | None = None
    parent_key: str | None = None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> "Attempt":
        """Make an attempt of a row with the `transfer_columns` of sql/queries/transfers.sql."""
        return cls(*row.values())


class Progress(NamedTuple):
    """What has become of a transfer, in minor units; its columns in the order of `progress_columns`."""

    captured: int
    remaining: int
    reversed: int
    # Of a hold: open, captured, voided or expired.
    state: str | None


class Bound(NamedTuple):
    """The key is bound to this attempt, by this request or (*replayed*) by an earlier one that meant the same."""

    attempt: Attempt
    replayed: bool
    # The rendered answer, if the request was posted by itself.
    answer: Replay | None = None


class Reused(NamedTuple):
    """The key is bound to the attempt of another request; *fields* names what differs between the two."""

    attempt: Attempt
    fields: tuple[str, ...]


class Unbound(NamedTuple):
    """
    Nothing was done and no key was bound, because keys of the linked set are bound by other requests, or because
    (*future*) effective_at has not come.
    """

    future: bool = False


Outcome = Bound | Reused | Unbound

# The kinds that name a parent instead of sides.
CHILDREN: Final = ("capture", "void", "expiry", "reversal")

# The fields that define what a request means: if it names its sides, and if it names a parent.
_OF_SIDES: Final = (
    "source",
    "destination",
    "amount",
    "currency",
    "hold",
    "expires_in",
    "effective_at",
    "reference",
    "description",
    "conditions",
    "metadata",
)
_OF_PARENT: Final = ("kind", "parent", "parent_key", "amount", "release_rest")
# With sorted members, equal objects have equal texts.
_encode = msgspec.json.Encoder(order="deterministic").encode


def _asked(of: TransferRequest | Attempt) -> tuple[object, ...]:
    """Return the values of `_OF_SIDES` or `_OF_PARENT`, each in a form in which equal values compare equal."""
    if of.kind in CHILDREN:
        amount = of.amount_asked if isinstance(of, Attempt) else of.amount
        # A row has its parent's id even if the request named the parent by its key.
        parent = None if of.parent_key is not None else of.parent
        return (of.kind, None if parent is None else str(parent), of.parent_key, amount, of.release_rest)
    conditions: dict[str, int | None] = {} if of.conditions is None else msgspec.json.decode(of.conditions)
    metadata: dict[str, str] = {} if of.metadata == "{}" else msgspec.json.decode(of.metadata)
    is_hold = of.kind == "hold"
    return (
        of.source,
        of.destination,
        of.amount,
        of.currency,
        is_hold,
        _expires_in(of) if is_hold else None,
        of.effective_at,
        of.reference,
        of.description,
        # A null condition counts as none, and so do conditions that are all null.
        {name: value for name, value in conditions.items() if value is not None},
        metadata,
    )


def _expires_in(of: TransferRequest | Attempt) -> int | None:
    if isinstance(of, TransferRequest):
        return of.expires_in
    return None if of.expires_at is None else round((of.expires_at - of.created_at).total_seconds())


def meaning(of: TransferRequest | Attempt) -> bytes:
    """Return the SHA-256 over all that a request asks for, which is equal however equal requests are written."""
    return hashlib.sha256(_encode(_asked(of))).digest()


def resolve_known(request: TransferRequest, attempt: Attempt) -> Outcome:
    """Return the outcome of a request whose key was found bound to *attempt*."""
    asked, bound = _asked(request), _asked(attempt)
    if asked == bound:
        # Each request has an id of its own. If the row has it, an earlier sending of the same batch was committed.
        return Bound(attempt, replayed=attempt.id != request.id)
    if (request.kind in CHILDREN) != (attempt.kind in CHILDREN):
        # One has fields that the other lacks.
        return Reused(attempt, ("kind",))
    names = _OF_PARENT if request.kind in CHILDREN else _OF_SIDES
    return Reused(attempt, tuple(name for name, a, b in zip(names, asked, bound, strict=True) if a != b))


def with_answer(outcome: Outcome, render: Callable[[Attempt], tuple[int, bytes]]) -> Outcome:
    """Return the outcome of a single request, with its rendered answer filled in."""
    if not isinstance(outcome, Bound):
        return outcome
    attempt, replayed, _ = outcome
    return Bound(attempt, replayed, Replay(attempt.fingerprint, meaning(attempt), *render(attempt)))
