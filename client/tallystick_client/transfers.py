"""Transfers: payments, holds and their follow-ups. Each has one key, made before the first attempt and kept."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from msgspec import Struct, field

from tallystick_client.accounts import BULK_SECONDS_MAX, PAGE_ROWS
from tallystick_client.answers import Page, Posted, Results, Transfer, TransferResult
from tallystick_client.operations import D, Pages, Resource, operation, series
from tallystick_client.request import Repeat, Request, checked_key, get, members, new_key, segment

PATH = "/v1/transfers"

Kind = Literal["transfer", "hold", "capture", "void", "expiry", "reversal"]


class Conditions(Struct, frozen=True, omit_defaults=True):
    """Conditions that must hold at the moment of posting; otherwise the transfer is refused with `condition_failed`."""

    source_version: int | None = None
    destination_version: int | None = None
    source_available_gte: int | None = None


class TransferItem(Struct, frozen=True, omit_defaults=True):
    """A transfer of `create_many`; its fields are those of `create`. It gets its key when this object is made."""

    source: str
    destination: str
    amount: int
    currency: str
    hold: bool = False
    expires_in: int | None = None
    effective_at: datetime | None = None
    reference: str | None = None
    description: str | None = None
    conditions: Conditions | None = None
    metadata: Mapping[str, str] = {}
    key: str = field(default_factory=new_key)


class FollowUp(Struct, frozen=True, omit_defaults=True):
    """
    A capture, void or reversal of `create_many`.

    Args:
        kind: Which of the three.

        parent: The id of the transfer that it follows; give either this or `parent_key`.

        parent_key: The key of that transfer, which may be an earlier item.

        amount: A part of the amount; None for all that remains. A void has none.

        release_rest: For a capture, False keeps the rest reserved for further captures.
    """

    kind: Literal["capture", "void", "reversal"]
    parent: str | None = None
    parent_key: str | None = None
    amount: int | None = None
    release_rest: bool = True
    key: str = field(default_factory=new_key)


class Transfers(Resource[D]):
    """Operations on transfers."""

    @operation
    def create(
        self,
        source: str,
        destination: str,
        amount: int,
        currency: str,
        *,
        idempotency_key: str | None = None,
        hold: bool = False,
        expires_in: int | None = None,
        effective_at: datetime | None = None,
        reference: str | None = None,
        description: str | None = None,
        conditions: Conditions | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Request[Posted]:
        """
        Move an amount, or hold it, exactly once, and return the transfer.

        Args:
            source: The account that pays.

            destination: The account that is paid.

            amount: Minor units: 1250 is 12.50 EUR.

            currency: The currency of both accounts.

            idempotency_key: Names this payment for ever. If you store the key with the order, the payment is made once
                even if your program crashes and starts again. By default a new key is made for this call.

            hold: Only reserve the amount, to be captured or voided later.

            expires_in: Seconds until a hold expires; by default a week.

            effective_at: The time at which it takes effect, not in the future.

            reference: Up to 255 characters by which it can be found.

            description: A text for people.

            conditions: Conditions that must hold at the moment of posting.

            metadata: Up to 50 texts by name.

        Raises:
            RefusedError: The ledger refused it; this key will never move money.

            OutcomeUnknownError: The deadline passed before the outcome was known.
        """
        moved = {"source": source, "destination": destination, "amount": amount, "currency": currency, "hold": hold}
        dated = members(expires_in=expires_in, effective_at=effective_at, conditions=conditions)
        noted = members(reference=reference, description=description, metadata=metadata)
        return _post(PATH, {**moved, **dated, **noted}, idempotency_key)

    @operation
    def preview(
        self,
        source: str,
        destination: str,
        amount: int,
        currency: str,
        *,
        hold: bool = False,
        expires_in: int | None = None,
        effective_at: datetime | None = None,
        conditions: Conditions | None = None,
    ) -> Request[TransferResult]:
        """Return what `create` would return at this moment, without moving anything."""
        moved = {"source": source, "destination": destination, "amount": amount, "currency": currency, "hold": hold}
        body = {**moved, **members(expires_in=expires_in, effective_at=effective_at, conditions=conditions)}
        return Request(method="POST", path=f"{PATH}/preview", answer=TransferResult, body=body, repeat=Repeat.READ)

    @operation
    def create_many(
        self, items: Iterable[TransferItem | FollowUp], *, atomic: bool = False
    ) -> Request[Results[TransferResult]]:
        """
        Post up to 1,000 transfers in order, and return the result of each.

        Args:
            items: The transfers; each has its key. Keep them if you may have to send the same again.

            atomic: Post all or none; otherwise each is posted independently.
        """
        listed = list(items)
        return Request(
            method="POST",
            path=f"{PATH}/bulk",
            answer=Results[TransferResult],
            body={"atomic": atomic, "transfers": listed},
            item_keys=tuple(checked_key(item.key) for item in listed),
            repeat=Repeat.KEYED,
            seconds_max=BULK_SECONDS_MAX,
        )

    @operation
    def get(self, id: str) -> Request[Transfer]:  # noqa: A002 -- what the ledger calls it
        """Return a transfer, including the state of its hold and its reversals."""
        return get(f"{PATH}/{segment(id)}", Transfer)

    @series
    def list(
        self,
        *,
        account: str | None = None,
        reference: str | None = None,
        kind: Kind | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Pages[Transfer]:
        """Iterate over the transfers that match all given filters, newest first; *account* may be on either side."""
        entries = {f"metadata.{name}": text for name, text in (metadata or {}).items()}
        asked = {"account": account, "reference": reference, "kind": kind, "from": since, "to": until, **entries}
        return Pages(Request(method="GET", path=PATH, answer=Page[Transfer], parameters={**asked, "limit": PAGE_ROWS}))

    @operation
    def capture(
        self,
        id: str,  # noqa: A002
        amount: int | None = None,
        *,
        release_rest: bool = True,
        idempotency_key: str | None = None,
    ) -> Request[Posted]:
        """
        Move what a hold reserves, or *amount* of it, and return the capture.

        Args:
            release_rest: Whether to release the rest; otherwise it stays reserved for further captures.

            idempotency_key: As in `create`.
        """
        body = {**members(amount=amount), "release_rest": release_rest}
        return _post(f"{PATH}/{segment(id)}/capture", body, idempotency_key)

    @operation
    def void(self, id: str, *, idempotency_key: str | None = None) -> Request[Posted]:  # noqa: A002
        """Release what a hold still reserves, and return the void."""
        return _post(f"{PATH}/{segment(id)}/void", {}, idempotency_key)

    @operation
    def reverse(
        self,
        id: str,  # noqa: A002
        amount: int | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Request[Posted]:
        """Reverse a transfer or capture, or *amount* of it, and return the reversal."""
        return _post(f"{PATH}/{segment(id)}/reverse", members(amount=amount), idempotency_key)


class IdempotencyKeys(Resource[D]):
    """Look-ups by the keys of transfers."""

    @operation
    def get(self, key: str) -> Request[Transfer]:
        """Return the transfer that a key is bound to, even if it was refused; ProblemError 404 if there is none."""
        return get(f"/v1/idempotency-keys/{segment(key)}", Transfer)


def _post(path: str, body: Mapping[str, object], key: str | None) -> Request[Posted]:
    key = new_key() if key is None else checked_key(key)
    return Request(method="POST", path=path, answer=Posted, body=body, key=key, repeat=Repeat.KEYED)
