"""
TigerBeetle's pending, posted, voided and linked transfers, run on this ledger.

`debits_must_not_exceed_credits` is a floor of 0, `credits_must_not_exceed_debits` a ceiling of 0, a pending transfer a
hold, its timeout `expires_in`, a post a capture that releases the rest, and a chain of linked events an atomic bulk.
The cases are our own; the words on the right are TigerBeetle's for the same outcome.
"""

from typing import Any, NamedTuple

import pytest

from tests.api.holding import figures
from tests.api.steps import bulk, codes
from tests.support.client import Client
from tests.support.clock import BooksClock

ok = 201


class Figures(NamedTuple):
    """An account's amounts as TigerBeetle keeps them; here the posted sums are one balance."""

    debits_pending: int
    credits_pending: int
    credits_less_debits: int


# The accounts' flags, as floor and ceiling.
FREE: dict[str, Any] = {"floor": None}
DEBITS_MUST_NOT_EXCEED_CREDITS: dict[str, Any] = {"floor": 0}
CREDITS_MUST_NOT_EXCEED_DEBITS: dict[str, Any] = {"floor": None, "ceiling": 0}
ACCOUNTS = {
    "A1": FREE,
    "A2": FREE,
    "L1": DEBITS_MUST_NOT_EXCEED_CREDITS,
    "L2": CREDITS_MUST_NOT_EXCEED_DEBITS,
}


def transfer(key: str, debit: str, credit: str, amount: int, **fields: object) -> dict[str, object]:
    """Return an event that moves money."""
    return {"key": key, "source": debit, "destination": credit, "amount": amount, "currency": "EUR", **fields}


def pending(key: str, debit: str, credit: str, amount: int, timeout: int | None = None) -> dict[str, object]:
    """Return an event that reserves money."""
    return transfer(key, debit, credit, amount, hold=True, expires_in=timeout)


def post_pending(key: str, of: str, amount: int | None = None) -> dict[str, object]:
    """Return an event that moves reserved money and releases the rest."""
    return {"key": key, "kind": "capture", "parent_key": of, "amount": amount, "release_rest": True}


def void_pending(key: str, of: str) -> dict[str, object]:
    """Return an event that releases reserved money."""
    return {"key": key, "kind": "void", "parent_key": of}


class Linked(list[dict[str, object]]):
    """A chain of linked events."""


class Tick(NamedTuple):
    """Lets this many seconds pass."""

    seconds: int


Step = tuple[dict[str, object] | Linked | Tick, Any]

