"""How bodies arrive: too large, in pieces, too slowly, without a length, or from a client that disconnects."""

import asyncio
import socket
import time

import pytest

from server.http.limits import BODY_MAX_BYTES, BULK_BODY_MAX_BYTES
from tests.input import places
from tests.input.broken_http import JSON, TRANSFER
from tests.input.wire import Wire, connect, request
from tests.support.client import Client, new_key
from tests.support.service import Service, in_process, make_key

CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
async def funded(client: Client) -> Client:
    """A client of a ledger with the accounts in TRANSFER."""
    await client.open("world", floor=None)
    await client.open("alice")
    return client


def chunks(body: bytes, size: int = 16_000) -> bytes:
    """Return *body* in chunks."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def post(client: Client, *lines: str, key: str, target: str = "/v1/transfers") -> bytes:
    """Return the head of a POST of JSON, with a key if the route takes one."""
    keyed = (f"Idempotency-Key: {key}",) if target == "/v1/transfers" else ()
    return request("POST", target, JSON, *keyed, *lines, token=client.token)


async def unbound(client: Client, key: str) -> bool:
    """Return whether a key is free and no money has moved."""
    answer = await client.get(f"/v1/idempotency-keys/{key}")
    return answer.status == 404 and await client.balance("alice") == 0


@pytest.mark.parametrize("framing", ["with its length", "in chunks", "announced only"])
@pytest.mark.parametrize(
    ("target", "limit"),
    [
        ("/v1/transfers", BODY_MAX_BYTES),
        ("/v1/accounts", BODY_MAX_BYTES),
        ("/v1/transfers/bulk", BULK_BODY_MAX_BYTES),
        ("/v1/accounts/bulk", BULK_BODY_MAX_BYTES),
    ],
)
async def test_one_byte_over_the_limit_is_refused(funded: Client, target: str, limit: int, framing: str) -> None:
    """A body over its limit is refused with 413, with a length or in chunks, and binds no key."""
    key = new_key()
    body = TRANSFER.ljust(limit + 1)
    length = f"Content-Length: {limit + 1}"
    async with connect(funded.url) as wire:
        if framing == "with its length":
            await wire.send(post(funded, length, key=key, target=target) + body)
        elif framing == "in chunks":
            await wire.send(post(funded, CHUNKED, key=key, target=target) + chunks(body))
        else:
            await wire.send(post(funded, length, key=key, target=target))
        response = await wire.receive()
    assert response is not None
    assert (response.status, response.json["code"]) == (413, "body_too_large")
    assert await unbound(funded, key)


@pytest.mark.parametrize("framing", ["with its length", "in chunks", "in chunks of one byte"])
async def test_a_body_of_exactly_the_limit_is_taken(funded: Client, framing: str) -> None:
    """A body of exactly 64 KiB and a bulk of exactly 1 MiB are accepted, in pieces of any size."""
    bulk = places.TRANSFER_ITEM.body().encode()
    for target, body, limit in (
        ("/v1/transfers", TRANSFER, BODY_MAX_BYTES),
        ("/v1/transfers/bulk", bulk, BULK_BODY_MAX_BYTES),
    ):
        whole = body if framing == "in chunks of one byte" else body.ljust(limit)
        if framing == "with its length":
            data = post(funded, f"Content-Length: {limit}", key="first", target=target) + whole
        else:
            size = 1 if framing == "in chunks of one byte" else 16_000
            data = post(funded, CHUNKED, key="first", target=target) + chunks(whole, size)
        async with connect(funded.url) as wire:
            await wire.send(data)
            response = await wire.receive()
            assert response is not None
            assert response.status in (200, 201), response.raw
    assert await funded.balance("alice") == 2


async def test_a_body_may_come_slowly_in_pieces(funded: Client) -> None:
    """A request that arrives in small pieces of head and body is the same request."""
    data = post(funded, f"Content-Length: {len(TRANSFER)}", key="slow") + TRANSFER
    async with connect(funded.url) as wire:
        for start in range(0, len(data), 7):
            await wire.send(data[start : start + 7])
            await asyncio.sleep(0)
        response = await wire.receive()
    assert response is not None
    assert response.status == 201


@pytest.mark.parametrize("framing", ["announced", "in chunks", "with not a byte of it", "expecting to be asked"])
@pytest.mark.parametrize(
    "place", [*places.BODIES, places.TRANSFER_ITEM, places.ATOMIC_ITEM], ids=lambda place: place.name
)
async def test_a_body_that_does_not_come_is_given_up(
    funded: Client, monkeypatch: pytest.MonkeyPatch, framing: str, place: places.Place
) -> None:
    """A body that stalls past its deadline is a 408, and can be sent again under the same key."""
    monkeypatch.setattr("server.http.wire.body.BODY_DEADLINE_SECONDS", 0.1)
    key = new_key()
    body = place.body().encode().ljust(40)
    lines = [CHUNKED if framing == "in chunks" else f"Content-Length: {len(body)}"]
    if framing == "expecting to be asked":
        lines.append("Expect: 100-continue")
    if place is places.TRANSFER:
        lines.append(f"Idempotency-Key: {key}")
    part = {"in chunks": b"9\r\n" + body[:9], "with not a byte of it": b""}.get(framing, body[:9])
    async with connect(funded.url) as wire:
        await wire.send(request(place.method, place.path, JSON, *lines, token=funded.token) + part)
        response = await wire.receive()
        if framing == "expecting to be asked":
            assert response is not None
            assert response.status == 100
            response = await wire.receive()
        assert response is not None
        assert (response.status, response.json["code"]) == (408, "request_timeout")
        assert (response.json["outcome"], response.json["retry"]) == ("not_applied", "same_key")
        assert response.headers["connection"] == "close"
        # The close takes two seconds and is always the same, so it is checked once.
        assert (place, framing) != (places.TRANSFER, "announced") or await wire.receive() is None
    assert await unbound(funded, key)
    again = await place.send(funded, body, key)
    assert again.status in (200, 201), again


@pytest.mark.parametrize("start", [b"", b"\r\n", b"GET /liv", b"GET /livez HTTP/1.1\r\nHost: led", b"POST /v1/t"])
@pytest.mark.parametrize("before", [False, True], ids=["at first", "behind another"])
async def test_a_head_that_does_not_come_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch, start: bytes, before: bool
) -> None:
    """A connection that never completes a head is closed, with a 408 if a request had begun."""
    monkeypatch.setattr("server.http.wire.protocol.HEAD_DEADLINE_SECONDS", 0.4)
    for module in ("protocol", "server"):
        monkeypatch.setattr(f"server.http.wire.{module}.KEEPALIVE_SECONDS", 1.0)
    async with in_process(service.database_url) as impatient, connect(impatient.url) as wire:
        if before:
            token = await make_key(service.database_url, "heads")
            await wire.send(request("GET", "/v1/accounts/alice", token=token))
            first = await wire.receive()
            assert first is not None
            assert first.status == 404
        await wire.send(start)
        response = await wire.receive()
        if len(start) > 2:
            assert response is not None
            assert (response.status, response.json["code"], response.json["retry"]) == (
                *(408, "request_timeout"),
                "same_key",
            )
            assert response.headers["connection"] == "close"
            assert response.headers["x-request-id"] == response.json["request_id"]
            response = await wire.receive()
        assert response is None


async def expect(wire: Wire, head: bytes) -> int:
    """Send a head that expects 100-continue, and return the status that comes before the body."""
    await wire.send(head)
    response = await wire.receive()
    assert response is not None
    return response.status


async def test_a_body_is_asked_for_only_when_it_is_wanted(funded: Client) -> None:
    """`Expect: 100-continue` is answered by 100 if the body will be read, else by the refusal at once."""
    lines = ("Expect: 100-continue", f"Content-Length: {len(TRANSFER)}")
    async with connect(funded.url) as wire:
        assert await expect(wire, post(funded, *lines, key="expecting")) == 100
        await wire.send(TRANSFER)
        response = await wire.receive()
        assert response is not None
        assert response.status == 201
    async with connect(funded.url) as wire:
        assert await expect(wire, request("POST", "/v1/transfers", *lines)) == 401
    async with connect(funded.url) as wire:
        assert await expect(wire, request("POST", "/v1/transfers", *lines, token=funded.token)) == 415
    async with connect(funded.url) as wire:
        large = ("Expect: 100-continue", f"Content-Length: {BODY_MAX_BYTES + 1}")
        assert await expect(wire, post(funded, *large, key="large")) == 413


@pytest.mark.parametrize("sent", [0.1, 0.5, 0.99])
async def test_a_client_that_leaves_within_its_body_moves_nothing(
    funded: Client, sent: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that disconnects within its body moves nothing, and no error is logged."""
    data = post(funded, f"Content-Length: {len(TRANSFER)}", key="left") + TRANSFER
    async with connect(funded.url) as wire:
        await wire.send(data[: int(len(data) * sent)])
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.05)
    assert await unbound(funded, "left")
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


