"""A PostgreSQL with a synchronous standby on two ports of this machine, which tests crash, freeze and promote."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from loadtests.processes import free_port
from server.process.embedded.account import Account, account_for, reaching
from server.process.embedded.binaries import postgres_bin
from server.process.embedded.child import prepared
from server.process.embedded.nameless import initdb_for
from tests.support.postgres import administer
from tests.support.waiting import until

# Seconds that initdb, pg_basebackup, a start and a stop may each take.
STEP_SECONDS = 60.0
DATABASE = "tallystick"
STANDBY = "standby"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "100",
    # Short time-outs, so that each side soon notices that the other is gone.
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
    "wal_retrieve_retry_interval": "200ms",
}


class Node:
    """
    One of the two servers.

    Args:
        folder: The folder for its data, inside one that belongs to the account.

        account: The user that it runs as, which is never root.
    """

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder = folder
        self.port = free_port()
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = DATABASE) -> str:
        """Return the address of a database on this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def run(self, program: Path, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        child = self._popen(program, *arguments)
        try:
            await until(lambda: child.poll() is not None, STEP_SECONDS)
        finally:
            child.kill()
            child.wait()
        assert child.returncode == 0, self._log.read_text()

    async def start(self) -> None:
        """Start it and wait until it takes connections."""
        arguments = [f"--{name}={value}" for name, value in {**SETTINGS, "port": self.port}.items()]
        self._process = self._popen(postgres_bin("postgres"), "-D", str(self.folder), *arguments)
        await until(self._answers, STEP_SECONDS)

    def crash(self) -> None:
        """End it as a crash would: no session ends in order, and nothing more is sent to the standby."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STEP_SECONDS)
            self._process = None

    def freeze(self) -> None:
        """Stop all its processes: the kernel still accepts connections, but no process answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes continue."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Its sessions are child processes, each in its own process group, so each needs its own signal.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            await administer(self.url("postgres"), "SELECT 1")
        except Exception as error:
            print(type(error).__name__)
            return False
        return True

    @property
    def _log(self) -> Path:
        return self.folder.with_suffix(".log")

    def _popen(self, program: Path, *arguments: str) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [program, *arguments],
                preexec_fn=prepared(self._account, signal.SIGQUIT),  # noqa: PLW1509 (one call)
                cwd="/",
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


class Replicated:
    """
    A primary, and a standby without which the primary acknowledges no commit.

    Args:
        folder: The folder for the files of both.
    """

    def __init__(self, folder: Path) -> None:
        account = reaching(account_for(folder), folder, postgres_bin("postgres"))
        self._account, self._folder = account, folder
        self.primary, self.standby = (Node(folder / name, account) for name in ("primary", STANDBY))
        if account.foreign:
            os.chown(folder, account.uid, account.gid)

    @property
    def database_url(self) -> str:
        """The address: it names both hosts, and clients use the one that takes writes."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres@{hosts}/{DATABASE}?target_session_attrs=read-write"

    async def start(self) -> None:
        """Make and start both, and let the primary wait for the standby at each commit."""
        primary, standby = self.primary, self.standby
        with initdb_for(self._account, self._folder) as initdb:
            await primary.run(
                initdb, "-D", str(primary.folder), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"
            )
        await primary.start()
        await administer(primary.url("postgres"), f"CREATE DATABASE {DATABASE}")
        # Copy before the primary is set to wait, so that the standby does not wait for a server once it is promoted.
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={STANDBY}"
        copy = postgres_bin("pg_basebackup")
        await standby.run(copy, "-D", str(standby.folder), "-d", source, "-R", "-X", "stream", "-c", "fast", "-N")
        await standby.start()
        await administer(primary.url("postgres"), f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
        await administer(primary.url("postgres"), "SELECT pg_reload_conf()")
        await until(self._in_sync, STEP_SECONDS)

    async def promote(self) -> None:
        """Make the standby take writes from now on."""
        [row] = await administer(self.standby.url("postgres"), "SELECT pg_promote() AS done")
        assert row["done"]

    def close(self) -> None:
        """End both."""
        self.standby.crash()
        self.primary.crash()

    async def _in_sync(self) -> bool:
        rows = await administer(self.primary.url("postgres"), "SELECT sync_state FROM pg_stat_replication")
        return [row["sync_state"] for row in rows] == ["sync"]


@contextlib.contextmanager
def replicated(folder: Path) -> Iterator[Replicated]:
    """Yield two servers that have not been started, and end them afterwards."""
    both = Replicated(folder)
    try:
        yield both
    finally:
        both.close()
