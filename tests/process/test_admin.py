"""The process that answers operators: whatever becomes of it, requests are served and no number goes back."""

import asyncio
import itertools
import os
import pty
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.process.process_table import children_of, said_of
from tests.process.short_timeouts import SILENCE_SECONDS
from tests.support.client import Client
from tests.support.command import NO_REDIS, call, environment
from tests.support.service import ServerProcess, make_key, shared_server
from tests.support.waiting import until
from tests.telemetry.documented import Series, series

REPLACED_SECONDS = 30.0
END_SECONDS = 30.0
# Seconds between two questions of an operator.
THINK_SECONDS = 0.02
SWAPPED = "the admin process was swapped"
RESTARTS = Series("tallystick_admin_restarts_total", ())
CREATED = Series(
    "tallystick_request_duration_seconds", (("method", "POST"), ("route", "/v1/accounts"), ("status", "201"))
)
# Waits three seconds for a sign of life.
PROGRAM = "tests.process.short_timeouts"
_ledgers = itertools.count(1)
_opened: Counter[ServerProcess] = Counter()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
async def lasting(
    template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """A server that waits three seconds for a sign of life, for all tests here that leave it serving."""
    log = tmp_path_factory.mktemp("lasting") / "log"
    async with shared_server(template, log, redis_url=redis_url, module=PROGRAM) as server:
        yield server


@pytest.fixture
async def server(lasting: ServerProcess) -> ServerProcess:
    """The same, ready again after the test before."""
    await until(partial(is_ready, lasting), REPLACED_SECONDS)
    return lasting


def admin_of(server: ServerProcess) -> int:
    """Return the process."""
    [pid] = [pid for pid in children_of(server.pid) if b"server.process.admin" in said_of(pid, "cmdline")]
    return pid


async def asked(server: ServerProcess, path: str) -> tuple[int, bytes]:
    """Return what the admin port says."""
    async with aiohttp.ClientSession() as session, session.get(server.admin_url + path) as response:
        return response.status, await response.read()


async def scraped(server: ServerProcess) -> dict[Series, float]:
    """Return all numbers."""
    status, page = await asked(server, "/metrics")
    assert status == 200
    return series(page.decode())


async def is_ready(server: ServerProcess) -> bool:
    """Tell whether it says so."""
    return (await asked(server, "/readyz"))[0] == 200


async def opened(server: ServerProcess) -> int:
    """Open an account in a new ledger, and return how many this has opened on the server."""
    async with aiohttp.ClientSession() as session:
        client = Client(session, server.url, await make_key(server.database_url, f"books-{next(_ledgers)}"))
        assert (await client.open("alice")).status == 201
    _opened[server] += 1
    return _opened[server]


def counters(found: dict[Series, float]) -> dict[Series, float]:
    """Return what may only grow, of requests."""
    return {name: value for name, value in found.items() if name.metric == "tallystick_request_duration_seconds"}


async def test_killed(server: ServerProcess) -> None:
    """Another one is started, the workers do not notice, and all that was counted is told again."""
    workers, killed = await server.workers(), admin_of(server)
    accounts = await opened(server)

    async def told() -> bool:
        return (await scraped(server)).get(CREATED) == accounts

    await until(told)
    found = await scraped(server)
    before, restarts = counters(found), found[RESTARTS]
    os.kill(killed, signal.SIGKILL)
    await opened(server)
    # The port stays open: whoever asks waits for the next process.
    after = await scraped(server)
    assert after[RESTARTS] == restarts + 1
    assert {name for name, value in before.items() if counters(after).get(name, -1) < value} == set()
    assert admin_of(server) != killed
    assert await server.workers() == workers
    assert f"admin (process {killed}) died: signal 9" in server.log_text()


async def test_a_worker_that_ends_is_counted_once(server: ServerProcess) -> None:
    """What it has counted stays, whichever of the two processes ends first."""
    [worker] = await server.workers()
    accounts = await opened(server)

    async def told() -> bool:
        return (await scraped(server)).get(CREATED) == accounts

    await until(told)
    died = server.log_text().count("died: signal 9")
    os.kill(worker, signal.SIGKILL)
    os.kill(admin_of(server), signal.SIGKILL)
    for _ in range(5):
        assert (await scraped(server))[CREATED] == accounts
    await until(lambda: server.log_text().count("died: signal 9") == died + 2)
    await until(lambda: "serves after" in server.log_text().rpartition("died: signal 9")[2])
    assert (await scraped(server))[CREATED] == accounts


async def test_frozen(server: ServerProcess) -> None:
    """It is killed after a while without a sign of life; meanwhile requests are served."""
    frozen = admin_of(server)
    os.kill(frozen, signal.SIGSTOP)
    await opened(server)
    silent = f"admin (process {frozen}) died: it gave no sign of life for {SILENCE_SECONDS:.0f} s"
    await until(lambda: silent in server.log_text(), REPLACED_SECONDS)
    await until(partial(is_ready, server), REPLACED_SECONDS)


async def test_swapped(server: ServerProcess) -> None:
    """After the workers it is exchanged too, without an answer lost; the supervisor stays."""
    before, swaps = admin_of(server), server.log_text().count(SWAPPED)
    server.kill(signal.SIGHUP)
    while server.log_text().count(SWAPPED) == swaps:
        assert (await asked(server, "/livez"))[0] == 200
        await asyncio.sleep(THINK_SECONDS)
    assert admin_of(server) != before
    assert f"admin (process {before}) ended: code 0" in server.log_text()


async def test_a_supervisor_that_hangs(server: ServerProcess) -> None:
    """Whoever asks for its health is told, by a process that does not hang."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        status, said = await asked(server, "/readyz")
        assert (status, b"the supervisor does not answer" in said) == (503, True)

        async def stuck() -> bool:
            return (await asked(server, "/livez"))[0] == 503

        await until(stuck, REPLACED_SECONDS)
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_the_end(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """While the server stops it says so; it ends last, in order."""
    async with ServerProcess(database_url, tmp_path / "log", {}, redis_url, PROGRAM).running() as server:
        # The admin process has started too.
        await asked(server, "/livez")
        pid, [worker] = admin_of(server), await server.workers()
        os.kill(worker, signal.SIGSTOP)
        server.kill(signal.SIGTERM)
        found: list[tuple[int, bytes]] = []

        async def stopping() -> bool:
            found[:] = [await asked(server, "/readyz")]
            return b'"stopping"' in found[0][1]

        await until(stopping)
        assert found[0][0] == 503
        os.kill(worker, signal.SIGCONT)
        assert await server.wait() == 0
        log = server.log_text()
        assert log.index(f"(process {worker}) ended") < log.index(f"admin (process {pid}) ended: code 0")


async def test_one_that_fails_at_every_start(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers serve, the server goes on trying, and it ends in order."""
    # Python runs this before any program; the admin process ends there.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'server.process.admin' in sys.orig_argv:\n    sys.exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = ServerProcess(database_url, tmp_path / "log", {}, redis_url)
    try:
        await server.start()
        # More often than a server tries whose workers fail.
        await until(lambda: server.log_text().count("died: code 1") > 3, REPLACED_SECONDS)
        await opened(server)
        server.kill(signal.SIGTERM)
        assert await server.wait() == 0
    finally:
        await server.stop()


async def serve_on_a_terminal(database_url: str, log: Path, **settings: str) -> str:
    """Return what `serve` prints on a terminal."""
    ours, theirs = pty.openpty()
    variables = {"TALLYSTICK_DATABASE_URL": database_url, "TALLYSTICK_REDIS_URL": NO_REDIS, **settings}
    with log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", "serve", "--port", "0"),
            env=environment(variables),
            stdout=theirs,
            stderr=errors,
        )
    os.close(theirs)
    said = b""
    try:
        async with asyncio.timeout(END_SECONDS):
            while said.count(b"\n") < 2:
                said += await asyncio.to_thread(os.read, ours, 4096)
        return said.decode()
    finally:
        child.terminate()
        await asyncio.wait_for(child.wait(), END_SECONDS)
        os.close(ours)