CASES: dict[str, tuple[list[Step], dict[str, Figures]]] = {
    "a pending transfer is posted": (
        [(pending("p", "A1", "A2", 10), ok), (post_pending("q", "p"), ok)],
        {"A1": Figures(0, 0, -10), "A2": Figures(0, 0, 10)},
    ),
    "a pending transfer reserves on both sides": (
        [(pending("p", "A1", "A2", 10), ok), (pending("q", "A2", "A1", 3), ok)],
        {"A1": Figures(10, 3, 0), "A2": Figures(3, 10, 0)},
    ),
    "a pending transfer is posted in part, the rest is void": (
        [(pending("p", "A1", "A2", 10), ok), (post_pending("q", "p", 7), ok)],
        {"A1": Figures(0, 0, -7), "A2": Figures(0, 0, 7)},
    ),
    "pending_transfer_already_posted": (
        [
            (pending("p", "A1", "A2", 10), ok),
            (post_pending("q", "p", 7), ok),
            (post_pending("r", "p", 3), "hold_not_open"),
            (void_pending("s", "p"), "hold_not_open"),
        ],
        {"A1": Figures(0, 0, -7), "A2": Figures(0, 0, 7)},
    ),
    "pending_transfer_already_voided": (
        [
            (pending("p", "A1", "A2", 10), ok),
            (void_pending("q", "p"), ok),
            (void_pending("r", "p"), "hold_not_open"),
            (post_pending("s", "p"), "hold_not_open"),
        ],
        {"A1": Figures(0, 0, 0), "A2": Figures(0, 0, 0)},
    ),
    "pending_transfer_expired": (
        [
            (pending("p", "A1", "A2", 10, 1), ok),
            (pending("q", "A1", "A2", 5, 2), ok),
            (Tick(1), None),
            (post_pending("r", "p"), "hold_not_open"),
            (void_pending("s", "p"), "hold_not_open"),
            (post_pending("t", "q", 4), ok),
            (Tick(1), None),
        ],
        {"A1": Figures(0, 0, -4), "A2": Figures(0, 0, 4)},
    ),
    "exceeds_pending_transfer_amount": (
        [(pending("p", "A1", "A2", 10), ok), (post_pending("q", "p", 11), "capture_exceeds_hold")],
        {"A1": Figures(10, 0, 0), "A2": Figures(0, 10, 0)},
    ),
    "pending_transfer_not_found": (
        [(post_pending("q", "p"), "transfer_not_found"), (void_pending("r", "p"), "transfer_not_found")],
        {"A1": Figures(0, 0, 0)},
    ),
    "pending_transfer_not_pending": (
        [
            (transfer("p", "A1", "A2", 10), ok),
            (post_pending("q", "p"), "hold_not_open"),
            (void_pending("r", "p"), "hold_not_open"),
        ],
        {"A1": Figures(0, 0, -10)},
    ),
    "exceeds_credits": (
        [
            (transfer("t", "A1", "L1", 10), ok),
            (pending("p", "L1", "A2", 4), ok),
            (pending("q", "L1", "A2", 7), "insufficient_funds"),
            (transfer("r", "L1", "A2", 7), "insufficient_funds"),
            (transfer("s", "L1", "A2", 6), ok),
            (post_pending("u", "p"), ok),
        ],
        {"L1": Figures(0, 0, 0), "A2": Figures(0, 0, 10)},
    ),
    "credits_pending do not pay": (
        [
            (pending("p", "A1", "L1", 10), ok),
            (transfer("r", "L1", "A2", 1), "insufficient_funds"),
            (post_pending("u", "p"), ok),
            (transfer("s", "L1", "A2", 10), ok),
        ],
        {"L1": Figures(0, 0, 0)},
    ),
    "exceeds_debits": (
        [
            (transfer("t", "L2", "A1", 10), ok),
            (pending("p", "A2", "L2", 4), ok),
            (pending("q", "A2", "L2", 7), "ceiling_exceeded"),
            (transfer("r", "A2", "L2", 7), "ceiling_exceeded"),
            (transfer("s", "A2", "L2", 6), ok),
            (post_pending("u", "p"), ok),
        ],
        {"L2": Figures(0, 0, 0), "A2": Figures(0, 0, -10)},
    ),
    "debits_pending make no room for credits": (
        [
            (pending("p", "L2", "A1", 10), ok),
            (transfer("r", "A2", "L2", 1), "ceiling_exceeded"),
            (post_pending("u", "p"), ok),
            (transfer("s", "A2", "L2", 10), ok),
        ],
        {"L2": Figures(0, 0, 0)},
    ),
    "a timeout makes room again": (
        [
            (transfer("t", "A1", "L1", 10), ok),
            (pending("p", "L1", "A2", 10, 1), ok),
            (transfer("q", "L1", "A2", 1), "insufficient_funds"),
            (Tick(1), None),
            (transfer("r", "L1", "A2", 10), ok),
        ],
        {"L1": Figures(0, 0, 0), "A2": Figures(0, 0, 10)},
    ),
    "linked_event_failed": (
        [
            (
                Linked(
                    [
                        pending("p", "A1", "L1", 10),
                        post_pending("q", "p", 8),
                        transfer("r", "L1", "A2", 9),
                        transfer("s", "A1", "A2", 1),
                    ]
                ),
                ["linked_failed", "linked_failed", "insufficient_funds", "linked_failed"],
            ),
            (post_pending("u", "p"), "hold_not_open"),
        ],
        {"A1": Figures(0, 0, 0), "L1": Figures(0, 0, 0), "A2": Figures(0, 0, 0)},
    ),
    "a chain that holds": (
        [
            (
                Linked(
                    [
                        pending("p", "A1", "L1", 10),
                        post_pending("q", "p", 8),
                        transfer("r", "L1", "A2", 8),
                        pending("s", "A2", "L2", 1),
                    ]
                ),
                ["linked_failed", "linked_failed", "linked_failed", "ceiling_exceeded"],
            ),
            (Linked([pending("t", "A1", "L1", 10), post_pending("u", "t"), transfer("v", "L1", "A2", 10)]), [ok] * 3),
        ],
        {"A1": Figures(0, 0, -10), "L1": Figures(0, 0, 0), "A2": Figures(0, 0, 10), "L2": Figures(0, 0, 0)},
    ),
    "exists": (
        [(pending("p", "A1", "A2", 10), ok), (pending("p", "A1", "A2", 10), ok), (post_pending("q", "p"), ok)],
        {"A1": Figures(0, 0, -10)},
    ),
    "exists_with_different_amount": (
        [
            (pending("p", "A1", "A2", 10), ok),
            (pending("p", "A1", "A2", 11), "idempotency_key_reused"),
            (post_pending("q", "p", 4), ok),
            (post_pending("q", "p", 5), "idempotency_key_reused"),
        ],
        {"A1": Figures(0, 0, -4)},
    ),
    "exists_with_different_flags": (
        [
            (pending("p", "A1", "A2", 10), ok),
            (transfer("p", "A1", "A2", 10), "idempotency_key_reused"),
            (post_pending("q", "p"), ok),
            (void_pending("q", "p"), "idempotency_key_reused"),
        ],
        {"A1": Figures(0, 0, -10)},
    ),
    "id_already_failed": (
        [
            (pending("p", "L1", "A2", 10), "insufficient_funds"),
            (transfer("t", "A1", "L1", 10), ok),
            (pending("p", "L1", "A2", 10), "insufficient_funds"),
            (post_pending("q", "p"), "hold_not_open"),
        ],
        {"L1": Figures(0, 0, 10)},
    ),
    "accounts_must_be_different": (
        [(pending("p", "A1", "A1", 10), "invalid_request"), (post_pending("q", "p"), "transfer_not_found")],
        {"A1": Figures(0, 0, 0)},
    ),
    "credit_account_not_found": (
        [(pending("p", "A1", "A9", 10), "account_not_found"), (post_pending("q", "p"), "hold_not_open")],
        {"A1": Figures(0, 0, 0)},
    ),
    "timeout_reserved_for_pending_transfer": (
        [(transfer("t", "A1", "A2", 10, expires_in=1), "invalid_request")],
        {"A1": Figures(0, 0, 0)},
    ),
}


@pytest.mark.parametrize(("steps", "left"), [pytest.param(*case, id=name) for name, case in CASES.items()])
async def test_case(timed: Client, clock: BooksClock, steps: list[Step], left: dict[str, Figures]) -> None:
    """Each event has the outcome that it has in TigerBeetle, and so do the accounts."""
    for account, limits in ACCOUNTS.items():
        assert (await timed.open(account, **limits)).status == 201
    for event, expected in steps:
        if isinstance(event, Tick):
            await clock.advance(event.seconds)
        elif isinstance(event, Linked):
            assert codes(await bulk(timed, event, atomic=True)) == expected
        else:
            assert codes(await bulk(timed, [event])) == [expected], event
    for account, expected_figures in left.items():
        balance, held_in, held_out, _ = await figures(timed, account)
        assert Figures(held_out, held_in, balance) == expected_figures, account
