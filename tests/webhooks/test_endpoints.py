"""Webhook endpoints: what administrators create, read and change, and how secrets are stored."""

import asyncio
import re
from typing import Any, get_args
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from server.books import create_books
from server.events.feed import TYPES
from server.events.webhooks import endpoints as module
from server.events.webhooks.addresses import Destinations
from server.events.webhooks.endpoints import (
    ENDPOINTS_OF_LEDGER_MAX,
    SECRETS_MAX,
    TESTS_OF_LEDGER_MAX,
    Endpoints,
    EndpointsFullError,
)
from server.events.webhooks.secrets import Vault
from server.events.webhooks.sender import Sender
from server.http.handlers.webhook_endpoints import EventType
from server.http.problems import KINDS
from server.settings import Settings
from tests.support.client import Client
from tests.support.clock import BooksClock
from tests.support.declared import check_message
from tests.support.postgres import administer
from tests.support.service import WEBHOOK_KEY, Service, in_process
from tests.support.waiting import until
from tests.webhooks.conftest import OTHER_KEY, listed, make, now
from tests.webhooks.receiver import receiving, silence, status

URL = "https://example.com/hook"
PATH = "/v1/webhook-endpoints"
# Nothing listens at this address.
NOBODY = "http://127.0.0.1:1/"
# All requests about one endpoint.
EACH: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PATCH", "", {}),
    ("DELETE", "", None),
    ("POST", "/rotate-secret", None),
    ("POST", "/test", None),
    ("POST", "/replay", {"from_position": 1}),
    ("GET", "/deliveries", None),
    ("GET", "/undelivered", None),
]


@pytest.fixture
async def admin(own: Service) -> Client:
    """An administrator of a ledger."""
    return await own.client("hooks")


def test_the_types_are_those_of_the_feed() -> None:
    """The types that can be asked for are those of the feed."""
    assert get_args(EventType) == tuple(TYPES)


async def test_what_is_made(admin: Client) -> None:
    """The answer to the creation shows the secret, and later answers do not."""
    made = await make(admin, URL, types=["hold.created", "account.closed"], description="ours")
    secret = made.pop("secret")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert {**made, "id": "", "created_at": ""} == {
        "id": "",
        "url": URL,
        "types": ["hold.created", "account.closed"],
        "description": "ours",
        "state": "enabled",
        "disabled_reason": None,
        "position": 0,
        "created_at": "",
    }
    assert await now(admin, made) == made
    assert (await admin.get(PATH)).json == {"data": [made], "next_cursor": None}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param({}, "/url", id="no URL"),
        pytest.param({"url": 7}, "/url", id="no text"),
        pytest.param({"url": "https://169.254.169.254/"}, "/url", id="an address that is not allowed"),
        pytest.param({"url": "https://u:p@example.com/"}, "/url", id="a password"),
        pytest.param({"url": URL, "types": ["transfer"]}, "/types/0", id="no such type"),
        pytest.param({"url": URL, "types": ["hold.created"] * 11}, "/types", id="too many types"),
        pytest.param({"url": URL, "description": "x" * 1_001}, "/description", id="a long description"),
        pytest.param({"url": URL, "secret": "whsec_x"}, "/secret", id="a secret of the caller's"),
    ],
)
async def test_what_is_refused(admin: Client, body: dict[str, Any], pointer: str) -> None:
    """A wrong member is pointed to, when an endpoint is created and when it is changed."""
    answer = await admin.post(PATH, body)
    assert (answer.status, answer.code, answer.json["errors"][0]["pointer"]) == (400, "invalid_request", pointer)
    assert (await admin.get(PATH)).json["data"] == []
    if body:
        made = await make(admin, URL)
        answer = await admin.send("PATCH", f"{PATH}/{made['id']}", body)
        assert (answer.status, answer.json["errors"][0]["pointer"]) == (400, pointer)
        assert (await now(admin, made))["url"] == URL


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"url": f"{URL}/2"}, {"url": f"{URL}/2"}, id="where it is"),
        pytest.param({"types": ["hold.voided"]}, {"types": ["hold.voided"]}, id="what it is sent"),
        pytest.param({"types": []}, {"types": []}, id="that it is sent all"),
        pytest.param({"description": "new"}, {"description": "new"}, id="what it is for"),
        pytest.param({"description": None}, {"description": None}, id="that it is for nothing"),
        pytest.param({"state": "disabled"}, {"state": "disabled", "disabled_reason": "requested"}, id="that it rests"),
        pytest.param({"state": "enabled"}, {}, id="that it goes on"),
    ],
)
async def test_a_change(admin: Client, change: dict[str, Any], expected: dict[str, Any]) -> None:
    """A change sets the named members and no others."""
    made = await make(admin, URL, types=["hold.created"], description="old")
    del made["secret"]
    answer = await admin.send("PATCH", f"{PATH}/{made['id']}", change)
    assert (answer.status, answer.json) == (200, {**made, **expected})
    assert await now(admin, made) == {**made, **expected}


