"""A ledger of which a key sees a part: accounts within its prefixes and others, and transfers of each kind."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from server.http.route import Route
from tests.api.probes import NOBODY, route_name
from tests.api.steps import order
from tests.support.client import Answer, Client, new_key
from tests.support.service import Service

# The prefixes of the accounts that the key sees, and the prefix of those that it does not.
PREFIXES = ["shop:", "till:"]
HIDDEN = "bank:"
# Which of a request's two accounts the key sees: both, one, none.
CASES = ("inside", "mixed", "outside")
SIDES = {"inside": ("shop:a", "till:b"), "mixed": ("shop:a", "bank:x"), "outside": ("bank:x", "bank:y")}


class Part(NamedTuple):
    """A ledger, with its transfers and holds by case."""

    whole: Client
    # The client whose key sees only a part.
    part: Client
    moved: Mapping[str, Any]
    held: Mapping[str, Any]
    # The ids of API keys by case: those that a narrowed key may see, and others.
    api_keys: Mapping[str, str]
    webhook: str


async def narrowed(client: Client, accounts: list[str] | None, role: str = "admin") -> Client:
    """Return a client with a key that sees these accounts."""
    made = await client.post("/v1/api-keys", {"role": role, "accounts": accounts, "rate": "1000000/s"})
    assert made.status == 201, made
    return Client(client.session, client.url, made.json["token"])


async def make_part(service: Service, ledger: str) -> Part:
    """Fill a ledger and narrow a key to a part of it."""
    whole = await service.client(ledger)
    for account in ("shop:a", "till:b", "bank:x", "bank:y"):
        assert (await whole.open(account, floor=None, metadata={"owner": f"of {account}"})).status == 201
    found: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for case, sides in SIDES.items():
        for hold, posted in found.items():
            made = await whole.transfer(*sides, 5, f"{case}-{hold}", hold=hold, reference="order-1")
            assert made.status == 201, made
            posted[case] = made.json
    webhook = (await whole.post("/v1/webhook-endpoints", {"url": NOBODY})).json["id"]
    api_keys = {}
    for case, accounts in (("inside", ["shop:1"]), ("mixed", ["shop:1", "bank:"]), ("outside", None)):
        api_keys[case] = (await whole.post("/v1/api-keys", {"role": "read", "accounts": accounts})).json["id"]
    return Part(whole, await narrowed(whole, PREFIXES), found[False], found[True], api_keys, webhook)


async def ask(
    client: Client, route: Route, case: str, part: Part, *, account: str | None = None, key: str | None = None
) -> Answer:
    """
    Send a route's request about the accounts of a case.

    Args:
        account, key: Used in the path instead of those of the case.
    """
    source, destination = SIDES[case]
    # If the request names only one account, a mixed case uses the hidden one.
    account = account or {"inside": "shop:a", "mixed": "bank:x", "outside": "bank:y"}[case]
    name = route.path.partition("{id}")[0]
    found = part.moved if route.path.endswith("/reverse") or route.method == "GET" else part.held
    names = {
        "/v1/accounts/": account,
        "/v1/transfers/": found[case]["id"],
        "/v1/idempotency-keys/": key or f"{case}-False",
        "/v1/webhook-endpoints/": part.webhook,
        "/v1/api-keys/": part.api_keys[case],
    }
    prefix = {"inside": "shop:", "mixed": "", "outside": "bank:"}[case]
    query = {
        "GET /v1/accounts": f"?prefix={prefix}" if prefix else "",
        "GET /v1/accounts/{id}/balance": "?at=2026-01-01T00:00:00Z",
        "GET /v1/balances": f"?prefix={prefix}" if prefix else "",
        "GET /v1/events": f"?account={account}" if case != "mixed" else "",
        "GET /v1/events/stream": f"?account={account}" if case != "mixed" else "",
        "GET /v1/transfers": f"?account={account}" if case != "mixed" else "",
    }.get(route_name(route), "")
    fresh = {"id": f"{account}-new", "currency": "EUR"}
    transfer = order(source, destination, 1)
    fresh_key = new_key()
    body = {
        "POST /v1/accounts": fresh,
        "POST /v1/accounts/bulk": {"accounts": [fresh]},
        "PATCH /v1/accounts/{id}": {"metadata": {"touched": "yes"}},
        "POST /v1/transfers": transfer,
        "POST /v1/transfers/bulk": {"transfers": [{"key": fresh_key, **transfer}]},
        "POST /v1/transfers/preview": transfer,
        "POST /v1/webhook-endpoints": {"url": NOBODY},
        "POST /v1/webhook-endpoints/{id}/replay": {"from_position": 1},
        "POST /v1/api-keys": {
            "role": "read",
            "accounts": {"inside": ["shop:1"], "mixed": ["shop:", "bank:"]}.get(case),
        },
    }.get(route_name(route), {} if route.body else None)
    headers = {"Idempotency-Key": fresh_key} if route.takes_key else {}
    path = route.path.replace("{id}", names.get(name, "")) + query
    return await client.send(route.method, path, body, headers=headers)


def outcome(answer: Answer) -> str:
    """Return the status and problem code of an answer; for a bulk, those of its item."""
    document = answer.json if answer.headers["Content-Type"].endswith("json") else {}
    result = document["results"][0] if "results" in document else document if "replayed" in document else None
    problem = document if result is None else result.get("problem", {})
    status = answer.status if result is None else result["status"]
    return f"{status} {problem['code']}" if "code" in problem else str(status)
