"""Writes that refuse an Idempotency-Key, and what makes a retry of them safe."""

import pytest

from server.http.route import Route
from tests.api.probes import GUARDED, Names, body_of, furnish, new_names, path_of, route_name
from tests.api.steps import order
from tests.support.client import Client
from tests.support.service import Service

WRITES = [route for route in GUARDED if route.method != "GET"]
REFUSING = [route for route in WRITES if route.keyless]


def test_every_write_takes_a_key_or_refuses_it() -> None:
    """The header is never ignored: routes that post one transfer take it, and all others refuse it."""
    assert [route_name(route) for route in WRITES if route not in REFUSING] == [
        "POST /v1/transfers",
        "POST /v1/transfers/{id}/capture",
        "POST /v1/transfers/{id}/void",
        "POST /v1/transfers/{id}/reverse",
    ]


@pytest.mark.parametrize("key", ["a-key", '"quoted"', "", "not good", "k" * 256])
@pytest.mark.parametrize("route", REFUSING, ids=route_name)
async def test_a_key_is_refused(client: Client, route: Route, key: str) -> None:
    """A valid or an invalid key is a 400 that says how to retry safely, and nothing is done."""
    names = await furnish(client)
    before = (await client.get(f"/v1/accounts/{names.account}")).body
    body = body_of(
        route, Names(f"{names.account}-new", *names[1:]) if route.path != "/v1/accounts/{id}" else names, "i"
    )
    answer = await client.send(route.method, path_of(route, names), body, headers={"Idempotency-Key": key})
    assert (answer.status, answer.code) == (400, "idempotency_key_not_taken")
    assert (answer.json["outcome"], answer.json["retry"]) == ("not_applied", "never")
    detail = f"Send the request without the header. {route.keyless}"
    assert answer.json["detail"] == detail
    assert answer.json["errors"] == [{"pointer": "Idempotency-Key", "detail": detail}]
    assert (await client.get(f"/v1/accounts/{names.account}")).body == before
    assert (await client.get(f"/v1/accounts/{names.account}-new")).status == 404
    assert (await client.get("/v1/idempotency-keys/i")).status == 404


@pytest.mark.parametrize("route", [route for route in REFUSING if route.bodiless], ids=route_name)
async def test_a_key_is_refused_without_a_body(client: Client, route: Route) -> None:
    """The header is refused even if the request has no body."""
    path = path_of(route, await furnish(client))
    answer = await client.send(route.method, path, headers={"Idempotency-Key": "a-key"})
    assert (answer.status, answer.code) == (400, "idempotency_key_not_taken")
    assert (await client.send(route.method, path)).status == 200


@pytest.mark.parametrize("route", REFUSING, ids=route_name)
async def test_who_may_not_write_hears_that_first(client: Client, service: Service, ledger: str, route: Route) -> None:
    """The order of checks: the key, its role, the type of the body, then the idempotency header."""
    names = new_names()
    headers = {"Idempotency-Key": "a-key", "Content-Type": "text/plain"}
    stranger, reader = Client(client.session, client.url, None), await service.client(ledger, "read")
    for sender, code in ((stranger, "unauthorized"), (reader, "forbidden"), (client, "unsupported_media_type")):
        answer = await sender.send(route.method, path_of(route, names), {}, headers=headers)
        assert answer.code == code


async def test_a_key_on_a_read_is_no_harm(client: Client) -> None:
    """The header is accepted on reads, because a client may send it with every request."""
    await client.open("alice")
    answer = await client.get("/v1/accounts/alice", Idempotency_Key="a-key")
    assert answer.status == 200


async def test_what_is_said_to_be_safe_is_safe(client: Client) -> None:
    """A repeated account opening or bulk does nothing new; a repeated change with If-Match is made once."""
    opened = [await client.open("alice", floor=-5) for _ in range(2)]
    assert [(answer.status, answer.replayed) for answer in opened] == [(201, False), (200, True)]
    await client.open("bob")
    body = {"transfers": [{"key": "item", **order(amount=5)}]}
    sent = [await client.post("/v1/transfers/bulk", body) for _ in range(2)]
    assert [answer.json["results"][0]["replayed"] for answer in sent] == [False, True]
    match = {"If-Match": (await client.get("/v1/accounts/alice")).headers["ETag"]}
    changes = [await client.send("PATCH", "/v1/accounts/alice", {"floor": -9}, headers=match) for _ in range(2)]
    assert [answer.status for answer in changes] == [200, 412]
