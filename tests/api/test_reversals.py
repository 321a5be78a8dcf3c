"""Reversals: money goes back at most once, within the limits of the account that pays it back."""

from typing import Any

import pytest

from tests.api.holding import figures, follow, followed, held, paid, progress
from tests.api.steps import bulk, codes
from tests.support.client import Client


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


async def test_a_reversal_moves_the_money_back(funded: Client) -> None:
    """A reversal is its own row, from the parent's destination to its source; the parent shows how much went back."""
    parent = await paid(funded, 30, reference="order-1")
    row = await followed(funded, "reversal", parent)
    shown = ("kind", "state", "parent", "source", "destination", "amount", "currency")
    assert [row[member] for member in shown] == ["reversal", "posted", parent, "bob", "alice", 30, "EUR"]
    assert [row[f"{side}_balance"] for side in ("source", "destination")] == [0, 100]
    assert [row[f"{side}_version"] for side in ("source", "destination")] == [3, 4]
    assert row["effective_at"] == row["created_at"]
    assert await progress(funded, parent) == (None, 30)
    assert await progress(funded, row["id"]) == (None, 0)
    for account, amount in (("alice", 30), ("bob", -30)):
        line = (await funded.get(f"/v1/accounts/{account}/entries?limit=1")).json["data"][0]
        assert (line["kind"], line["amount"], line["transfer_id"]) == ("reversal", amount, row["id"])


async def test_several_reversals_never_exceed_what_was_moved(funded: Client) -> None:
    """Parts go back until nothing is left; a reversal of more than the rest is refused."""
    await paid(funded, 50)
    parent = await paid(funded, 30)
    for amount, before in ((10, 0), (19, 10)):
        refused = await follow(funded, "reversal", parent, amount=31 - before)
        assert (refused.status, refused.code, refused.json["pointer"]) == (409, "reversal_exceeds_transfer", "/amount")
        assert (await followed(funded, "reversal", parent, amount=amount))["amount"] == amount
    assert (await followed(funded, "reversal", parent))["amount"] == 1
    assert await progress(funded, parent) == (None, 30)
    assert (await follow(funded, "reversal", parent, amount=1)).json["pointer"] == "/amount"
    nothing_left = await follow(funded, "reversal", parent)
    assert (nothing_left.code, nothing_left.json["pointer"]) == ("reversal_exceeds_transfer", "/parent")
    assert await figures(funded, "bob") == (50, 0, 0, 50)


async def test_a_capture_is_reversed_and_its_hold_is_not(funded: Client) -> None:
    """A capture can be reversed; its hold is neither reopened nor reversible."""
    hold = await held(funded, 30)
    capture = (await followed(funded, "capture", hold, amount=10, release_rest=False))["id"]
    assert (await follow(funded, "reversal", hold)).code == "reversal_exceeds_transfer"
    assert (await follow(funded, "reversal", capture, amount=11)).json["pointer"] == "/amount"
    back = await followed(funded, "reversal", capture)
    assert (back["source"], back["amount"], back["parent"]) == ("bob", 10, capture)
    assert await progress(funded, hold) == (("open", 10, 20), 0)
    assert await progress(funded, capture) == (None, 10)
    assert await figures(funded, "alice") == (100, 0, 20, 80)
    await followed(funded, "capture", hold)
    assert await figures(funded, "bob") == (20, 0, 0, 20)


async def test_who_pays_back_stays_above_the_floor(funded: Client) -> None:
    """A reversal keeps the payer above its floor, holds included; without a floor it may go below zero."""
    parent = await paid(funded, 30)
    await funded.open("carol", floor=None)
    hold = await held(funded, 5, source="bob", destination="carol")
    for amount, status in ((26, 409), (25, 201)):
        answer = await follow(funded, "reversal", parent, amount=amount)
        assert answer.status == status, answer
        if status == 409:
            assert (answer.code, answer.json["pointer"]) == ("insufficient_funds", "/source")
    await followed(funded, "void", hold)
    await funded.send("PATCH", "/v1/accounts/bob", {"floor": None})
    await paid(funded, 5, source="bob", destination="carol")
    await followed(funded, "reversal", parent)
    assert await figures(funded, "bob") == (-5, 0, 0, -5)


async def test_who_is_paid_back_stays_below_the_ceiling(funded: Client) -> None:
    """A reversal keeps the receiver below its ceiling, incoming holds included."""
    parent = await paid(funded, 30)
    await funded.send("PATCH", "/v1/accounts/alice", {"ceiling": 90})
    await held(funded, 5, source="world", destination="alice")
    refused = await follow(funded, "reversal", parent, amount=16)
    assert (refused.code, refused.json["pointer"]) == ("ceiling_exceeded", "/destination")
    await followed(funded, "reversal", parent, amount=15)


async def test_a_reversal_is_not_reversed(funded: Client) -> None:
    """A reversal cannot be reversed; a new transfer has to pay the money again."""
    back = await followed(funded, "reversal", await paid(funded, 30))
    refused = await follow(funded, "reversal", back["id"])
    assert (refused.code, refused.json["pointer"]) == ("reversal_exceeds_transfer", "/parent")


async def test_a_bulk_reverses_in_order(funded: Client) -> None:
    """Each item sees what the items before it left of the transfer."""
    parent = await paid(funded, 30, "payment")
    items: list[dict[str, Any]] = [
        {"key": f"back-{n}", "kind": "reversal", "parent": parent, "amount": 12} for n in range(3)
    ]
    items.append({"key": "rest", "kind": "reversal", "parent_key": "payment"})
    assert codes(await bulk(funded, items)) == [201, 201, "reversal_exceeds_transfer", 201]
    assert await progress(funded, parent) == (None, 30)
    assert await figures(funded, "alice") == (100, 0, 0, 100)


async def test_a_hold_that_pays_a_hold_back(funded: Client) -> None:
    """The next item of the same bulk can use the money that a reversal returns."""
    await paid(funded, 100, "payment")
    items: list[dict[str, Any]] = [
        {"key": "back", "kind": "reversal", "parent_key": "payment", "amount": 40},
        {"key": "hold", "source": "alice", "destination": "bob", "amount": 40, "currency": "EUR", "hold": True},
        {"key": "take", "kind": "capture", "parent_key": "hold", "amount": 40},
        {"key": "back-again", "kind": "reversal", "parent_key": "take"},
    ]
    assert codes(await bulk(funded, items, atomic=True)) == [201, 201, 201, 201]
    assert await figures(funded, "alice") == (40, 0, 0, 40)
