"""Amounts are strings on request, in every answer, and nothing else in the answer changes."""

import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.amounts import ACCEPT_LENGTH_MAX, AMOUNTS, as_strings, asks_for_strings
from server.http.route import Route
from server.http.routes import ROUTES
from tests.api.probes import GUARDED, furnish, new_names, probe, route_name
from tests.api.steps import order
from tests.input.wire import connect, request
from tests.support.client import Answer, Client, new_key
from tests.support.hot import JSON, answered
from tests.support.service import Service

ASKING = "application/json; amounts=string"
# Members that stay numbers, because they are not amounts of money.
NUMBERS = {
    *("accounts", "version", "source_version", "destination_version", "status", "position", "next_after"),
    "retry_after_ms",
}
# Members whose values differ between ledgers.
DIFFERING = {
    *("id", "transfer_id", "parent", "name", "secret", "token", "duration_ms"),
    *("as_of", "created_at", "effective_at", "revoked_at", "previous_tokens_until"),
}
# Above 2^53, where JavaScript's numbers are no longer exact.
LARGE = 2**53 + 1


def expected(value: Any) -> Any:
    """Return an answer with its amounts as strings."""
    if isinstance(value, list):
        return [expected(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: str(member) if name in AMOUNTS and type(member) is int else expected(member)
        for name, member in value.items()
    }


def without_ids(body: bytes) -> bytes:
    """Return a body without its request id."""
    return re.sub(rb'"request_id":"[^"]*"', b'"request_id":"<id>"', body)


@pytest.mark.parametrize(
    ("accept", "asks"),
    [
        pytest.param(ASKING, True, id="as it is documented"),
        pytest.param('Application/JSON ;Amounts = "String"', True, id="in other letters, quoted, with blanks"),
        pytest.param("application/json;q=0.9;amounts=string", True, id="behind a weight"),
        pytest.param("text/html, */*;q=0.1, application/json;amounts=string;q=0.5", True, id="among others"),
        pytest.param("application/json;;amounts=string;", True, id="with empty parameters"),
        pytest.param("application/json", False, id="plain"),
        pytest.param("*/*;amounts=string", False, id="of anything"),
        pytest.param("text/csv;amounts=string", False, id="of another type"),
        pytest.param("application/json;amounts=number", False, id="as numbers"),
        pytest.param("application/json;amounts=strings", False, id="as something else"),
        pytest.param("application/json;amounts=string;q=0", False, id="refused"),
        pytest.param("application/json;amounts=string;q=0.000", False, id="refused at length"),
        pytest.param("amounts=string", False, id="no type"),
        pytest.param("," * ACCEPT_LENGTH_MAX + ASKING, False, id="longer than is looked into"),
        pytest.param("", False, id="empty"),
    ],
)
def test_what_asks(accept: str, asks: bool) -> None:
    """The media type's parameter requests strings, however it is written."""
    assert asks_for_strings([accept]) is asks
    assert asks_for_strings(["text/html", accept]) is asks


@given(st.text(max_size=40))
def test_any_accept_is_read(accept: str) -> None:
    """Any Accept header is parsed without an error."""
    assert asks_for_strings([accept, f"{accept}=;,={accept}"]) in (True, False)


@given(
    st.recursive(
        st.none() | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
        lambda values: (
            st.lists(values, max_size=3)
            | st.dictionaries(st.sampled_from([*AMOUNTS, *NUMBERS, "data", "transfer"]), values, max_size=5)
        ),
    ),
    st.dictionaries(
        st.sampled_from(["amount", "balance"]) | st.text(max_size=8),
        st.sampled_from(['"amount":5', ',"amount":5', '{"balance":-1}', "\\", '\\"', '"']) | st.text(max_size=12),
        max_size=4,
    ),
)
def test_nothing_else_changes(answer: Any, metadata: dict[str, str]) -> None:
    """Amounts become strings at every level. All else stays byte for byte, even metadata that looks like an amount."""
    body = {"metadata": metadata, "answer": answer}
    assert as_strings(orjson.dumps(body)) == orjson.dumps({"metadata": metadata, "answer": expected(answer)})
    assert as_strings(msgspec.json.encode(body)) == msgspec.json.encode(expected(body) | {"metadata": metadata})


class Asking(Client):
    """A client that asks for strings in every request."""

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request that asks for strings."""
        return await super().send(method, path, body, raw=raw, headers={**(headers or {}), "Accept": ASKING})


def is_number(kind: Any) -> bool:
    """Return whether a value of this schema may be a whole number."""
    return kind is int or (get_origin(kind) in (Annotated, Union, UnionType) and any(map(is_number, get_args(kind))))


def members(kind: Any) -> Iterator[str]:
    """Return the names of an answer's members that may be whole numbers."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            if is_number(field.type):
                yield field.encode_name
            yield from members(field.type)
    elif get_origin(kind) in (list, Union, UnionType) or get_args(kind):
        origin = get_origin(kind)
        if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
            for field in msgspec.structs.fields(kind):
                yield from members(field.type)
        for argument in get_args(kind):
            yield from members(argument)


def test_every_number_is_one_or_the_other() -> None:
    """Every member that may be a whole number is either an amount or listed as a plain number."""
    routes = [route for route in ROUTES if route.has_amounts]
    kinds = [kind for route in routes for status in route.answers for kind in route.forms(status)]
    found = {name for kind in kinds for name in members(kind)}
    assert found >= {"amount", "balance", "held_out", "floor", "source_balance", "version", "status"}
    assert found - set(AMOUNTS) - NUMBERS == set()
    assert not set(AMOUNTS) & NUMBERS


@pytest.mark.parametrize("route", [route for route in GUARDED if route.path != "/v1/events/stream"], ids=route_name)
async def test_every_route(service: Service, ledger: str, route: Route) -> None:
    """Every route gives the same answer with amounts as strings: the numbers are quoted, and nothing else differs."""
    names = new_names()
    plain = await service.client(f"{ledger}-plain")
    other = await service.client(f"{ledger}-asking")
    asking = Asking(other.session, other.url, other.token)
    numbers = await probe(plain, route, await furnish(plain, names), key="k1")
    strings = await probe(asking, route, await furnish(other, names), key="k1")
    assert strings.status == numbers.status
    assert strings.headers.get("ETag") == numbers.headers.get("ETag")
    if route.has_amounts:
        assert shape(strings.json) == shape(expected(numbers.json))
    else:
        assert shape(strings.json) == shape(numbers.json)


def shape(value: Any) -> Any:
    """Return an answer without what differs between two ledgers: ids, instants, durations and secrets."""
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        return {name: None if name in DIFFERING else shape(member) for name, member in value.items()}
    return value


async def test_large_amounts_are_exact(client: Client) -> None:
    """Amounts above 2^53 are exact, and a null amount stays null."""
    await client.open("world", floor=None)
    await client.open("alice", ceiling=2**63 - 1)
    headers = {"Idempotency-Key": "k1", "Accept": ASKING}
    posted = await client.send("POST", "/v1/transfers", order("world", "alice", LARGE), headers=headers)
    assert posted.status == 201
    told = {name: posted.json[name] for name in ("amount", "source_balance", "destination_balance", "source_version")}
    assert told == {
        "amount": str(LARGE),
        "source_balance": str(-LARGE),
        "destination_balance": str(LARGE),
        "source_version": 2,
    }
    account = (await client.get("/v1/accounts/alice", Accept=ASKING)).json
    assert (account["balance"], account["floor"], account["ceiling"]) == (str(LARGE), "0", str(2**63 - 1))
    assert (await client.get("/v1/accounts/world", Accept=ASKING)).json["floor"] is None


async def test_a_replay_comes_as_it_is_asked_for(client: Client) -> None:
    """A replay returns the same transfer, with amounts in the form that the repeated request asks for."""
    await client.fund("alice", 100)
    await client.open("bob")
    key = new_key()

    async def send(accept: str, spaces: bytes = b"") -> Any:
        raw = orjson.dumps(order("alice", "bob", 10)) + spaces
        headers = {"Idempotency-Key": key, "Accept": accept}
        return await client.send("POST", "/v1/transfers", raw=raw, headers=headers)

    numbers = await send("*/*")
    for spaces in (b"", b" "):
        strings = await send(ASKING, spaces)
        assert (strings.status, strings.replayed) == (201, True)
        assert strings.body == as_strings(numbers.body) != numbers.body
        again = await send("application/json", spaces)
        assert (again.body, again.replayed) == (numbers.body, True)


async def test_a_bulk_and_its_refusals(client: Client) -> None:
    """Amounts in the items of a bulk are strings, and statuses stay numbers."""
    await client.fund("alice", 100)
    await client.open("bob")
    items = [{"key": new_key(), **order("alice", "bob", amount)} for amount in (60, 60)]
    answer = await client.send("POST", "/v1/transfers/bulk", {"transfers": items}, headers={"Accept": ASKING})
    posted, refused = answer.json["results"]
    assert (posted["status"], posted["transfer"]["amount"]) == (201, "60")
    assert (refused["status"], refused["problem"]["status"], refused["problem"]["code"]) == (
        409,
        409,
        "insufficient_funds",
    )


async def test_a_cached_account(service: Service, client: Client) -> None:
    """A cached account has strings on request; its tag is its version, and the answer says that it varies by Accept."""
    await client.fund("alice", LARGE)
    await client.get("/v1/accounts/alice")
    await service.reads_snapshots()
    strings = await client.get("/v1/accounts/alice", Accept=ASKING)
    for _ in range(3):
        numbers = await client.get("/v1/accounts/alice")
        strings = await client.get("/v1/accounts/alice", Accept=ASKING)
        assert (numbers.json["balance"], strings.json["balance"]) == (LARGE, str(LARGE))
        assert strings.body == as_strings(numbers.body)
        assert strings.headers["ETag"] == numbers.headers["ETag"] == '"2"'
        assert strings.headers["Vary"] == numbers.headers["Vary"] == "Accept"
    unchanged = await client.get("/v1/accounts/alice", Accept=ASKING, If_None_Match='"2"')
    assert (unchanged.status, unchanged.body, unchanged.headers["Vary"]) == (304, b"", "Accept")
    head = await client.send("HEAD", "/v1/accounts/alice", headers={"Accept": ASKING})
    assert int(head.headers["Content-Length"]) == len(strings.body)


async def test_repeated_heads_are_told_apart(service: Service, client: Client) -> None:
    """On one connection, requests that differ only in Accept are each answered in their own form."""
    await client.fund("alice", 7)
    await client.fund("bob", 7)
    async with connect(client.url) as wire:
        for number in range(12):
            accept = (f"Accept: {ASKING}", "Accept: application/json")[number % 3 % 2]
            account = ("alice", "bob")[number % 2]
            await wire.send(request("GET", f"/v1/accounts/{account}", accept, token=client.token))
            found = await answered(wire)
            assert found.json["balance"] == ("7" if "string" in accept else 7), number
        for number in range(12):
            accept = (f"Accept: {ASKING}", "Accept: application/json")[number % 3 % 2]
            fields = (JSON, f"Idempotency-Key: {new_key()}", accept)
            body = orjson.dumps(order("alice", "bob", 1) if number % 2 else order("bob", "alice", 1))
            await wire.send(request("POST", "/v1/transfers", *fields, body=body, token=client.token))
            found = await answered(wire)
            assert found.json["amount"] == ("1" if "string" in accept else 1), number


async def test_problems_and_pages_stay(client: Client) -> None:
    """Answers without amounts, such as problems and HTML pages, do not change."""
    for path in (
        "/v1/accounts/nobody",
        "/v1/transfers?kind=x",
        "/nothing",
        "/problems",
        "/problems/insufficient_funds",
    ):
        numbers, strings = await client.get(path), await client.get(path, Accept=ASKING)
        assert without_ids(strings.body) == without_ids(numbers.body)
