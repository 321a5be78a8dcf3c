"""Accounts are opened once and changed under conditions."""

from typing import Any

import pytest

from tests.support.client import Client

DEFAULTS = {"balance": 0, "held_in": 0, "held_out": 0, "available": 0, "version": 1, "closed": False}


async def patch(client: Client, change: object, if_match: str | None = None) -> Any:
    """Change alice and return the answer."""
    return await client.send("PATCH", "/v1/accounts/alice", change, headers={"If-Match": if_match} if if_match else {})


async def test_an_account_is_opened_once(client: Client) -> None:
    """The first request creates the account and fills in defaults; the second is a replay."""
    first = await client.open("customer:42")
    assert (first.status, first.replayed, first.headers["ETag"]) == (201, False, '"1"')
    created_at = first.json["created_at"]
    expected: dict[str, object] = {
        "id": "customer:42",
        "currency": "EUR",
        "floor": 0,
        "ceiling": None,
        "metadata": {},
        **DEFAULTS,
    }
    assert first.json == {**expected, "created_at": created_at}
    second = await client.open("customer:42", floor=0, ceiling=None, metadata={})
    assert (second.status, second.replayed, second.body) == (200, True, first.body)


async def test_every_field_is_kept(client: Client) -> None:
    """An account keeps the fields that it was opened with, including text in any script and limits of 64 bits."""
    fields = {"floor": -(2**63), "ceiling": 2**63 - 1, "metadata": {"Straße": "日本 \U0001f9ee", "empty": ""}}
    answer = await client.open("A.b_c:d-9", "POINTS1", **fields)
    assert answer.status == 201
    read = await client.account("A.b_c:d-9")
    assert {name: read[name] for name in fields} == fields
    assert (read["currency"], read["id"]) == ("POINTS1", "A.b_c:d-9")


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        pytest.param({"currency": "USD"}, ["currency"], id="currency"),
        pytest.param({"floor": 1}, ["floor"], id="floor"),
        pytest.param({"floor": None}, ["floor"], id="no floor"),
        pytest.param({"ceiling": 10}, ["ceiling"], id="ceiling"),
        pytest.param({"metadata": {"k": "w"}}, ["metadata"], id="metadata"),
        pytest.param({"metadata": {}}, ["metadata"], id="no metadata"),
        pytest.param(
            {"currency": "USD", "floor": -1, "metadata": {"a": "b"}}, ["currency", "floor", "metadata"], id="3"
        ),
    ],
)
async def test_another_account_of_that_id_is_refused(
    client: Client, changed: dict[str, object], fields: list[str]
) -> None:
    """Opening an existing id with other fields is a 409 that names those fields and changes nothing."""
    first = await client.post("/v1/accounts", original := {"id": "alice", "currency": "EUR", "metadata": {"k": "v"}})
    answer = await client.post("/v1/accounts", {**original, **changed})
    assert (answer.status, answer.code, answer.json["fields"]) == (409, "account_exists", fields)
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "never")
    assert (await client.account("alice")) == first.json


async def test_metadata_in_another_order_is_the_same(client: Client) -> None:
    """Metadata is an object, so the order of its members does not matter."""
    await client.open("alice", metadata={"a": "1", "b": "2"})
    assert (await client.open("alice", metadata={"b": "2", "a": "1"})).status == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param({"currency": "EUR"}, "/id", id="no id"),
        pytest.param({"id": "alice"}, "/currency", id="no currency"),
        pytest.param({"id": ":alice", "currency": "EUR"}, "/id", id="an id that begins with a sign"),
        pytest.param({"id": "a/b", "currency": "EUR"}, "/id", id="a slash in the id"),
        pytest.param({"id": "a" * 65, "currency": "EUR"}, "/id", id="an id too long"),
        pytest.param({"id": "a\n", "currency": "EUR"}, "/id", id="a line feed after the id"),
        pytest.param({"id": "alice", "currency": "EURO€"}, "/currency", id="a currency of other signs"),
        pytest.param({"id": "alice", "currency": "TOOLONG99"}, "/currency", id="a currency too long"),
        pytest.param({"id": "alice", "currency": "EUR", "floor": 2**63}, "/floor", id="a floor beyond 64 bits"),
        pytest.param({"id": "alice", "currency": "EUR", "floor": 1.0}, "/floor", id="a float"),
        pytest.param({"id": "alice", "currency": "EUR", "ceiling": False}, "/ceiling", id="a boolean"),
        pytest.param({"id": "alice", "currency": "EUR", "floor": 2, "ceiling": 1}, "/floor", id="floor above ceiling"),
        pytest.param({"id": "alice", "currency": "EUR", "ceiling": -1}, "/floor", id="default floor above ceiling"),
        pytest.param(
            {"id": "alice", "currency": "EUR", "balance": 5}, "/balance", id="a field that is not the caller's"
        ),
        pytest.param(
            {"id": "alice", "currency": "EUR", "metadata": {str(n): "" for n in range(51)}}, "/metadata", id="51 keys"
        ),
        pytest.param(
            {"id": "alice", "currency": "EUR", "metadata": {"k": "v" * 501}}, "/metadata/k", id="a long value"
        ),
        pytest.param(
            {"id": "alice", "currency": "EUR", "metadata": {"k" * 41: ""}}, f"/metadata/{'k' * 41}", id="a long key"
        ),
        pytest.param({"id": "alice", "currency": "EUR", "metadata": {"": ""}}, "/metadata/", id="an empty key"),
    ],
)
async def test_a_wrong_account_is_pointed_at(client: Client, body: dict[str, object], pointer: str) -> None:
    """A wrong field is a 400 that points to it, alone and in bulk, and no account is opened."""
    single = await client.post("/v1/accounts", body)
    several = await client.post("/v1/accounts/bulk", {"accounts": [body]})
    item = several.json["results"][0]["problem"]
    assert (single.status, single.code, item["status"], item["code"]) == (400, "invalid_request") * 2
    assert single.json["errors"][0]["pointer"] == pointer
    assert item["errors"][0]["pointer"] == f"/accounts/0{pointer}"
    assert (await client.get("/v1/accounts")).json["data"] == []


