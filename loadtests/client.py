"""
The client of the ledger's HTTP API.

A `Connection` carries one request at a time, in as few steps as there can be; the generator drives thousands of them.
A `Client` keeps some of them and repeats what may be repeated, under the same key.
Beside this folder it needs the standard library only: it also runs where the users of locust do.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Self, cast
from urllib.parse import quote, urlsplit

from loadtests.errors import NotRunError
from loadtests.history.recorder import NOT_NOW, problem_of

# One request: above the server's own deadlines, so that its answer and not our impatience decides.
REQUEST_SECONDS_MAX = 30.0
# One call with all its repeats: longer than a failover of the database, short enough to notice.
CALL_SECONDS_MAX = 90.0
ATTEMPTS_MAX = 40
# Where the answer names no time: doubled with each attempt, up to the second.
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.05, 2.0
# Spreads the repeats of many callers that were refused at the same instant.
JITTER = 0.5
# The contract's limits on one page and on one bulk of accounts.
PAGE_MAX = 100
ACCOUNTS_BULK_MAX = 1_000
# A cursor that never ends is a fault of the server; this many pages are ten million rows.
PAGES_MAX = 100_000
# Bytes of a head that is no answer of ours.
HEAD_MAX_BYTES = 64 * 1024
# 409, but about another request that still runs: the contract has the caller ask again.
IN_USE = "idempotency_key_in_use"
# Told instead of a status where there was no answer.
BROKEN = 0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)\r\n", re.IGNORECASE)


class ClientError(NotRunError):
    """A call of the ledger did not do what it was meant to do; the message says what happened instead."""


class NoAnswer(ClientError):
    """One request had no answer; whether it was executed is not known."""


class GaveUp(ClientError):
    """Every attempt that the limits allow was refused for now or had no answer."""


class UnexpectedAnswer(ClientError):
    """The ledger answered, but not with success and not with a request to come back."""

    def __init__(self, asked: str, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        text = f"{asked} answered {status} {problem.get('code') or '(no problem code)'}"
        super().__init__(f"{text}: {problem['detail']}" if problem.get("detail") else text)


class Answer(NamedTuple):
    """What the ledger answered; `repeated` tells that an earlier attempt had got no answer or had been refused."""

    status: int
    head: bytes
    body: bytes
    repeated: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Its headers by their names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def replayed(self) -> bool:
        """Whether it is the answer to an earlier request with the same key."""
        return self.headers.get("idempotent-replayed") == "true"

    @property
    def retry_after(self) -> int:
        """Seconds to wait before the next request; 0 where it names none, or a date, as some balancers do."""
        return retry_after_of(self.head)

    @property
    def json(self) -> Any:
        """
        The body, decoded.

        Raises:
            ClientError: It is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ClientError(f"{self.status} without JSON: {self.body[:200]!r}") from error

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document in it; empty where there is none, as in a balancer's error page."""
        return problem_of(self.body)

    @property
    def not_now(self) -> bool:
        """Whether the same request may be sent again, later."""
        return self.status in NOT_NOW or (self.status == 409 and self.problem.get("code") == IN_USE)


def retry_after_of(head: bytes) -> int:
    """Return the seconds that a `Retry-After` in a head names; 0 where there is none."""
    found = _RETRY_AFTER.search(head)
    return 0 if found is None else int(found[1])


class Address(NamedTuple):
    """Where a server is."""

    host: str
    port: int
    tls: bool = False

    @property
    def host_header(self) -> str:
        """What requests call it."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def address_of(url: str) -> Address:
    """
    Return the address that a URL names.

    Raises:
        ClientError: It is not of the form http://HOST:PORT or https://HOST:PORT.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ClientError(f"not an address: {url}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise ClientError(f"not an address of the form http://HOST:PORT: {url}")
    tls = parts.scheme == "https"
    return Address(host, port or (443 if tls else 80), tls)


