"""A server with a console, and what is done there by hand."""

from typing import Any, NamedTuple

import aiohttp
import orjson

from tests.support.client import Client
from tests.support.service import ServerProcess, make_key

TOKEN = "a-token-that-is-long-enough-for-tests"
LEDGER = "books"
# Would be seen if any of it were read as HTML.
SCRIPT = "<script>document.title='broken'</script>"
IMAGE = "<img src=x onerror=document.title=1>"


class Console(NamedTuple):
    """A running server, its console, and a client of the API with an administrator's key of LEDGER."""

    server: ServerProcess
    session: aiohttp.ClientSession
    client: Client

    @property
    def url(self) -> str:
        """Of the console."""
        return f"{self.server.admin_url}/console"

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request with the token, and return status and body of its answer."""
        fields = {"Authorization": f"Bearer {TOKEN}", **headers}
        async with self.session.request(method, self.url + path, json=body, headers=fields) as response:
            return response.status, await response.json()

    async def admin(self) -> int:
        """Return the admin process."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.session.get(f"{self.url}/live", headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    places = orjson.loads(line.removeprefix(b"data: "))["places"]
                    return next(int(place["pid"]) for place in places if place["label"] == "admin")
        raise AssertionError("it tells nothing")

    async def ledger(self) -> int:
        """Return the number of LEDGER."""
        status, found = await self.ask("GET", "/ledgers")
        assert status == 200
        return next(int(ledger["id"]) for ledger in found if ledger["name"] == LEDGER)


async def key_of(server: ServerProcess, role: str = "admin") -> str:
    """Return a new key of LEDGER."""
    return await make_key(server.database_url, LEDGER, role)


async def assert_no_console(server: ServerProcess) -> None:
    """Assert that there is nothing of it, and that operators are answered all the same."""
    async with aiohttp.ClientSession() as session:
        for path, status in (("/console", 404), ("/console/live", 404), ("/readyz", 200), ("/metrics", 200)):
            async with session.get(server.admin_url + path) as response:
                assert response.status == status
