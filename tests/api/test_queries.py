"""Query parameters on every path: what is answered if one is empty, unknown, repeated or malformed."""

import pytest

from server.http.route import Route
from server.http.routes import ROUTES
from tests.api.probes import GUARDED, furnish, path_of, route_name
from tests.input.wire import connect, request
from tests.support.client import Client

# All parameters, by path. The paths' own error messages are compared with this.
PARAMETERS = {
    "/v1/accounts": ["prefix", "limit", "cursor"],
    "/v1/accounts/{id}": ["min_version"],
    "/v1/accounts/{id}/entries": ["limit", "cursor", "from", "to"],
    "/v1/accounts/{id}/balance": ["at", "by"],
    "/v1/accounts/{id}/statement": ["from", "to", "by"],
    "/v1/balances": ["prefix", "at"],
    "/v1/transfers": ["reference", "account", "kind", "from", "to", "metadata.<key>", "limit", "cursor"],
    "/v1/transfers/{id}": [],
    "/v1/idempotency-keys/{id}": [],
    "/v1/events": ["after", "type", "account", "limit", "wait"],
    "/v1/events/stream": ["after", "type", "account"],
    "/v1/ledger": [],
    "/v1/limits": [],
    "/v1/integrity": [],
    "/v1/api-keys": ["limit", "cursor"],
    "/v1/api-keys/{id}": [],
    "/v1/webhook-endpoints": ["limit", "cursor"],
    "/v1/webhook-endpoints/{id}": [],
    "/v1/webhook-endpoints/{id}/deliveries": ["limit", "cursor"],
    "/v1/webhook-endpoints/{id}/undelivered": ["limit", "cursor"],
}
# Parameters that are an account's id, or its beginning.
NAMING = ("account", "prefix")
READS = [route for route in GUARDED if route.method == "GET"]
EACH = [pytest.param(path, name, id=f"{path} {name}") for path, names in PARAMETERS.items() for name in names]


def at(path: str, query: str) -> str:
    """Return a target below *path*."""
    return path.replace("{id}", "alice") + "?" + query


def test_every_read_is_in_the_table() -> None:
    """Every read route has its parameters listed above."""
    assert {route.path for route in READS} == set(PARAMETERS)
    assert {route.method for route in ROUTES if route not in READS and route.role is not None} == {
        "POST",
        "PATCH",
        "DELETE",
    }


@pytest.mark.parametrize(("path", "names"), PARAMETERS.items(), ids=list(PARAMETERS))
async def test_an_unknown_parameter_is_refused(client: Client, path: str, names: list[str]) -> None:
    """A 400 lists the path's parameters, and explains the `_` that some clients add to avoid caches."""
    answer = await client.get(at(path, "unheard=1"))
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.json["detail"] == f"A parameter is unknown. Parameters of this path: {', '.join(names) or 'none'}."
    against_caches = await client.get(at(path, "_=1"))
    assert (against_caches.status, against_caches.code) == (400, "invalid_request")
    assert against_caches.json["detail"].startswith(answer.json["detail"] + " Leave out the _")


@pytest.mark.parametrize(("path", "name"), EACH)
@pytest.mark.parametrize("value", ["", "&limit=1"])
async def test_an_empty_parameter_is_refused(client: Client, path: str, name: str, value: str) -> None:
    """Any parameter without a value is a 400: an unset variable must not widen a query."""
    if value and ("limit" not in PARAMETERS[path] or name == "limit"):
        value = ""
    await client.open("alice")
    answer = await client.get(at(path, f"{name}={value}"))
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.json["errors"] == [
        {"pointer": name, "detail": "The parameter is empty: give it a value, or leave it out."}
    ]


@pytest.mark.parametrize(("path", "name"), [(p, n) for p, ns in PARAMETERS.items() for n in ns if n in NAMING])
@pytest.mark.parametrize("value", ["bad%20id", "-a", "%25", "a" * 65])
async def test_what_is_no_account_id_is_refused(client: Client, path: str, name: str, value: str) -> None:
    """A malformed account id or prefix is a 400."""
    answer = await client.get(at(path, f"{name}={value}"))
    assert (answer.status, answer.code, answer.json["errors"][0]["pointer"]) == (400, "invalid_request", name)


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        pytest.param("{}&", "ampersand", id="an ampersand at the end"),
        pytest.param("&{}", "ampersand", id="an ampersand at the beginning"),
        pytest.param("{}&&limit=1", "ampersand", id="two ampersands"),
        pytest.param("&", "ampersand", id="nothing but an ampersand"),
        pytest.param("limit", "equals sign", id="no equals sign"),
        pytest.param("{}%", "%25", id="a percent sign"),
        pytest.param("{}%zz", "%25", id="no hexadecimal digits"),
        pytest.param("limit=%ff", "UTF-8", id="no UTF-8"),
        pytest.param("&".join(["limit=1"] * 33), "too many", id="very many"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/accounts", "/v1/accounts/{id}/entries", "/v1/transfers"])
async def test_a_query_that_is_not_well_formed_is_explained(client: Client, path: str, query: str, hint: str) -> None:
    """A 400 names the character at fault."""
    # Sent as raw bytes, because HTTP clients correct a lone percent sign.
    async with connect(client.url) as wire:
        await wire.send(request("GET", at(path, query.format("limit=1")), token=client.token))
        answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert answer.json["detail"].startswith("The query is not well formed: ")
    assert hint in answer.json["detail"]


@pytest.mark.parametrize("route", READS, ids=route_name)
async def test_a_question_mark_alone_is_no_query(client: Client, route: Route) -> None:
    """A question mark without a query is ignored."""
    plain = path_of(route, await furnish(client)).partition("?")[0]
    expected = await client.get(plain)
    answer = await client.get(plain + "?")
    assert answer.status == expected.status
    # A balance and a statement contain the time of the request, and a problem its id.
    assert route.path.endswith(("/balance", "/statement")) or answer.body == expected.body


@pytest.mark.parametrize("route", [route for route in GUARDED if route.method != "GET"], ids=route_name)
async def test_a_write_takes_no_query(client: Client, route: Route) -> None:
    """A parameter of a write is a 400: nothing about a payment may be written in the query."""
    answer = await client.send(route.method, path_of(route, await furnish(client)) + "?_=1", {})
    assert (answer.status, answer.code, answer.json["retry"]) == (400, "invalid_request", "never")
    assert answer.json["detail"].startswith("A parameter is unknown. Parameters of this path: none. Leave out the _")
