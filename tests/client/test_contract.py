"""The client against the route table: it has a call for every route, and knows every answer."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from server.http.router import Router
from server.http.routes import ROUTES
from tallystick_client.clients import Client
from tallystick_client.request import Request
from tallystick_client.rules import Rules

ID = "0198b2c4-0000-7000-8000-000000000001"
NOW = datetime(2026, 5, 4, tzinfo=UTC)
# Members of a CloudEvent or a problem that programs do not need.
LEFT_OUT = {"specversion", "datacontenttype", "type", "violated-policies", "failures"}


class Noting:
    """Replaces a driver: returns the first request of a call, and sends nothing."""

    url = ""
    rules = Rules(1.0)

    def call(self, course: Any) -> Request[Any]:
        """Return the first request of a call."""
        request: Request[Any] = next(course).request
        return request

    iterate = call


CALLS: list[Callable[[Any], Any]] = [
    lambda c: c.accounts.create("a", "EUR"),
    lambda c: c.accounts.list(prefix="a"),
    lambda c: c.accounts.create_many([]),
    lambda c: c.accounts.get("a", min_version=1),
    lambda c: c.accounts.update("a", closed=True),
    lambda c: c.accounts.entries("a", since=NOW, until=NOW),
    lambda c: c.accounts.balance("a", NOW, by="effective"),
    lambda c: c.accounts.statement("a", since=NOW, until=NOW, by="created"),
    lambda c: c.balances(prefix="a", at=NOW),
    lambda c: c.transfers.create("a", "b", 1, "EUR"),
    lambda c: c.transfers.list(account="a", reference="r", kind="hold", since=NOW, until=NOW, metadata={"k": "v"}),
    lambda c: c.transfers.create_many([]),
    lambda c: c.transfers.preview("a", "b", 1, "EUR"),
    lambda c: c.transfers.get(ID),
    lambda c: c.transfers.capture(ID),
    lambda c: c.transfers.void(ID),
    lambda c: c.transfers.reverse(ID),
    lambda c: c.idempotency_keys.get("k"),
    lambda c: c.events.list(after=1, wait_seconds=1, types=["transfer.posted"], account="a"),
    lambda c: c.events.follow(after=1, types=["transfer.posted"], account="a"),
    lambda c: c.ledger(),
    lambda c: c.limits(),
    lambda c: c.integrity(),
    lambda c: c.webhook_endpoints.create("https://example.com"),
    lambda c: c.webhook_endpoints.list(),
    lambda c: c.webhook_endpoints.get(ID),
    lambda c: c.webhook_endpoints.update(ID, state="enabled"),
    lambda c: c.webhook_endpoints.delete(ID),
    lambda c: c.webhook_endpoints.rotate_secret(ID),
    lambda c: c.webhook_endpoints.test(ID),
    lambda c: c.webhook_endpoints.replay(ID, 1),
    lambda c: c.webhook_endpoints.deliveries(ID),
    lambda c: c.webhook_endpoints.undelivered(ID),
    lambda c: c.api_keys.create("read"),
    lambda c: c.api_keys.list(),
    lambda c: c.api_keys.get(ID),
    lambda c: c.api_keys.update(ID, burst=1),
    lambda c: c.api_keys.rotate(ID),
    lambda c: c.api_keys.revoke(ID),
]


def requests() -> list[Request[Any]]:
    """Return the first request of each call."""
    client: Client[Any] = Client(Noting())
    return [call(client) for call in CALLS]


def route(request: Request[Any]) -> Any:
    """Return the route of a request."""
    match = Router(ROUTES).find(request.path)
    assert match is not None, request
    return match[0][request.method]


def structs(kind: Any) -> Iterator[Any]:
    """Return the objects in a type: itself, its options or its items."""
    if isinstance(kind, msgspec.inspect.StructType):
        yield kind
    elif isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from structs(each)
    elif isinstance(kind, msgspec.inspect.CollectionType):
        yield from structs(kind.item_type)


def differences(served: Any, known: Any, where: str) -> Iterator[str]:
    """Return the served members that the client does not know, and the required ones that are not served."""
    for theirs, ours in zip(structs(served), structs(known), strict=False):
        told = {field.encode_name: field for field in theirs.fields}
        read = {field.encode_name: field for field in ours.fields}
        yield from (f"{where}.{name} is not known" for name in told.keys() - read.keys() - LEFT_OUT)
        needed = {name for name, field in read.items() if field.required}
        yield from (f"{where}.{name} is not served" for name in needed - told.keys())
        for name in told.keys() & read.keys():
            yield from differences(told[name].type, read[name].type, f"{where}.{name}")


def test_every_route_has_a_call() -> None:
    """The client has a call for every route below /v1."""
    called = {(request.method, route(request).path) for request in requests()}
    assert {(each.method, each.path) for each in ROUTES if each.path.startswith("/v1/")} == called


@pytest.mark.parametrize("request_", requests(), ids=str)
def test_answers_are_known(request_: Request[Any]) -> None:
    """The client knows every member of each answer, and requires none that is not served."""
    found: list[str] = []
    for status, answers in route(request_).answers.items():
        # The first of several forms belongs to this request.
        answer = answers[0] if isinstance(answers, tuple) else answers
        if status < 300 and answer is not None and request_.path != "/v1/events/stream":
            served, known = msgspec.inspect.multi_type_info([answer, request_.answer])
            assert list(structs(served)), answer
            found += differences(served, known, request_.path)
    assert found == []


def test_queries_are_taken() -> None:
    """The service accepts every parameter that the client sends."""
    for request in requests():
        names = {name.split(".")[0] for name in route(request).query.__struct_encode_fields__}
        assert {name.split(".")[0] for name in request.parameters} <= names, request
