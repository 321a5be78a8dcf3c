"""
PostgreSQL and Valkey for everything that Tallystick is compared with.

They are the same programs with the same settings as those of the server that is measured, read off its processes, with
data of their own.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from redis import Redis

from loadtests.bench.record import BenchError
from loadtests.own_server import OwnServer, run_command, said
from server.process.embedded.account import Account, account_for, reaching
from server.process.embedded.child import prepared
from server.process.embedded.nameless import initdb_for

INITDB = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin")
INITDB_LOCALE = "--builtin-locale=C.UTF-8"
# Settings that name a place, and one that would write a log that nobody reads.
PLACES = ("-D", "--unix_socket_directories", "--log_directory", "--logging_collector")
VALKEY_SETTINGS = ("save", "appendonly", "maxmemory", "maxmemory-policy", "maxclients")
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
# pgbench fills two million rows in its largest table; a vacuum is part of it.
PGBENCH_SECONDS_MAX = 300.0


class BesideError(BenchError):
    """What Tallystick is compared with could not be started, or one of its programs failed."""


class Beside(NamedTuple):
    """Running servers beside the one that is measured."""

    postgres_pid: int
    valkey_pid: int
    sockets: Path
    programs: Path
    redis_url: str

    def database_url(self, name: str, scheme: str = "postgresql") -> str:
        """Return the address of a database."""
        return f"{scheme}://postgres@/{name}?host={self.sockets}"

    def create_database(self, name: str) -> None:
        """Make an empty database."""
        # A name of ours; a statement that makes a database takes no parameters.
        execute(self.database_url("postgres"), f'CREATE DATABASE "{name}"')

    def pgbench(self, database: str, *arguments: str) -> str:
        """Run pgbench and return what it said."""
        command = [str(self.programs / "pgbench"), "-h", str(self.sockets), "-U", "postgres", *arguments, database]
        done = run_command(command, PGBENCH_SECONDS_MAX, os.environ)
        if done.returncode != 0:
            raise BesideError(f"pgbench failed:\n{said(done)}")
        return done.stdout

    def pgbench_rate(self, database: str, seconds: float, *arguments: str, clients: int) -> tuple[float, float]:
        """Return transactions a second and milliseconds of one, of prepared statements."""
        words = ("-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds))))
        text = self.pgbench(database, *words, *arguments)
        rate, latency = re.search(r"tps = ([\d.]+)", text), re.search(r"latency average = ([\d.]+)", text)
        if rate is None or latency is None:
            raise BesideError(f"pgbench said no rate:\n{text[-500:]}")
        return float(rate[1]), float(latency[1])


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements, each for itself, and return the first column of the last one."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[asyncpg.Record] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return [row[0] for row in rows]
        finally:
            await connection.close()

    return asyncio.run(run())


def postmaster(server: OwnServer) -> tuple[Path, list[str]]:
    """
    Return the program and the arguments of the PostgreSQL that a server of one's own has started.

    Raises:
        BesideError: It has started none.
    """
    for pid in server.family():
        words = _words(pid)
        if words and Path(words[0]).name == "postgres" and "-D" in words:
            return Path(words[0]), words[1:]
    raise BesideError("the server has started no PostgreSQL")


def settings_of(server: OwnServer) -> str:
    """Return what the PostgreSQL of a server of one's own is told, but for places and logs."""
    _, arguments = postmaster(server)
    told = [word.removeprefix("--") for word in arguments if word.startswith("--") and word.split("=")[0] not in PLACES]
    return ", ".join(
        word for word in told if not word.startswith(("log_", "port", "unix_socket", "listen", "password"))
    )


def own_database_url(server: OwnServer) -> str:
    """Return the address of the database of a server of one's own."""
    _, arguments = postmaster(server)
    [sockets] = [word.partition("=")[2] for word in arguments if word.startswith("--unix_socket_directories=")]
    passfile = Path(arguments[arguments.index("-D") + 1]).with_name("postgres.pgpass")
    return f"postgresql://postgres@/tallystick?host={sockets}&passfile={passfile}"


