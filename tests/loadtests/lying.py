"""`python -m tests.loadtests.lying`: chaos with a proxy before each server that lies to clients in three ways."""

import itertools
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from loadtests.chaos.__main__ import main
from tests.support.listening import end

# One in so many transfers, and one in so many reads, is lied about; and one in so many captures, which are rarer.
EVERY, EVERY_CAPTURE = 40, 4
PASSED_ON = ("Authorization", "Idempotency-Key", "Content-Type")


class Liar:
    """
    Stands before a server: acknowledges a transfer that it has not passed on, moves money twice under another key,
    captures too, and shows an account as it was when it was first read.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._count = itertools.count(1)
        self._old: dict[str, tuple[int, bytes]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request, at times with a lie."""
        body = await request.read()
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        lie = next(self._count) % EVERY
        pays = request.path == "/v1/transfers" and b"world" not in body
        if pays and lie == 0:
            return web.Response(status=201, text=_invented(json.loads(body)), content_type="application/json")
        status, said, replayed = await self._pass_on(request, headers, body)
        captures = request.path.endswith("/capture") and lie % EVERY_CAPTURE == 0
        if (captures or (pays and lie == 2)) and status == 201:
            await self._pass_on(request, {**headers, "Idempotency-Key": f"again-{uuid.uuid4()}"}, body)
        if request.method == "GET" and request.path.startswith("/v1/accounts/") and status == 200 and lie == 1:
            status, said = self._old.setdefault(request.path_qs, (status, said))
        marks = {"Idempotent-Replayed": "true"} if replayed else {}
        return web.Response(status=status, body=said, headers=marks, content_type="application/json")

    async def _pass_on(self, request: web.Request, headers: dict[str, str], body: bytes) -> tuple[int, bytes, bool]:
        target = self._url + request.path_qs
        try:
            async with self._session.request(request.method, target, headers=headers, data=body or None) as response:
                return response.status, await response.read(), "Idempotent-Replayed" in response.headers
        except aiohttp.ClientError:
            return 502, b"", False


def _invented(asked: dict[str, object]) -> str:
    sides = {f"{side}_{what}": 1 for side in ("source", "destination") for what in ("version", "balance")}
    return json.dumps({"id": str(uuid.uuid4()), "kind": "transfer", "state": "posted", **asked, **sides})


@asynccontextmanager
async def lying(url: str) -> AsyncIterator[str]:
    """Put a liar before a server; gives its address."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", Liar(url, session).answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await end(runner)


if __name__ == "__main__":
    sys.exit(main(front=lying))
