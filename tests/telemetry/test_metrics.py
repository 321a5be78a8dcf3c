"""All metrics are documented, and the number of series depends only on the program's routes and codes."""

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from server.http.problems import KINDS
from server.http.routes import ROUTES
from server.telemetry.metrics import METRICS, SUPERVISED
from tests.input.wire import connect, request
from tests.support.client import Client
from tests.support.service import ServerProcess, make_key, shared_server
from tests.support.waiting import until
from tests.telemetry.documented import ALL, Series, rows, series

# Requests of each kind in which the caller invents everything.
MADE_UP = 100


@pytest.fixture(scope="module")
async def server(
    template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """
    A server with one worker and a background process. A test must leave nothing on it that is still to be counted.
    """
    log = tmp_path_factory.mktemp("metrics") / "log"
    async with shared_server(template, log, {"TALLYSTICK_BACKGROUND": "true"}, redis_url) as process:
        yield process


async def scraped(server: ServerProcess) -> dict[Series, float]:
    """Return the series of the admin port."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.admin_url}/metrics") as response:
        assert response.status == 200
        return series(await response.text())


async def until_counted(server: ServerProcess, number: int) -> dict[Series, float]:
    """Return all series once so many requests have been counted, apart from health checks."""
    found: dict[Series, float] = {}

    async def all_there() -> bool:
        found.clear()
        found.update(await scraped(server))
        return _requests(found) >= number

    await until(all_there)
    assert _requests(found) == number
    return found


def _requests(found: dict[Series, float]) -> int:
    return sum(
        int(value)
        for (name, labels), value in found.items()
        if name == "tallystick_request_duration_seconds" and dict(labels)["route"] not in ("/livez", "/readyz")
    )


def test_all_metrics_are_documented() -> None:
    """The table has exactly the existing metrics, with their types and labels."""
    assert {name: (row.kind, tuple(row.labels)) for name, row in rows().items()} == {
        name: (metric.kind, metric.labels) for name, metric in ALL.items()
    }


def assert_documented(found: dict[Series, float]) -> None:
    """Fail on a series whose name or labels are not in the table."""
    table = rows()
    routes = {route.path for route in ROUTES} | {"other"}
    for name, labels in found:
        assert name in table, name
        documented = table[name].labels
        assert dict(labels).keys() == documented.keys(), name
        for label, value in labels:
            if label == "route":
                assert value in routes
            elif label == "code":
                assert value in KINDS
            elif label in ("status", "slot", "rank"):
                assert re.fullmatch(r"[1-9][0-9]{0,2}", value) or value in ("background", "admin")
            elif label != "version":
                assert value in re.split(r"[,;] ", documented[label]), (name, label, value)


async def made_up(client: Client, start: int) -> int:
    """Send requests whose method, path, header fields, ids and bodies are all new; return how many."""
    assert client.token is not None
    sent = 0
    for number in range(start, start + MADE_UP):
        name = f"made-up-{number}"
        statuses = [
            (await client.get(f"/v1/accounts/{name}")).status,
            (await client.send("GET", f"/{name}/{name}", headers={f"X-{name}": name, "X-Request-Id": name})).status,
            (await client.transfer("world", name, 1, description=name)).status,
        ]
        assert statuses == [404, 404, 404]
        async with connect(client.url) as wire:
            await wire.send(request(f"MADEUP{number}", f"/v1/accounts/{name}", token=client.token))
            response = await wire.receive()
        assert response is not None
        assert response.status in (400, 405)
        sent += len(statuses) + 1
    return sent


async def test_callers_add_no_series(server: ServerProcess) -> None:
    """Invented methods, paths, header fields and accounts add no series."""
    token = await make_key(server.database_url, "callers")
    counted = _requests(await scraped(server))
    async with aiohttp.ClientSession() as session:
        client = Client(session, server.url, token)
        await client.open("world", floor=None)
        sent = counted + 1 + await made_up(client, 0)
        before = await until_counted(server, sent)
        sent += await made_up(client, MADE_UP)
        after = await until_counted(server, sent)
    assert_documented(after)
    hot = "tallystick_hot_account_transfers"
    # They are reported every ten seconds, always with the same number of ranks.
    kept = [{found for found in told if found.metric != hot} for told in (before, after)]
    assert kept[0] == kept[1]
    # There are no sinks.
    sinks = {name for name, metric in METRICS.items() if "sink" in metric.labels}
    assert {found.metric for found in after} >= (METRICS.keys() | SUPERVISED.keys()) - sinks - {
        *(hot, "tallystick_spans_total", "tallystick_replays_total")
    }
    page = "\n".join(f"{found}" for found in after)
    assert "made-up" not in page
    assert token not in page


async def opened(server: ServerProcess, token: str, account: str) -> None:
    """Open an account on a connection that is then closed, so that a draining worker does not wait for its client."""
    async with aiohttp.ClientSession() as session:
        assert (await Client(session, server.url, token).open(account)).status == 201


async def test_numbers_outlive_workers(server: ServerProcess) -> None:
    """A worker's counters stay after it dies or is swapped, and its gauges disappear."""
    token = await make_key(server.database_url, "outlived")
    restarts = Series("tallystick_worker_restarts_total", ())
    first = await scraped(server)
    counted = _requests(first)
    await opened(server, token, "alice")
    await until_counted(server, counted + 1)
    [killed] = await server.workers()
    os.kill(killed, signal.SIGKILL)
    await until(lambda: "died: signal 9" in server.log_text())
    await server.workers()
    await opened(server, token, "bob")
    found = await until_counted(server, counted + 2)
    assert found[restarts] == first[restarts] + 1
    assert found[Series("tallystick_workers", (("state", "serving"),))] == 1
    assert found[Series("tallystick_workers", (("state", "draining"),))] == 0
    # The worker that counts it is about to end.
    await opened(server, token, "carol")
    server.kill(signal.SIGHUP)
    await until(lambda: "workers were swapped" in server.log_text())
    await opened(server, token, "dave")
    found = await until_counted(server, counted + 4)
    assert sum(value for name, value in _flat(found).items() if name == "tallystick_pool_connections") <= 8
    build = [value for name, value in _flat(found).items() if name == "tallystick_build_info"]
    assert build == [1]


async def test_a_worker_that_hangs(server: ServerProcess) -> None:
    """
    A scrape does not wait for a worker that hangs: it shows the worker's last report, and for how long it has been
    silent.
    """
    counted = _requests(await scraped(server))
    await opened(server, await make_key(server.database_url, "hanging"), "alice")
    await until_counted(server, counted + 1)
    [hanging] = await server.workers()
    silence = Series("tallystick_worker_silent_seconds", (("slot", "1"),))

    async def silent(least: float, most: float) -> bool:
        found = await scraped(server)
        assert _requests(found) == counted + 1
        return least <= found[silence] < most

    os.kill(hanging, signal.SIGSTOP)
    try:
        await until(partial(silent, 2.5, 60.0))
    finally:
        # The supervisor may have killed it because it hung.
        with contextlib.suppress(ProcessLookupError):
            os.kill(hanging, signal.SIGCONT)
    await until(partial(silent, 0.0, 1.5))


def _flat(found: dict[Series, float]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (name, _), value in found.items():
        sums[name] += int(value)
    return sums


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells what a process uses")
async def test_what_a_worker_uses(server: ServerProcess) -> None:
    """CPU time and memory of each worker are reported by its slot."""
    found = await scraped(server)
    slot = (("slot", "1"),)
    assert found[Series("tallystick_worker_cpu_seconds_total", slot)] > 0
    assert found[Series("tallystick_worker_resident_bytes", slot)] > 10_000_000
