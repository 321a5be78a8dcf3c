"""
A client of the ledger's HTTP API that repeats what may be repeated, under the same key.

Answers come back as the bytes that were received, so that a caller can compare them.
"""

import random
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.stop import stop_after_attempt, stop_before_delay

from loadtests.answers import (
    AccountState,
    Answer,
    ClientError,
    GaveUp,
    Item,
    NotNow,
    Page,
    Request,
    UnexpectedAnswer,
    items_of,
    raise_unless_answered,
)

# One request: above the server's own deadline, so that its answer and not our impatience decides.
REQUEST_SECONDS_MAX = 30.0
# One call with all its repeats: longer than a failover of the database, short enough to notice.
CALL_SECONDS_MAX = 90.0
ATTEMPTS_MAX = 40
# Where the answer names no time: doubled with each attempt, up to the second.
BACKOFF_SECONDS = 0.05
BACKOFF_SECONDS_MAX = 2.0
# Spreads the repeats of many callers that were refused at the same instant.
JITTER = 0.5
# The contract's limits on one page and on one bulk of accounts.
PAGE_MAX = 100
ACCOUNTS_BULK_MAX = 1000
# A cursor that never ends is a fault of the server; this many pages are a million accounts.
PAGES_MAX = 10_000


class LedgerClient:
    """Calls one ledger through at most *connections_max* connections."""

    def __init__(self, url: str, api_key: str, connections_max: int) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {api_key}"},
            connector=aiohttp.TCPConnector(limit=connections_max),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX),
        )
        self.in_flight = 0
        self.repeats = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def check_reachable(self) -> None:
        """Fail at once when nothing listens at the address or the key is not accepted."""
        try:
            await self._attempt(Request("GET", "/v1/accounts?limit=1"))
        except NotNow as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectorError):
                raise GaveUp(f"{self._url} cannot be reached: {error}") from error

    async def open_accounts(self, names: Sequence[str], currency: str) -> None:
        """Open every account without a floor; one that is already open so stays as it is."""
        for start in range(0, len(names), ACCOUNTS_BULK_MAX):
            some = names[start : start + ACCOUNTS_BULK_MAX]
            asked = [{"id": name, "currency": currency, "floor": None} for name in some]
            body = msgspec.json.encode({"accounts": asked})
            request = Request("POST", "/v1/accounts/bulk", body, items=True)
            answer = await self._call(request)
            self._results(request, answer, [f"opening {name}" for name in some])

    async def post_transfer(self, key: str, fields: dict[str, object]) -> Answer:
        """Post one transfer under its key."""
        return await self._call(Request("POST", "/v1/transfers", msgspec.json.encode(fields), key=key))

    async def post_set(self, keyed: Sequence[tuple[str, dict[str, object]]]) -> list[Answer]:
        """Post transfers in order, all or none; one answer each."""
        items = [{"key": key, **fields} for key, fields in keyed]
        body = msgspec.json.encode({"atomic": True, "transfers": items})
        request = Request("POST", "/v1/transfers/bulk", body, items=True)
        answer = await self._call(request)
        results = self._results(request, answer, [f"{request} for key {key}" for key, _ in keyed])
        return [Answer(item.status, bytes(item.transfer), item.replayed, answer.repeated) for item in results]

    async def accounts(self) -> AsyncIterator[AccountState]:
        """Every account of the ledger, page by page."""
        path = f"/v1/accounts?limit={PAGE_MAX}"
        cursor = ""
        for _ in range(PAGES_MAX):
            request = Request("GET", f"{path}&cursor={quote(cursor, safe='')}" if cursor else path)
            answer = await self._call(request)
            try:
                page = msgspec.json.decode(answer.body, type=Page)
            except msgspec.DecodeError as error:
                raise ClientError(f"{request} answered something else: {error}") from error
            for account in page.data:
                yield account
            if page.next_cursor is None:
                return
            cursor = page.next_cursor
        raise ClientError(f"GET {path} did not end within {PAGES_MAX} pages")

    def _results(self, request: Request, answer: Answer, asked: Sequence[str]) -> list[Item]:
        results = items_of(request, answer)
        if len(results) != len(asked):
            raise ClientError(f"{request} answered {len(results)} results for {len(asked)} items")
        for item, what in zip(results, asked, strict=True):
            if item.status not in (200, 201):
                raise UnexpectedAnswer(what, item.status, bytes(item.problem))
        return results

    async def _call(self, request: Request) -> Answer:
        self.in_flight += 1
        try:
            return await self._attempt(request)
        # Nearly every call ends here at its first attempt, without the cost of a retrying object.
        except NotNow as first:
            return await self._repeat(request, first)
        finally:
            self.in_flight -= 1

    async def _repeat(self, request: Request, first: NotNow) -> Answer:
        failed = [first]

        async def attempt() -> Answer:
            if failed:
                raise failed.pop()
            self.repeats += 1
            return await self._attempt(request)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(NotNow),
            wait=_pause_seconds,
            stop=stop_after_attempt(ATTEMPTS_MAX) | stop_before_delay(CALL_SECONDS_MAX),
            reraise=True,
        )
        try:
            return msgspec.structs.replace(await retrying(attempt), repeated=True)
        except NotNow as last:
            raise GaveUp(f"{request} was given up, at last because of {last}") from last

    async def _attempt(self, request: Request) -> Answer:
        headers = {"Content-Type": "application/json"} if request.body is not None else {}
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        try:
            async with self._session.request(
                request.method,
                self._url + request.path,
                data=request.body,
                headers=headers,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise NotNow(f"{type(error).__name__} {error}".rstrip()) from error
        except aiohttp.ClientError as error:
            raise ClientError(f"{request} failed: {type(error).__name__} {error}") from error
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        answer = Answer(response.status, body, replayed)
        raise_unless_answered(request, answer, response.headers.get("Retry-After"))
        return answer


def _pause_seconds(state: RetryCallState) -> float:
    """Never less than the answer asked for; jitter only adds to it."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, NotNow) else None
    backoff = min(BACKOFF_SECONDS * 2 ** (state.attempt_number - 1), BACKOFF_SECONDS_MAX)
    pause: float = max(asked or 0.0, backoff) * random.uniform(1.0, 1.0 + JITTER)
    return pause
