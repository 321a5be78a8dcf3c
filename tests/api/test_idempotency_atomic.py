"""The idempotency table of the contract for linked sets: bulks that are posted whole or not at all."""

from typing import Any

import orjson
import pytest

from tests.api.steps import bound, bulk, codes, order, post
from tests.support.client import Client

SET = [
    {"key": "a", **order(amount=10)},
    {"key": "b", **order(amount=20)},
    {"key": "c", **order(amount=30)},
]


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


def changed(number: int, **fields: object) -> list[dict[str, object]]:
    """Return the set with one item changed."""
    return [{**item, **fields} if n == number else item for n, item in enumerate(SET)]


async def states(client: Client) -> list[int]:
    """Return the status of the look-up of each key of the set."""
    return [(await bound(client, key)).status for key in ("a", "b", "c")]


async def test_the_keys_of_a_failed_set_stay_bound(funded: Client) -> None:
    """After a business failure every key of the set is bound to what it was told, for ever."""
    failing = changed(1, amount=1_000)
    first = await bulk(funded, failing, atomic=True)
    assert codes(first) == ["linked_failed", "insufficient_funds", "linked_failed"]
    assert await states(funded) == [200, 200, 200]
    for key, result in zip(("a", "b", "c"), first, strict=True):
        kept = (await bound(funded, key)).json
        assert (kept["state"], kept["problem"]) == ("refused", result["problem"])
    await funded.transfer("world", "alice", 5_000)
    again = await bulk(funded, failing, atomic=True)
    assert [result["problem"] for result in again] == [result["problem"] for result in first]
    assert [result["replayed"] for result in again] == [True, True, True]
    assert await funded.balance("bob") == 0


async def test_a_set_is_one_request(funded: Client) -> None:
    """A set with one item changed is another request for all its keys; only the changed item differs in fields."""
    first = await bulk(funded, SET, atomic=True)
    results = await bulk(funded, changed(1, amount=21), atomic=True)
    assert codes(results) == ["idempotency_key_reused"] * 3
    assert [result["problem"]["fields"] for result in results] == [[], ["amount"], []]
    ids = [result["transfer"]["id"] for result in first]
    assert [result["problem"]["transfer_id"] for result in results] == ids
    assert await funded.balance("bob") == 60


@pytest.mark.parametrize(
    ("items", "bound_ones"),
    [
        pytest.param(SET[::-1], [0, 1, 2], id="in another order"),
        pytest.param(SET[:2], [0, 1], id="without an item"),
        pytest.param([*SET, {"key": "d", **order()}], [0, 1, 2], id="with one item more"),
        pytest.param(changed(2, key="d"), [0, 1], id="with another key"),
    ],
)
async def test_another_set_under_bound_keys_is_not_posted(
    funded: Client, items: list[dict[str, Any]], bound_ones: list[int]
) -> None:
    """Known keys answer 422 and are posted, and the rest of the set is neither posted nor bound: it keeps its keys."""
    await bulk(funded, SET, atomic=True)
    results = await bulk(funded, items, atomic=True)
    for number, result in enumerate(results):
        problem = result["problem"]
        told = (problem["code"], problem["outcome"], problem["retry"])
        if number in bound_ones:
            assert told == ("idempotency_key_reused", "not_applied", "never")
        else:
            assert told == ("linked_failed", "not_applied", "same_key")
            assert (await bound(funded, items[number]["key"])).status == 404
    assert await funded.balance("bob") == 60


async def test_a_set_that_meets_a_foreign_key_can_be_sent_again_with_that_key_changed(funded: Client) -> None:
    """Keys that a set did not bind are free: `same_key` is true."""
    await post(funded, order(), "b")
    results = await bulk(funded, SET, atomic=True)
    assert codes(results) == ["linked_failed", "idempotency_key_reused", "linked_failed"]
    assert {r["problem"]["retry"] for r in (results[0], results[2])} == {"same_key"}
    assert await states(funded) == [404, 200, 404]
    assert codes(await bulk(funded, changed(1, key="b2"), atomic=True)) == [201, 201, 201]
    assert await funded.balance("bob") == 70


async def test_the_same_items_one_by_one_are_another_request(funded: Client) -> None:
    """A set and the same items each for itself are two requests, in either order."""
    await bulk(funded, SET, atomic=True)
    assert codes(await bulk(funded, SET)) == ["idempotency_key_reused"] * 3
    others = [{**item, "key": f"{item['key']}2", "amount": 10} for item in SET]
    assert codes(await bulk(funded, others)) == [201] * 3
    assert codes(await bulk(funded, others, atomic=True)) == ["idempotency_key_reused"] * 3
    assert await funded.balance("bob") == 90


async def test_a_wrong_item_binds_nothing_of_its_set(funded: Client) -> None:
    """One item that is wrong in itself stops the set before the ledger: all keys are free, and the others say why."""
    results = await bulk(funded, changed(1, amount=0), atomic=True)
    assert codes(results) == ["linked_failed", "invalid_request", "linked_failed"]
    assert results[1]["problem"]["errors"][0]["pointer"] == "/transfers/1/amount"
    for result in (results[0], results[2]):
        assert (result["problem"]["outcome"], result["problem"]["retry"]) == ("not_applied", "same_key")
    assert await states(funded) == [404, 404, 404]
    assert [result["replayed"] for result in await bulk(funded, SET, atomic=True)] == [False, False, False]


async def test_a_key_used_twice_in_a_set_is_wrong(funded: Client) -> None:
    """A set has one key an item: a second use is a 400 that points to it, even of the same bytes, and binds nothing."""
    results = await bulk(funded, [SET[0], SET[1], SET[0]], atomic=True)
    assert codes(results) == ["linked_failed", "linked_failed", "invalid_request"]
    assert results[2]["problem"]["errors"][0]["pointer"] == "/transfers/2/key"
    assert await states(funded) == [404, 404, 404]


async def test_other_bytes_of_a_set_are_another_set(funded: Client) -> None:
    """The fingerprint of a set is that of the whole body: one space more, and it is another request."""
    body = orjson.dumps({"atomic": True, "transfers": SET})
    await funded.send("POST", "/v1/transfers/bulk", raw=body)
    answer = await funded.send("POST", "/v1/transfers/bulk", raw=body + b" ")
    assert codes(answer.json["results"]) == ["idempotency_key_reused"] * 3
    assert [result["problem"]["fields"] for result in answer.json["results"]] == [[], [], []]
