"""Holds and their follow-ups in bulks: parents named by key, sets of captures, fees and payouts, all or nothing."""

import asyncio
from typing import Any

import pytest

from tests.api.holding import figures, follow, followed, held, hold, paid, progress
from tests.api.steps import bound, bulk, codes, order, post
from tests.support.client import Answer, Client, new_key
from tests.support.waiting import WAIT_SECONDS


@pytest.fixture
async def market(client: Client) -> Client:
    """A client in whose ledger alice has 100, and a shop pays fees to a platform and money to a bank."""
    await client.fund("alice", 100)
    for account in ("shop", "platform", "bank"):
        await client.open(account)
    return client


def settlement(hold: str, captured: int, fee: int, payout: int) -> list[dict[str, Any]]:
    """Return a set: a capture of a hold, its fee, and the payout of the rest."""
    return [
        {"key": "take", "kind": "capture", "parent": hold, "amount": captured},
        {"key": "fee", **order("shop", "platform", fee)},
        {"key": "payout", **order("shop", "bank", payout)},
    ]


async def _figures(client: Client) -> list[tuple[int, int, int, int]]:
    return [await figures(client, account) for account in ("alice", "shop", "platform", "bank")]


async def test_capture_fee_and_payout_in_one_set(market: Client) -> None:
    """Later items of a set can pay out what its capture brings in, in one atomic step."""
    parent = await held(market, 50, destination="shop")
    results = await bulk(market, settlement(parent, 40, 4, 36), atomic=True)
    assert codes(results) == [201, 201, 201]
    assert [result["transfer"]["kind"] for result in results] == ["capture", "transfer", "transfer"]
    assert len({result["transfer"]["created_at"] for result in results}) == 1
    assert await _figures(market) == [(60, 0, 0, 60), (0, 0, 0, 0), (4, 0, 0, 4), (36, 0, 0, 36)]
    assert await progress(market, parent) == (("captured", 40, 0), 0)
    again = await bulk(market, settlement(parent, 40, 4, 36), atomic=True)
    assert again == [{**result, "replayed": True} for result in results]


@pytest.mark.parametrize("kind", ["capture", "void", "reversal"])
async def test_a_set_that_fails_takes_all_back(market: Client, kind: str) -> None:
    """Balances, holds, versions and the parent's rest stay as before; the set's keys are bound to their answers."""
    parent = await (paid if kind == "reversal" else held)(market, 50, destination="shop")
    amounts: dict[str, Any] = {} if kind == "void" else {"amount": 20}
    before = [await market.account(account) for account in ("alice", "shop", "platform", "bank")]
    shown = await progress(market, parent)
    items: list[dict[str, Any]] = [
        {"key": "follows", "kind": kind, "parent": parent, **amounts},
        {"key": "holds", **order("alice", "bank", 5, hold=True)},
        {"key": "takes", "kind": "capture", "parent_key": "holds"},
        {"key": "too-much", **order("platform", "bank", 1_000)},
        {"key": "never", **order("alice", "bank", 1)},
    ]
    results = await bulk(market, items, atomic=True)
    assert codes(results) == ["linked_failed"] * 3 + ["insufficient_funds", "linked_failed"]
    assert [await market.account(account) for account in ("alice", "shop", "platform", "bank")] == before
    assert await progress(market, parent) == shown
    again = await bulk(market, items, atomic=True)
    assert again == [{**result, "replayed": True} for result in results]
    for item, result in zip(items, results, strict=True):
        row = (await bound(market, str(item["key"]))).json
        assert (row["state"], row["problem"], row["hold"]) == ("refused", result["problem"], None)
    assert codes(await bulk(market, [{"key": "one-more", "kind": "void", "parent_key": "holds"}])) == ["hold_not_open"]
    await followed(market, kind, parent, **amounts)


async def test_failed_sets_leave_the_rest_of_their_batch_alone(market: Client) -> None:
    """Other requests on the same hold and transfer succeed in the same batch as sets that fail."""
    parent, transfer = await held(market, 50, destination="shop"), await paid(market, 40, destination="shop")
    before = await market.account("alice")
    wrong = [
        {"kind": "capture", "parent": parent, "amount": 30, "release_rest": False},
        {"kind": "reversal", "parent": transfer, "amount": 7},
        order("alice", "shop", 3, hold=True),
        order("platform", "bank", 1_000),
    ]
    async with asyncio.timeout(WAIT_SECONDS):
        for _ in range(3):
            answers = await asyncio.gather(
                *(
                    one
                    for _ in range(5)
                    for one in (
                        bulk(market, [{"key": new_key(), **item} for item in wrong], atomic=True),
                        follow(market, "capture", parent, amount=1, release_rest=False),
                        bulk(market, [{"key": new_key(), **item} for item in wrong], atomic=True),
                        follow(market, "reversal", transfer, amount=1),
                    )
                )
            )
            told = [answer.status if isinstance(answer, Answer) else codes(answer)[-1] for answer in answers]
            assert told == ["insufficient_funds", 201, "insufficient_funds", 201] * 5
    assert await progress(market, parent) == (("open", 15, 35), 0)
    assert await progress(market, transfer) == (None, 15)
    assert await _figures(market) == [(60, 0, 35, 25), (40, 35, 0, 40), (0, 0, 0, 0), (0, 0, 0, 0)]
    assert (await market.account("alice"))["version"] == before["version"] + 30


