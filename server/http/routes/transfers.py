"""Routes of transfers and of the keys that they are bound to."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.gate.keys import Role
from server.http import models, render
from server.http.handlers.bulk import BulkHandlers
from server.http.handlers.previews import PreviewHandlers
from server.http.handlers.transfer_lists import TransferListHandlers
from server.http.handlers.transfers import TransferHandlers
from server.http.query import TransfersQuery
from server.http.route import NAME, Handler, Route

_TAG: Final = "Transfers"
_NO_KEY_BOUND: Final = "A preview posts nothing and binds no key."
_KEY_IN_ITEM: Final = "Each transfer of a bulk has its own key, in its member `key`."
_KEY_PROBLEMS: Final = (
    "idempotency_key_missing",
    "idempotency_key_invalid",
    "idempotency_key_in_use",
    "idempotency_key_reused",
)
# The codes that refuse a movement of money between two accounts that exist.
_OF_MONEY: Final = ("account_closed", "insufficient_funds", "ceiling_exceeded", "balance_overflow")
# The codes that refuse any action on a transfer. A narrowed key that does not see one of its accounts gets the second.
_OF_PARENTS: Final = ("transfer_not_found", "account_not_found")
_PAYMENT: Final = {"source": "customer:42", "destination": "merchant:7", "amount": 1_250, "currency": "EUR"}
_FEE: Final = {"source": "merchant:7", "destination": "fees", "amount": 25, "currency": "EUR"}
_HOLD: Final = {**_PAYMENT, "hold": True, "expires_in": 86_400}


def _posting(
    path: str,
    handler: Handler,
    summary: str,
    body: type[msgspec.Struct],
    examples: Mapping[str, Any],
    *refusals: str,
) -> Route:
    """
    Return a route that posts one transfer under the key in its header.

    Args:
        refusals: The codes with which the state of the ledger refuses the transfer, besides `linked_failed`, which a
            retry gets if the key was bound in an atomic set.
    """
    of_parent = NAME in path
    return Route(
        "POST",
        path,
        Role.WRITE,
        handler,
        summary,
        _TAG,
        name=models.TransferId if of_parent else None,
        body=body,
        bodiless=of_parent,
        examples=examples,
        narrowed=True,
        answers={201: render.TransferBody},
        problems=(*_KEY_PROBLEMS, *refusals, "linked_failed"),
        look_up=TransferHandlers.stored,
        replay=TransferHandlers.replay,
        hot=True,
    )


TRANSFERS: Final = (
    _posting(
        "/v1/transfers",
        TransferHandlers.create_transfer,
        "Post a transfer or a hold",
        models.TransferCreate,
        {
            "A payment": {**_PAYMENT, "reference": "order-1001"},
            "A hold, to be captured within a day": _HOLD,
            "A payment, only if 20.00 is available": {**_PAYMENT, "conditions": {"source_available_gte": 2_000}},
            "A correction for last month": {**_PAYMENT, "effective_at": "2026-01-31T23:59:59Z"},
        },
        "account_not_found",
        "currency_mismatch",
        "condition_failed",
        *_OF_MONEY,
    ),
    Route(
        "GET",
        "/v1/transfers",
        Role.READ,
        TransferListHandlers.list_transfers,
        "List posted transfers, newest first",
        _TAG,
        query=TransfersQuery,
        answers={200: render.Page[render.TransferBody]},
        narrowed=True,
    ),
    Route(
        "POST",
        "/v1/transfers/bulk",
        Role.WRITE,
        BulkHandlers.create_transfers,
        "Post up to 1,000 transfers",
        _TAG,
        body=models.TransferBulk,
        examples={
            "Independent transfers": {"transfers": [{"key": "order-1002", **_PAYMENT}, {"key": "fee-1002", **_FEE}]},
            "All or none: a hold, its capture and a fee": {
                "atomic": True,
                "transfers": [
                    {"key": "hold-1003", **_HOLD},
                    {"key": "capture-1003", "kind": "capture", "parent_key": "hold-1003"},
                    {"key": "fee-1003", **_FEE},
                ],
            },
        },
        answers={200: render.Results[render.TransferResult]},
        problems=("idempotency_key_in_use",),
        keyless=_KEY_IN_ITEM,
        items="transfers",
        make_room=BulkHandlers.make_room,
        narrowed=True,
    ),
    Route(
        "POST",
        "/v1/transfers/preview",
        Role.WRITE,
        PreviewHandlers.preview_transfers,
        "Preview the answer to a transfer or a bulk",
        _TAG,
        body=models.Preview,
        examples={
            "A payment": _PAYMENT,
            "A bulk": {"transfers": [{"key": "order-1002", **_PAYMENT}, {"key": "fee-1002", **_FEE}]},
        },
        answers={200: (render.TransferResult, render.Results[render.TransferResult])},
        keyless=_NO_KEY_BOUND,
        items="transfers",
        narrowed=True,
    ),
    Route(
        "GET",
        "/v1/transfers/{id}",
        Role.READ,
        TransferHandlers.get_transfer,
        "Read a transfer and its present state",
        _TAG,
        name=models.TransferId,
        answers={200: render.TransferNow},
        problems=("transfer_not_found",),
        narrowed=True,
    ),
    _posting(
        "/v1/transfers/{id}/capture",
        TransferHandlers.capture_transfer,
        "Capture a hold",
        models.Capture,
        {"All of it": {}, "A part, while the rest stays held": {"amount": 500, "release_rest": False}},
        *_OF_PARENTS,
        "hold_not_open",
        "capture_exceeds_hold",
        *_OF_MONEY,
    ),
    _posting(
        "/v1/transfers/{id}/void",
        TransferHandlers.void_transfer,
        "Void a hold",
        models.Void,
        {"All of it": {}},
        *_OF_PARENTS,
        "hold_not_open",
    ),
    _posting(
        "/v1/transfers/{id}/reverse",
        TransferHandlers.reverse_transfer,
        "Reverse a transfer or a capture",
        models.Reversal,
        {"All of it": {}, "A part": {"amount": 250}},
        *_OF_PARENTS,
        "reversal_exceeds_transfer",
        *_OF_MONEY,
    ),
    Route(
        "GET",
        "/v1/idempotency-keys/{id}",
        Role.READ,
        TransferHandlers.get_idempotency_key,
        "Find the transfer that a key is bound to",
        _TAG,
        name=models.BoundKey,
        answers={200: render.TransferNow},
        problems=("idempotency_key_not_found",),
        rest=True,
        narrowed=True,
    ),
)