async def test_a_client_that_leaves_before_the_answer_is_served_once(funded: Client) -> None:
    """A complete request whose client does not wait for the answer is posted once, and its retry is a replay."""
    for number in range(20):
        data = post(funded, f"Content-Length: {len(TRANSFER)}", key=f"gone-{number}") + TRANSFER
        async with connect(funded.url) as wire:
            await wire.send(data)
            await asyncio.sleep(0.0005 * number)
        async with connect(funded.url) as wire:
            await wire.send(data)
            response = await wire.receive()
            assert response is not None
            assert response.status == 201
    assert await funded.balance("alice") == 20


async def test_a_slow_reader_holds_up_nobody_else(funded: Client) -> None:
    """A client that does not read its answers delays no other client, and gets all of them once it reads."""
    count = 1_500
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.setblocking(False)
    host, _, port = funded.url.removeprefix("http://").partition(":")
    await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=link, limit=2**13)
    sending = asyncio.ensure_future(Wire(reader, writer).send(request("GET", "/problems") * count))
    await asyncio.sleep(0.2)
    slowest = 0.0
    for _ in range(20):
        started = time.monotonic()
        assert (await funded.get("/v1/accounts/alice")).status == 200
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 1.0
    wire = Wire(reader, writer)
    for _ in range(count):
        response = await wire.receive()
        assert response is not None
        assert response.status == 200
    await sending
    writer.close()
