"""The idempotency table of the contract for bulks whose items are independent."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from tests.api.steps import bound, bulk, codes, order, post
from tests.support.client import Client
from tests.support.service import Service


def item(key: object, **fields: Any) -> dict[str, object]:
    """Return an order with its key, as an item of a bulk."""
    return {"key": key, **order(**fields)}


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


AsRole = Callable[[str | None], Awaitable[Client]]


@pytest.fixture
def as_role(service: Service, ledger: str) -> AsRole:
    """Make a client of this test's ledger with a key of a given role, or without a key."""

    async def make(role: str | None) -> Client:
        return await service.client(ledger, role) if role else Client(service.session, service.url, None)

    return make


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(
    ("key", "code"),
    [
        pytest.param(None, "idempotency_key_missing", id="missing"),
        pytest.param("", "idempotency_key_invalid", id="empty"),
        pytest.param("a b", "idempotency_key_invalid", id="a space inside"),
        pytest.param("käse", "idempotency_key_invalid", id="beyond ASCII"),
        pytest.param("a\n", "idempotency_key_invalid", id="a line feed at the end"),
        pytest.param("k" * 256, "idempotency_key_invalid", id="one character too long"),
        pytest.param(5, "idempotency_key_invalid", id="a number"),
    ],
)
async def test_an_item_needs_a_key(funded: Client, key: object, code: str, atomic: bool) -> None:
    """An item without a valid key is refused with a pointer to the key, and moves nothing."""
    wrong = item(key) if key is not None else order()
    problem = (await bulk(funded, [wrong], atomic=atomic))[0]["problem"]
    assert (problem["status"], problem["code"]) == (400, code)
    assert problem["errors"][0]["pointer"] == "/transfers/0/key"
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "never")
    assert await funded.balance("bob") == 0


@pytest.mark.parametrize("atomic", [False, True])
async def test_the_shape_of_an_item_comes_before_its_key(funded: Client, atomic: bool) -> None:
    """Other errors of an item are reported before its key is checked, as for a single transfer."""
    wrong: list[dict[str, object]] = [item("a b", amount=0), item("a b", destination="alice"), order("alice", "alice")]
    results = await bulk(funded, wrong, atomic=atomic)
    pointers = [result["problem"]["errors"][0]["pointer"] for result in results]
    assert pointers == ["/transfers/0/amount", "/transfers/1/destination", "/transfers/2/destination"]


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_bulk_is_replayed_byte_for_byte(funded: Client, atomic: bool) -> None:
    """Every result of a replayed bulk is the first one, byte for byte, and is marked as a replay."""
    body = orjson.dumps({"atomic": atomic, "transfers": [item("one", metadata={"b": "", "a": "ü"}), item("two")]})
    first = await funded.send("POST", "/v1/transfers/bulk", raw=body)
    assert [result["status"] for result in first.json["results"]] == [201, 201]
    assert [result["replayed"] for result in first.json["results"]] == [False, False]
    await funded.send("PATCH", "/v1/accounts/bob", {"closed": True})
    again = await funded.send("POST", "/v1/transfers/bulk", raw=body)
    assert again.status == first.status == 200
    assert again.body == first.body.replace(b'"replayed":false', b'"replayed":true')
    assert await funded.balance("bob") == 20


@pytest.mark.parametrize("atomic", [False, True])
async def test_refusals_of_a_bulk_are_for_ever(funded: Client, atomic: bool) -> None:
    """Refused items stay refused, byte for byte, even if they would succeed now."""
    items = [item("absent", destination="carol"), item("poor", amount=101)]
    body = orjson.dumps({"atomic": atomic, "transfers": items})
    first = await funded.send("POST", "/v1/transfers/bulk", raw=body)
    expected = ["account_not_found", "linked_failed" if atomic else "insufficient_funds"]
    assert codes(first.json["results"]) == expected
    assert {result["problem"]["outcome"] for result in first.json["results"]} == {"refused"}
    assert {result["problem"]["retry"] for result in first.json["results"]} == {"new_key"}
    await funded.open("carol")
    await funded.transfer("world", "alice", 1000)
    again = await funded.send("POST", "/v1/transfers/bulk", raw=body)
    assert again.body == first.body.replace(b'"replayed":false', b'"replayed":true')
    assert codes(await bulk(funded, [{**one, "key": f"new-{one['key']}"} for one in items], atomic=atomic)) == [201] * 2


async def test_an_item_may_be_retried_in_other_company(funded: Client) -> None:
    """A retried item is a replay in any other bulk, at any position."""
    first = await bulk(funded, [item("a"), item("b")])
    again = await bulk(funded, [item("c"), item("b"), item("a")])
    assert [result["replayed"] for result in again] == [False, True, True]
    assert (again[1]["transfer"], again[2]["transfer"]) == (first[1]["transfer"], first[0]["transfer"])
    assert await funded.balance("bob") == 30


async def test_other_items_under_bound_keys_are_told_so_one_by_one(funded: Client) -> None:
    """Each item is compared on its own: it is a replay, another request or a new one."""
    first = await bulk(funded, [item("a"), item("b")])
    results = await bulk(funded, [item("a"), item("b", amount=11, reference="r"), item("c")])
    assert codes(results) == [201, "idempotency_key_reused", 201]
    problem = results[1]["problem"]
    assert (problem["fields"], problem["transfer_id"]) == (["amount", "reference"], first[1]["transfer"]["id"])
    assert (problem["status"], problem["outcome"], problem["retry"]) == (422, "not_applied", "new_key")
    assert await funded.balance("bob") == 30


