"""Bulks and linked sets: items in order, independent or all-or-nothing."""

import asyncio
from typing import Any

import pytest

from tests.api.steps import bulk, codes, order
from tests.support.client import Client

LEDGER = ("world", "dollars", "alice", "bob", "carol", "alice-usd", "bob-usd")


@pytest.fixture
async def books(client: Client) -> Client:
    """A client in whose ledger alice has 100 EUR and 100 USD, and bob and carol have nothing."""
    for account, currency, floor in (
        *(("world", "EUR", None), ("alice", "EUR", 0), ("bob", "EUR", 0), ("carol", "EUR", 0)),
        *(("dollars", "USD", None), ("alice-usd", "USD", 0), ("bob-usd", "USD", 0)),
    ):
        assert (await client.open(account, currency, floor=floor)).status == 201
    assert (await client.transfer("world", "alice", 100)).status == 201
    assert (await client.transfer("dollars", "alice-usd", 100, currency="USD")).status == 201
    return client


async def state(client: Client) -> dict[str, tuple[int, int]]:
    """Return balance and version of every account."""
    rows = (await client.get("/v1/accounts")).json["data"]
    return {row["id"]: (row["balance"], row["version"]) for row in rows}


def items(*orders: dict[str, object], prefix: str = "item") -> list[dict[str, object]]:
    """Give each order a key."""
    return [{"key": f"{prefix}-{number}", **one} for number, one in enumerate(orders)]


@pytest.mark.parametrize("atomic", [False, True])
async def test_an_item_spends_what_an_earlier_one_brought(books: Client, atomic: bool) -> None:
    """Items are decided in order: each sees the effect of those before it."""
    results = await bulk(books, items(order(amount=60), order("bob", "carol", 60), order(amount=40)), atomic=atomic)
    assert codes(results) == [201, 201, 201]
    sides = [(r["transfer"]["source_balance"], r["transfer"]["destination_balance"]) for r in results]
    assert sides == [(40, 60), (0, 60), (0, 40)]


async def test_an_item_cannot_spend_what_a_later_one_brings(books: Client) -> None:
    """An item that needs a later item's money is refused, and the others are not."""
    results = await bulk(books, items(order("bob", "carol", 60), order(amount=60), order("bob", "carol", 60)))
    assert codes(results) == ["insufficient_funds", 201, 201]
    assert await books.balance("carol") == 60


async def test_each_item_is_answered_at_its_place(books: Client) -> None:
    """A wrong item never affects the other items, whatever is wrong with it."""
    mixed: list[dict[str, object]] = items(
        order(amount=1),
        order(amount=0),
        order("nobody", "bob"),
        order(amount=101),
        order(currency="USD"),
        order(amount=1, conditions={"source_version": 1}),
        order(amount=1, reference="last"),
    )
    results = await bulk(books, mixed)
    refused = ["invalid_request", "account_not_found", "insufficient_funds", "currency_mismatch", "condition_failed"]
    assert codes(results) == [201, *refused, 201]
    assert [result["status"] for result in results] == [201, 400, 404, 409, 409, 409, 201]
    for result in results:
        assert result["replayed"] is False
        assert ("transfer" in result) != ("problem" in result)
    for result in results[1:-1]:
        assert result["problem"]["status"] == result["status"]
        assert result["problem"]["type"] == f"/problems/{result['problem']['code']}"
    assert results[-1]["transfer"]["reference"] == "last"
    assert await books.balance("bob") == 2


async def test_a_linked_payment_in_two_currencies_is_posted_whole(books: Client) -> None:
    """Several legs in several currencies are posted as one payment."""
    legs = items(
        order("alice", "bob", 100),
        {**order("alice-usd", "bob-usd", 100), "currency": "USD"},
        order("bob", "carol", 30),
        {**order("bob-usd", "alice-usd", 1), "currency": "USD"},
    )
    results = await bulk(books, legs, atomic=True)
    assert codes(results) == [201] * 4
    assert len({result["transfer"]["created_at"] for result in results}) == 1
    found = await state(books)
    balances = [found[account][0] for account in LEDGER]
    assert balances == [-100, -100, 0, 70, 30, 1, 99]


