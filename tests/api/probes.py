"""One valid request for every route in the route table. A new route without one fails the tests."""

import secrets
from typing import Any, NamedTuple
from uuid import uuid4

from server.http.handlers.reference import BUNDLE_NAME
from server.http.route import Route
from server.http.routes import ROUTES
from tests.api.steps import order
from tests.support.client import Answer, Client, new_key


class Names(NamedTuple):
    """The names that requests use: account, transfer, its key and reference, hold, webhook endpoint, API key."""

    account: str
    transfer: str
    key: str
    reference: str
    hold: str
    webhook: str
    api_key: str


# Nothing listens at this address.
NOBODY = "http://127.0.0.1:1/"


def route_name(route: Route) -> str:
    """Return the name that tests use for a route."""
    return f"{route.method} {route.path}"


GUARDED = [route for route in ROUTES if route.role is not None]
OPEN = [route for route in ROUTES if route.role is None]
# Routes whose requests name a resource. The others concern the key or the ledger, or list relayed events.
_NAMELESS = (
    *("/v1/ledger", "/v1/limits", "/v1/integrity", "/v1/events", "/v1/events/stream"),
    *("/v1/webhook-endpoints", "/v1/api-keys"),
)
NAMING = [route for route in GUARDED if route.path not in _NAMELESS]


def path_of(route: Route, names: Names) -> str:
    """Return the path and query of a request to *route* that names *names*."""
    collection = route.path.partition("{id}")[0]
    name = {
        "/v1/accounts/": names.account,
        "/v1/transfers/": names.transfer,
        "/v1/idempotency-keys/": names.key,
        "/v1/webhook-endpoints/": names.webhook,
        "/v1/api-keys/": names.api_key,
        "/problems/": "not_found",
        "/docs/": BUNDLE_NAME,
    }.get(collection, "")
    if route.path.endswith(("/capture", "/void")):
        name = names.hold
    query = {
        "GET /v1/accounts": f"?prefix={names.account}",
        "GET /v1/accounts/{id}/balance": "?at=2026-01-01T00:00:00Z",
        "GET /v1/balances": f"?prefix={names.account}",
        "GET /v1/events": f"?account={names.account}",
        "GET /v1/events/stream": f"?account={names.account}",
        "GET /v1/transfers": f"?account={names.account}&reference={names.reference}",
    }.get(route_name(route), "")
    return route.path.replace("{id}", name) + query


def body_of(route: Route, names: Names, key: str) -> Any:
    """Return the body of a request to *route* that names *names*, or None if it has none."""
    if route.method == "GET":
        return None
    account = {"id": names.account, "currency": "EUR", "floor": None}
    transfer = order(names.account, "other", 1)
    return {
        "POST /v1/accounts": account,
        "POST /v1/accounts/bulk": {"accounts": [account]},
        "PATCH /v1/accounts/{id}": {"metadata": {"touched": "yes"}},
        "POST /v1/transfers": transfer,
        "POST /v1/transfers/bulk": {"transfers": [{"key": key, **transfer}]},
        "POST /v1/transfers/preview": transfer,
        "POST /v1/transfers/{id}/capture": {},
        "POST /v1/transfers/{id}/void": {},
        "POST /v1/transfers/{id}/reverse": {},
        "POST /v1/webhook-endpoints": {"url": NOBODY},
        "PATCH /v1/webhook-endpoints/{id}": {"description": "touched"},
        "DELETE /v1/webhook-endpoints/{id}": {},
        "POST /v1/webhook-endpoints/{id}/rotate-secret": {},
        "POST /v1/webhook-endpoints/{id}/test": {},
        "POST /v1/webhook-endpoints/{id}/replay": {"from_position": 1},
        "POST /v1/api-keys": {"role": "read"},
        "PATCH /v1/api-keys/{id}": {"description": "touched"},
        "DELETE /v1/api-keys/{id}": {},
        "POST /v1/api-keys/{id}/rotate": {},
    }[route_name(route)]


async def probe(client: Client, route: Route, names: Names, *, key: str | None = None, request_id: str = "") -> Answer:
    """Send the request of a route. A transfer uses *key*, or a new key."""
    key = key or new_key()
    headers = {"Idempotency-Key": key} if route.method == "POST" and route.keyless is None else {}
    if request_id:
        headers["X-Request-Id"] = request_id
    return await client.send(route.method, path_of(route, names), body_of(route, names, key), headers=headers)


def new_names() -> Names:
    """Return names that no test's ledger has, all of one length, so that answers can be compared byte for byte."""
    tag = secrets.token_hex(6)
    return Names(
        f"vault-{tag}", str(uuid4()), f"key-{tag}", f"ref-{tag}", str(uuid4()), str(uuid4()), secrets.token_hex(8)
    )


async def furnish(client: Client, names: Names | None = None) -> Names:
    """Create an account, a transfer, a hold, a webhook endpoint and an API key in a ledger and return their names."""
    account, _, key, reference, *_ = names or new_names()
    assert (await client.open(account, floor=None)).status == 201
    assert (await client.open("other")).status == 201
    posted = await client.transfer(account, "other", 7, key, reference=reference)
    assert posted.status == 201
    hold = await client.transfer(account, "other", 3, hold=True)
    assert hold.status == 201
    webhook = await client.post("/v1/webhook-endpoints", {"url": NOBODY})
    assert webhook.status == 201
    api_key = await client.post("/v1/api-keys", {"role": "read"})
    assert api_key.status == 201
    made = [answer.json["id"] for answer in (posted, hold, webhook, api_key)]
    return Names(account, made[0], key, reference, *made[1:])
