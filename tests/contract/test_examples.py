"""Every example of the OpenAPI document is sent to a real server, and answered as the document says."""

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from server.http.openapi import document
from server.http.route import NAME, Route
from server.http.routes import ROUTES
from tests.api.probes import NOBODY, route_name
from tests.support.client import Client, new_key
from tests.support.declared import whole

DESCRIBED: Any = json.loads(document())
SENT = [
    pytest.param(route, example["value"], id=f"{route_name(route)} {example['summary']}")
    for route in ROUTES
    if route.body is not None
    for example in DESCRIBED["paths"][route.path][route.method.lower()]["requestBody"]["content"]["application/json"][
        "examples"
    ].values()
]
READS = [route for route in ROUTES if route.method == "GET"]


async def furnish(client: Client) -> dict[str, str]:
    """Create what the examples name, and return the ids chosen by the service, by the beginning of the path."""
    for account in ("customer:42", "merchant:7", "fees"):
        assert (await client.open(account, floor=None)).status == 201
    moved = await client.transfer("merchant:7", "customer:42", 5_000, "order-1001")
    hold = await client.transfer("customer:42", "merchant:7", 1_250, hold=True)
    endpoint = await client.post("/v1/webhook-endpoints", {"url": NOBODY})
    api_key = await client.post("/v1/api-keys", {"role": "read"})
    return {
        "/v1/transfers/": moved.json["id"],
        "/v1/transfers/{id}/capture": hold.json["id"],
        "/v1/transfers/{id}/void": hold.json["id"],
        "/v1/webhook-endpoints/": endpoint.json["id"],
        "/v1/api-keys/": api_key.json["id"],
    }


def parameters(route: Route, place: str) -> dict[str, Any]:
    """Return the examples of an operation's parameters by name, for the path, the query or the header."""
    declared = DESCRIBED["paths"][route.path][route.method.lower()]["parameters"]
    found = [whole(DESCRIBED, parameter) for parameter in declared]
    return {one["name"]: one["example"] for one in found if one["in"] == place and "example" in one}


def path_of(route: Route, made: Mapping[str, str]) -> str:
    """Return the path of an operation with its example id, or with the id of a created resource."""
    name = made.get(route.path, made.get(route.path.partition(NAME)[0], parameters(route, "path").get("id", "")))
    return route.path.replace(NAME, quote(name, safe=""))


def good(route: Route) -> int:
    """Return the status of the first successful answer."""
    return int(next(iter(route.answers)))


@pytest.mark.parametrize(("route", "body"), SENT)
async def test_a_body(client: Client, route: Route, body: Any) -> None:
    """Every example body succeeds, with all its items and with all documented header fields."""
    made = await furnish(client)
    headers = {**parameters(route, "header"), **({"Idempotency-Key": new_key()} if route.takes_key else {})}
    answer = await client.send(route.method, path_of(route, made), body, headers=headers)
    assert answer.status == good(route), answer
    assert answer.headers["X-Request-Id"] == headers["X-Request-Id"]
    for result in answer.json.get("results", ()):
        assert result["status"] == 201, result


def asked(route: Route, names: Collection[str]) -> str:
    """Return the query with the examples of these parameters."""
    found: dict[str, str] = {}
    for name, value in parameters(route, "query").items():
        if name in names:
            found |= value if isinstance(value, dict) else {name: ",".join(value) if isinstance(value, list) else value}
    return f"?{urlencode(found)}" if found else ""


@pytest.mark.parametrize("route", READS, ids=route_name)
async def test_parameters(client: Client, route: Route) -> None:
    """Each parameter and header field works alone, and all parameters work together."""
    path = path_of(route, await furnish(client))
    needed = {field.encode_name for field in msgspec.structs.fields(route.query) if field.required}
    names = parameters(route, "query")
    for chosen in ({*needed}, *({*needed, name} for name in names), {*names}):
        answer = await client.get(path + asked(route, chosen))
        assert answer.status == good(route), (chosen, answer)
    for name, value in parameters(route, "header").items():
        answer = await client.send("GET", path + asked(route, needed), headers={name: value})
        assert answer.status in route.answers, (name, answer)
