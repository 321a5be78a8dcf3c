"""The idempotency table of the contract for linked sets: bulks that are posted as a whole or not at all."""

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
    """Return the status of a lookup of each of the set's keys."""
    return [(await bound(client, key)).status for key in ("a", "b", "c")]


async def test_the_keys_of_a_failed_set_stay_bound(funded: Client) -> None:
    """After a business failure every key of the set stays bound to its answer for ever."""
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


async def test_a_changed_item_is_told_so_and_the_others_are_replayed(funded: Client) -> None:
    """Each item of a known set is compared on its own; nothing is posted again."""
    first = await bulk(funded, SET, atomic=True)
    results = await bulk(funded, changed(1, amount=21), atomic=True)
    assert codes(results) == [201, "idempotency_key_reused", 201]
    assert (results[0], results[2]) == tuple({**first[number], "replayed": True} for number in (0, 2))
    problem = results[1]["problem"]
    assert (problem["fields"], problem["transfer_id"]) == (["amount"], first[1]["transfer"]["id"])
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "new_key")
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
    """Known items are replayed; the other items are not posted, and their keys stay free."""
    first = {result["transfer"]["id"] for result in await bulk(funded, SET, atomic=True)}
    results = await bulk(funded, items, atomic=True)
    for number, result in enumerate(results):
        if number in bound_ones:
            assert (result["status"], result["replayed"]) == (201, True)
            assert result["transfer"]["id"] in first
        else:
            problem = result["problem"]
            told = (problem["code"], problem["outcome"], problem["retry"])
            assert told == ("linked_failed", "not_applied", "same_key")
            assert (await bound(funded, items[number]["key"])).status == 404
    assert await funded.balance("bob") == 60


async def test_a_set_that_meets_a_foreign_key_can_be_sent_again_with_that_key_changed(funded: Client) -> None:
    """The keys that a refused set did not bind are free, as `same_key` says."""
    await post(funded, order(amount=19), "b")
    results = await bulk(funded, SET, atomic=True)
    assert codes(results) == ["linked_failed", "idempotency_key_reused", "linked_failed"]
    assert {r["problem"]["retry"] for r in (results[0], results[2])} == {"same_key"}
    assert await states(funded) == [404, 200, 404]
    assert codes(await bulk(funded, changed(1, key="b2"), atomic=True)) == [201, 201, 201]
    assert await funded.balance("bob") == 79


@pytest.mark.parametrize("atomic", [False, True])
async def test_the_same_items_one_by_one_are_the_same_requests(funded: Client, atomic: bool) -> None:
    """An item means the same in a set, in a plain bulk and alone: each way replays it."""
    first = await bulk(funded, SET, atomic=atomic)
    for again in (await bulk(funded, SET, atomic=not atomic), await bulk(funded, SET, atomic=atomic)):
        assert again == [{**result, "replayed": True} for result in first]
    for item, result in zip(SET, first, strict=True):
        answer = await post(funded, {name: value for name, value in item.items() if name != "key"}, str(item["key"]))
        assert (answer.status, answer.replayed, answer.json) == (201, True, result["transfer"])
    assert await funded.balance("bob") == 60


async def test_a_set_of_which_one_is_posted_already_is_not_posted(funded: Client) -> None:
    """The item that was posted before is replayed; the others are not posted, and can be sent without it."""
    alone = await post(funded, order(amount=20), "b")
    results = await bulk(funded, SET, atomic=True)
    assert codes(results) == ["linked_failed", 201, "linked_failed"]
    assert (results[1]["replayed"], results[1]["transfer"]) == (True, alone.json)
    assert {results[number]["problem"]["retry"] for number in (0, 2)} == {"same_key"}
    assert await funded.balance("bob") == 20
    assert codes(await bulk(funded, [SET[0], SET[2]], atomic=True)) == [201, 201]
    assert await funded.balance("bob") == 60


async def test_a_wrong_item_binds_nothing_of_its_set(funded: Client) -> None:
    """One invalid item stops the set before the ledger: all keys stay free, and the other items are `linked_failed`."""
    results = await bulk(funded, changed(1, amount=0), atomic=True)
    assert codes(results) == ["linked_failed", "invalid_request", "linked_failed"]
    assert results[1]["problem"]["errors"][0]["pointer"] == "/transfers/1/amount"
    for result in (results[0], results[2]):
        assert (result["problem"]["outcome"], result["problem"]["retry"]) == ("not_applied", "same_key")
    assert await states(funded) == [404, 404, 404]
    assert [result["replayed"] for result in await bulk(funded, SET, atomic=True)] == [False, False, False]


async def test_a_key_used_twice_in_a_set_is_wrong(funded: Client) -> None:
    """A key used twice in one set is a 400 that points to the second use, even for equal bytes, and binds nothing."""
    results = await bulk(funded, [SET[0], SET[1], SET[0]], atomic=True)
    assert codes(results) == ["linked_failed", "linked_failed", "invalid_request"]
    assert results[2]["problem"]["errors"][0]["pointer"] == "/transfers/2/key"
    assert await states(funded) == [404, 404, 404]


async def test_other_bytes_of_a_set_are_the_same_set(funded: Client) -> None:
    """Spaces, the order of members and defaults do not make another set."""
    first = await bulk(funded, SET, atomic=True)
    full = [{"metadata": {}, "conditions": {}, **dict(reversed(list(item.items())))} for item in SET]
    body = orjson.dumps({"transfers": full, "atomic": True}, option=orjson.OPT_INDENT_2)
    answer = await funded.send("POST", "/v1/transfers/bulk", raw=body)
    assert answer.json["results"] == [{**result, "replayed": True} for result in first]
    assert await funded.balance("bob") == 60