@pytest.mark.parametrize("atomic", [False, True])
async def test_items_and_single_transfers_are_the_same_requests(funded: Client, atomic: bool) -> None:
    """A key names one request of the ledger: a single transfer and an item of a bulk replay each other."""
    single = await post(funded, order(), "single")
    results = await bulk(funded, [item("single")], atomic=atomic)
    assert results == [{"status": 201, "replayed": True, "transfer": single.json}]
    posted = (await bulk(funded, [item("bulk")], atomic=atomic))[0]["transfer"]
    answers = [await post(funded, order(), "bulk") for _ in range(2)]
    assert [(answer.status, answer.replayed, answer.json) for answer in answers] == [(201, True, posted)] * 2
    other = await post(funded, order(amount=11), "bulk")
    assert (other.status, other.json["fields"], other.json["transfer_id"]) == (422, ["amount"], posted["id"])
    assert await funded.balance("bob") == 20


async def test_a_wrong_item_binds_nothing_and_the_others_go_on(funded: Client) -> None:
    """An item's 400 leaves its key free and does not affect the other items."""
    results = await bulk(funded, [item("a"), item("b", amount=0), item("c")])
    assert codes(results) == [201, "invalid_request", 201]
    assert results[1]["problem"]["errors"][0]["pointer"] == "/transfers/1/amount"
    assert results[1]["problem"]["outcome"] == "not_applied"
    assert (await bound(funded, "b")).status == 404
    again = await bulk(funded, [item("b")])
    assert (codes(again), again[0]["replayed"]) == ([201], False)


async def test_a_key_used_twice_in_one_bulk_is_used_once(funded: Client) -> None:
    """The second item with a key is a replay if it means the same, and otherwise another request."""
    results = await bulk(funded, [item("a"), item("a", metadata={}), item("a", amount=11)])
    assert codes(results) == [201, 201, "idempotency_key_reused"]
    assert [result["replayed"] for result in results] == [False, True, False]
    assert results[0]["transfer"] == results[1]["transfer"]
    assert results[2]["problem"]["fields"] == ["amount"]
    assert await funded.balance("bob") == 10


async def test_a_refused_item_repeated_in_its_bulk_is_refused_alike(funded: Client) -> None:
    """A repeated refused item in the same bulk replays the refusal."""
    results = await bulk(funded, [item("a", amount=101), item("a", amount=101)])
    assert codes(results) == ["insufficient_funds"] * 2
    assert results[0]["problem"] == results[1]["problem"]
    assert [result["replayed"] for result in results] == [False, True]


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize(
    ("status", "role", "change"),
    [
        pytest.param(401, None, {}, id="without a key of the API"),
        pytest.param(403, "read", {}, id="with a key that may only read"),
        pytest.param(413, "write", {"padding": b" " * 1_048_576}, id="too large"),
        pytest.param(415, "write", {"content_type": "text/plain"}, id="not JSON by its header"),
        pytest.param(400, "write", {"padding": b"}"}, id="not JSON by its bytes"),
    ],
)
async def test_a_bulk_that_never_reached_the_ledger_binds_nothing(
    funded: Client, as_role: AsRole, status: int, role: str | None, change: dict[str, Any]
) -> None:
    """After a whole bulk is turned away, all its keys are free."""
    body = orjson.dumps({"transfers": [item("a"), item("b")]})
    sender = await as_role(role)
    headers = {"Content-Type": change.get("content_type", "application/json")}
    broken = body + change.get("padding", b"")
    failed = await sender.send("POST", "/v1/transfers/bulk", raw=broken, headers=headers)
    assert (failed.status, failed.json["outcome"]) == (status, "not_applied")
    assert [(await bound(funded, key)).status for key in ("a", "b")] == [404, 404]
    results = (await funded.send("POST", "/v1/transfers/bulk", raw=body)).json["results"]
    assert [(result["status"], result["replayed"]) for result in results] == [(201, False)] * 2


@pytest.mark.parametrize("atomic", [False, True])
async def test_ledgers_do_not_share_the_keys_of_bulks(
    funded: Client, service: Service, ledger: str, atomic: bool
) -> None:
    """Ledgers do not share keys: the same bulk in another ledger is a new bulk."""
    other = await service.client(f"{ledger}-other")
    await other.fund("alice", 100)
    await other.open("bob")
    for client in (funded, other):
        results = await bulk(client, [item("a"), item("b")], atomic=atomic)
        assert [result["replayed"] for result in results] == [False, False]


async def test_a_quoted_key_is_the_same_key_in_a_bulk(client: Client) -> None:
    """The raw and the quoted form of a key are one key in headers and in items, and move money once."""
    await client.fund("alice", 100)
    await client.open("bob")
    single = await client.transfer("alice", "bob", 10, '"quoted"')
    assert single.status == 201
    item = {"key": '"quoted"', "source": "alice", "destination": "bob", "amount": 10, "currency": "EUR"}
    answer = await client.post("/v1/transfers/bulk", {"transfers": [item, {**item, "key": '"unclosed'}]})
    same, unclosed = answer.json["results"][0], answer.json["results"][1]["problem"]
    assert same == {"status": 201, "replayed": True, "transfer": single.json}
    assert (unclosed["code"], unclosed["errors"][0]["pointer"]) == ("idempotency_key_invalid", "/transfers/1/key")
    assert await client.balance("bob") == 10
