"""Broken HTTP on a raw socket: a problem that repeats nothing, has no effect, and leaves the service running."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.http.limits import HEADERS_MAX, HEADERS_MAX_BYTES, REQUEST_LINE_MAX_BYTES
from tests.input import broken_http
from tests.input.broken_http import JSON, MARK
from tests.input.conftest import Book
from tests.input.wire import Response, connect, request
from tests.support.client import Client
from tests.support.service import Service

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@pytest.fixture(autouse=True)
async def alive(book: Book) -> AsyncIterator[None]:
    """Check after the test that the service answers and that the file's ledger is unchanged."""
    before = await book.rows()
    yield
    assert (await book.client.get("/livez")).status == 200
    assert await book.rows() == before


def checked(response: Response | None, status: int, code: str) -> Any:
    """Return the problem of a refusal, after checking its shape."""
    assert response is not None, "the connection ended without an answer"
    assert response.status == status, response.raw
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"/problems/{code}"
    assert REQUEST_ID.fullmatch(problem["request_id"])
    assert response.headers["x-request-id"] == problem["request_id"]
    return problem


@pytest.mark.parametrize("name", broken_http.malformed("", MARK))
async def test_what_is_no_http_ends_the_connection(book: Book, name: str) -> None:
    """Bytes that are not HTTP get one 400 that repeats none of them, and nothing after them is read."""
    assert book.client.token is not None
    async with connect(book.client.url) as wire:
        await wire.send(broken_http.malformed(book.client.token, MARK)[name] + request("GET", "/livez"))
        responses = await wire.receive_all()
    (response,) = responses
    problem = checked(response, 400, "malformed_request")
    assert response.headers["connection"] == "close"
    assert problem.get("outcome", "not_applied") == "not_applied"
    assert MARK.encode() not in response.raw.lower()


@pytest.mark.parametrize("name", ["a line over 8 KiB", "a field over 8 KiB", "more than 64 fields"])
async def test_a_head_that_is_too_large(book: Book, name: str) -> None:
    """The answer says that the head is too large, and gives the limits."""
    assert book.client.token is not None
    async with connect(book.client.url) as wire:
        await wire.send(broken_http.malformed(book.client.token, MARK)[name])
        detail = checked(await wire.receive(), 400, "malformed_request")["detail"]
    assert "too large" in detail
    assert all(str(bound) in detail for bound in (REQUEST_LINE_MAX_BYTES, HEADERS_MAX, HEADERS_MAX_BYTES))


async def test_a_body_that_is_not_coded(book: Book) -> None:
    """The encoding `identity` means that the body is not compressed."""
    data = request(
        "POST",
        "/v1/transfers/preview",
        JSON,
        "Content-Encoding: Identity",
        token=book.client.token,
        body=broken_http.TRANSFER,
    )
    async with connect(book.client.url) as wire:
        await wire.send(data)
        response = await wire.receive()
    assert response is not None
    assert response.status == 200, response.raw


@pytest.mark.parametrize("name", broken_http.refused("", MARK))
async def test_what_is_wrong_is_refused(book: Book, name: str) -> None:
    """A wrong request gets the status and code of its error, and its text is not repeated."""
    assert book.client.token is not None
    data, status, code = broken_http.refused(book.client.token, MARK)[name]
    async with connect(book.client.url) as wire:
        await wire.send(data)
        response = await wire.receive()
    problem = checked(response, status, code)
    assert response is not None
    assert MARK.encode() not in response.raw
    assert all(error["detail"] for error in problem.get("errors", []))
    if status == 405:
        assert response.headers["allow"] == "GET, HEAD"


async def test_pipelined_requests_are_answered_in_order(book: Book) -> None:
    """Pipelined requests, valid and refused ones, are answered one by one in order."""
    names = [f"n{number}" for number in range(30)]
    targets = ["/livez", "/v1/accounts/alice", "/nowhere"]
    data = b"".join(
        request("GET", targets[number % 3], f"X-Request-Id: {name}", token=book.client.token)
        for number, name in enumerate(names)
    )
    async with connect(book.client.url) as wire:
        await wire.send(data)
        responses = [await wire.receive() for _ in names]
    assert [response.headers["x-request-id"] for response in responses if response] == names
    assert [response.status for response in responses if response] == [200, 200, 404] * 10


@pytest.mark.parametrize("prefix", ["http://ledger", "HTTPS://somebody:9/", "http://[::1]:8080"])
async def test_a_target_that_names_the_server_means_its_path(book: Book, prefix: str) -> None:
    """A target in absolute form, as proxies send it, is answered like its path."""
    prefix = prefix.removesuffix("/")
    async with connect(book.client.url) as wire:
        for target, status in (("/livez", 200), ("/v1/accounts/alice", 200), ("/v1/accounts?limit=x", 400), ("", 200)):
            await wire.send(request("GET", prefix + target, token=book.client.token))
            response = await wire.receive()
            assert response is not None
            assert response.status == status, target


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "tcp", "TLS/1.0"])
async def test_an_upgrade_ends_the_connection(book: Book, protocol: str) -> None:
    """No protocol is switched; the connection closes after the answer, so the client does not wait for ever."""
    upgrade = request("GET", "/livez", "Connection: Upgrade", f"Upgrade: {protocol}")
    async with connect(book.client.url) as wire:
        await wire.send(upgrade + request("GET", "/livez"))
        responses = await wire.receive_all()
    assert [response.status for response in responses] == [200]


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        pytest.param(request("GET", "/livez"), True, id="HTTP/1.1 keeps"),
        pytest.param(request("GET", "/livez", "Connection: close"), False, id="close is obeyed"),
        pytest.param(b"GET /livez HTTP/1.0\r\n\r\n", False, id="HTTP/1.0 closes"),
        pytest.param(
            b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, id="HTTP/1.0 closes though asked to keep"
        ),
    ],
)
async def test_connections_are_kept_as_asked(book: Book, data: bytes, kept: bool) -> None:
    """HTTP/1.1 keeps the connection unless told to close it; HTTP/1.0 never does."""
    async with connect(book.client.url) as wire:
        await wire.send(data)
        first = await wire.receive()
        assert first is not None
        assert first.headers.get("connection") == (None if kept else "close")
        await wire.send(request("GET", "/livez"))
        assert ((await wire.receive()) is not None) is kept