async def test_the_token_on_a_terminal(database_url: str, tmp_path: Path) -> None:
    """A terminal is told the address with the token in its fragment; the log is not."""
    said = await serve_on_a_terminal(database_url, tmp_path / "log")
    found = re.search(r"^Console: http://127\.0\.0\.1:\d+/console#token=([\w-]{43})\s*$", said, re.MULTILINE)
    assert found is not None, said
    assert found[1] not in (tmp_path / "log").read_text()


async def test_a_token_that_is_set(database_url: str, tmp_path: Path) -> None:
    """Who has set it knows it: it is not printed."""
    said = await serve_on_a_terminal(database_url, tmp_path / "log", TALLYSTICK_CONSOLE_TOKEN="t" * 40)
    assert re.search(r"^Console: http://127\.0\.0\.1:\d+/console\s*$", said, re.MULTILINE)


@pytest.mark.parametrize(
    "token", ["a-token", "x" * 31, "x" * 129, "with a blank in the middle of it.........", "ü" * 40]
)
async def test_what_is_no_token(token: str, tmp_path: Path) -> None:
    """It is refused before anything is served, without being repeated."""
    ended = await call("serve", console_token=token)
    assert ended.code == 2
    assert "console_token cannot have the value given by TALLYSTICK_CONSOLE_TOKEN" in ended.err
    assert token not in ended.err
