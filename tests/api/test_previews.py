"""Previews: the answer that a request would get now, without doing anything."""

from typing import Any

import pytest

from tests.api.holding import NO_ID, figures, followed, held, paid
from tests.api.steps import bound, bulk, codes, lock_held, order, post
from tests.support.client import Answer, Client
from tests.support.clock import BooksClock
from tests.support.service import Service

# Members that a preview cannot know.
UNKNOWN = ("id", "created_at", "effective_at")
# Members that belong to the request and not to its refusal.
OWN = ("request_id",)


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client in whose ledger alice has 100 and bob nothing."""
    await client.fund("alice", 100)
    await client.open("bob")
    return client


async def preview(client: Client, body: object) -> Answer:
    """Preview a body."""
    return await client.post("/v1/transfers/preview", body)


async def state(client: Client) -> list[bytes]:
    """Return the ledger's accounts and transfers, alice's entries and bob."""
    paths = ("/v1/accounts", "/v1/transfers", "/v1/accounts/alice/entries", "/v1/accounts/bob")
    return [(await client.get(path, Cache_Control="no-cache")).body for path in paths]


def compared(result: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a result that its preview must equal."""
    shown = {"status": result["status"], "replayed": result["replayed"]}
    for member in ("transfer", "problem"):
        if member in result:
            shown[member] = {k: v for k, v in result[member].items() if k not in (*UNKNOWN, *OWN)}
    return shown


def of_single(answer: Answer) -> dict[str, Any]:
    """Return a single request's answer as the result of a bulk."""
    member = "transfer" if answer.status == 201 else "problem"
    return compared({"status": answer.status, "replayed": answer.replayed, member: answer.json})


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(order(), id="a transfer"),
        pytest.param(order(hold=True, expires_in=60), id="a hold"),
        pytest.param(order(reference="r", description="d", metadata={"a": "b"}), id="all that can be said"),
        pytest.param(order(amount=101), id="too much"),
        pytest.param(order(destination="full"), id="no room"),
        pytest.param(order(destination="nobody"), id="no such account"),
        pytest.param(order(destination="dollars"), id="another currency"),
        pytest.param(order(destination="closed"), id="a closed account"),
        pytest.param(order(conditions={"source_version": 7}), id="a condition"),
    ],
)
async def test_a_preview_says_what_the_request_is_answered(funded: Client, body: dict[str, object]) -> None:
    """A preview has the status, balances, versions and problem of the request sent next, and changes nothing."""
    await funded.open("full", ceiling=0)
    await funded.open("dollars", "USD")
    await funded.open("closed")
    await funded.send("PATCH", "/v1/accounts/closed", {"closed": True})
    before = await state(funded)
    answer = await preview(funded, body)
    assert answer.status == 200, answer
    assert await state(funded) == before
    assert compared(answer.json) == of_single(await post(funded, body, "key"))


@pytest.mark.parametrize("atomic", [False, True], ids=["each for itself", "linked"])
async def test_a_bulk_is_previewed_in_order(funded: Client, atomic: bool) -> None:
    """Each item of a preview sees the effect of those before it: holds, their captures, and the money they bring."""
    await paid(funded, 20, "payment")
    parent = await held(funded, 30)
    items: list[dict[str, Any]] = [
        {"key": "a", **order(amount=10, hold=True)},
        {"key": "b", "kind": "capture", "parent_key": "a", "amount": 4, "release_rest": False},
        {"key": "c", "kind": "void", "parent_key": "a"},
        {"key": "d", "kind": "capture", "parent": parent},
        {"key": "e", "kind": "reversal", "parent_key": "payment", "amount": 5},
        {"key": "f", **order("bob", "alice", 49)},
    ]
    before = await state(funded)
    answer = await preview(funded, {"atomic": atomic, "transfers": items})
    assert await state(funded) == before
    assert [(await bound(funded, item["key"])).status for item in items] == [404] * 6
    told = [compared(result) for result in answer.json["results"]]
    ids = {result["transfer"]["id"] for result in answer.json["results"] if "transfer" in result}
    posted = await bulk(funded, items, atomic=atomic)
    assert codes(posted) == [201] * 6
    for result, real in zip(told, map(compared, posted), strict=True):
        # The hold in the preview has another id than the posted one.
        if result["transfer"]["parent"] in ids:
            result["transfer"]["parent"] = real["transfer"]["parent"]
        assert result == real


