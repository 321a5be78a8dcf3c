"""The hot path of a connection: it answers like aiohttp's path, and keeps nothing of a request."""

import pytest

from server.gate.key_store import revoke_whole_key
from server.http.call import Call
from server.http.wire.connection import Connection
from server.store.postgres import Database
from tests.input.wire import Response, connect, request
from tests.support.client import Client, new_key
from tests.support.hot import BODY, CHUNKED, JSON, Hot, answered, chunks, plain, send_in_pieces
from tests.support.service import make_key


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods and paths that were served on the hot path."""
    paths: list[str] = []
    start = Connection._start

    def noted(self: Connection, call: Call) -> None:
        paths.append(f"{call.method} {call.path}")
        start(self, call)

    monkeypatch.setattr(Connection, "_start", noted)
    return paths


async def alone(hot: Hot, data: bytes) -> Response:
    """Return the answer to a request on its own connection."""
    async with connect(hot.url) as wire:
        await wire.send(data)
        return await answered(wire)


async def test_what_is_there_whole_is_served_from_the_connection(hot: Hot, served: list[str]) -> None:
    """Complete requests take the hot path; otherwise the tests here would prove nothing."""
    async with connect(hot.url) as wire:
        for data, status in ((hot.get(), 200), (hot.post(new_key()), 201), (request("GET", "/livez"), 200)):
            await wire.send(data)
            assert (await answered(wire)).status == status
    assert served == ["GET /v1/accounts/alice", "POST /v1/transfers", "GET /livez"]


@pytest.mark.parametrize("account", ["alice", "nobody", "not an id".replace(" ", "%20")])
async def test_head_beside_get(hot: Hot, account: str) -> None:
    """HEAD has the headers of GET without a body, in any order of the two."""
    named = "X-Request-Id: named"
    head, get = request("HEAD", f"/v1/accounts/{account}", named, token=hot.client.token), hot.get(account, named)
    async with connect(hot.url) as wire:
        await wire.send(get + head + get + head + head + get)
        answers = [await wire.receive(head=is_head) for is_head in (False, True, False, True, True, False)]
    shown = [plain(answer) for answer in answers if answer is not None]
    gets, heads = [shown[place] for place in (0, 2, 5)], [shown[place] for place in (1, 3, 4)]
    assert gets == [gets[0]] * 3
    assert [status for status, _, _ in heads] == [gets[0][0]] * 3
    assert [headers for _, headers, _ in heads] == [gets[0][1]] * 3
    lengths = {answer.headers["content-length"] for answer in answers if answer is not None}
    assert lengths == {str(len(answer.body)) for answer in answers if answer is not None and answer.body}


@pytest.mark.parametrize("write", [False, True], ids=["read", "posting"])
@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        (b"HTTP/1.1", (), True),
        (b"HTTP/1.1", ("Connection: keep-alive",), True),
        (b"HTTP/1.1", ("Connection: close",), False),
        (b"HTTP/1.0", (), False),
        (b"HTTP/1.0", ("Connection: keep-alive",), False),
    ],
)
async def test_connections_are_kept_as_asked(
    hot: Hot, version: bytes, fields: tuple[str, ...], kept: bool, write: bool
) -> None:
    """A hot request that closes its connection is answered in order, and nothing after it is served."""

    def make(*lines: str) -> bytes:
        return hot.post(new_key(), *lines) if write else hot.get("alice", *lines)

    for before in (0, 2):
        last = new_key()
        data = make(*fields).replace(b"HTTP/1.1", version)
        async with connect(hot.url) as wire:
            first = b"".join(make() for _ in range(before)) + data
            await send_in_pieces(wire, first + hot.post(last), [len(first)])
            answers = [await answered(wire) for _ in range(before + 2)] if kept else await wire.receive_all()
        ends = [None] * (before + 2) if kept else [None] * before + ["close"]
        assert [answer.headers.get("connection") for answer in answers] == ends
        assert {answer.status for answer in answers[: before + 1]} == {201 if write else 200}
        assert await hot.bound(last) is kept


@pytest.mark.parametrize(
    "target",
    [
        "/v1/accounts/alice",
        "/v1/accounts/alice?",
        "/v1/accounts/%61lice",
        "/v1/accounts/alic%65",
        "/v1/accounts/alice?min_version=1",
        "/v1/accounts/alice?min_version=999999",
        "/v1/accounts/alice?x=1",
        "/v1/accounts/alice?min_version=1&min_version=2",
        "/v1/accounts/alice?%zz",
        "/v1/accounts/alice/",
        "/v1/accounts/alice//",
        "/v1/accounts//alice",
        "/v1/accounts/alice%2F",
        "/v1/accounts/alice%00",
        "/v1/accounts/alice%0A",
        "/v1/accounts/alice%20",
        "/v1/accounts/%ff",
        "/v1/accounts/Alice",
        "/v1/accounts/alice;x",
        "/v1/accounts/{id}",
        "/v1/accounts/bulk",
        "/v1/accounts/",
        "/V1/accounts/alice",
        "//v1/accounts/alice",
        "http://ledger/v1/accounts/alice",
        "/v1/accounts/" + "a" * 65,
    ],
)
async def test_a_target_means_the_same_both_ways(hot: Hot, target: str) -> None:
    """The hot path and aiohttp's path answer every spelling of an account alike."""
    async with connect(hot.url) as wire:
        await wire.send(request("GET", target, token=hot.client.token))
        short = await answered(wire)
    long = await alone(hot, request("GET", target, "Connection: close", token=hot.client.token))
    assert plain(short) == plain(long)