class Connection(asyncio.Protocol):
    """
    A keep-alive connection with one request under way at most.

    Args:
        answered: Called with the connection, the status (`BROKEN` when it ended instead), all bytes of the answer, and
            how many of them are the head's lines.

        ended: Called when it has ended; nothing is under way then.
    """

    def __init__(
        self,
        answered: "Callable[[Connection, int, bytes, int], None]",
        ended: "Callable[[Connection], None]",
    ) -> None:
        self.transport: asyncio.Transport | None = None
        # What the owner notes about the request under way.
        self.tag: Any = None
        self.due = 0.0
        self._answered = answered
        self._ended = ended
        self._received = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, tag: Any, due: float) -> None:
        """Send a request; what is noted about it is there when it is answered."""
        assert self.transport is not None, "it is connected"
        self.tag = tag
        self.due = due
        self._busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Tell the owner of the answer once it is whole."""
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n") + 2
        if end < 2:
            self._received = received
            if len(received) > HEAD_MAX_BYTES:
                self.close()
            return
        length = _LENGTH.search(received, 0, end)
        whole = end + 2 if length is None else end + 2 + int(length[1])
        if len(received) < whole:
            self._received = received
            return
        if not self._busy or len(received) > whole or received[:9] != b"HTTP/1.1 " or not received[9:12].isdigit():
            # No answer of HTTP/1.1, or one to nothing.
            self.close()
            return
        self._received = b""
        self._busy = False
        # Most heads do not have the word: looking for it is cheaper than the expression.
        if received.find(b"close", 0, end) > 0 and _CLOSE.search(received, 0, end) is not None:
            self.close()
        self._answered(self, int(received[9:12]), received, end)

    def close(self) -> None:
        """End it: nothing can be sent on it from now on."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the owner that the request under way has no answer, and that this is over."""
        self.transport = None
        if self._busy:
            self._busy = False
            self._answered(self, BROKEN, b"", 0)
        self._ended(self)


