"""The background process of a server: it is kept running, and whatever becomes of it, requests are served."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.process.process_table import is_alive
from tests.process.short_timeouts import SILENCE_SECONDS
from tests.support.background import LEADS, leaders
from tests.support.client import Client
from tests.support.holds import expiries, hold, stored
from tests.support.service import ServerProcess, make_key, shared_server
from tests.support.waiting import until
from tests.telemetry.documented import series

REPLACED_SECONDS = 30.0
# What a server says when it has exchanged the process.
SWAPPED = "the background process was swapped"
RESTARTS = "tallystick_background_restarts_total"
VARIABLES = {"TALLYSTICK_BACKGROUND": "true"}
# Waits three seconds for a sign of life.
PROGRAM = "tests.process.short_timeouts"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


async def asked(server: ServerProcess) -> dict[str, Any]:
    """Return what the admin port says."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.admin_url}/readyz") as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def worker_of(server: ServerProcess) -> int:
    """Return the process once it works."""
    found: dict[str, Any] = {}

    async def works() -> bool:
        found.update(await asked(server))
        return bool(found["background"]["state"] == "serving" and not found["background"]["failures"])

    await until(works, REPLACED_SECONDS)
    pid: int = found["background"]["pid"]
    return pid


async def serves(server: ServerProcess, ledger: str) -> None:
    """Read and write."""
    async with aiohttp.ClientSession() as session:
        client = Client(session, server.url, await make_key(server.database_url, ledger))
        assert (await client.open("alice")).status == 201
        assert await client.balance("alice") == 0


async def scraped(server: ServerProcess) -> dict[tuple[str, str | None], float]:
    """Return the numbers that have no label but a state."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.admin_url}/metrics") as response:
        page = series(await response.text())
    return {(name, dict(labels).get("state")): value for (name, labels), value in page.items()}


@pytest.fixture(scope="module")
async def lasting(
    template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """
    A server with a worker and a background process that it waits three seconds for, for all tests here that leave it
    serving.
    """
    log = tmp_path_factory.mktemp("lasting") / "log"
    async with shared_server(template, log, VARIABLES, redis_url, PROGRAM) as server:
        yield server


@pytest.fixture
async def server(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """The same, for a test that ends it."""
    async with ServerProcess(database_url, tmp_path / "log", VARIABLES, redis_url, PROGRAM).running() as server:
        yield server


async def test_it_runs_beside_the_workers(lasting: ServerProcess) -> None:
    """It leads, is shown to operators, and its numbers are among those of the server."""
    await worker_of(lasting)
    await until(lambda: LEADS in lasting.log_text())

    async def told() -> bool:
        found = await scraped(lasting)
        return (
            found.get(("tallystick_background_leads", None)) == 1
            and found["tallystick_background_processes", "serving"] == 1
            and found["tallystick_workers", "serving"] == 1
        )

    await until(told)


async def test_it_sweeps(lasting: ServerProcess, ledger: str) -> None:
    """Holds of the server's callers get their expiries, before and after workers and background process are swapped."""
    swaps = lasting.log_text().count(SWAPPED)
    async with aiohttp.ClientSession() as session:
        client = Client(session, lasting.url, await make_key(lasting.database_url, ledger))
        await client.open("shop")
        await client.fund("alice", 1_000)
        holds = await hold(client, "alice", 10)

        async def swept() -> bool:
            return await expiries(lasting.database_url) == sorted(holds)

        await until(swept)
        holds += await hold(client, "alice", 10)
        lasting.kill(signal.SIGHUP)
        await until(lambda: lasting.log_text().count(SWAPPED) > swaps, REPLACED_SECONDS)
        holds += await hold(client, "alice", 10)
        await until(swept)
    assert await stored(lasting.database_url) == 0


async def test_killed(lasting: ServerProcess, ledger: str) -> None:
    """It is followed by another one, which leads; the worker stays, and goes on; operators are told."""
    [worker] = await lasting.workers()
    killed = await worker_of(lasting)
    await until(lambda: LEADS in lasting.log_text())
    led, restarts = lasting.log_text().count(LEADS), (await scraped(lasting))[RESTARTS, None]
    os.kill(killed, signal.SIGKILL)
    await serves(lasting, ledger)
    await until(lambda: f"background (process {killed}) died: signal 9" in lasting.log_text())
    assert await worker_of(lasting) != killed
    await until(lambda: lasting.log_text().count(LEADS) > led)
    assert await lasting.workers() == [worker]

    async def told() -> bool:
        return (await scraped(lasting))[RESTARTS, None] == restarts + 1

    await until(told)


async def test_frozen(lasting: ServerProcess, ledger: str) -> None:
    """It is killed after a while without a sign of life; meanwhile requests are served."""
    frozen = await worker_of(lasting)
    os.kill(frozen, signal.SIGSTOP)
    await serves(lasting, ledger)
    silent = f"background (process {frozen}) died: it gave no sign of life for {SILENCE_SECONDS:.0f} s"
    await until(lambda: silent in lasting.log_text(), REPLACED_SECONDS)
    assert await worker_of(lasting) != frozen


async def test_swapped(lasting: ServerProcess) -> None:
    """After the workers it is exchanged too; the old one ends in order, so that the new one leads at once."""
    before = await worker_of(lasting)

    async def leads() -> bool:
        return await leaders(lasting.database_url) == 1

    await until(leads)
    log = lasting.log_text()
    lasting.kill(signal.SIGHUP)
    await until(lambda: lasting.log_text().count(SWAPPED) > log.count(SWAPPED), REPLACED_SECONDS)
    assert lasting.log_text().count("all 1 workers were swapped") > log.count("all 1 workers were swapped")
    assert await worker_of(lasting) != before
    assert f"background (process {before}) ended: code 0" in lasting.log_text()
    await until(lambda: lasting.log_text().count(LEADS) > log.count(LEADS))
    assert await leaders(lasting.database_url) == 1


@on_linux
async def test_the_end(server: ServerProcess) -> None:
    """It ends in order with the server, and before: the supervisor waits for it."""
    pid = await worker_of(server)
    server.kill(signal.SIGTERM)
    assert await server.wait() == 0
    assert not is_alive(pid)
    assert f"background (process {pid}) ended: code 0" in server.log_text()
    assert await leaders(server.database_url) == 0


@on_linux
async def test_a_frozen_one_does_not_keep_the_server_from_ending(server: ServerProcess) -> None:
    """It is killed in time."""
    pid = await worker_of(server)
    os.kill(pid, signal.SIGSTOP)
    server.kill(signal.SIGTERM)
    assert await server.wait() == 0
    assert not is_alive(pid)


async def test_one_that_fails_at_every_start(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers serve, the server goes on trying, and it ends in order."""
    # Python runs this before any program; the background process ends there.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'server.process.background' in sys.orig_argv:\n    sys.exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ServerProcess(database_url, tmp_path / "log", {"TALLYSTICK_BACKGROUND": "true"}, redis_url)
    try:
        await server.start()
        # More often than a server tries whose workers fail.
        await until(lambda: server.log_text().count("died: code 1") > 3, REPLACED_SECONDS)
        assert (await asked(server))["background"]["state"] in ("starting", "restarting")
        await serves(server, "books")
        server.kill(signal.SIGTERM)
        assert await server.wait() == 0
    finally:
        await server.stop()
