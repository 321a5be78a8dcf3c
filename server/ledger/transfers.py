"""Transfers: what is asked for, what is kept of it, and what may become of it."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from server.store.cache import Replay


class TransferRequest(NamedTuple):
    """One transfer asked for under one idempotency key, all its values checked for shape."""

    key: str
    # SHA-256 over method, path and body as received: 32 bytes.
    fingerprint: bytes
    id: UUID
    source: str
    destination: str
    amount: int
    currency: str
    reference: str | None
    description: str | None
    # Canonical JSON text (keys sorted, no spaces): an object of strings.
    metadata: str
    # Canonical JSON text of the conditions, or None; the next three are the same, taken apart.
    conditions: str | None
    request_id: str
    source_version: int | None
    destination_version: int | None
    source_available_gte: int | None


class Attempt(NamedTuple):
    """One row of the book: an attempt bound to its key, and either the money moved or why not."""

    id: UUID
    idempotency_key: str
    fingerprint: bytes
    kind: str
    parent: UUID | None
    source: str
    destination: str
    amount: int
    currency: str
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

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> "Attempt":
        """Make an attempt of a row with the columns of `transfer_by_keys`, in that order."""
        return cls(*row.values())


class Bound(NamedTuple):
    """The key is bound to this attempt, by this request or (*replayed*) by an earlier one with the same fingerprint."""

    attempt: Attempt
    replayed: bool
    # What a single request is answered, when the lane has rendered it.
    answer: Replay | None = None


class Reused(NamedTuple):
    """The key is bound to this attempt, which answers another request; *fields* name what differs between the two."""

    attempt: Attempt
    fields: tuple[str, ...]


class Unbound(NamedTuple):
    """Nothing was done and no key was bound: the linked set meets keys that other requests have bound."""


class Locked(NamedTuple):
    """Nothing was done and no key was bound: another transaction has locked these accounts."""

    accounts: tuple[str, ...]


Outcome = Bound | Reused | Unbound

_COMPARED = ("source", "destination", "amount", "currency", "reference", "description", "conditions", "metadata")


def resolve_known(request: TransferRequest, attempt: Attempt) -> Outcome:
    """Say what a request means whose key was found bound to *attempt*."""
    if attempt.fingerprint == request.fingerprint:
        # The identifier is made once a request: finding it means that an earlier sending of this very batch did commit.
        return Bound(attempt, replayed=attempt.id != request.id)
    return Reused(attempt, tuple(field for field in _COMPARED if getattr(attempt, field) != getattr(request, field)))
