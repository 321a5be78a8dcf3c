"""Embedded servers that end while `tallystick serve` needs them are started again, and no command hides it."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from loadtests.processes import free_port
from server.process.embedded.binaries import postgres_bin
from server.process.embedded.directory import DataDirectory
from server.process.embedded.postgres import STOP_STEPS, Postgres
from tests.process.embedded_helpers import ended, is_alive
from tests.process.home import Home, place
from tests.process.test_embedded_refusals import full_disk
from tests.process.users import needs_root
from tests.support.client import Client
from tests.support.command import call
from tests.support.waiting import until

# Seconds until a server that was started again serves, on a busy machine.
AGAIN_SECONDS = 40.0
# Seconds of processor time that a session of a killed server takes before it notices.
BUSY_SECONDS = 2


class Kept:
    """A server in a home of its own, and its embedded servers."""

    def __init__(self, data_dir: Path, admin_port: int):
        self.data_dir = data_dir
        self.home = Home(data_dir, admin_port=str(admin_port))
        self._readyz = f"http://127.0.0.1:{admin_port}/readyz"

    def pid(self, kind: str) -> int:
        """Return the process that the server itself has noted; 0 while there is none."""
        file = {"postgres": "postgres/postmaster.pid", "valkey": "run/valkey.pid"}[kind]
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self.data_dir / file).read_text().split("\n")[0])
        return 0

    async def status(self) -> int:
        """Return what `/readyz` answers."""
        async with aiohttp.ClientSession() as session, session.get(self._readyz) as answer:
            return answer.status

    @contextlib.contextmanager
    def without_control(self) -> Iterator[None]:
        """Take a file away that PostgreSQL cannot start without."""
        needed, elsewhere = self.data_dir / "postgres" / "global" / "pg_control", self.data_dir / "kept"
        needed.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(needed)

    async def is_ready(self) -> bool:
        return await self.status() == 200

    async def is_not_ready(self) -> bool:
        return await self.status() == 503

    async def opens(self, account: str) -> int:
        """Open an account, once the server does that again, and return the status of its answer."""
        statuses: list[int] = []
        async with aiohttp.ClientSession() as session:
            client = Client(session, self.home.url, self.home.key)

            async def opened() -> bool:
                statuses.append((await client.open(account)).status)
                return statuses[-1] in (200, 201)

            await until(opened, AGAIN_SECONDS)
        return statuses[-1]


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncIterator[Kept]:
    kept = Kept(data_dir, free_port())
    await kept.home.start()
    try:
        yield kept
    finally:
        await kept.home.stop()


@pytest.fixture(scope="module")
async def lasting() -> AsyncIterator[Kept]:
    """One for several tests: not for all, since pauses before starts grow with every end."""
    with place() as data_dir:
        async with serving(data_dir) as kept:
            yield kept
            end = await kept.home.stop()
        assert end.code == 0, end
        assert processes_of(data_dir) == []


@pytest.fixture
async def own() -> AsyncIterator[Kept]:
    """One of a test."""
    with place() as data_dir:
        async with serving(data_dir) as kept:
            yield kept


@pytest.fixture
async def kept(lasting: Kept) -> Kept:
    """The one for several tests, ready, and with nothing in its log."""
    await until(lasting.is_ready, AGAIN_SECONDS)
    await lasting.home.forget()
    return lasting


@pytest.mark.parametrize(("kind", "name"), [("postgres", "PostgreSQL"), ("valkey", "Valkey")])
async def test_a_killed_server_is_started_again(kept: Kept, kind: str, name: str) -> None:
    """The same server serves on with another one, and its log says which process ended, and of what."""
    await kept.opens("before")
    first = kept.pid(kind)
    os.kill(first, signal.SIGKILL)
    await until(lambda: kept.pid(kind) not in (0, first) and is_alive(kept.pid(kind)), AGAIN_SECONDS)
    await kept.opens("after")
    await until(kept.is_ready, AGAIN_SECONDS)
    lines = map(orjson.loads, await kept.home.logs(f"{name} (process {kept.pid(kind)}) starts"))
    # Work that was interrupted may log errors too.
    [error] = [line["event"] for line in lines if line["level"] == "error" and line["event"].startswith(name)]
    assert error.startswith(f"{name} (process {first}) ended: signal 9. Its last output was:\n")


async def test_a_directory_that_is_held(kept: Kept) -> None:
    """A start waits while another process looks for servers there, which is no failure."""
    with DataDirectory.prepare(kept.data_dir).locked():
        os.kill(kept.pid("postgres"), signal.SIGKILL)
        await kept.home.logs("ended: signal 9")
        await until(kept.is_not_ready)
    await kept.opens("after")
    lines = await kept.home.logs(f"PostgreSQL (process {kept.pid('postgres')}) starts")
    assert not any("cannot be started" in line for line in lines)


async def test_one_that_cannot_start(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried until it can; meanwhile commands say that it does not run, and start none that hides it."""
    monkeypatch.setattr("server.process.embedded.servers.AGAIN_SECONDS", 0.2)
    arguments = ("--data-dir", str(kept.data_dir))
    with kept.without_control():
        os.kill(kept.pid("postgres"), signal.SIGKILL)
        await kept.home.logs("could not find the database system")
        await until(kept.is_not_ready, AGAIN_SECONDS)
        said = f"Process {kept.home.pid} serves from {kept.data_dir}, and its PostgreSQL does not run: "
        looked = await call("doctor", *arguments)
        assert looked.code == 1
        assert f"FAULT Postgres\n      - {said}" in looked.out
        assert "ok    Redis" in looked.out
        for command in (("audit",), ("keys", "list"), ("migrate",)):
            end = await call(*command, *arguments)
            assert (end.code, end.out) == (2, "")
            assert end.err.startswith(f"tallystick: {said}")
    await kept.opens("after")
    await until(kept.is_ready, AGAIN_SECONDS)
    assert (await call("doctor", *arguments)).code == 0


