"""The supervisor as operators meet it: what it says, whom it takes along when it ends, and process 1 of a container."""

import asyncio
import os
import pty
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from loadtests.processes import free_port
from server.process.commands.console import TOKEN_FILE
from tests.console.steps import assert_no_console
from tests.process.home import Home, place
from tests.process.process_table import children_of, is_alive, said_of, zombies_of
from tests.support.background import leaders
from tests.support.command import NO_REDIS, call, environment, run
from tests.support.service import ServerProcess, shared_server
from tests.support.waiting import until

# Seconds in which processes that have lost their parent are gone.
GONE_SECONDS = 30.0
END_SECONDS = 30.0

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def namespaces() -> bool:
    """Say whether this process may make process namespaces."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


async def ask(url: str) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.headers["Cache-Control"] == "no-store"
        return response.status, await response.json()


@pytest.fixture(scope="module")
async def serving(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server for all tests here that only look at it."""
    log = tmp_path_factory.mktemp("serving") / "log"
    async with shared_server(template, log, {"TALLYSTICK_WORKERS": "2"}) as server:
        await server.workers()
        yield server


async def test_the_admin_port(serving: ServerProcess) -> None:
    """It says of each worker whether it serves, and is ready when one of them is."""
    workers = await serving.workers()
    assert await ask(f"{serving.admin_url}/livez") == (200, {"status": "ok"})
    shown = [
        {"worker": number, "pid": pid, "state": "serving", "failures": []} for number, pid in enumerate(workers, 1)
    ]
    assert await ask(f"{serving.admin_url}/readyz") == (200, {"status": "ready", "workers": shown})
    if sys.platform == "linux":
        [admin] = set(children_of(serving.pid)) - set(workers)
        assert b"server.process.admin" in said_of(admin, "cmdline")


