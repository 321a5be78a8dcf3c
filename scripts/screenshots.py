"""
Take the pictures of the documentation: a server with demo data and traffic, as Chromium shows it.

Writes docs/pictures/*.png. Traffic runs for `--seconds` before the first picture; `--only NAME` takes one picture.
"""

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web

from tests.support.browser import running_chromium

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "pictures"
TOKEN: Final = "a-token-of-a-console-for-pictures-only"  # noqa: S105 -- of no other server
# Most bytes of a picture: readers of the documentation have to load it.
PICTURE_BYTES_MAX: Final = 200_000
START_SECONDS: Final = 60
END_SECONDS: Final = 30
# The number of customers, and how many requests they send together per second.
CUSTOMERS: Final = 40
REQUESTS_A_SECOND: Final = 60
# A payment that pictures show: a hold for two nights.
ORDER: Final[dict[str, Any]] = {
    "hold": True,
    "expires_in": 86_400,
    "reference": "order-1001",
    "description": "Two nights, breakfast included",
}


class Server(NamedTuple):
    """The addresses of a running server, and one of its keys."""

    url: str
    admin: str
    key: str


class Picture(NamedTuple):
    """A picture: its address, its size in pixels, the colours, and the element to wait for."""

    address: str
    size: tuple[int, int]
    colours: str = "light"
    shows: str = "#charts canvas"


