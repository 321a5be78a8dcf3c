"""Cross-origin requests: pages of the configured origins may read every answer; pages of other origins may not."""

from collections.abc import AsyncIterator

import pytest

from server.http.cors import MAX_AGE_SECONDS
from server.http.origins import read_origins
from server.http.routes import ROUTES
from tests.input.wire import connect, request
from tests.limits.steps import limited, once
from tests.support.client import Client
from tests.support.hot import answered
from tests.support.service import NO_REDIS, Service, in_process

APP, OTHER = "https://app.example.com", "http://localhost:3000"
STRANGER = "https://evil.example.com"
SETTING = f"{APP}, {OTHER}"
ALLOW = "Access-Control-Allow-Origin"
EXPOSED = {"ETag", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id", "Idempotent-Replayed"}
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}


@pytest.fixture
async def open_to_pages(database_url: str) -> AsyncIterator[Service]:
    """A service whose settings name two origins."""
    async with in_process(database_url, NO_REDIS, cors_origins=SETTING) as service:
        yield service


def nobody(service: Service) -> Client:
    """Return a client without a key."""
    return Client(service.session, service.url, None)


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
async def test_a_browser_may_ask_first(open_to_pages: Service, path: str) -> None:
    """A preflight is answered without a key, with the methods of the path and the header fields that callers send."""
    answer = await nobody(open_to_pages).send("OPTIONS", path.replace("{id}", "x"), headers={"Origin": APP, **ASKED})
    assert (answer.status, answer.body) == (204, b"")
    assert "Content-Length" not in answer.headers
    assert (answer.headers[ALLOW], answer.headers["Vary"]) == (APP, "Origin")
    methods = set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    declared = {route.method for route in ROUTES if route.path == path}
    assert methods >= declared
    assert ("HEAD" in methods) == ("GET" in methods)
    fields = {name.lower() for name in answer.headers["Access-Control-Allow-Headers"].split(", ")}
    assert fields >= {"authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "x-request-id"}
    assert answer.headers["Access-Control-Max-Age"] == str(MAX_AGE_SECONDS)
    assert "RateLimit" not in answer.headers
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_no_preflight(open_to_pages: Service) -> None:
    """OPTIONS is no preflight from an unlisted origin, without an origin or a method, or for an unknown path."""
    client = nobody(open_to_pages)
    for headers in ({"Origin": STRANGER, **ASKED}, {"Origin": "null", **ASKED}, dict(ASKED), {"Origin": APP}):
        answer = await client.send("OPTIONS", "/v1/transfers", headers=headers)
        assert (answer.status, answer.code) == (405, "method_not_allowed"), headers
        assert "Access-Control-Allow-Methods" not in answer.headers
    unknown = await client.send("OPTIONS", "/v1/nothing", headers={"Origin": APP, **ASKED})
    assert (unknown.status, unknown.headers[ALLOW]) == (404, APP)


async def test_preflights_are_bounded(database_url: str) -> None:
    """Preflights count against the limit for requests without a key, and a page can read the 429."""
    async with in_process(
        database_url, NO_REDIS, cors_origins=SETTING, anonymous_rate="1/day", anonymous_burst=3
    ) as service:
        client = nobody(service)
        answers = [await client.send("OPTIONS", "/v1/limits", headers={"Origin": APP, **ASKED}) for _ in range(4)]
        assert [answer.status for answer in answers] == [204, 204, 204, 429]
        assert answers[-1].headers[ALLOW] == APP


@pytest.mark.parametrize("origin", [APP, OTHER, STRANGER, "null", None])
async def test_every_answer_may_be_read(open_to_pages: Service, origin: str | None) -> None:
    """Successes, refusals, a 304 and a 401 all allow the origin that asked, and list the fields a page may read."""
    client = await open_to_pages.client("books")
    poor = await limited(open_to_pages, "books", once(1))
    await client.open("alice")
    await poor.get("/v1/accounts")
    sent = {} if origin is None else {"Origin": origin}
    for who, method, path, fields, status in (
        (client, "GET", "/v1/accounts/alice", {}, 200),
        (client, "GET", "/v1/accounts/alice", {"If-None-Match": '"1"'}, 304),
        (client, "HEAD", "/v1/accounts/alice", {}, 200),
        (client, "GET", "/v1/accounts/nobody", {}, 404),
        (client, "GET", "/v1/transfers", {}, 200),
        (client, "GET", "/v1/transfers?x=1", {}, 400),
        (client, "POST", "/v1/transfers", {}, 400),
        (client, "PUT", "/v1/transfers", {}, 405),
        (poor, "GET", "/v1/transfers", {}, 429),
        (nobody(open_to_pages), "GET", "/v1/transfers", {}, 401),
        (nobody(open_to_pages), "GET", "/problems", {}, 200),
        (nobody(open_to_pages), "GET", "/livez", {}, 200),
    ):
        answer = await who.send(method, path, {} if method == "POST" else None, headers={**fields, **sent})
        assert answer.status == status, (method, path, answer)
        assert answer.headers["Vary"] == ("Accept, Origin" if "ETag" in answer.headers else "Origin")
        exposed = set(answer.headers.get("Access-Control-Expose-Headers", "").split(", "))
        if origin in (APP, OTHER):
            assert answer.headers[ALLOW] == origin
            assert exposed >= EXPOSED
        else:
            assert ALLOW not in answer.headers
            assert exposed == {""}


async def test_an_overloaded_service_may_be_read(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page can read a 503 too."""
    async with in_process(database_url, NO_REDIS, cors_origins=SETTING) as service:
        client = await service.client("books")
        monkeypatch.setattr("server.http.admission.RUNNING_READS_MAX", 0)
        monkeypatch.setattr("server.http.admission.WAIT_SECONDS", 0.01)
        answer = await client.get("/v1/accounts/alice", Origin=APP)
        assert (answer.status, answer.code, answer.headers[ALLOW]) == (503, "overloaded", APP)


async def test_repeated_heads_keep_their_origin(open_to_pages: Service) -> None:
    """On one connection, each answer names the origin of its own request."""
    client = await open_to_pages.client("books")
    await client.open("alice")
    async with connect(client.url) as wire:
        for origin in (APP, APP, OTHER, APP, STRANGER, OTHER, APP, APP):
            await wire.send(request("GET", "/v1/accounts/alice", f"Origin: {origin}", token=client.token))
            found = await answered(wire)
            assert found.headers.get(ALLOW.lower()) == (None if origin is STRANGER else origin)


async def test_nothing_is_said_where_no_origin_is_named(service: Service, client: Client) -> None:
    """Without the setting, answers have no cross-origin fields."""
    await client.open("alice")
    answer = await client.get("/v1/accounts/alice", Origin=APP)
    assert answer.headers["Vary"] == "Accept"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    asked = await nobody(service).send("OPTIONS", "/v1/accounts", headers={"Origin": APP, **ASKED})
    assert (asked.status, asked.code, asked.headers["Allow"]) == (405, "method_not_allowed", "POST, GET, HEAD")


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        (" ", ()),
        (APP, (APP,)),
        (f" {APP} ,{OTHER}", (APP, OTHER)),
        (
            "http://[::1]:3000,app://localhost,https://a_b.example",
            ("http://[::1]:3000", "app://localhost", "https://a_b.example"),
        ),
    ],
)
def test_origins(text: str, origins: tuple[str, ...]) -> None:
    """Origins are separated by commas, with or without blanks."""
    assert read_origins(text) == origins


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("*", "name each"),
        (f"{APP},*", "name each"),
        ("null", "not an origin"),
        ("app.example.com", "not an origin"),
        (f"{APP}/", "not an origin"),
        (f"{APP}/app", "not an origin"),
        ("https://App.example.com", "not an origin"),
        ("https://*.example.com", "not an origin"),
        ("https://bücher.example", "not an origin"),
        (f"{APP},", "not an origin"),
        (f"{APP} {OTHER}", "not an origin"),
        ("https://app.example.com:443", "leave out the port"),
        ("http://app.example.com:80", "leave out the port"),
        ("https://a\r\nX: y", "not an origin"),
    ],
)
def test_what_no_browser_sends_is_refused(text: str, why: str) -> None:
    """An origin that no browser could send is refused with a reason."""
    with pytest.raises(ValueError, match=why):
        read_origins(text)
