"""Attempts: how a sender handles any behaviour of a receiver, where it connects, and what it signs."""

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from server.events.webhooks.addresses import Destinations
from server.events.webhooks.secrets import new_secret, shown
from server.events.webhooks.sender import ANSWER_BYTES_KEPT, ANSWER_BYTES_MAX, IDLE_SECONDS, Message, Sender
from tests.support.service import LOOPBACK
from tests.webhooks.conftest import SHORT_SECONDS
from tests.webhooks.receiver import NAME, Behaviour, Received, Trust, drips, receiving, says, silence, status

MESSAGE = Message("books/7", b'{"position":7}')
SECRETS = [new_secret()]


def looks_up(*addresses: str) -> Callable[..., Any]:
    """Return a lookup that finds the next of these addresses each time, and then always the last."""
    left = itertools.chain(addresses, itertools.repeat(addresses[-1]))

    def look_up(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        address = next(left)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    return look_up


def fails(*_: object, **__: object) -> Any:
    """Fail the lookup: the name is unknown."""
    raise socket.gaierror(socket.EAI_NONAME, "not known")


LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + b"x" * 1_048_576


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        pytest.param(status(200, b"thanks"), (200, None, b"thanks"), id="200"),
        pytest.param(status(204), (204, None, b""), id="204"),
        pytest.param(status(410), (410, None, b""), id="410"),
        pytest.param(status(500, b"\x00\xff"), (500, None, b"\x00\xff"), id="500"),
        pytest.param(status(301, b"", "Location: http://127.0.0.1:1/"), (301, None, b""), id="a redirect"),
        pytest.param(silence, (None, "timeout", b""), id="nothing"),
        pytest.param(says(b""), (None, "connection failed", b""), id="an end"),
        pytest.param(says(LARGE), (200, None, b"x" * ANSWER_BYTES_KEPT), id="a megabyte"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\n", b"x"), (None, "timeout", b""), id="a head byte by byte"),
        pytest.param(
            drips(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b""),
            (200, None, b""),
            id="a body that stays away",
        ),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 2_000), (None, "no HTTP", b""), id="headers for ever"),
        pytest.param(says(b"220 mail.example ESMTP\r\n\r\n"), (None, "no HTTP", b""), id="another protocol"),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            (None, "no HTTP", b""),
            id="broken chunks",
        ),
        pytest.param(
            status(200, b"\x1f\x8bx", "Content-Encoding: gzip"), (200, None, b"\x1f\x8bx"), id="what is no gzip"
        ),
    ],
)
async def test_answers(behaviour: Behaviour, expected: tuple[int | None, str | None, bytes]) -> None:
    """Whatever a receiver does, the sender ends in time with a status or a reason, and the beginning of the answer."""
    sender = Sender(Destinations(LOOPBACK), seconds=SHORT_SECONDS)
    async with receiving(behaviour) as receiver:
        answer = await sender.send(receiver.url(), MESSAGE, SECRETS)
        # If a connection closes without an answer, it may have been an old one, so the message is sent again.
        assert len(receiver.requests) == (2 if answer.error == "connection failed" else 1)
        await sender.close()
    assert answer[:3] == expected
    assert answer.delivered == (answer.status in (200, 204))
    assert answer.gone == (answer.status == 410)


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), id="interim answers"),
        pytest.param(
            drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 2_000 + b"\r\ny\r\n"),
            id="framing of chunks",
        ),
    ],
)
async def test_a_flood_is_cut_off(flood: Behaviour) -> None:
    """An endless answer is cut off long before the deadline."""
    sender = Sender(Destinations(LOOPBACK), seconds=60)
    async with receiving(flood) as receiver:
        answer = await sender.send(receiver.url(), MESSAGE, SECRETS)
        await sender.close()
    assert answer.error != "timeout"
    assert len(answer.body) <= ANSWER_BYTES_KEPT


async def test_a_connection_that_was_closed_meanwhile() -> None:
    """A message that meets a closed connection is sent again at once on a new one, and does not fail."""

    async def close_soon(request: Received, writer: asyncio.StreamWriter) -> None:
        await status(200)(request, writer)
        # The answer does not announce the close.
        asyncio.get_running_loop().call_soon(writer.close)

    sender = Sender(Destinations(LOOPBACK))
    async with receiving(close_soon) as receiver:
        for _ in range(20):
            answer = await sender.send(receiver.url(), MESSAGE, SECRETS)
            assert answer.delivered, answer
        await sender.close()