LEGS = [
    order("alice", "bob", 100),
    {**order("alice-usd", "bob-usd", 100), "currency": "USD"},
    order("bob", "carol", 30),
    order("carol", "alice", 30),
]


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize(
    ("failing", "code"),
    [
        pytest.param(order("world", "nobody", 1), "account_not_found", id="no such account"),
        pytest.param(order("alice-usd", "bob", 1), "currency_mismatch", id="two currencies in one leg"),
        pytest.param(order("world", "bob", 1, conditions={"source_version": 1}), "condition_failed", id="a condition"),
        pytest.param(order("carol", "bob", 31), "insufficient_funds", id="too little money"),
    ],
)
async def test_a_linked_payment_that_fails_leaves_nothing(
    books: Client, failing: dict[str, object], code: str, position: int
) -> None:
    """If any leg fails, no balance or version of any account changes, and only that leg says why."""
    before = await state(books)
    results = await bulk(books, items(*LEGS[:position], failing, *LEGS[position:]), atomic=True)
    expected: list[Any] = ["linked_failed"] * 5
    expected[position] = code
    assert codes(results) == expected
    for number, result in enumerate(results):
        assert (result["problem"]["outcome"], result["problem"]["retry"]) == ("refused", "new_key")
        assert ("pointer" in result["problem"]) == (number == position)
    assert await state(books) == before
    assert (await books.get("/v1/transfers?reference=leg")).json["data"] == []
    assert len((await books.get("/v1/transfers")).json["data"]) == 2


async def test_a_failing_set_does_not_touch_its_neighbours(books: Client) -> None:
    """Sets and single transfers in one batch are decided independently."""
    failing = [bulk(books, items(order(amount=1), order(amount=1_000), prefix=f"f{n}"), atomic=True) for n in range(5)]
    fitting = [bulk(books, items(order(amount=1), order(amount=2), prefix=f"g{n}"), atomic=True) for n in range(5)]
    single = [books.transfer("alice", "bob", 1) for _ in range(5)]
    mixed = [task for trio in zip(failing, fitting, strict=True) for task in trio]
    results = await asyncio.gather(*mixed)
    answers = await asyncio.gather(*single)
    assert [codes(result) for result in results[::2]] == [["linked_failed", "insufficient_funds"]] * 5
    assert [codes(result) for result in results[1::2]] == [[201, 201]] * 5
    assert [answer.status for answer in answers] == [201] * 5
    found = await state(books)
    assert (found["alice"], found["bob"]) == ((100 - 20, 2 + 15), (20, 1 + 15))


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        pytest.param({"source": "EUR "}, "source", id="no source"),
        pytest.param({"destination": "bob\n"}, "destination", id="no destination"),
        pytest.param({"currency": "alice"}, "currency", id="an account for a currency"),
        pytest.param({"currency": "EUR", "key": "a b"}, "key", id="no key"),
        pytest.param({"source": "a b", "currency": "eur"}, "source", id="two that are wrong"),
        pytest.param({"destination": "alice"}, "destination", id="one account twice"),
    ],
)
async def test_a_text_is_looked_at_wherever_it_stands(books: Client, wrong: dict[str, object], pointer: str) -> None:
    """A text that was accepted in one field of a bulk is refused in another, each time with its position."""
    good = order(amount=1)
    results = await bulk(books, items(good, {**good, **wrong}, good, {**good, **wrong}, good))
    assert [result["status"] for result in results] == [201, 400, 201, 400, 201]
    pointers = [results[number]["problem"]["errors"][0]["pointer"] for number in (1, 3)]
    assert pointers == [f"/transfers/1/{pointer}", f"/transfers/3/{pointer}"]
    assert await books.balance("bob") == 3


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_bulk_takes_a_thousand_items(books: Client, atomic: bool) -> None:
    """The largest bulk is posted in order; a linked set of that size is one transaction."""
    many = items(*[order("world", "bob", 1)] * 999, order("bob", "carol", 999))
    results = await bulk(books, many, atomic=atomic)
    assert codes(results) == [201] * 1000
    versions = [result["transfer"]["destination_version"] for result in results[:-1]]
    assert versions == list(range(2, 1001))
    assert await books.balance("carol") == 999


@pytest.mark.parametrize("number", [0, 1001])
async def test_a_bulk_has_one_to_a_thousand_items(books: Client, number: int) -> None:
    """Any other number of items is a 400 for the whole bulk."""
    answer = await books.post("/v1/transfers/bulk", {"transfers": items(*[order(amount=1)] * number)})
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.json["errors"][0]["pointer"] == "/transfers"
    assert await books.balance("bob") == 0
