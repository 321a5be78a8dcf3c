"""Transfers: requests, the attempts that they become, and their outcomes."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from server.store.cache import Replay


class TransferRequest(NamedTuple):
    """One transfer asked for under one idempotency key, all its values checked for shape."""

    key: str
    # SHA-256 over method, path and body as received: 32 bytes. Requests with equal ones mean the same; others may, too.
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
    # Canonical JSON text of the conditions, or None. The last three fields are the same conditions.
    conditions: str | None
    request_id: str
    source_version: int | None
    destination_version: int | None
    source_available_gte: int | None


class Attempt(NamedTuple):
    """A row of `transfers`: an attempt bound to its key, which moved money or was refused."""

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
        """Make an attempt of a row with the `transfer_columns` of sql/queries/transfers.sql."""
        return cls(*row.values())


class Bound(NamedTuple):
    """The key is bound to this attempt, by this request or (*replayed*) by an earlier one that meant the same."""

    attempt: Attempt
    replayed: bool
    # The rendered answer, of a request that was posted by itself.
    answer: Replay | None = None


class Reused(NamedTuple):
    """The key is bound to the attempt of another request; *fields* names what differs between the two."""

    attempt: Attempt
    fields: tuple[str, ...]


class Unbound(NamedTuple):
    """Nothing was done and no key was bound, since keys of the linked set are bound by other requests."""


Outcome = Bound | Reused | Unbound

# The fields that make the meaning of a request.
_ASKED = ("source", "destination", "amount", "currency", "reference", "description", "conditions", "metadata")
# Members sorted: equal objects have equal texts.
_encode = msgspec.json.Encoder(order="deterministic").encode


def _asked(of: TransferRequest | Attempt) -> tuple[object, ...]:
    """Return the values of `_ASKED`, each in a form in which equal ones compare equal."""
    conditions: dict[str, int | None] = {} if of.conditions is None else msgspec.json.decode(of.conditions)
    metadata: dict[str, str] = {} if of.metadata == "{}" else msgspec.json.decode(of.metadata)
    return (
        of.source,
        of.destination,
        of.amount,
        of.currency,
        of.reference,
        of.description,
        # A condition that is null is none, and so are conditions that are all null.
        {name: value for name, value in conditions.items() if value is not None},
        metadata,
    )


def meaning(of: TransferRequest | Attempt) -> bytes:
    """Return the SHA-256 over all that a request asks for: equal requests have equal ones, however they are written."""
    return hashlib.sha256(_encode(_asked(of))).digest()


def resolve_known(request: TransferRequest, attempt: Attempt) -> Outcome:
    """Return the outcome of a request whose key was found bound to *attempt*."""
    asked, bound = _asked(request), _asked(attempt)
    if asked == bound:
        # Each request has an id of its own. If the row has it, an earlier sending of the same batch was committed.
        return Bound(attempt, replayed=attempt.id != request.id)
    return Reused(attempt, tuple(name for name, a, b in zip(_ASKED, asked, bound, strict=True) if a != b))


def with_answer(outcome: Outcome, render: Callable[[Attempt], tuple[int, bytes]]) -> Outcome:
    """Return the outcome of a single request with what the request is answered."""
    if not isinstance(outcome, Bound):
        return outcome
    attempt, replayed, _ = outcome
    return Bound(attempt, replayed, Replay(attempt.fingerprint, meaning(attempt), *render(attempt)))