async def test_not_ready(tmp_path: Path) -> None:
    """While no worker could serve a request, the admin port says why."""
    port = free_port()
    variables = {
        "TALLYSTICK_ADMIN_PORT": str(port),
        "TALLYSTICK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/books",
        "TALLYSTICK_REDIS_URL": NO_REDIS,
    }
    with (tmp_path / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", "serve", "--port", "0"),
            env=environment(variables),
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert child.stdout is not None
    try:
        assert (await asyncio.wait_for(child.stdout.readline(), END_SECONDS)).startswith(b"Tallystick serves at ")
        status, said = await ask(f"http://127.0.0.1:{port}/readyz")
        assert (status, said["status"]) == (503, "not_ready")
        assert [worker["failures"] for worker in said["workers"]] == [["Postgres cannot be reached"]]  # type: ignore[attr-defined]  # JSON
    finally:
        child.terminate()
        assert await asyncio.wait_for(child.wait(), END_SECONDS) == 0


async def test_without_a_background_process(serving: ServerProcess) -> None:
    """Where it runs elsewhere the server has none, and says nothing of it."""
    _, said = await ask(f"{serving.admin_url}/readyz")
    assert "background" not in said
    assert "background" not in serving.log_text()
    assert await leaders(serving.database_url) == 0


async def test_without_a_console(serving: ServerProcess) -> None:
    """Nobody could be told its token: there is no console, and the log says so."""
    await assert_no_console(serving)
    assert "there is no console" in serving.log_text()


@on_linux
async def test_workers_are_told_no_secret_in_the_open(serving: ServerProcess) -> None:
    """Neither the command line nor the environment of a worker holds an address."""
    for worker in await serving.workers():
        for name in ("cmdline", "environ"):
            text = said_of(worker, name).decode()
            assert "server.process.worker" in text or name == "environ"
            assert "postgresql://" not in text
            assert "TALLYSTICK_" not in text


@on_linux
async def test_nothing_outlives_the_supervisor() -> None:
    """
    Killed with -9 it takes its workers and the embedded servers along, and another one starts at the same place.

    Each start has a token of its own for the console. What is printed may be a log: it is in a file that its owner
    alone can read.
    """
    with place() as data_dir:
        port, file = free_port(), data_dir / TOKEN_FILE
        home = Home(data_dir, admin_port=str(port), workers="2")
        await home.start()
        _, said = await ask(f"http://127.0.0.1:{port}/readyz")
        family = children_of(home.pid)
        # Postgres, Valkey, two workers, and the admin process.
        assert len(family) == 5
        assert {worker["pid"] for worker in said["workers"]} < set(family)  # type: ignore[attr-defined]  # JSON
        tokens = [file.read_text().strip()]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        killed = await home.stop(signal.SIGKILL)
        await until(lambda: not any(map(is_alive, family)), GONE_SECONDS)
        again = Home(data_dir, admin_port=str(port))
        await again.start()
        assert again.key == home.key
        tokens.append(file.read_text().strip())
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        end = await again.stop()
        assert end.code == 0
        assert tokens[0] != tokens[1]
        for printed in (killed.out + killed.err, end.out + end.err):
            assert str(file) in printed
            assert not any(token in printed for token in tokens)


@on_linux
async def test_told_twice(database_url: str, tmp_path: Path) -> None:
    """The second SIGTERM ends the workers at once, though one of them does not listen."""
    server = ServerProcess(database_url, tmp_path / "log", {"TALLYSTICK_WORKERS": "2"})
    await server.start()
    workers = await server.workers()
    os.kill(workers[0], signal.SIGSTOP)
    server.kill(signal.SIGTERM)
    await until(lambda: '"stopping"' in server.log_text())
    server.kill(signal.SIGTERM)
    assert await server.wait() == 1
    await until(lambda: not any(map(is_alive, workers)), GONE_SECONDS)
    # Nobody keeps the port.
    await until(partial(_refuses, server.port), GONE_SECONDS)


@on_linux
async def test_signals_for_the_whole_group(serving: ServerProcess) -> None:
    """Workers leave SIGINT, SIGTERM and SIGHUP to the supervisor, which tells them what to do."""
    workers = await serving.workers()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(workers[0], number)
    assert await serving.workers() == workers
    assert is_alive(workers[0])


@on_linux
async def test_a_terminal_that_is_closed(database_url: str, tmp_path: Path) -> None:
    """Its SIGHUP ends the server instead of swapping workers nobody looks at any more."""
    ours, theirs = pty.openpty()
    variables = {"TALLYSTICK_DATABASE_URL": database_url, "TALLYSTICK_REDIS_URL": NO_REDIS}
    with (tmp_path / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            # Takes the terminal of its standard input for its own.
            *("setsid", "--ctty", sys.executable, "-m", "server.cli", "serve", "--port", "0"),
            env=environment(variables),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    os.close(theirs)
    assert child.stdout is not None
    try:
        assert (await asyncio.wait_for(child.stdout.readline(), END_SECONDS)).startswith(b"Tallystick serves at ")
        os.close(ours)
        assert await asyncio.wait_for(child.wait(), END_SECONDS) == 0
        assert "the terminal was closed" in (tmp_path / "log").read_text()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@pytest.mark.skipif(not namespaces(), reason="may not make process namespaces")
async def test_process_1(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """As process 1 it collects processes that lost their parents, restarts workers, and ends in order by SIGTERM."""
    port = free_port()
    variables = {
        "TALLYSTICK_DATABASE_URL": database_url,
        "TALLYSTICK_REDIS_URL": redis_url,
        "TALLYSTICK_ADMIN_PORT": str(port),
    }
    with (tmp_path / "log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, "-m", "server.cli", "serve", "--port", "0"),
            env=environment(variables),
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert child.stdout is not None
    try:
        assert (await asyncio.wait_for(child.stdout.readline(), END_SECONDS)).startswith(b"Tallystick serves at ")
        [first] = children_of(child.pid)
        orphan = ["nsenter", "--target", str(first), "--pid", "--mount", "sh", "-c", "(sleep 2; true) & exit 0"]
        assert await (await asyncio.create_subprocess_exec(*orphan)).wait() == 0
        # A worker and the admin process are children too.
        await until(lambda: len(children_of(first)) == 3)
        [worker] = [pid for pid in children_of(first) if b"server.process.worker" in said_of(pid, "cmdline")]
        os.kill(worker, signal.SIGKILL)

        async def replaced() -> bool:
            _, said = await ask(f"http://127.0.0.1:{port}/readyz")
            return said["status"] == "ready" and worker not in children_of(first) and len(children_of(first)) == 2

        await until(replaced, END_SECONDS)
        assert zombies_of(first) == []
        assert "died: signal 9" in (tmp_path / "log").read_text()
        os.kill(first, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), END_SECONDS) == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@pytest.mark.skipif(not namespaces(), reason="may not make process namespaces")
async def test_process_1_while_starting() -> None:
    """SIGTERM ends it also before it serves: the kernel sends process 1 nothing that it has no handler for."""
    with place() as data_dir:
        child = await asyncio.create_subprocess_exec(
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, "-m", "server.cli", "serve", "--port", "0", "--data-dir", str(data_dir)),
            env=environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while not (data_dir / "logs").exists():
            await asyncio.sleep(0)
            assert child.returncode is None
        [first] = children_of(child.pid)
        os.kill(first, signal.SIGTERM)
        out, err = await asyncio.wait_for(child.communicate(), END_SECONDS)
        assert child.returncode in (0, 128 + signal.SIGTERM), (out, err)
        assert b"Traceback" not in err
        assert not (data_dir / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("workers", ["0", "x", "65", "-1", "1.5"])
async def test_numbers_of_workers_that_cannot_be(workers: str) -> None:
    """A number of workers that cannot be is refused with what it may be."""
    end = await call("serve", f"--workers={workers}")
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith("tallystick: workers cannot have the value given by --workers. Worker processes: 1 to 64")


async def test_what_no_worker_can_serve_with(database_url: str) -> None:
    """A setting that only a worker finds wrong ends the server with the reason, once."""
    end = await run("serve", "--port", "0", "--workers", "2", database_url=database_url, redis_url=NO_REDIS, rate="x")
    assert (end.code, end.out) == (2, "")
    lines = [line for line in end.err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, end
    assert lines[0].startswith("tallystick: rate: ")


async def test_workers_that_fail_at_every_start(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no worker comes to serve, the server gives up after a few attempts instead of trying for ever."""
    # Python runs this before any program; a worker ends there.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'server.process.worker' in sys.orig_argv:\n    sys.exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    end = await run("serve", "--port", "0", "--workers", "2", database_url=database_url, redis_url=NO_REDIS)
    assert (end.code, end.out) == (2, "")
    assert "tallystick: no worker could be started (code 1): its log says why" in end.err


async def test_the_admin_port_is_taken(database_url: str) -> None:
    """The port for operators is named when somebody has it, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["serve", "--port", "0", "--admin-port", str(port)]
        end = await run(*arguments, database_url=database_url, redis_url=NO_REDIS)
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith(f"tallystick: cannot listen on 127.0.0.1:{port}: ")
    assert end.err.endswith("name another port for operators with --admin-port, 0 for any\n")


async def test_two_servers_do_not_share_a_port(serving: ServerProcess) -> None:
    """Though its workers share a port among them, another server of the same user is refused it."""
    end = await run("serve", "--port", str(serving.port), database_url=serving.database_url, redis_url=NO_REDIS)
    assert (end.code, end.out) == (2, "")
    assert end.err.startswith(f"tallystick: cannot listen on 127.0.0.1:{serving.port}: ")


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