async def test_the_largest_metadata_fits(client: Client) -> None:
    """50 metadata keys of 40 characters with values of 500 characters are kept."""
    metadata = {f"{n:02}".ljust(40, "ü"): "é" * 500 for n in range(50)}
    assert (await client.open("alice", metadata=metadata)).status == 201
    assert (await client.account("alice"))["metadata"] == metadata


async def test_a_bulk_opens_each_for_itself(client: Client) -> None:
    """Every account of a bulk is answered at its position: opened, replayed, refused or wrong."""
    await client.open("old")
    accounts: list[dict[str, object]] = [
        {"id": "new", "currency": "EUR"},
        {"id": "old", "currency": "EUR"},
        {"id": "old", "currency": "USD"},
        {"id": "-", "currency": "EUR"},
        {"id": "new", "currency": "EUR"},
        {"id": "new", "currency": "EUR", "floor": 1},
        {"id": "last", "currency": "EUR", "metadata": {"k": "v"}},
    ]
    answer = await client.post("/v1/accounts/bulk", {"accounts": accounts})
    results = answer.json["results"]
    assert answer.status == 200
    assert [(result["status"], result["replayed"]) for result in results] == [
        *((201, False), (200, True), (409, False), (400, False), (200, True), (409, False), (201, False)),
    ]
    assert (results[2]["problem"]["fields"], results[5]["problem"]["fields"]) == (["currency"], ["floor"])
    assert results[3]["problem"]["errors"][0]["pointer"] == "/accounts/3/id"
    assert results[6]["account"] == await client.account("last")
    assert results[4]["account"] == results[0]["account"] == await client.account("new")


async def test_a_bulk_opens_a_thousand_accounts(client: Client) -> None:
    """A bulk opens up to 1,000 accounts; 1,001 accounts or none are a 400."""
    accounts = [{"id": f"a{n}", "currency": "EUR"} for n in range(1001)]
    for wrong in (accounts, []):
        answer = await client.post("/v1/accounts/bulk", {"accounts": wrong})
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, "/accounts")
    results = (await client.post("/v1/accounts/bulk", {"accounts": accounts[:1000]})).json["results"]
    assert [result["account"]["id"] for result in results] == [f"a{n}" for n in range(1000)]


async def test_a_change_touches_what_it_names(client: Client) -> None:
    """A change sets the fields that it names, null included, leaves the others unchanged and adds one version."""
    opened = (await client.open("alice", floor=-5, ceiling=10, metadata={"a": "1", "b": "2"})).json
    changes: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"floor": None}, {"floor": None}),
        ({"ceiling": 7}, {"ceiling": 7}),
        ({"floor": -1, "ceiling": None}, {"floor": -1, "ceiling": None}),
        ({"closed": True}, {"closed": True}),
        ({"metadata": {"b": None, "c": "3"}}, {"metadata": {"a": "1", "c": "3"}}),
        ({"metadata": {}}, {}),
        ({"metadata": {"never": None}}, {}),
        ({"metadata": None}, {"metadata": {}}),
        ({"closed": False, "metadata": {"d": ""}}, {"closed": False, "metadata": {"d": ""}}),
    ]
    for version, (change, expected) in enumerate(changes, start=2):
        answer = await patch(client, change)
        opened |= {**expected, "version": version}
        assert (answer.status, answer.headers["ETag"], answer.json) == (200, f'"{version}"', opened)
        assert await client.account("alice") == opened


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        pytest.param({"floor": 11}, 409, "limits_conflict", id="a floor above the ceiling there is"),
        pytest.param({"ceiling": -1}, 409, "limits_conflict", id="a ceiling below the floor there is"),
        pytest.param({"floor": 5, "ceiling": 4}, 400, "invalid_request", id="a floor above the ceiling given with it"),
        pytest.param({"metadata": {"one more": ""}}, 409, "metadata_full", id="a 51st key"),
        pytest.param({"closed": None}, 400, "invalid_request", id="closed is yes or no"),
        pytest.param({"currency": "USD"}, 400, "invalid_request", id="the currency stays"),
        pytest.param({"balance": 5}, 400, "invalid_request", id="the balance is not set"),
        pytest.param([], 400, "invalid_request", id="no object"),
    ],
)
async def test_a_change_that_cannot_be_is_refused(client: Client, change: object, status: int, code: str) -> None:
    """A refused change changes neither the fields nor the version."""
    opened = await client.open("alice", ceiling=10, metadata={str(n): "" for n in range(50)})
    answer = await patch(client, change)
    assert (answer.status, answer.code) == (status, code)
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "never")
    assert await client.account("alice") == opened.json


