"""A receiver of webhooks that answers as a test says, and its certificates."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# The name in the certificates.
NAME = "receiver.example"


class Received(NamedTuple):
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def position(self) -> int:
        """The position of its event."""
        return int(orjson.loads(self.body)["position"])


# Answers a request by writing to its connection.
Behaviour = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def status(code: int, body: bytes = b"", *fields: str) -> Behaviour:
    """Answer with a status, and keep the connection open."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} Said", f"Content-Length: {len(body)}", *fields]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return behave


def says(data: bytes) -> Behaviour:
    """Answer with these bytes, and close the connection."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return behave


def drips(head: bytes, piece: bytes) -> Behaviour:
    """Send a head, and then pieces for ever at short intervals."""

    async def behave(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    return behave


async def silence(_: Received, writer: asyncio.StreamWriter) -> None:
    """Send nothing as long as the sender waits."""
    await writer.wait_closed()


class Receiver:
    """
    A server that records requests.

    Attributes:
        requests: All requests received, in order.

        behaviour: How it answers.

        connections: How many connections were made.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.requests: list[Received] = []
        self.behaviour = behaviour
        self.connections = 0
        self.port = 0
        self._handlers: set[asyncio.Task[Any]] = set()

    @property
    def positions(self) -> list[int]:
        """The positions of the events received, in order."""
        return [request.position for request in self.requests]

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        """Return the receiver's URL."""
        return f"{scheme}://{host}:{self.port}/hook?a=b"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until it ends."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                start, *lines = head.split("\r\n")[:-2]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.requests.append(Received(start.split(" ")[1], headers, body))
                await self.behaviour(self.requests[-1], writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()

    async def end(self) -> None:
        """End all connections."""
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)


@asynccontextmanager
async def receiving(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of 127.0.0.1."""
    receiver = Receiver(behaviour)
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.end()


class Trust(NamedTuple):
    """The TLS contexts of a receiver named `NAME`, and of a client that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def make_trust(folder: Path) -> Trust:
    """Make a self-signed certificate for `NAME`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    shown = folder / "certificate.pem"
    shown.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(shown)
    return Trust(server, ssl.create_default_context(cafile=str(shown)))