async def test_stopped_while_one_cannot_start() -> None:
    """SIGTERM ends the server although its PostgreSQL does not come back, and no process is left."""
    with place() as data_dir:
        async with serving(data_dir) as kept:
            (data_dir / "postgres" / "global" / "pg_control").unlink()
            valkey, first = kept.pid("valkey"), kept.pid("postgres")
            os.kill(first, signal.SIGKILL)
            await kept.home.logs("could not find the database system")
            end = await kept.home.stop()
        assert end.code == 0, end
        assert "Traceback" not in end.err
        assert ended(valkey)
        assert processes_of(data_dir) == []


async def test_a_command_meanwhile(own: Kept) -> None:
    """A command that finds no PostgreSQL beside a server waits for the one that is started again, and uses that."""
    await own.opens("before")
    with own.without_control():
        os.kill(own.pid("postgres"), signal.SIGKILL)
        await own.home.logs("could not find the database system")
        audited = asyncio.create_task(call("audit", "--data-dir", str(own.data_dir)))
        lock = own.data_dir / "tallystick.lock"
        await until(lambda: lock.read_text().split() == [str(os.getpid())])
    end = await audited
    assert end.code == 0, end
    assert "ledger demo: " in end.out


async def test_data_that_are_gone(own: Kept) -> None:
    """No empty database takes the place of one whose files have gone; when they are back, it serves on."""
    data_dir = own.data_dir
    await own.opens("kept")
    first = own.pid("postgres")
    (data_dir / "postgres").rename(data_dir / "moved")
    os.kill(first, signal.SIGKILL)
    await own.home.logs(f"PostgreSQL cannot be started: There is no ledger in {data_dir}: ")
    assert not (data_dir / "postgres").exists()
    (data_dir / "moved").rename(data_dir / "postgres")
    assert await own.opens("kept") == 200
    assert (await call("audit", "--data-dir", str(data_dir))).out.endswith(": clean\n")


async def test_sessions_that_outlive_their_server(own: Kept) -> None:
    """A session that goes on after its server was killed keeps the data: the next one starts when it has ended."""
    data_dir = own.data_dir
    busy = f"""
        DO $$ BEGIN
            WHILE clock_timestamp() < now() + interval '{BUSY_SECONDS} s' LOOP END LOOP;
        END $$
    """
    address = f"host={data_dir}/run user=postgres dbname=tallystick passfile={data_dir}/postgres.pgpass"
    command = [str(postgres_bin("psql")), "-Xqc", busy, address]
    session = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    await until(lambda: any(b"DO" in line for line in processes_of(data_dir, b"postgres: postgres tallystick")))
    os.kill(own.pid("postgres"), signal.SIGKILL)
    await own.home.logs("pre-existing shared memory block")
    await own.opens("after")
    await session.wait()
    assert (await call("audit", "--data-dir", str(data_dir))).out.endswith(": clean\n")


async def test_a_server_that_was_found(data: Path) -> None:
    """A PostgreSQL that ran before `serve`, and is none of its children, is missed too."""
    directory = DataDirectory.prepare(data)
    with directory.locked():
        directory.adopt()
        server = Postgres(directory, directory.sockets())
        process = server.wait(server.start())
    try:
        async with serving(data) as kept:
            assert kept.pid("postgres") == process.pid
            process.kill()
            process.wait()
            await kept.opens("after")
            assert kept.pid("postgres") != process.pid
            end = await kept.home.stop()
        assert f"PostgreSQL (process {process.pid}) ended" in end.err
    finally:
        for name, seconds in STOP_STEPS:
            if process.poll() is None:
                process.send_signal(signal.Signals[name])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)


@needs_root
async def test_a_disk_that_fills_up() -> None:
    """PostgreSQL ends of a full disk, which the log names; when there is room, the server serves on by itself."""
    with place() as folder:
        folder.mkdir()
        with full_disk(folder, "160m"):
            filler = folder / "disk" / "filler"
            async with serving(folder / "disk" / "data") as kept:
                fill(filler)
                address = f"host={kept.data_dir}/run user=postgres dbname=tallystick"
                address += f" passfile={kept.data_dir}/postgres.pgpass"
                grow = "CREATE TABLE grown AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 500000) i"
                first = kept.pid("postgres")
                for statement in ("SELECT pg_switch_wal()", "CHECKPOINT", grow, "SELECT pg_switch_wal()"):
                    command = [str(postgres_bin("psql")), "-Xqc", statement, address]
                    child = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
                    await child.wait()
                await until(lambda: not is_alive(first), AGAIN_SECONDS)
                await until(kept.is_not_ready, AGAIN_SECONDS)
                filler.unlink()
                await kept.opens("after")
                await until(kept.is_ready, AGAIN_SECONDS)
                end = await kept.home.stop()
            assert end.code == 0, end
            assert f"The disk that holds {kept.data_dir} is full." in end.err


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", 0) as file:
        while file.write(b"\0" * 65_536):
            pass


def processes_of(data_dir: Path, name: bytes = b"") -> list[bytes]:
    """Return the command lines of processes that work in this directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").strip()
            place = os.fsencode(os.readlink(process / "cwd"))
            if line and name in line and place.startswith(os.fsencode(data_dir)):
                found.append(line)
    return found