async def test_a_set_that_would_fail_is_told_so(funded: Client) -> None:
    """The preview of a failing set gives the failing item's reason, and `linked_failed` for the others."""
    parent = await held(funded, 30)
    items: list[dict[str, Any]] = [
        {"key": "a", "kind": "capture", "parent": parent},
        {"key": "b", **order(amount=71)},
        {"key": "c", "kind": "void", "parent": NO_ID},
    ]
    before = await state(funded)
    linked = (await preview(funded, {"atomic": True, "transfers": items})).json["results"]
    assert codes(linked) == ["linked_failed", "insufficient_funds", "linked_failed"]
    each = (await preview(funded, {"transfers": items})).json["results"]
    assert codes(each) == [201, "insufficient_funds", "transfer_not_found"]
    assert await state(funded) == before


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param(order(amount=0), "/amount", id="no amount"),
        pytest.param(order(destination="alice"), "/destination", id="one account on both sides"),
        pytest.param(order(expires_in=1), "/expires_in", id="an expiry without a hold"),
        pytest.param(order(effective_at="yesterday"), "/effective_at", id="no instant"),
        pytest.param(order(fee=1), "/fee", id="an unknown member"),
        pytest.param({}, "/", id="nothing"),
        pytest.param({"transfers": []}, "/transfers", id="a bulk of nothing"),
        pytest.param({"transfers": [{"key": "a", **order()}], "fee": 1}, "/fee", id="an unknown member of a bulk"),
        pytest.param([], "", id="a list"),
    ],
)
async def test_a_wrong_body_is_pointed_at(funded: Client, body: object, pointer: str) -> None:
    """A request that is always wrong is the same 400 in a preview."""
    answer = await preview(funded, body)
    assert (answer.status, answer.code) == (400, "invalid_request"), answer
    assert answer.json["errors"][0]["pointer"].startswith(pointer)


async def test_a_wrong_item_is_told_in_its_place(funded: Client) -> None:
    """In a preview too, a wrong item of a bulk is a result, and fails a set."""
    items: list[dict[str, Any]] = [{"key": "a", **order()}, {"key": "b", **order(amount=0)}]
    each = (await preview(funded, {"transfers": items})).json["results"]
    assert codes(each) == [201, "invalid_request"]
    assert each[1]["problem"]["errors"][0]["pointer"] == "/transfers/1/amount"
    linked = (await preview(funded, {"atomic": True, "transfers": items})).json["results"]
    assert codes(linked) == ["linked_failed", "invalid_request"]


async def test_a_date_to_come_is_told(funded: Client) -> None:
    """A date in the future is a 400 in a preview too."""
    answer = await preview(funded, order(effective_at="2999-01-01T00:00:00Z"))
    document = answer.json.get("problem", answer.json)
    assert (document["status"], document["errors"][0]["pointer"]) == (400, "/effective_at")


async def test_a_preview_takes_no_key(funded: Client) -> None:
    """A preview refuses a key in the header, because it would not use it."""
    answer = await funded.send("POST", "/v1/transfers/preview", order(), headers={"Idempotency-Key": "key"})
    assert (answer.status, answer.code) == (400, "idempotency_key_not_taken")
    assert (await bound(funded, "key")).status == 404


async def test_a_preview_waits_for_nobody(funded: Client, service: Service) -> None:
    """A preview does not wait for a locked account."""
    async with lock_held(service, "alice"):
        answer = await preview(funded, order())
        assert (answer.status, answer.json["status"]) == (200, 201)


async def test_a_preview_knows_which_holds_are_gone(timed: Client, clock: BooksClock) -> None:
    """A preview decides by the ledger's clock which holds have ended."""
    await timed.fund("alice", 100)
    await timed.open("bob")
    parent = await held(timed, 100, expires_in=60)
    items = {"transfers": [{"key": "a", "kind": "capture", "parent": parent}, {"key": "b", **order(amount=100)}]}
    assert codes((await preview(timed, items)).json["results"]) == [201, "insufficient_funds"]
    await clock.advance(60)
    results = (await preview(timed, items)).json["results"]
    assert codes(results) == ["hold_not_open", 201]
    assert results[1]["transfer"]["source_version"] == 5
    assert await figures(timed, "alice") == (100, 0, 0, 100)


async def test_previews_are_of_one_ledger(funded: Client, service: Service, ledger: str) -> None:
    """A preview does not find another ledger's parents or accounts."""
    parent = await held(funded, 10, "elsewhere")
    other = await service.client(f"{ledger}-other")
    items: list[dict[str, Any]] = [
        {"key": "a", "kind": "void", "parent": parent},
        {"key": "b", "kind": "void", "parent_key": "elsewhere"},
    ]
    assert codes((await preview(other, {"transfers": items})).json["results"]) == ["transfer_not_found"] * 2
    assert (await preview(other, order())).json["problem"]["code"] == "account_not_found"


async def test_a_later_preview_sees_what_was_done(funded: Client) -> None:
    """A preview reserves nothing: a later preview sees what was done since."""
    parent = await held(funded, 60)
    assert (await preview(funded, order(amount=60))).json["status"] == 409
    await followed(funded, "void", parent)
    assert (await preview(funded, order(amount=60))).json["status"] == 201