async def test_what_is_removed(admin: Client) -> None:
    """A removed endpoint is no longer listed; the other one is."""
    made = [await make(admin, URL) for _ in range(2)]
    answer = await admin.send("DELETE", f"{PATH}/{made[0]['id']}")
    assert (answer.status, answer.json) == (200, {"id": made[0]["id"], "deleted": True})
    assert [row["id"] for row in (await admin.get(PATH)).json["data"]] == [made[1]["id"]]


@pytest.mark.parametrize("name", [str(UUID(int=7)), "nothing", "0" * 64, "%00"])
async def test_what_there_is_not(admin: Client, name: str) -> None:
    """Every route answers 404 for an unknown or a malformed id."""
    await make(admin, URL)
    for method, rest, body in EACH:
        answer = await admin.send(method, f"{PATH}/{name}{rest}", body)
        assert (answer.status, answer.code) == (404, "webhook_endpoint_not_found"), (method, rest)


async def test_forms_of_an_id(admin: Client) -> None:
    """An id is found in upper case too, but in no other form of UUIDs."""
    made = await make(admin, URL)
    assert (await admin.get(f"{PATH}/{made['id'].upper()}")).status == 200
    for name in (made["id"].replace("-", ""), f"urn:uuid:{made['id']}", f"%7B{made['id']}%7D"):
        assert (await admin.get(f"{PATH}/{name}")).status == 404, name


async def test_pages(admin: Client) -> None:
    """The list is paged in order of creation; a ledger has a maximum of endpoints, and a removal makes room."""
    made = [(await make(admin, URL))["id"] for _ in range(ENDPOINTS_OF_LEDGER_MAX)]
    found, path = [], f"{PATH}?limit=20"
    while path:
        answer = (await admin.get(path)).json
        found += [row["id"] for row in answer["data"]]
        path = answer["next_cursor"] and f"{PATH}?limit=20&cursor={answer['next_cursor']}"
    assert found == made
    answer = await admin.post(PATH, {"url": URL})
    assert (answer.status, answer.code) == (409, "webhook_endpoints_full")
    assert str(ENDPOINTS_OF_LEDGER_MAX) in KINDS["webhook_endpoints_full"].text
    assert (await admin.send("DELETE", f"{PATH}/{made[7]}")).status == 200
    await make(admin, URL)


async def test_secrets_are_kept_encrypted(admin: Client, own: Service) -> None:
    """No stored secret contains the secret as shown, or its bytes."""
    secrets = [(await make(admin, URL))["secret"]]
    rows = await administer(own.database_url, "SELECT secrets FROM tallystick.webhook_endpoints")
    rotated = await admin.post(f"{PATH}/{(await admin.get(PATH)).json['data'][0]['id']}/rotate-secret", {})
    secrets.append(rotated.json["secret"])
    rows += await administer(own.database_url, "SELECT secrets FROM tallystick.webhook_endpoints")
    kept = b"".join(secret for row in rows for secret in row["secrets"])
    for secret in secrets:
        assert secret.removeprefix("whsec_").encode() not in kept
        assert Webhook(secret)._whsecret not in kept


async def test_a_test(admin: Client, clock: BooksClock) -> None:
    """A test event is signed with every valid secret: the newest, and earlier ones for a day."""
    async with receiving(status(200, b"seen")) as receiver:
        made = await make(admin, receiver.url())
        secrets = [made.pop("secret")]
        for _ in range(SECRETS_MAX):
            rotated = (await admin.post(f"{PATH}/{made['id']}/rotate-secret", {})).json
            secrets.insert(0, rotated.pop("secret"))
            assert rotated == made

        async def signing() -> int:
            """Send a test event, and return how many secrets have signed it."""
            answer = await admin.post(f"{PATH}/{made['id']}/test", {})
            expected = {"delivered": True, "status": 200, "error": None, "duration_ms": 0, "answer": "seen"}
            assert (answer.status, {**answer.json, "duration_ms": 0}) == (200, expected)
            received = receiver.requests[-1]
            given = received.headers["webhook-signature"].split(" ")
            for secret, signature in zip(secrets, given, strict=False):
                event = Webhook(secret).verify(received.body, {**received.headers, "webhook-signature": signature})
                assert (event["type"], event["position"]) == ("tallystick.webhook.test.v1", 0)
                check_message(received.body)
                assert (event["id"], event["subject"]) == (received.headers["webhook-id"], made["id"])
            return len(given)

        assert await signing() == SECRETS_MAX
        await clock.advance(86_000)
        assert await signing() == SECRETS_MAX
        await clock.advance(800)
        assert await signing() == 1
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 3
    answer = await admin.post(f"{PATH}/{made['id']}/test", {})
    assert (answer.json["delivered"], answer.json["error"]) == (False, "connection refused")
    assert await listed(admin, made, "deliveries") == []