async def test_a_whole_life_in_one_set(market: Client) -> None:
    """A hold, its captures, a reversal and a void in one set, each named by the key of an earlier item."""
    items: list[dict[str, Any]] = [
        {"key": "hold", **order("alice", "shop", 50, hold=True, expires_in=60)},
        {"key": "first", "kind": "capture", "parent_key": "hold", "amount": 20, "release_rest": False},
        {"key": "back", "kind": "reversal", "parent_key": "first", "amount": 5},
        {"key": "second", "kind": "capture", "parent_key": "hold", "amount": 10, "release_rest": False},
        {"key": "end", "kind": "void", "parent_key": "hold"},
    ]
    results = await bulk(market, items, atomic=True)
    assert codes(results) == [201] * 5
    rows = [result["transfer"] for result in results]
    assert [row["parent"] for row in rows] == [None, rows[0]["id"], rows[1]["id"], rows[0]["id"], rows[0]["id"]]
    assert [row["amount"] for row in rows] == [50, 20, 5, 10, 20]
    assert [row["source_version"] for row in rows] == [3, 4, 4, 6, 7]
    assert [row["source_balance"] for row in rows] == [100, 80, 15, 75, 75]
    assert await figures(market, "alice") == (75, 0, 0, 75)
    assert await progress(market, rows[0]["id"]) == (("voided", 30, 0), 0)
    again = await bulk(market, items, atomic=True)
    assert again == [{**result, "replayed": True} for result in results]
    one_by_one = [await bulk(market, [item]) for item in items]
    assert [result for [result] in one_by_one] == again


async def test_a_parent_key_names_what_was_bound_before(market: Client) -> None:
    """A parent key refers to an earlier request or to an earlier item of the same bulk."""
    await hold(market, 30, "early", destination="shop")
    items: list[dict[str, Any]] = [
        {"key": "none", "kind": "capture", "parent_key": "late"},
        {"key": "itself", "kind": "capture", "parent_key": "itself"},
        {"key": "late", **order("alice", "shop", 10, hold=True)},
        {"key": "one", "kind": "capture", "parent_key": "early", "amount": 10, "release_rest": False},
        {"key": "quoted", "kind": "void", "parent_key": '"early"'},
    ]
    results = await bulk(market, items)
    assert codes(results) == ["transfer_not_found", "transfer_not_found", 201, 201, 201]
    assert [results[n]["problem"]["pointer"] for n in (0, 1)] == ["/parent", "/parent"]
    again = await bulk(market, items)
    assert again == [{**result, "replayed": True} for result in results]


async def test_each_for_itself_goes_on_after_a_refusal(market: Client) -> None:
    """A capture of a refused hold is refused, and the items that do not need it are posted."""
    items: list[dict[str, Any]] = [
        {"key": "too-much", **order("alice", "shop", 101, hold=True)},
        {"key": "of-nothing", "kind": "capture", "parent_key": "too-much"},
        {"key": "enough", **order("alice", "shop", 100, hold=True)},
        {"key": "of-all", "kind": "capture", "parent_key": "enough"},
        {"key": "once-more", "kind": "capture", "parent_key": "enough"},
    ]
    told = codes(await bulk(market, items))
    assert told == ["insufficient_funds", "hold_not_open", 201, 201, "hold_not_open"]
    assert await figures(market, "shop") == (100, 0, 0, 100)


async def test_holds_race_within_a_bulk(market: Client) -> None:
    """Of 300 captures of one hold in one bulk, exactly as many succeed as its amount covers."""
    parent = await held(market, 100, destination="shop")
    items: list[dict[str, Any]] = [
        {"key": f"take-{n}", "kind": "capture", "parent": parent, "amount": 1, "release_rest": False}
        for n in range(300)
    ]
    assert codes(await bulk(market, items)) == [201] * 100 + ["hold_not_open"] * 200
    assert await progress(market, parent) == (("captured", 100, 0), 0)


async def test_an_item_means_what_the_single_request_means(market: Client) -> None:
    """A capture is the same request alone and as an item that names its parent by id."""
    parent = await held(market, 30, destination="shop")
    first = await follow(market, "capture", parent, "take", amount=10)
    item = {"key": "take", "kind": "capture", "parent": parent, "amount": 10, "release_rest": True}
    for atomic in (False, True):
        [result] = await bulk(market, [item], atomic=atomic)
        assert (result["status"], result["replayed"], result["transfer"]) == (201, True, first.json)
    upper = {**item, "parent": parent.upper()}
    assert codes(await bulk(market, [upper])) == [201]
    del item["release_rest"]
    assert codes(await bulk(market, [item, {**item, "amount": 11}])) == [201, "idempotency_key_reused"]


async def test_a_set_with_a_wrong_parent_binds_its_keys(market: Client) -> None:
    """A parent that is not an open hold is refused by the ledger: the set fails, and its keys stay bound."""
    transfer = await paid(market, 10, destination="shop")
    items: list[dict[str, Any]] = [
        {"key": "a", **order("alice", "bank", 1)},
        {"key": "b", "kind": "capture", "parent": transfer},
    ]
    results = await bulk(market, items, atomic=True)
    assert codes(results) == ["linked_failed", "hold_not_open"]
    assert results[1]["problem"]["pointer"] == "/parent"
    assert (await post(market, order("alice", "bank", 1), "a")).code == "linked_failed"
