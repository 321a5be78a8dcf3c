"""The two drivers that carry out a course, blocking and under asyncio. Both use httpx, and neither decides anything."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import httpx

from tallystick_client.following import Open, Read
from tallystick_client.request import Request
from tallystick_client.rules import Answer, Broken, Course, Item, Pause, Rules, Send

T = TypeVar("T")

# Seconds to connect, and to wait for a connection of the pool; after that, a new attempt is better.
CONNECT_SECONDS_MAX = 5.0
POOL_SECONDS_MAX = 10.0
# Seconds that an idle connection is kept: less than servers and balancers keep it.
IDLE_SECONDS_MAX = 10.0
PORT_MAX = 65_535
# Most bytes of an answer. A statement of a million entries has 250 MB; ask for longer ones in parts.
ANSWER_BYTES_MAX = 536_870_912
# Errors of httpx that happen before anything was sent.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

# OpenSSL's error for an answer that is not TLS.
_NO_TLS = "[SSL: WRONG_VERSION_NUMBER]"

try:
    _VERSION = version("tallystick-client")
except PackageNotFoundError:
    _VERSION = "unknown"


class TimeLeft(dict[str, float | None]):
    """
    The timeouts of an attempt in the form httpx expects; each phase gets the time that is left when it begins.

    Args:
        seconds: The time the whole attempt may take.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds

    @property
    def seconds(self) -> float:
        """The time left, but never zero, which is not valid as a timeout."""
        return max(0.001, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end

    def get(self, phase: str, _default: Any = None) -> float:
        """Return the timeout of a phase."""
        bounds = {"connect": CONNECT_SECONDS_MAX, "pool": POOL_SECONDS_MAX}
        return min(self.seconds, bounds.get(phase, self.seconds))


class Driver:
    """
    The part common to both drivers.

    Args:
        url: The address of the server, including a path if the server is below one.

        api_key: The token sent with each request; it is never shown.

        rules: Makes the courses.
    """

    def __init__(self, url: str, api_key: str, rules: Rules) -> None:
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"the URL of a server is not valid: {error}") from None
        if parts.userinfo:
            raise ValueError("the URL of a server must not contain a user or a password")
        whole = parts.scheme in ("http", "https") and parts.host and 0 <= (parts.port or 0) <= PORT_MAX
        if not whole or parts.query or parts.fragment:
            raise ValueError("the URL of a server must look like https://ledger.example.com")
        if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ValueError("an API key must have only visible ASCII characters")
        self.url = url.rstrip("/")
        self.rules = rules
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "User-Agent": f"tallystick-client/{_VERSION}",
            "Accept-Encoding": "identity",
        }

    def _options(self, connections_max: int) -> dict[str, Any]:
        limits = httpx.Limits(
            max_connections=connections_max,
            max_keepalive_connections=connections_max,
            keepalive_expiry=IDLE_SECONDS_MAX,
        )
        return {"headers": self._headers, "limits": limits, "follow_redirects": False}

    def _sending(self, request: Request[Any], left: TimeLeft) -> dict[str, Any]:
        """Return the arguments with which httpx sends a request."""
        return {
            "method": request.method,
            "url": self.url + request.target,
            "content": request.content,
            "headers": request.headers,
            "extensions": {"timeout": left},
        }

    def _opening(self, step: Open) -> dict[str, Any]:
        """Return the arguments with which httpx opens a stream."""
        timeout = httpx.Timeout(step.silence_seconds, connect=CONNECT_SECONDS_MAX, pool=POOL_SECONDS_MAX)
        request = step.request
        return {"method": request.method, "url": self.url + request.target, "timeout": timeout}