@pytest.mark.parametrize("target", ["/livez", "/v1/accounts/alice", "/v1/accounts", "/nowhere", "/problems"])
async def test_head_is_get_without_its_body(book: Book, target: str) -> None:
    """HEAD has the headers of GET, its length too, and the connection stays open."""
    async with connect(book.client.url) as wire:
        await wire.send(request("HEAD", target, "X-Request-Id: r", token=book.client.token))
        head = await wire.receive(head=True)
        await wire.send(request("GET", target, "X-Request-Id: r", token=book.client.token))
        get = await wire.receive()
    assert head is not None
    assert get is not None
    assert (head.status, {**head.headers, "date": ""}) == (get.status, {**get.headers, "date": ""})


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a b", id="a space"),
        pytest.param(b"a" * 65, id="65 characters"),
        pytest.param(b"<script>", id="markup"),
        pytest.param(b"a%0d%0aX-Evil: 1", id="an escaped line break"),
        pytest.param(b'a","b":"c', id="quotes"),
        pytest.param(b"\xc4\x8d\xc4\x8a", id="letters that narrow to a line break"),
        pytest.param(b"\xff\xfe", id="bytes"),
        pytest.param(b"a\tb", id="a tab"),
    ],
)
async def test_a_request_id_that_is_not_sane_is_replaced(book: Book, given: bytes) -> None:
    """Only a well-formed request id is used, so a caller cannot add a line to the head of an answer."""
    async with connect(book.client.url) as wire:
        for target in ("/livez", "/nowhere"):
            await wire.send(request("GET", target, b"X-Request-Id: " + given))
            response = await wire.receive()
            assert response is not None
            assert REQUEST_ID.fullmatch(response.headers["x-request-id"])
            assert response.headers["x-request-id"].encode() != given
            assert "x-evil" not in response.headers


@pytest.mark.parametrize(
    ("field", "status"),
    [
        *[(f'If-Match: "{tag}"', 412) for tag in ("", "0", "-1", "x", "9" * 30, "1.0", "01", "\u00b2")],
        *[(f"If-Match: {text}", 412) for text in ('W/"1"', '"2", W/"1"', '"8","9"', ',, "7" ,', '"2,1"')],
        *[(f"If-Match: {text}", 400) for text in ("", "1", "abc", '"1', '"1" x', "W/1", ",", '"1" "2"', '*, "1"')],
        *[(f"If-None-Match: {text}", 200) for text in ("", "1", '"x"', '"', "W/", "," * 99, '"' * 99)],
        *[(f"If-None-Match: {text}", 304) for text in ("*", '"1"', 'W/"1"', '"x", "1"')],
    ],
)
async def test_preconditions_that_are_garbage_change_nothing(book: Book, field: str, status: int) -> None:
    """A malformed or stale If-Match changes nothing; an If-None-Match without a match is ignored."""
    read = "None" in field
    method, body = ("GET", None) if read else ("PATCH", b'{"closed":true}')
    lines = [field] if read else [field, JSON]
    async with connect(book.client.url) as wire:
        await wire.send(request(method, "/v1/accounts/alice", *lines, body=body, token=book.client.token))
        response = await wire.receive()
    assert response is not None
    assert response.status == status, response.raw


async def test_two_preconditions_are_refused(book: Book) -> None:
    """A precondition sent twice is refused and has no effect."""
    lines = ('If-Match: "1"', 'If-Match: "1"', JSON)
    async with connect(book.client.url) as wire:
        await wire.send(
            request("PATCH", "/v1/accounts/alice", *lines, body=b'{"closed":true}', token=book.client.token)
        )
        checked(await wire.receive(), 400, "invalid_request")


async def test_cursors_of_one_list_are_refused_by_another(service: Service, client: Client) -> None:
    """A cursor works for the list that issued it, and for no other."""
    for account in ("a", "b"):
        await client.fund(account, 1)
        await client.transfer("world", account, 1)
    lists = ("/v1/accounts", "/v1/transfers", "/v1/accounts/world/entries")
    cursors = {path: (await client.get(f"{path}?limit=1")).json["next_cursor"] for path in lists}
    assert all(cursors.values())
    for giver, cursor in cursors.items():
        for taker in lists:
            answer = await client.get(f"{taker}?cursor={cursor}")
            assert answer.status == (200 if giver == taker else 400), (giver, taker)