class Client:
    """
    Calls one ledger through at most *connections_max* connections.

    Attributes:
        repeats: Requests that were sent once more.
    """

    def __init__(self, url: str, key: str, connections_max: int = 16) -> None:
        self.url = url.rstrip("/")
        self.repeats = 0
        self._address = address_of(self.url)
        self._head = f"Host: {self._address.host_header}\r\nAuthorization: Bearer {key}\r\n"
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._slots = asyncio.Semaphore(connections_max)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        for connection in list(self._open):
            connection.close()
        # Aborted transports tell their connections in the next round of the loop.
        await asyncio.sleep(0)

    async def ask(
        self, method: str, path: str, body: object = None, key: str = "", seconds_max: float = REQUEST_SECONDS_MAX
    ) -> Answer:
        """
        Send one request and return its answer, whatever it is.

        Args:
            body: Bytes as they are, or what becomes JSON; None for none.

            key: The idempotency key.

            seconds_max: After which the connection is closed, with or without an answer.

        Raises:
            NoAnswer: There was none.
        """
        return await self.send(self._request(method, path, body, key), seconds_max)

    async def send(self, request: bytes, seconds_max: float = REQUEST_SECONDS_MAX) -> Answer:
        """
        Send the bytes of one request and return its answer, whatever it is.

        Raises:
            NoAnswer: There was none.
        """
        connection = None
        try:
            async with asyncio.timeout(seconds_max), self._slots:
                connection = self._idle.pop() if self._idle else await self._connect()
                future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                connection.send(request, future, 0.0)
                answer = await future
        except OSError as error:
            line = request.partition(b" HTTP/1.1\r\n")[0].decode()
            raise NoAnswer(f"{self.url}: {line}: {type(error).__name__} {error}") from error
        finally:
            if connection is not None:
                self._release(connection)
        return answer

    def _release(self, connection: Connection) -> None:
        future: asyncio.Future[Answer] = connection.tag
        if not future.done() or future.cancelled():
            connection.close()
        elif connection.transport is not None:
            self._idle.append(connection)

    def _request(self, method: str, path: str, body: object, key: str) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\n{self._head}"
        if key:
            head += f"Idempotency-Key: {key}\r\n"
        if body is None:
            return f"{head}\r\n".encode()
        sent = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent

    async def _connect(self) -> Connection:
        host, port, tls = self._address
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(_answered, self._ended), host, port, ssl=tls or None
        )
        self._open.add(connection)
        return connection

    def _ended(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def call(
        self, method: str, path: str, body: object = None, key: str = "", items: Sequence[str] = ()
    ) -> Answer:
        """
        Send a request until it is answered with success, the same bytes on every attempt.

        Args:
            items: What each item of a bulk stands for, in messages: each has to succeed too.

        Raises:
            GaveUp: It was refused for now or not answered until the attempts or CALL_SECONDS_MAX were used up.

            UnexpectedAnswer: It, or an item of it, was answered otherwise.
        """
        asked = f"{method} {path}" + (f" with key {key}" if key else "")
        try:
            answer = await self.until_answered(method, path, body, key, bulk=bool(items))
        except GaveUp as error:
            raise GaveUp(f"{asked} was given up, at last because of {error}") from error
        if answer.status not in (200, 201):
            raise UnexpectedAnswer(asked, answer.status, answer.problem)
        if items:
            results = _results(answer)
            if len(results) != len(items):
                raise ClientError(f"{asked} answered {len(results)} results for {len(items)} items")
            for result, item in zip(results, items, strict=True):
                if result["status"] not in (200, 201):
                    raise UnexpectedAnswer(f"{asked} for {item}", result["status"], result.get("problem") or {})
        return answer

    async def until_answered(
        self, method: str, path: str, body: object = None, key: str = "", *, bulk: bool = False
    ) -> Answer:
        """
        Send a request until it is answered with something other than "not now"; return that answer.

        Args:
            bulk: Its items must not be answered "not now" either.

        Raises:
            GaveUp: It was not, until the attempts or CALL_SECONDS_MAX were used up; the message says why at last.
        """
        deadline = time.monotonic() + CALL_SECONDS_MAX
        attempt = 0
        while True:
            wait = 0.0
            try:
                answer = await self.ask(method, path, body, key)
                # Accounts and transfers can be sent again whole: what is there already is replayed.
                later = bulk and answer.status == 200 and any(item["status"] in NOT_NOW for item in _results(answer))
                if not later and not answer.not_now:
                    return answer._replace(repeated=attempt > 0)
                why, wait = f"{answer.status} {answer.problem.get('code', 'for an item')}", answer.retry_after
            except NoAnswer as error:
                why = str(error)
            # Never less than the answer asked for.
            backoff = min(BACKOFF_SECONDS * 2**attempt, BACKOFF_SECONDS_MAX)
            pause = max(wait, backoff) * random.uniform(1.0, 1.0 + JITTER)
            attempt += 1
            if attempt >= ATTEMPTS_MAX or time.monotonic() + pause > deadline:
                raise GaveUp(why)
            self.repeats += 1
            await asyncio.sleep(pause)

    async def get(self, path: str) -> Any:
        """
        Return what a GET answers, decoded.

        Raises:
            ClientError: As `call`, or it is no JSON.
        """
        return (await self.call("GET", path)).json

    async def pages(self, path: str, **parameters: str) -> AsyncIterator[dict[str, Any]]:
        """
        Return all rows of a list, page by page.

        Raises:
            ClientError: A page is not answered, or there is no end to them.
        """
        asked = {"limit": str(PAGE_MAX), **parameters}
        for _ in range(PAGES_MAX):
            query = "&".join(f"{name}={quote(text, safe='')}" for name, text in asked.items())
            page = await self.get(f"{path}?{query}")
            for row in page["data"]:
                yield row
            if page["next_cursor"] is None:
                return
            asked["cursor"] = page["next_cursor"]
        raise ClientError(f"GET {path} did not end within {PAGES_MAX:,} pages")

    async def open_accounts(
        self, names: Sequence[str], currency: str = "EUR", floor: int | None = None, size: int = ACCOUNTS_BULK_MAX
    ) -> None:
        """
        Open accounts, so many a request; one that is already open so stays as it is.

        Raises:
            ClientError: As `call`.
        """
        for start in range(0, len(names), size):
            some = names[start : start + size]
            asked = [{"id": name, "currency": currency, "floor": floor} for name in some]
            await self.call("POST", "/v1/accounts/bulk", {"accounts": asked}, items=some)


def _answered(connection: Connection, status: int, received: bytes, end: int) -> None:
    future: asyncio.Future[Answer] = connection.tag
    if future.done():
        return
    if status == BROKEN:
        future.set_exception(ConnectionResetError("the connection ended"))
    else:
        future.set_result(Answer(status, received[:end], received[end + 2 :]))


def _results(answer: Answer) -> list[dict[str, Any]]:
    try:
        return list(answer.json["results"])
    except (KeyError, TypeError) as error:
        raise ClientError(f"{answer.status} without results: {answer.body[:200]!r}") from error