async def test_a_long_answer_is_not_read() -> None:
    """An endless body is read only up to its bound, long before the deadline."""
    sender = Sender(Destinations(LOOPBACK), seconds=60)
    async with receiving(drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (ANSWER_BYTES_MAX // 2))) as receiver:
        answer = await sender.send(receiver.url(), MESSAGE, SECRETS)
        await sender.close()
    assert (answer.status, len(answer.body)) == (200, ANSWER_BYTES_KEPT)


@pytest.mark.parametrize(
    ("host", "look_up", "error"),
    [
        pytest.param("receiver.example", fails, "name not found", id="a name that does not resolve"),
        pytest.param("receiver.example", looks_up("10.0.0.1"), "address not allowed", id="a private address"),
        pytest.param("receiver.example", looks_up("169.254.169.254"), "address not allowed", id="metadata"),
        pytest.param("receiver.example", looks_up("::ffff:127.0.0.1"), "address not allowed", id="a mapped address"),
        pytest.param("receiver.example", looks_up("fe80::1%lo"), "address not allowed", id="a scope"),
        pytest.param("receiver.example", looks_up("8.8.8.8"), "address not allowed", id="a public one without TLS"),
        pytest.param("10.0.0.1", fails, "address not allowed", id="an address in the URL"),
        pytest.param("[::1]", fails, "address not allowed", id="an address of IPv6 in the URL"),
        pytest.param("2130706433", looks_up("127.0.0.1"), "address not allowed", id="a decimal address"),
    ],
)
async def test_where_nothing_is_sent(host: str, look_up: Callable[..., Any], error: str) -> None:
    """No connection is made to a disallowed address, in whatever form it comes."""
    sender = Sender(Destinations(LOOPBACK), look_up=look_up)
    async with receiving(status(200)) as receiver:
        answer = await sender.send(receiver.url(host), MESSAGE, SECRETS)
        await sender.close()
        assert (answer.status, answer.error, receiver.connections) == (None, error, 0)


async def test_a_refused_connection() -> None:
    """If nothing listens, the error says so."""
    async with receiving(status(200)) as receiver:
        url = receiver.url()
    sender = Sender(Destinations(LOOPBACK))
    assert (await sender.send(url, MESSAGE, SECRETS)).error == "connection refused"
    await sender.close()


async def test_a_name_that_changes_is_connected_to_as_it_was_found() -> None:
    """A name is resolved once per connection, so it cannot change after the check of its address."""
    asked: list[str] = []
    finds = looks_up("127.0.0.1", "10.0.0.1")

    def look_up(host: str, port: int, **kind: object) -> Any:
        asked.append(host)
        return finds(host, port, **kind)

    sender = Sender(Destinations("127.0.0.1"), look_up=look_up)
    async with receiving(status(200)) as receiver:
        answer = await sender.send(receiver.url(NAME), MESSAGE, SECRETS)
        assert (answer.status, asked, receiver.requests[0].headers["host"]) == (200, [NAME], f"{NAME}:{receiver.port}")
        await sender.close()
        # Resolved again, the name has another address, which is checked too.
        answer = await sender.send(receiver.url(NAME), MESSAGE, SECRETS)
        assert (answer.error, asked, len(receiver.requests)) == ("address not allowed", [NAME, NAME], 1)
        await sender.close()


@pytest.mark.parametrize(
    ("host", "believed", "expected"),
    [
        pytest.param(NAME, True, (200, None), id="the right name"),
        pytest.param("other.example", True, (None, "TLS failed"), id="a wrong name"),
        pytest.param(NAME, False, (None, "TLS failed"), id="a certificate that nobody believes"),
    ],
)
async def test_tls(trust: Trust, host: str, believed: bool, expected: tuple[int | None, str | None]) -> None:
    """The certificate must match the name in the URL, whatever the address."""
    sender = Sender(Destinations(LOOPBACK), tls=trust.client if believed else None, look_up=looks_up("127.0.0.1"))
    async with receiving(status(200), trust.server) as receiver:
        answer = await sender.send(receiver.url(host, "https"), MESSAGE, SECRETS)
        await sender.close()
        assert (answer.status, answer.error) == expected
        assert len(receiver.requests) == (expected[0] is not None)


async def test_signatures() -> None:
    """The Standard Webhooks library accepts each secret's signature, for this id and body only."""
    secrets = [new_secret(), new_secret()]
    sender = Sender(Destinations(LOOPBACK))
    async with receiving(status(200)) as receiver:
        await sender.send(receiver.url(), MESSAGE, secrets)
        await sender.close()
    received = receiver.requests[0]
    assert (received.path, received.body) == ("/hook?a=b", MESSAGE.body)
    assert received.headers["webhook-id"] == MESSAGE.id
    assert received.headers["content-type"] == "application/cloudevents+json"
    assert "accept-encoding" not in received.headers
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    for secret in secrets:
        assert Webhook(shown(secret)).verify(received.body, received.headers) == {"position": 7}
    for secret, body, fields in (
        (new_secret(), received.body, {}),
        (secrets[0], received.body + b" ", {}),
        (secrets[0], received.body, {"webhook-id": "books/8"}),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(shown(secret)).verify(body, {**received.headers, **fields})


async def test_connections_are_used_again() -> None:
    """Successive messages share a connection; after a failure a new one is made."""
    assert IDLE_SECONDS < 5, "servers commonly close idle connections after five seconds"
    sender = Sender(Destinations(LOOPBACK), seconds=SHORT_SECONDS)
    async with receiving(status(200)) as receiver:
        for _ in range(3):
            assert (await sender.send(receiver.url(), MESSAGE, SECRETS)).delivered
        assert receiver.connections == 1
        receiver.behaviour = silence
        assert (await sender.send(receiver.url(), MESSAGE, SECRETS)).error == "timeout"
        receiver.behaviour = status(200)
        assert (await sender.send(receiver.url(), MESSAGE, SECRETS)).delivered
        assert receiver.connections == 2
        await sender.close()


async def test_a_look_up_that_hangs_is_given_up() -> None:
    """A hanging lookup ends its own attempt in time, and delays no other."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look_up(host: str, port: int, **kind: object) -> Any:
        if host == "slow.example":
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return looks_up("127.0.0.1")(host, port, **kind)

    sender = Sender(Destinations(LOOPBACK), seconds=SHORT_SECONDS, look_up=look_up)
    async with receiving(status(200)) as receiver:
        slow, quick = await asyncio.gather(
            *(sender.send(receiver.url(host), MESSAGE, SECRETS) for host in ("slow.example", NAME))
        )
        assert (slow.error, quick.status) == ("timeout", 200)
        release.set()
        await sender.close()
