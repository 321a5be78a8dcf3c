"""A client for tests: it sends any request, and shows the status, headers and bytes of the answer."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import aiohttp
import orjson

from server.http.router import Router
from server.http.routes import ROUTES
from tests.support.declared import check_answer

ROUTES_BY_PATH = Router(ROUTES)
_keys = itertools.count(1)


class Answer(NamedTuple):
    """A response as it was received."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem."""
        return cast(str, self.json["code"])

    @property
    def replayed(self) -> bool:
        """Whether the answer says that it is a replay."""
        return self.headers.get("Idempotent-Replayed") == "true"


class Client:
    """
    Sends requests with one API key.

    Args:
        session: The session of aiohttp, which clients share.

        url: The address of the server, without a slash at its end.

        token: The API key, or None to send none.

        through_others: Whether a balancer may answer in place of the server, or the address is not that of the API.
            Otherwise every answer must be described in the OpenAPI document.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, token: str | None, *, through_others: bool = False
    ) -> None:
        self.session = session
        self.url = url
        self.token = token
        self._through_others = through_others

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send *body* as JSON, or *raw* unchanged; the content type is JSON unless *headers* name one."""
        fields = dict(headers or {})
        if self.token is not None:
            fields.setdefault("Authorization", f"Bearer {self.token}")
        data = raw if raw is not None else orjson.dumps(body) if body is not None else None
        if data is not None:
            fields.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, data=data, headers=fields) as response:
            # Do not read a stream of events, which has no end.
            body = b"" if response.content_type == "text/event-stream" else await response.read()
            answer = Answer(response.status, response.headers, body)
        if not self._through_others:
            _check_declared(method, path, answer, strings="amounts" in fields.get("Accept", ""))
        return answer

    async def get(self, path: str, **headers: str) -> Answer:
        """Send a GET; underscores in names of headers become hyphens."""
        return await self.send("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def post(self, path: str, body: object) -> Answer:
        """Send a POST without an idempotency key."""
        return await self.send("POST", path, body)

    async def open(self, account: str, currency: str = "EUR", **fields: object) -> Answer:
        """Open an account."""
        return await self.post("/v1/accounts", {"id": account, "currency": currency, **fields})

    async def transfer(
        self, source: str, destination: str, amount: object, key: str | None = None, **fields: object
    ) -> Answer:
        """Post a transfer, by default in EUR and under a new key."""
        body = {"source": source, "destination": destination, "amount": amount, "currency": "EUR", **fields}
        return await self.send("POST", "/v1/transfers", body, headers={"Idempotency-Key": key or new_key()})

    async def account(self, account: str) -> Any:
        """Return an account, which must exist."""
        answer = await self.get(f"/v1/accounts/{account}")
        assert answer.status == 200, answer
        return answer.json

    async def balance(self, account: str) -> int:
        """Return an account's balance."""
        return cast(int, (await self.account(account))["balance"])

    async def fund(self, account: str, amount: int, *, currency: str = "EUR", **fields: object) -> None:
        """Open an account and give it money from a funding account without a floor."""
        assert (await self.open("world", floor=None)).status in (200, 201)
        assert (await self.open(account, currency, **fields)).status == 201
        if amount:
            answer = await self.transfer("world", account, amount)
            assert answer.status == 201, answer


def _check_declared(method: str, path: str, answer: Answer, *, strings: bool) -> None:
    """
    Check that the OpenAPI document describes an answer, and that the table of routes declares its problem.

    Args:
        strings: Whether the answer may have amounts as strings, which the document describes only in words.
    """
    match = ROUTES_BY_PATH.find(path.partition("?")[0])
    route = None if match is None else match[0].get(method)
    if route is not None and answer.status >= 400 and answer.headers.get("Content-Type") == "application/problem+json":
        assert answer.code in route.codes, f"{method} {route.path} declares no {answer.code}"
    if route is not None and not strings:
        check_answer(route, answer.status, answer.headers, answer.body)


def new_key() -> str:
    """Return an idempotency key that no test has used."""
    return f"test-{next(_keys)}"
