"""Makes one attempt to deliver a message: a signed POST to an allowed address, which is looked up once."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from server.events.webhooks.addresses import Destinations, literal
from server.events.webhooks.secrets import signatures
from server.telemetry.version import VERSION

# Seconds that an attempt may take in all, from the look-up of the name to the end of the answer.
ATTEMPT_SECONDS: Final = 10.0
# Bytes of an answer that are read, so that its connection can be used again. Longer answers are cut off.
ANSWER_BYTES_MAX: Final = 64 * 1024
# Bytes of an answer that are kept for a person who looks for the reason.
ANSWER_BYTES_KEPT: Final = 1024
# Seconds that an unused connection is kept: less than servers keep theirs, so that none is closed under a message.
IDLE_SECONDS: Final = 2.0
# Seconds for which the addresses of a name are remembered. Connections last about as long.
NAME_SECONDS: Final = 10
# Names that are looked up at once. The library call blocks a thread, for half a minute if no server answers: there is
# one thread for each endpoint that may be sent something, so that no name waits behind those of others.
LOOKUPS_MAX: Final = 256
# Bytes that an attempt may receive in all, with heads, interim answers and the framing of chunks. A receiver that sends
# more is cut off, since each byte takes time of this process.
RECEIVED_BYTES_MAX: Final = 2 * ANSWER_BYTES_MAX

_HEADERS: Final = {
    "Content-Type": "application/cloudevents+json",
    "User-Agent": f"Tallystick-Webhooks/{VERSION}",
}
# What `socket.getaddrinfo` returns.
Found = list[tuple[Any, ...]]


class Answer(NamedTuple):
    """The result of an attempt."""

    # None if there was no answer, or not even the head of one.
    status: int | None
    # Why there was no answer.
    error: str | None
    # The first bytes of the answer.
    body: bytes
    duration_ms: int

    @property
    def delivered(self) -> bool:
        """Whether the receiver has taken the message: its status says so, whatever follows it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more messages."""
        return self.status == 410


class Message(NamedTuple):
    """A message to a receiver."""

    id: str
    body: bytes


class RefusedAddressError(OSError):
    """A host has no address that is allowed."""


class Sender:
    """
    Sends messages. Nothing that a receiver does makes it raise.

    Args:
        destinations: Decides which addresses are allowed.

        seconds: Seconds that an attempt may take.

        tls: Which certificates are trusted; those that the system trusts by default.

        look_up: A function like `socket.getaddrinfo`.
    """

    def __init__(
        self,
        destinations: Destinations,
        *,
        seconds: float = ATTEMPT_SECONDS,
        tls: ssl.SSLContext | None = None,
        look_up: Callable[..., Found] = socket.getaddrinfo,
    ) -> None:
        self._destinations = destinations
        self._seconds = seconds
        self._tls = tls
        self._look_up = look_up
        self._threads: ThreadPoolExecutor | None = None
        # By whether TLS is used, and whether each connection is used once; made at their first use.
        self._sessions: dict[tuple[bool, bool], aiohttp.ClientSession] = {}

    async def send(self, url: str, message: Message, secrets: Sequence[bytes]) -> Answer:
        """Send a message, signed with each of the secrets, and return the result."""
        began = time.monotonic()
        status, body, error = None, bytearray(), None
        try:
            async with asyncio.timeout(self._seconds):
                try:
                    response = await self._posted(URL(url), message, secrets)
                except (aiohttp.ServerDisconnectedError, ConnectionError):
                    # The receiver may have closed a kept connection in the meantime.
                    response = await self._posted(URL(url), message, secrets, fresh=True)
                async with response:
                    status = response.status
                    async for part in response.content.iter_any():
                        body += part[: ANSWER_BYTES_MAX - len(body)]
                        if len(body) == ANSWER_BYTES_MAX:
                            response.close()
                            break
        except TimeoutError:
            error = "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = _reason(failure)
        duration_ms = round((time.monotonic() - began) * 1000)
        return Answer(status, error if status is None else None, bytes(body[:ANSWER_BYTES_KEPT]), duration_ms)

    async def close(self) -> None:
        """Close the connections; a look-up in progress is left to end."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _posted(
        self, url: URL, message: Message, secrets: Sequence[bytes], *, fresh: bool = False
    ) -> "aiohttp.client._RequestContextManager":
        """
        Return the request.

        Args:
            fresh: Use a connection on which no message was sent before.

        Raises:
            RefusedAddressError: The address is not allowed.
        """
        secure = url.scheme == "https"
        address = literal(url.raw_host or "")
        if address is not None and not self._destinations.allows(address, secure=secure):
            raise RefusedAddressError
        timestamp = int(time.time())
        fields = {
            **_HEADERS,
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(secrets, message.id, timestamp, message.body),
        }
        # No redirect is followed: its target was not checked.
        return self._session(secure, fresh).post(url, data=message.body, headers=fields, allow_redirects=False)

    def _session(self, secure: bool, fresh: bool) -> aiohttp.ClientSession:
        if (secure, fresh) not in self._sessions:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            connector = _Connector(
                resolver=_Resolver(self._find, partial(self._destinations.allows, secure=secure)),
                ssl=self._tls,
                ttl_dns_cache=NAME_SECONDS,
                force_close=fresh,
                **({} if fresh else {"keepalive_timeout": IDLE_SECONDS}),
                # The callers limit how much is sent.
                limit=0,
            )
            self._sessions[secure, fresh] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept-Encoding",),
                auto_decompress=False,
            )
        return self._sessions[secure, fresh]

    async def _find(self, host: str, port: int) -> Found:
        """Look a name up in a thread of our own: the loop has few, and others use them."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUPS_MAX, "webhooks")
        look_up = partial(self._look_up, host, port, type=socket.SOCK_STREAM)
        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)


class _Connection(ResponseHandler):
    """A connection that is cut off when a receiver sends too much for one message."""

    _received = 0

    def set_response_params(self, **parameters: Any) -> None:
        """Begin to count for the answer to a message."""
        self._received = 0
        super().set_response_params(**parameters)

    def data_received(self, data: bytes) -> None:
        """Count bytes before they are parsed."""
        self._received += len(data)
        if self._received <= RECEIVED_BYTES_MAX:
            super().data_received(data)
        elif self.transport is not None:
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """Makes connections of that class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The only place where the client accepts another protocol class.
        self._factory = partial(_Connection, loop=asyncio.get_running_loop())  # type: ignore[assignment]  # a subclass


class _Resolver(AbstractResolver):
    """
    Gives the client the allowed addresses of a name: it connects to exactly these.

    Args:
        find: Looks a name up.

        allows: Judges an address.
    """

    def __init__(self, find: Callable[..., Any], allows: Callable[..., bool]) -> None:
        self._find = find
        self._allows = allows

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 -- of aiohttp; all kinds are judged
    ) -> list[ResolveResult]:
        """Look a name up."""
        found = [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in await self._find(host, port)
            if self._allows(ip_address(address[0]))
        ]
        if not found:
            raise RefusedAddressError
        return found

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _reason(error: Exception) -> str:
    """Return why there was no answer, in words that reveal nothing about our own network."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "TLS failed"
    match error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error:
        case RefusedAddressError() | aiohttp.InvalidURL():
            return "address not allowed"
        case socket.gaierror():
            return "name not found"
        case ConnectionRefusedError():
            return "connection refused"
        case aiohttp.ClientResponseError() | ValueError():
            return "no HTTP"
        case _:
            return "connection failed"