async def test_a_full_account_can_exchange_metadata(client: Client) -> None:
    """The limit on metadata applies to the account after the change."""
    await client.open("alice", metadata={str(n): "" for n in range(50)})
    answer = await patch(client, {"metadata": {"0": None, "new": "", "1": "changed"}})
    assert (answer.status, len(answer.json["metadata"]), answer.json["metadata"]["1"]) == (200, 50, "changed")


async def test_if_match_lets_only_one_version_pass(client: Client) -> None:
    """A change with If-Match applies to that version, and is a 412 if the account has a newer one."""
    await client.open("alice")
    assert (await patch(client, {"floor": -1}, '"1"')).json["version"] == 2
    for stale in ('"1"', '"3"', '"never-given-out"', '"99999999999999999999"'):
        answer = await patch(client, {"floor": -2}, stale)
        assert (answer.status, answer.code, answer.json["outcome"]) == (412, "precondition_failed", "not_applied")
    assert (await patch(client, {"floor": -3}, "*")).json["version"] == 3
    assert (await patch(client, {"floor": -4}, "3")).status == 400
    assert ((await client.account("alice"))["floor"], (await client.account("alice"))["version"]) == (-3, 3)


async def test_if_match_takes_a_list(client: Client) -> None:
    """One of the strong tags in the list must match the account's; a weak tag never matches, as RFC 9110 requires."""
    await client.open("alice")
    assert (await patch(client, {"floor": -1}, '"7", W/"3" , "1"')).json["version"] == 2
    for stale in ('W/"2"', '"1", W/"2"', '"1","3"'):
        assert (await patch(client, {"floor": -2}, stale)).status == 412
    assert (await patch(client, {"floor": -2}, '"2",')).json["version"] == 3


async def test_a_transfer_moves_an_account_on(client: Client) -> None:
    """A transfer raises the version, so an earlier If-Match no longer passes."""
    await client.fund("alice", 5)
    assert (await patch(client, {"closed": True}, '"1"')).status == 412
    assert (await patch(client, {"closed": True}, '"2"')).status == 200


@pytest.mark.parametrize("path", ["nobody", "-", "a%00b", "%ff", "a" * 65, "%E2%82%AC"])
async def test_what_is_no_account_is_not_found(client: Client, path: str) -> None:
    """An id that names no account, or cannot be an account id, is the same 404 for reads and changes."""
    for suffix in ("", "/entries", "/balance?at=2026-01-01T00:00:00Z"):
        answer = await client.get(f"/v1/accounts/{path}{suffix}")
        assert (answer.status, answer.code) == (404, "account_not_found"), suffix
    for headers in ({}, {"If-Match": '"1"'}):
        answer = await client.send("PATCH", f"/v1/accounts/{path}", {"closed": True}, headers=headers)
        assert (answer.status, answer.code) == (404, "account_not_found")
        assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "never")


@pytest.mark.parametrize("path", ["nobody", "-", "%ff"])
async def test_shape_comes_before_existence(client: Client, path: str) -> None:
    """A parameter or header that is always wrong is a 400, whether or not the account exists."""
    wrong = ("?min_version=abc", "?x=1", "/entries?from=x", "/entries?to=x", "/entries?cursor=x", "/entries?limit=0")
    for suffix in (*wrong, "/balance?at=x", "/balance"):
        assert (await client.get(f"/v1/accounts/{path}{suffix}")).status == 400, suffix
    answer = await client.send("PATCH", f"/v1/accounts/{path}", {"closed": True}, headers={"If-Match": "1"})
    assert answer.status == 400


async def test_of_equal_ids_in_a_bulk_the_first_counts(client: Client) -> None:
    """Of equal ids in a bulk of any size, the item answered 201 is the one whose fields the account has."""
    items = [{"id": f"twin-{n % 200}", "currency": "EUR", "floor": -(n // 200)} for n in range(800)]
    results = (await client.post("/v1/accounts/bulk", {"accounts": items})).json["results"]
    assert [result["status"] for result in results] == [201] * 200 + [409] * 600
    assert {result["account"]["floor"] for result in results[:200]} == {0}