@pytest.mark.parametrize("target", ["/v1/transfers", "/v1/transfers?", "/v1/transfers?x=1", "/v1/transfers/"])
async def test_a_posting_means_the_same_both_ways(hot: Hot, target: str) -> None:
    """One key moves money once, whichever path its request takes first; an unknown target moves nothing."""
    for ways in ((), ("Connection: close",)), (("Connection: close",), ()):
        key, answers, before = new_key(), [], await hot.client.balance("alice")
        for lines in ways:
            fields = (JSON, f"Idempotency-Key: {key}", *lines)
            answers.append(await alone(hot, request("POST", target, *fields, body=BODY, token=hot.client.token)))
        first, second = map(plain, answers)
        moved = first[0] == 201
        if moved:
            assert second[1].pop("idempotent-replayed") == "true"
        assert first == second
        assert moved is (target.rstrip("?") == "/v1/transfers")
        assert await hot.client.balance("alice") == before + moved


@pytest.mark.parametrize("framing", ["whole", "in two packets", "in packets of three bytes", "in chunks"])
async def test_a_body_in_pieces_is_the_same_posting(hot: Hot, framing: str, served: list[str]) -> None:
    """A posting is bound once, however its body arrives, and the requests around it are answered in order."""
    key = new_key()
    data = hot.post(key)
    if framing == "in chunks":
        data = hot.post(key, CHUNKED, body=None) + chunks(BODY, 10)
    around = hot.get("bob", "X-Request-Id: around")
    cuts = {"in two packets": [len(data) - 20], "in packets of three bytes": list(range(3, len(data), 3))}
    before = await hot.client.balance("alice")
    answers: list[Response] = []
    async with connect(hot.url) as wire:
        for replayed in (None, "true"):
            await wire.send(around)
            await send_in_pieces(wire, data, cuts.get(framing, []))
            await wire.send(around)
            answers = [await answered(wire) for _ in range(3)]
            assert [answer.status for answer in answers] == [200, 201, 200]
            assert [answer.headers["x-request-id"] == "around" for answer in answers] == [True, False, True]
            assert answers[1].headers.get("idempotent-replayed") == replayed
        await wire.send(hot.post(key))
        assert (await answered(wire)).body == answers[1].body
    assert await hot.client.balance("alice") == before + 1


async def test_no_field_outlives_its_request(hot: Hot) -> None:
    """On one connection each request is answered by its own headers, whatever earlier requests had."""
    stranger = await hot.service.client("elsewhere")
    await stranger.fund("alice", 77)
    reader = await make_key(hot.service.database_url, "hot", "read")
    etag = (await hot.client.get("/v1/accounts/alice")).headers["ETag"]
    large = [f"X-{number}: {'x' * 6_000}" for number in range(3)]
    twice = f"Authorization: Bearer {stranger.token}"
    named = "X-Request-Id: named"
    requests = [
        hot.get(),
        hot.get(token=stranger.token),
        hot.get(),
        hot.get("alice", named),
        hot.get("alice", "X-Request-Id: not sane"),
        hot.get("alice", f"If-None-Match: {etag}"),
        hot.get("alice", 'If-None-Match: "0"'),
        hot.get(),
        hot.get("alice", twice),
        hot.get("alice", twice),
        hot.get(token=stranger.token),
        hot.get("alice", *large),
        hot.get("alice", *large),
        hot.get("alice", "Cache-Control: no-cache"),
        hot.get(token="tsk_wrong"),
        request("GET", "/v1/accounts/alice"),
        hot.get("alice", named, token=reader),
        hot.post("fields", named, token=reader),
        hot.post("fields").replace(JSON.encode(), b"Content-Type: text/plain"),
        request("POST", "/v1/transfers", JSON, body=BODY, token=hot.client.token),
        hot.get(token=stranger.token),
        hot.get(),
    ]
    expected = [plain(await alone(hot, data)) for data in requests]
    assert {status for status, _, _ in expected} == {200, 304, 400, 401, 403, 415}
    for data in (requests, requests[::-1]):
        async with connect(hot.url) as wire:
            await wire.send(b"".join(data))
            answers = [await answered(wire) for _ in data]
        assert [plain(answer) for answer in answers] == (expected if data is requests else expected[::-1])
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert ids.count("named") == 3
        assert len(set(ids)) == len(ids) - 2


async def revoke(hot: Hot, client: Client) -> None:
    """Revoke a key, and expire it in the worker's cache."""
    assert client.token is not None
    async with Database(hot.service.database_url, posting_connections=1, reading_connections=1) as database:
        await revoke_whole_key(database, client.token)
    for known in hot.app.authenticator._known.values():
        known.expires = 0.0


async def test_a_key_that_is_revoked_opens_nothing(hot: Hot) -> None:
    """A connection does not remember that a token was valid."""
    client = await hot.service.client("hot")
    async with connect(hot.url) as wire:
        for statuses in ([200, 201], [401, 401]):
            for data, status in zip(
                (hot.get(token=client.token), hot.post(new_key(), token=client.token)), statuses, strict=True
            ):
                await wire.send(data)
                assert (await answered(wire)).status == status
            if status == 201:
                await revoke(hot, client)
