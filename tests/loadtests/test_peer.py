"""The benchmark's peer does the same as Tallystick for all calls that are compared."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from loadtests.bench.fill import statement
from loadtests.bench.places import PEER_PYTHON, run_peer
from server.gate.key_store import KeyLimit
from tests.support.postgres import administer, create_empty_database, drop_database
from tests.support.service import Service, make_key

ROOT = Path(__file__).resolve().parents[2]
FIGURES = Path(__file__).with_name("figures")
# The first run downloads the peer's packages.
SETUP_SECONDS_MAX = 600
SECONDS_MAX = 100

pytestmark = pytest.mark.timeout(SETUP_SECONDS_MAX + SECONDS_MAX)
# Three requests in a window that outlasts a test.
LOW_LIMIT = KeyLimit(3, 3_600, 3, 100)


@pytest.fixture(scope="module")
async def peer_packages() -> None:
    """The peer's environment, which is created if it is missing, so that no test is skipped."""
    command = [sys.executable, "scripts/bootstrap.py", "peer"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SETUP_SECONDS_MAX
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Api(NamedTuple):
    """One of the two sides with accounts a and b: its address, a key with generous limits and one with `LOW_LIMIT`."""

    session: aiohttp.ClientSession
    url: str
    key: str
    low_key: str

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str | None = None, idempotency: str | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send one request."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        if idempotency is not None:
            headers["Idempotency-Key"] = idempotency
        async with self.session.request(method, self.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers


@pytest.fixture(params=["tallystick", "peer"])
async def side(
    request: pytest.FixtureRequest, postgres_url: str, redis_url: str, service: Service, peer_packages: None
) -> AsyncIterator[Api]:
    """Each side in turn, running and without transfers."""
    async with aiohttp.ClientSession() as session:
        if request.param == "tallystick":
            name = f"bench-{os.urandom(4).hex()}"
            key = await make_key(service.database_url, name)
            low = await make_key(service.database_url, f"{name}-low", "admin", LOW_LIMIT)
            api = Api(session, service.url, key, low)
            accounts = [{"id": "a", "currency": "EUR", "floor": None}, {"id": "b", "currency": "EUR", "floor": 0}]
            status, body, _ = await api.ask("POST", "/v1/accounts/bulk", {"accounts": accounts})
            assert (status, [result["status"] for result in json.loads(body)["results"]]) == (200, [201, 201])
            yield api
            return
        database = await create_empty_database(postgres_url)
        peer_url = database.replace("postgresql://", "postgresql+asyncpg://", 1)
        keys = {"plenty": ("a", "1000000/second"), "few": ("b", "3/hour")}
        async with run_peer(peer_url, redis_url, keys) as (url, _):
            await administer(database, statement("peer_accounts"), "a", ["a", "b"], [None, 0])
            yield Api(session, url, "plenty", "few")
            assert [list(row) for row in await administer(database, statement("peer_audit"))] == [[True]]
        await drop_database(postgres_url, database)


async def test_both_sides_do_the_same(side: Api) -> None:
    """Transfers, replays, reads, limits and errors are the same on both sides."""
    assert json.loads((await side.ask("GET", "/v1/accounts/b"))[1])["balance"] == 0

    transfer = {"source": "a", "destination": "b", "amount": 7, "currency": "EUR"}
    answers = await asyncio.gather(*(side.ask("POST", "/v1/transfers", transfer, idempotency="one") for _ in range(5)))
    assert {(status, body) for status, body, _ in answers} == {(201, answers[0][1])}
    assert sum("Idempotent-Replayed" not in headers for _, _, headers in answers) == 1
    posted = json.loads(answers[0][1])
    names = ("source_balance", "destination_balance", "source_version", "destination_version", "amount", "currency")
    assert [posted[name] for name in names] == [-7, 7, 2, 2, 7, "EUR"]
    for _ in range(2):
        read_now = json.loads((await side.ask("GET", "/v1/accounts/b"))[1])
        assert (read_now["balance"], read_now["version"], read_now["floor"]) == (7, 2, 0)

    other = {**transfer, "amount": 8}
    assert (await side.ask("POST", "/v1/transfers", other, idempotency="one"))[0] == 422
    back = {"source": "b", "destination": "a", "amount": 8, "currency": "EUR"}
    assert (await side.ask("POST", "/v1/transfers", back, idempotency="two"))[0] == 409
    assert (await side.ask("POST", "/v1/transfers", {**transfer, "source": "none"}, idempotency="three"))[0] == 404
    assert (await side.ask("GET", "/v1/accounts/a", key="made-up"))[0] == 401

    statuses = [(await side.ask("GET", "/v1/accounts/none", key=side.low_key))[0] for _ in range(3)]
    assert statuses == [404] * 3
    status, _, headers = await side.ask("GET", "/v1/accounts/none", key=side.low_key)
    assert status == 429
    assert int(headers["Retry-After"]) > 0


def test_plots_are_the_same_of_the_same_figures(tmp_path: Path, peer_packages: None) -> None:
    """Equal figures make equal plots, whenever they are drawn."""
    look = subprocess.run([str(PEER_PYTHON), "-c", "import matplotlib"], capture_output=True, check=False)
    if look.returncode != 0:
        pytest.skip("only `make bench` fetches what draws")
    drawn = []
    for name in ("first", "second"):
        folder = tmp_path / name
        command = [str(PEER_PYTHON), "-m", "loadtests.bench.plots", str(FIGURES), str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=SECONDS_MAX)
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 8