def own_valkey(server: OwnServer) -> tuple[Path, str]:
    """Return the program and the socket of the Valkey that a server of one's own has started."""
    for pid in server.family():
        words = " ".join(_words(pid)).split()
        if words and Path(words[0]).name == "valkey-server":
            return Path(words[0]), words[1].removeprefix("unixsocket:")
    raise BesideError("the server has started no Valkey")


def _words(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [word for word in text.split("\0") if word]


@contextmanager
def beside(server: OwnServer) -> Iterator[Beside]:
    """Start both; they and their data are gone afterwards."""
    postgres, arguments = postmaster(server)
    valkey, valkey_socket = own_valkey(server)
    folder = Path(tempfile.mkdtemp(prefix="tallystick-beside-"))
    try:
        with ExitStack() as stack:
            account = _account(folder, postgres)
            with initdb_for(account, folder) as initdb:
                command = [str(initdb), "-D", str(folder / "data"), *INITDB, INITDB_LOCALE]
                _wait(_spawn(command, folder, account), "initdb")
            database = _spawn([str(postgres), *_moved(arguments, folder)], folder, account)
            stack.callback(_stop, database, signal.SIGINT)
            settings = _valkey_settings(valkey_socket, folder)
            cache = _spawn([str(valkey), *settings], folder, account)
            stack.callback(_stop, cache, signal.SIGTERM)
            url = f"unix://{folder / 'valkey.sock'}"
            running = Beside(database.pid, cache.pid, folder, postgres.parent, url)
            _until(lambda: execute(running.database_url("postgres"), "SELECT 1") == [1], database, "PostgreSQL")
            _until(lambda: _answers(url), cache, "Valkey")
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account(folder: Path, program: Path) -> Account:
    """Return whom the servers run as: another user when this one is root, which PostgreSQL refuses."""
    account = reaching(account_for(folder), folder, program)
    if account.foreign:
        os.chown(folder, account.uid, account.gid)
    return account


def _moved(arguments: Sequence[str], folder: Path) -> list[str]:
    """Return the arguments of a PostgreSQL with other places."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word.partition("=")[0] not in PLACES:
            kept.append(word)
        skip = word == "-D"
    return ["-D", str(folder / "data"), f"--unix_socket_directories={folder}", *kept]


def _valkey_settings(socket: str, folder: Path) -> list[str]:
    with Redis(unix_socket_path=socket, socket_timeout=5) as client:
        found = client.config_get(*VALKEY_SETTINGS)
    # Compared with nobody outside, so only a socket that everybody of this machine may use.
    places = {"port": "0", "unixsocket": str(folder / "valkey.sock"), "unixsocketperm": "777", "daemonize": "no"}
    return [part for name, value in {**found, **places}.items() for part in (f"--{name}", str(value))]


def _spawn(command: list[str], folder: Path, account: Account) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=prepared(account, signal.SIGKILL),  # noqa: PLW1509 (one call, no threads)
            start_new_session=True,
        )


def _wait(process: "subprocess.Popen[bytes]", what: str) -> None:
    try:
        code = process.wait(START_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        _stop(process, signal.SIGTERM)
        raise BesideError(f"{what} did not end in {START_SECONDS_MAX:.0f} s") from None
    if code != 0:
        raise BesideError(f"{what} failed (exit {code})")


def _stop(process: "subprocess.Popen[bytes]", gently: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(gently)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        # The group is this process's alone (start_new_session).
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS_MAX)


def _until(there: "Callable[[], bool]", process: "subprocess.Popen[bytes]", what: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            if there():
                return
        except (OSError, asyncpg.PostgresError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise BesideError(f"{what} does not answer")
        time.sleep(POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_timeout=5) as client:
            return bool(client.ping())
    except Exception as error:
        raise OSError(str(error)) from error