@asynccontextmanager
async def running_server(data_dir: Path) -> AsyncIterator[Server]:
    """Run a server with embedded databases."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("TALLYSTICK_")}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server.cli", "serve", "--port", "0", "--admin-port", "0", "--workers", "2"),
        *("--data-dir", str(data_dir)),
        cwd=ROOT,
        env={
            **inherited,
            "TALLYSTICK_CONSOLE_TOKEN": TOKEN,
            "TALLYSTICK_WEBHOOK_PRIVATE_NETWORKS": "127.0.0.0/8",
            "TALLYSTICK_LOG_LEVEL": "error",
        },
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        said = ""
        async with asyncio.timeout(START_SECONDS):
            while "Console:" not in said:
                line = await child.stdout.readline()
                if not line:
                    raise RuntimeError("the server has ended")
                said += line.decode()
        found = re.search(r"serves at (\S+).*?KEY=(\S+).*?Console: (\S+)/console", said, re.DOTALL)
        assert found is not None, said
        yield Server(found[1], found[3], found[2])
    finally:
        child.terminate()
        await asyncio.wait_for(child.wait(), END_SECONDS)


class Traffic:
    """
    Sends the requests of a shop's customers.

    Args:
        session: The HTTP session of all requests.

        server: The server to send them to.
    """

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        self._session = session
        self._server = server
        self._random = random.Random(1)  # noqa: S311 -- made-up traffic is no secret
        self._number = 0

    async def send(self, method: str, path: str, body: Any = None, key: str | None = None, token: str = "") -> Any:
        """Send a request, and return the body of its answer."""
        headers = {"Authorization": f"Bearer {token or self._server.key}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        async with self._session.request(method, self._server.url + path, json=body, headers=headers) as response:
            return await response.json()

    async def pay(self, key: str, source: str, destination: str, amount: int, **fields: object) -> Any:
        """Post a transfer."""
        body = {"source": source, "destination": destination, "amount": amount, "currency": "EUR", **fields}
        return await self.send("POST", "/v1/transfers", body, key)

    async def prepare(self, receiver: str) -> str:
        """Open accounts, make named payments, a webhook endpoint and keys; return the key of a batch job."""
        customers = [{"id": f"customer:{number}", "currency": "EUR"} for number in range(1, CUSTOMERS + 1)]
        books = [{"id": name, "currency": "EUR", "floor": None} for name in ("bank", "shop", "fees")]
        await self.send("POST", "/v1/accounts/bulk", {"accounts": [*books, *customers]})
        for customer in customers:
            await self.pay(f"top-up-{customer['id']}", "bank", customer["id"], 25_000_000, reference="top-up")
        hold = await self.pay("order-1001", "customer:7", "shop", 24_000, **ORDER)
        first = f"/v1/transfers/{hold['id']}/capture"
        captured = await self.send("POST", first, {"amount": 12_000, "release_rest": False}, "order-1001-night-1")
        await self.send("POST", first, {"amount": 9_500, "release_rest": True}, "order-1001-night-2")
        await self.send("POST", f"/v1/transfers/{captured['id']}/reverse", {"amount": 3_000}, "order-1001-refund")
        await self.send("POST", "/v1/webhook-endpoints", {"url": receiver, "types": [], "description": "The shop"})
        batch = {"role": "write", "description": "nightly batch job", "rate": "5/s", "burst": 10}
        made = await self.send("POST", "/v1/api-keys", batch)
        await self.send("POST", "/v1/api-keys", {"role": "read", "description": "reporting"})
        return str(made.get("token", ""))

    async def run(self, batch_key: str) -> None:
        """Send requests until cancelled."""
        while True:
            self._number += 1
            await asyncio.gather(self._one(batch_key), asyncio.sleep(1 / REQUESTS_A_SECOND))

    async def _one(self, batch_key: str) -> None:
        chance, customer = self._random.random(), f"customer:{self._random.randint(1, CUSTOMERS)}"
        if chance < 0.45:
            await self.send("GET", f"/v1/accounts/{customer}")
        elif chance < 0.8:
            amount = self._random.randint(100, 9_000)
            await self.pay(f"order-{self._number}", customer, "shop", amount, reference=f"order-{self._number}")
        elif chance < 0.86:
            await self.pay(f"order-{self._number}", customer, "shop", 90_000_000_000)
        elif chance < 0.93:
            await self.pay("order-1001", "customer:7", "shop", 24_000, **ORDER)
        elif batch_key:
            gets = (self.send("GET", f"/v1/accounts/{customer}", token=batch_key) for _ in range(4))
            await asyncio.gather(*gets)


def pictures(server: Server) -> dict[str, Picture]:
    """Return all pictures by the name of their file."""
    console = f"{server.admin}/console#"
    return {
        "console": Picture(f"{console}live", (1280, 900)),
        "console-dark": Picture(f"{console}live", (1280, 900), "dark"),
        "console-narrow": Picture(f"{console}live", (400, 860)),
        "console-payment": Picture(f"{console}find/1/key/order-1001", (1280, 760), shows="ol.timeline"),
        "console-account": Picture(f"{console}find/1/account/customer%3A7", (1280, 900), shows="dl.facts"),
        "reference": Picture(f"{server.url}/docs", (1280, 900), shows="h1"),
    }


async def take(server: Server, chosen: dict[str, Picture]) -> None:
    """Take pictures."""
    FOLDER.mkdir(exist_ok=True)
    async with running_chromium() as chromium:
        for name, picture in chosen.items():
            async with chromium.page(server.admin, server.url, size=picture.size, color_scheme=picture.colours) as lent:
                if picture.address.startswith(server.admin):
                    await lent.page.goto(f"{server.admin}/console#token={TOKEN}")
                    await lent.page.wait_for_selector("nav a")
                    await lent.page.evaluate("address => { location.href = address }", picture.address)
                else:
                    await lent.page.goto(picture.address)
                await lent.page.wait_for_selector(picture.shows)
                # Charts are drawn once a second; wait until they show all data.
                await lent.page.wait_for_timeout(2_500)
                if lent.errors or lent.outside:
                    raise RuntimeError(f"{name}: {lent.errors} {lent.outside}")
                path = FOLDER / f"{name}.png"
                await lent.page.screenshot(path=path)
            print(path.relative_to(ROOT), path.stat().st_size)
            if path.stat().st_size > PICTURE_BYTES_MAX:
                raise RuntimeError(f"{path.name} has more than {PICTURE_BYTES_MAX} bytes")


async def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of the documentation.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tallystick-pictures-") as folder:
        async with (
            running_server(Path(folder) / "data") as server,
            receiving() as receiver,
            aiohttp.ClientSession() as session,
        ):
            traffic = Traffic(session, server)
            batch_key = await traffic.prepare(receiver)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(traffic.run(batch_key))
                await asyncio.sleep(arguments.seconds)
                found = pictures(server)
                await take(server, found if arguments.only is None else {arguments.only: found[arguments.only]})
                running.cancel()


@asynccontextmanager
async def receiving() -> AsyncIterator[str]:
    """Receive webhooks and refuse one in ten; yield the address for them."""
    number = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal number
        number += 1
        return web.Response(status=503 if number % 10 == 0 else 200)

    app = web.Application()
    app.add_routes([web.post("/hooks", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