class Body:
    """Collects the body of an answer as it arrives."""

    def __init__(self, left: TimeLeft) -> None:
        self._left = left
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> None:
        """
        Add a piece of the body.

        Raises:
            httpx.ReadError: The body is too long.

            httpx.ReadTimeout: No time is left.
        """
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > ANSWER_BYTES_MAX:
            raise httpx.ReadError(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
        if self._left.is_over:
            raise httpx.ReadTimeout("the answer was not complete in time")

    @property
    def whole(self) -> bytes:
        """The whole body."""
        return b"".join(self._pieces)


class BlockingDriver(Driver):
    """Runs courses in the caller's thread; threads may share one, and so may processes forked from this one."""

    def __init__(self, url: str, api_key: str, rules: Rules, connections_max: int) -> None:
        super().__init__(url, api_key, rules)
        self._connections_max = connections_max
        self._opened = self._open()

    def _open(self) -> tuple[int, httpx.Client]:
        """Return the id of this process and a new pool of connections."""
        return os.getpid(), httpx.Client(**self._options(self._connections_max))

    @property
    def _http(self) -> httpx.Client:
        # A forked process needs its own connections: on its parent's it would read answers to the parent's payments.
        if self._opened[0] != os.getpid():
            self._opened = self._open()
        return self._opened[1]

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def call(self, course: Course[T]) -> T:
        """Run a course and return its outcome."""
        result = None
        while True:
            try:
                step = course.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # T, which the type of exceptions does not tell
            result = self._do(step)

    def iterate(self, course: Course[None]) -> Generator[Any, None, None]:
        """Run a course and yield its items."""
        with contextlib.closing(course), contextlib.ExitStack() as opened:
            pieces: Iterator[bytes] = iter(())
            result: Any = None
            while True:
                try:
                    step = course.send(result)
                except StopIteration:
                    return
                result = None
                match step:
                    case Item(value):
                        yield value
                    case Open():
                        opened.close()
                        try:
                            response = opened.enter_context(self._http.stream(**self._opening(step)))
                            result = None if streams(response) else _read(response, TimeLeft(step.silence_seconds))
                            pieces = response.iter_bytes()
                        except httpx.RequestError as error:
                            result = broken(error)
                    case Read():
                        try:
                            result = next(pieces, b"")
                        except httpx.RequestError as error:
                            result = broken(error)
                    case _:
                        # Any other step means that the course no longer needs the stream.
                        opened.close()
                        result = self._do(step)

    def _do(self, step: Send | Pause) -> Answer | Broken | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        left = TimeLeft(step.seconds)
        try:
            with self._http.stream(**self._sending(step.request, left)) as response:
                return _read(response, left)
        except httpx.RequestError as error:
            return broken(error)


class AsyncDriver(Driver):
    """Runs courses under asyncio."""

    def __init__(self, url: str, api_key: str, rules: Rules, connections_max: int) -> None:
        super().__init__(url, api_key, rules)
        self._http = httpx.AsyncClient(**self._options(connections_max))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(self, course: Course[T]) -> T:
        """Run a course and return its outcome."""
        result = None
        while True:
            try:
                step = course.send(result)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # T, which the type of exceptions does not tell
            result = await self._do(step)

    async def iterate(self, course: Course[None]) -> AsyncGenerator[Any, None]:
        """Run a course and yield its items."""
        with contextlib.closing(course):
            async with contextlib.AsyncExitStack() as opened:
                pieces: AsyncIterator[bytes] | None = None
                result: Any = None
                while True:
                    try:
                        step = course.send(result)
                    except StopIteration:
                        return
                    result = None
                    match step:
                        case Item(value):
                            yield value
                        case Open():
                            await opened.aclose()
                            try:
                                response = await opened.enter_async_context(self._http.stream(**self._opening(step)))
                                left = TimeLeft(step.silence_seconds)
                                result = None if streams(response) else await _aread(response, left)
                                pieces = response.aiter_bytes()
                            except httpx.RequestError as error:
                                result = broken(error)
                        case Read():
                            assert pieces is not None, "a stream is opened before it is read"
                            try:
                                result = await anext(pieces, b"")
                            except httpx.RequestError as error:
                                result = broken(error)
                        case _:
                            await opened.aclose()
                            result = await self._do(step)

    async def _do(self, step: Send | Pause) -> Answer | Broken | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        left = TimeLeft(step.seconds)
        try:
            async with (
                asyncio.timeout(left.seconds),
                self._http.stream(**self._sending(step.request, left)) as response,
            ):
                return await _aread(response, left)
        except (httpx.RequestError, TimeoutError) as error:
            return broken(error)


def broken(error: Exception) -> Broken:
    """Return an error of httpx as Broken."""
    reason = f"{type(error).__name__} {error}".rstrip()
    return Broken(reason, not isinstance(error, _NOT_SENT), no_tls=_NO_TLS in reason)


def streams(response: httpx.Response) -> bool:
    """Return whether an answer is a stream of events."""
    kind = response.headers.get("content-type", "")
    return response.status_code == 200 and kind.startswith("text/event-stream")


def _read(response: httpx.Response, left: TimeLeft) -> Answer:
    body = Body(left)
    for piece in response.iter_bytes():
        body.take(piece)
    return Answer(response.status_code, response.headers, body.whole)


async def _aread(response: httpx.Response, left: TimeLeft) -> Answer:
    body = Body(left)
    async for piece in response.aiter_bytes():
        body.take(piece)
    return Answer(response.status_code, response.headers, body.whole)