async def test_tests_are_bounded(admin: Client, own: Service) -> None:
    """A ledger whose endpoints do not answer may not send further test events, and other ledgers may."""
    other = await own.client("others")
    async with receiving(silence) as receiver:
        made = await make(admin, receiver.url())
        running = [asyncio.create_task(admin.post(f"{PATH}/{made['id']}/test", {})) for _ in range(TESTS_OF_LEDGER_MAX)]
        await until(lambda: len(receiver.requests) == TESTS_OF_LEDGER_MAX)
        answer = await admin.post(f"{PATH}/{made['id']}/test", {})
        assert (answer.status, answer.code) == (503, "overloaded")
        theirs = await make(other, NOBODY)
        assert (await other.post(f"{PATH}/{theirs['id']}/test", {})).json["error"] == "connection refused"
        receiver.behaviour = status(204)
        await receiver.end()
        for answer in await asyncio.gather(*running):
            assert (answer.status, answer.json["status"]) == (200, 204)


@pytest.mark.parametrize("key", [None, OTHER_KEY], ids=["no key", "another key"])
async def test_without_the_key(own: Service, admin: Client, key: str | None) -> None:
    """Without the right key, only requests that need a secret are refused."""
    made = await make(admin, NOBODY)
    path = f"{PATH}/{made['id']}"
    async with in_process(own.database_url, own.redis_url, webhook_key=key) as other:
        there = Client(other.session, other.url, admin.token)
        needing: list[tuple[str, Any]] = [(f"{path}/test", {})]
        if key is None:
            needing += [(PATH, {"url": URL}), (f"{path}/rotate-secret", {})]
        for where, body in needing:
            answer = await there.post(where, body)
            assert (answer.status, answer.code) == (409, "webhooks_not_configured"), where
        assert (await there.get(path)).status == 200
        assert (await there.send("PATCH", path, {"state": "disabled"})).status == 200
        assert (await there.post(f"{path}/replay", {"from_position": 1})).status == 200
    # A key moved to second place still decrypts.
    async with in_process(own.database_url, own.redis_url, webhook_key=f"{OTHER_KEY},{WEBHOOK_KEY}") as after:
        there = Client(after.session, after.url, admin.token)
        assert (await there.post(f"{path}/test", {})).json["error"] == "connection refused"


async def test_nothing_of_another_ledger(own: Service, admin: Client) -> None:
    """An administrator of another ledger finds no endpoint on any route, and changes nothing."""
    made = await make(admin, NOBODY)
    stranger = await own.client("strangers")
    assert (await stranger.get(PATH)).json["data"] == []
    for method, rest, body in EACH:
        answer = await stranger.send(method, f"{PATH}/{made['id']}{rest}", body)
        assert (answer.status, answer.code) == (404, "webhook_endpoint_not_found"), (method, rest)
    assert [row["id"] for row in (await admin.get(PATH)).json["data"]] == [made["id"]]


async def test_places_are_taken_by_one(admin: Client, own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of concurrent creations, a ledger gets only its maximum of endpoints, and the others are refused."""
    monkeypatch.setattr(module, "ENDPOINTS_OF_LEDGER_MAX", 3)
    [row] = await administer(own.database_url, "SELECT id FROM tallystick.ledgers")
    settings = Settings(database_url=own.database_url, redis_url=own.redis_url, posting_connections=12)
    async with create_books(settings) as books:
        endpoints = Endpoints(books.database, books.feed, Vault(WEBHOOK_KEY), Sender(Destinations()))
        making = (endpoints.create(row["id"], URL, 0, None) for _ in range(10))
        ended = await asyncio.gather(*making, return_exceptions=True)
    refusals = [error for error in ended if isinstance(error, BaseException)]
    assert [type(error) for error in refusals] == [EndpointsFullError] * 7
    assert len((await admin.get(PATH)).json["data"]) == 3
