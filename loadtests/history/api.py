"""A caller of the ledger's API that needs the standard library only and asks again when it is told to wait."""

import http.client
import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

# One request: above the server's own deadline, so that its answer and not our impatience decides.
REQUEST_SECONDS_MAX = 30.0
# One call with all its repeats: longer than a failover of the database, short enough to notice.
CALL_SECONDS_MAX = 90.0
# Seconds between repeats where the answer names none.
PAUSE_SECONDS = 0.2
# The contract's largest page.
PAGE_MAX = 100
# A cursor that never ends is a fault of the server; this many pages are ten million rows.
PAGES_MAX = 100_000
_NOT_NOW = (408, 429, 503)


class ApiError(Exception):
    """A call was not answered as it should be; the message says how instead."""


class Reply(NamedTuple):
    """An answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """
        The body, decoded.

        Raises:
            ApiError: It is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ApiError(f"{self.status} without JSON: {self.body[:200]!r}") from error


def connect(url: str, seconds_max: float = REQUEST_SECONDS_MAX) -> http.client.HTTPConnection:
    """
    Return a connection, not open yet, to the host of an address.

    Raises:
        ApiError: The address is not of the form http://HOST:PORT or https://HOST:PORT.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ApiError(f"not an address: {url}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise ApiError(f"not an address of the form http://HOST:PORT: {url}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=seconds_max)


def wait_of(retry_after: str | None) -> float:
    """Return the seconds that a `Retry-After` asks for; 0 where it names none, or a date, as some balancers do."""
    return float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.0


class Api:
    """Calls one ledger through one connection, one request at a time."""

    def __init__(self, url: str, key: str) -> None:
        self._connection = connect(url)
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def once(self, method: str, path: str, body: object = None, key: str = "") -> Reply:
        """
        Send one request and return its answer, whatever it is.

        Raises:
            ApiError: There was none.
        """
        headers = dict(self._headers)
        if key:
            headers["Idempotency-Key"] = key
        sent = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent = json.dumps(body)
        try:
            self._connection.request(method, path, sent, headers)
            response = self._connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, fields, response.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ApiError(f"{method} {self._url}{path}: {type(error).__name__} {error}") from error

    def call(self, method: str, path: str, body: object = None, key: str = "") -> Reply:
        """
        Send a request that may be repeated until it is answered with something other than `not now`.

        Raises:
            ApiError: It was not, within CALL_SECONDS_MAX.
        """
        deadline = time.monotonic() + CALL_SECONDS_MAX
        while True:
            pause = PAUSE_SECONDS
            try:
                reply = self.once(method, path, body, key)
                if reply.status not in _NOT_NOW:
                    return reply
                pause = max(pause, wait_of(reply.headers.get("retry-after")))
                why = ApiError(f"{method} {path}: {reply.status}")
            except ApiError as error:
                why = error
            if time.monotonic() + pause > deadline:
                raise why
            time.sleep(pause)

    def get(self, path: str) -> Any:
        """
        Return what a GET answers.

        Raises:
            ApiError: It does not answer 200.
        """
        reply = self.call("GET", path)
        if reply.status != 200:
            raise ApiError(f"GET {path}: {reply.status} {reply.body[:500].decode(errors='replace')}")
        return reply.json

    def pages(self, path: str, **parameters: str) -> Iterator[dict[str, Any]]:
        """
        Return all rows of a list, page by page.

        Raises:
            ApiError: A page is not answered, or there is no end to them.
        """
        asked = {"limit": str(PAGE_MAX), **parameters}
        for _ in range(PAGES_MAX):
            page = self.get(path + "?" + "&".join(f"{name}={quote(text, safe='')}" for name, text in asked.items()))
            yield from page["data"]
            if page["next_cursor"] is None:
                return
            asked["cursor"] = page["next_cursor"]
        raise ApiError(f"GET {path} did not end within {PAGES_MAX:,} pages")
