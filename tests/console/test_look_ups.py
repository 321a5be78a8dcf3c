"""Look-ups and actions of the console: the service's own answers, for an operator."""

from typing import Any

import pytest

from tests.console.steps import Console
from tests.support.service import make_key


async def test_an_account(console: Console) -> None:
    """It is shown as the API shows it, with amounts that no double could hold as strings."""
    await console.client.open("vault", floor=None)
    await console.client.open("rich")
    assert (await console.client.transfer("vault", "rich", 9_007_199_254_740_993)).status == 201
    ledger = await console.ledger()
    status, found = await console.ask(
        "GET", f"/ledgers/{ledger}/v1/accounts/rich", Accept="application/json; amounts=string"
    )
    assert (status, found["balance"]) == (200, "9007199254740993")
    status, found = await console.ask("GET", f"/ledgers/{ledger}/v1/accounts/rich")
    assert found == (await console.client.get("/v1/accounts/rich")).json


async def test_children(console: Console) -> None:
    """A transfer has its captures, voids and reversals, oldest first, and those of no other ledger."""
    await console.client.open("bank", floor=None)
    await console.client.open("shop")
    held = (await console.client.transfer("bank", "shop", 100, hold=True)).json
    captured = await console.client.send(
        "POST", f"/v1/transfers/{held['id']}/capture", {"amount": 40}, headers={"Idempotency-Key": "capture"}
    )
    ledger = await console.ledger()
    status, children = await console.ask("GET", f"/ledgers/{ledger}/transfers/{held['id']}/children")
    assert (status, [child["id"] for child in children]) == (200, [captured.json["id"]])
    assert children[0]["amount"] == "40"
    await make_key(console.server.database_url, "others", "read")
    _, ledgers = await console.ask("GET", "/ledgers")
    other = next(found["id"] for found in ledgers if found["name"] == "others")
    assert await console.ask("GET", f"/ledgers/{other}/transfers/{held['id']}/children") == (200, [])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/v1/accounts/nobody", 404, id="no such account"),
        pytest.param("/v1/accounts/%00", 404, id="what no account can be called"),
        pytest.param("/v1/transfers?limit=0", 400, id="a limit that is none"),
        pytest.param("/v1/transfers/x", 404, id="what is no id"),
        pytest.param("/transfers/x/children", 404, id="children of what is no id"),
        pytest.param("/v1/idempotency-keys/x", 404, id="a key that is free"),
        pytest.param("/v1/events/stream", 404, id="a stream"),
        pytest.param("/v1/balances", 404, id="what takes connections of its own"),
        pytest.param("/v1/events?after=9000000000000000000", 409, id="a position that is not reached"),
        pytest.param("/v1/nothing", 404, id="no such path"),
        pytest.param("/livez", 404, id="what is not of the API"),
        pytest.param("/v1/../livez", 404, id="a path with steps"),
    ],
)
async def test_nonsense(console: Console, path: str, status: int) -> None:
    """Whatever is asked for is answered with what is wrong with it."""
    answered, found = await console.ask("GET", f"/ledgers/{await console.ledger()}{path}")
    assert answered == status
    assert found["detail"]


@pytest.mark.parametrize("ledger", ["0", "x", "-1", "777777", "9999999999999999999", "99999999999999999999", "1%2F2"])
async def test_what_is_no_ledger(console: Console, ledger: str) -> None:
    """There is nothing in it, and nothing can be made in it."""
    asked = [
        ("GET", "/v1/accounts", None),
        ("GET", "/transfers/01999999-0000-7000-8000-000000000000/children", None),
        ("POST", "/v1/api-keys", {"role": "read"}),
        ("POST", "/v1/webhook-endpoints", {"url": "http://127.0.0.1:1/hooks"}),
    ]
    for method, path, body in asked:
        assert (await console.ask(method, f"/ledgers/{ledger}{path}", body))[0] == 404


async def test_a_body_that_cannot_be_unpacked(console: Console) -> None:
    """It is the fault of who sent it."""
    path = f"/ledgers/{await console.ledger()}/v1/api-keys"
    assert (await console.ask("POST", path, {"role": "read"}, **{"Content-Encoding": "gzip"}))[0] == 400


async def test_keys(console: Console) -> None:
    """They are made, limited and revoked as by the API."""
    path = f"/ledgers/{await console.ledger()}/v1/api-keys"
    status, made = await console.ask("POST", path, {"role": "read", "description": "by hand"})
    assert status == 201
    assert made["token"].startswith("tsk_")
    key = f"{path}/{made['id']}"
    status, changed = await console.ask("PATCH", key, {"rate": "5/s", "burst": 7})
    assert (status, changed["rate"], changed["burst"]) == (200, "5/s", 7)
    status, revoked = await console.ask("DELETE", key)
    assert status == 200
    assert revoked["revoked_at"]
    assert f"an operator sent DELETE /v1/api-keys/{made['id']}" in console.server.log_text()
    assert made["token"] not in console.server.log_text()


async def test_webhooks(console: Console) -> None:
    """An endpoint is sent again what it was sent."""
    path = f"/ledgers/{await console.ledger()}/v1/webhook-endpoints"
    made: dict[str, Any]
    status, made = await console.ask("POST", path, {"url": "http://127.0.0.1:1/hooks"})
    assert status == 201
    status, found = await console.ask("POST", f"{path}/{made['id']}/replay", {"from_position": 1})
    assert (status, found["position"]) == (200, 0)
    assert (await console.ask("GET", f"{path}/{made['id']}/deliveries"))[0] == 200


async def test_a_body_without_end(console: Console) -> None:
    """It is read up to what a body may have."""
    path = f"/ledgers/{await console.ledger()}/v1/webhook-endpoints"
    status, found = await console.ask("POST", path, {"url": "x" * 200_000})
    assert (status, found["code"]) == (413, "body_too_large")
