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
from tests.support.service import ServerProcess, make_key
from tests.support.waiting import until
from tests.telemetry.documented import series

REPLACED_SECONDS = 30.0
LEDGER = "background"

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


async def serves(server: ServerProcess) -> None:
    """Read and write."""
    async with aiohttp.ClientSession() as session:
        client = Client(session, server.url, await make_key(server.database_url, LEDGER))
        assert (await client.open("alice")).status == 201
        assert await client.balance("alice") == 0


@pytest.fixture
async def server(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with a worker and a background process that it waits three seconds for; it has started."""
    variables = {"TALLYSTICK_BACKGROUND": "true"}
    running = ServerProcess(database_url, tmp_path / "log", variables, redis_url, "tests.process.short_timeouts")
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def test_it_runs_beside_the_workers(server: ServerProcess) -> None:
    """It leads, is shown to operators, and its numbers are among those of the server."""
    await worker_of(server)
    await until(lambda: LEADS in server.log_text())

    async def scraped() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{server.admin_url}/metrics") as response:
            page = series(await response.text())
        found = {(name, dict(labels).get("state")): value for (name, labels), value in page.items()}
        return (
            found.get(("tallystick_background_leads", None)) == 1
            and found["tallystick_background_processes", "serving"] == 1
            and found["tallystick_background_restarts_total", None] == 0
            and found["tallystick_workers", "serving"] == 1
        )

    await until(scraped)


async def test_it_sweeps(server: ServerProcess) -> None:
    """Holds of the server's callers get their expiries, before and after workers and background process are swapped."""
    async with aiohttp.ClientSession() as session:
        client = Client(session, server.url, await make_key(server.database_url, LEDGER))
        await client.open("shop")
        await client.fund("alice", 1_000)
        holds = await hold(client, "alice", 10)

        async def swept() -> bool:
            return await expiries(server.database_url) == sorted(holds)

        await until(swept)
        holds += await hold(client, "alice", 10)
        server.kill(signal.SIGHUP)
        await until(lambda: "the background process was swapped" in server.log_text(), REPLACED_SECONDS)
        holds += await hold(client, "alice", 10)
        await until(swept)
    assert await stored(server.database_url) == 0


async def test_killed(server: ServerProcess) -> None:
    """It is followed by another one, which leads; the worker stays, and goes on."""
    [worker] = await server.workers()
    killed = await worker_of(server)
    await until(lambda: LEADS in server.log_text())
    os.kill(killed, signal.SIGKILL)
    await serves(server)
    await until(lambda: f"background (process {killed}) died: signal 9" in server.log_text())
    assert await worker_of(server) != killed
    await until(lambda: server.log_text().count(LEADS) == 2)
    assert await server.workers() == [worker]


async def test_frozen(server: ServerProcess) -> None:
    """It is killed after a while without a sign of life; meanwhile requests are served."""
    frozen = await worker_of(server)
    os.kill(frozen, signal.SIGSTOP)
    await serves(server)
    silent = f"background (process {frozen}) died: it gave no sign of life for {SILENCE_SECONDS:.0f} s"
    await until(lambda: silent in server.log_text(), REPLACED_SECONDS)
    assert await worker_of(server) != frozen


async def test_swapped(server: ServerProcess) -> None:
    """After the workers it is exchanged too; the old one ends in order, so that the new one leads at once."""
    before = await worker_of(server)
    await until(lambda: LEADS in server.log_text())
    server.kill(signal.SIGHUP)
    await until(lambda: "the background process was swapped" in server.log_text(), REPLACED_SECONDS)
    assert "all 1 workers were swapped" in server.log_text()
    assert await worker_of(server) != before
    assert f"background (process {before}) ended: code 0" in server.log_text()
    await until(lambda: server.log_text().count(LEADS) == 2)
    assert await leaders(server.database_url) == 1


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
        await serves(server)
        server.kill(signal.SIGTERM)
        assert await server.wait() == 0
    finally:
        await server.stop()


async def test_without_one(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Where it runs elsewhere the server has none, and says nothing of it."""
    server = ServerProcess(database_url, tmp_path / "log", {"TALLYSTICK_BACKGROUND": "false"}, redis_url)
    try:
        await server.start()
        await server.workers()
        assert "background" not in await asked(server)
        assert "background" not in server.log_text()
        assert await leaders(database_url) == 0
    finally:
        await server.stop()
