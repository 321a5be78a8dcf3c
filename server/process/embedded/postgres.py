"""The embedded PostgreSQL: finds the server, or makes its files and starts it."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import asyncpg

from . import child
from .binaries import POSTGRES_MAJOR, postgres_bin
from .directory import DataDirectory
from .errors import EmbeddedError, disk_full, failure
from .nameless import initdb_for
from .postgres_settings import LOG_BYTES_MAX, as_arguments

USER = "postgres"
DATABASE = "tallystick"
PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"

# The file with the password, in the format of PostgreSQL's `passfile`: addresses need not contain it.
PASSFILE = "postgres.pgpass"
PASSWORD_BYTES = 32
# The file from which initdb reads the password; removed afterwards.
INITDB_PASSWORD = "postgres.password.new"  # noqa: S105 (the name of a file)

# pg_hba.conf: which clients are admitted, and by which method.
RULES = """\
# Written at every start.
local all all {method}
local replication all {method}
"""
WITH_PASSWORD, WITHOUT_PASSWORD = "scram-sha-256", "trust"

# A healthy local server answers in a few milliseconds, and a starting one refuses as quickly.
ANSWER_SECONDS = 2.0

# initdb takes 0.4 s on a laptop, and a minute on a slow disk that has to sync a thousand files.
INITDB_SECONDS = 120.0
INITDB_STOP_STEPS = (("SIGTERM", 5.0), ("SIGKILL", 5.0))

# After a crash the server first replays the write-ahead log since the last checkpoint: half a minute for max_wal_size
# of it, more on a slow machine.
START_SECONDS = 120.0
POLL_SECONDS = 0.01

# A server that replays its log answers that it is starting; one that does not answer for this long is frozen.
SILENT_SECONDS = 10.0

# SIGINT ends all sessions and writes a checkpoint. SIGQUIT leaves that work to the next start; the server itself waits
# up to 5 s of these 10 for a stuck session. SIGKILL is for a frozen server.
STOP_STEPS = (("SIGINT", 30.0), ("SIGQUIT", 10.0), ("SIGKILL", 5.0))

# Copying the template's 8 MB takes 20 ms, and up to a minute on a disk that is busy with other work.
CREATE_SECONDS = 60.0

# The server's message while sessions of a killed server still hold its shared memory.
ORPHANS_TEXT = "pre-existing shared memory block"
ORPHANS_PAUSE_SECONDS = 0.1

# Text sorts by bytes, the same on every machine. A system locale is not used, because its updates break indexes.
INITDB_OPTIONS = (
    f"--username={USER}",
    f"--auth={WITH_PASSWORD}",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)

IDENTIFY = """
    SELECT current_setting('data_directory'),
           EXISTS (SELECT FROM pg_database WHERE datname = 'tallystick')
"""

# Temporary refusals: the server is starting or stopping, all connections are taken, an administrator ended the session.
PASSING = {"57P03", "53300", "57P01", "57P02"}
DISK_FULL = "53100"


@dataclass(frozen=True)
class Postgres:
    """The PostgreSQL server of one data directory."""

    name: ClassVar = "PostgreSQL"

    directory: DataDirectory
    sockets: Path

    @property
    def url(self) -> str:
        """The address of the database; it names the file with the password."""
        return self._address(DATABASE)

    @property
    def passfile(self) -> Path:
        """The file with the password, readable only by its owner; missing if an earlier release made the cluster."""
        return self.directory.path / PASSFILE

    def _address(self, database: str) -> str:
        passfile = f"&passfile={quote(str(self.passfile))}" if self.passfile.exists() else ""
        return f"postgresql://{USER}@/{database}?host={quote(str(self.sockets))}&port={PORT}{passfile}"

    def find(self) -> int | None:
        """Return the pid of the server if it runs; if it is starting or stopping, wait until it is done."""
        began = time.monotonic()
        while True:
            trouble = self._probe()
            pid = self._noted_pid()
            if trouble is None and pid is not None:
                return pid
            if isinstance(trouble, (FileNotFoundError, ConnectionRefusedError)) and self.running() is None:
                return None
            talks = isinstance(trouble, asyncpg.PostgresError)
            if time.monotonic() - began > (START_SECONDS if talks else SILENT_SECONDS):
                raise EmbeddedError(
                    f"The PostgreSQL of {self.directory.path} (process {pid}) does not take "
                    f"connections: {trouble}. End that process and try again."
                )
            time.sleep(POLL_SECONDS)

    def running(self) -> int | None:
        """Return the pid of the server if it runs, whether or not it takes connections."""
        pid = self._noted_pid()
        return None if pid is None or not self._is_ours(pid) else pid

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server, after making its files the first time; `wait` waits until it takes connections."""
        self._check_version()
        if not self.directory.cluster.exists():
            self._initdb()
        self._trim_logs()
        return self._spawn()

    def wait(self, process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        """Wait until the server takes connections; return *process*, or the process that had to replace it."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if self._wait_until_ready(process, deadline):
                    if self.passfile.exists():
                        return process
                    self._set_password()
                    self.stop(process)
            except BaseException:
                self.stop(process)
                raise
            time.sleep(ORPHANS_PAUSE_SECONDS)
            process = self._spawn()

    def stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Stop a server that was started here."""
        child.stop(process, STOP_STEPS)

    def last_words(self, since: float) -> str:
        """Return the last lines of the server's output, then of its own log."""
        logs = [self._output, *self.directory.logs.glob("postgres-???.log")]
        return "\n".join(filter(None, (child.tail(log, since) for log in logs)))

    def _spawn(self) -> "subprocess.Popen[bytes]":
        self._remove_leftovers()
        self._write_rules()
        settings = as_arguments(self.directory.cluster, self.sockets, self.directory.logs, PORT)
        return child.spawn(
            [postgres_bin("postgres"), *settings],
            account=self.directory.account,
            cwd=self.directory.path,
            output=self._output,
            death_signal=signal.SIGINT,
        )

    @property
    def _output(self) -> Path:
        return self.directory.logs / "postgres-start.log"

    def _probe(self) -> Exception | None:
        """Return None if our server answers, otherwise the error; make the database if it does not exist."""
        try:
            [(place, has_database)] = self._ask(IDENTIFY)
            if place == str(self.directory.cluster) and not has_database:
                self._ask(f"CREATE DATABASE {DATABASE}", CREATE_SECONDS)
        except PermissionError:
            raise
        except OSError as error:
            return error
        except asyncpg.PostgresConnectionError as error:
            return ConnectionResetError(str(error))
        except asyncpg.PostgresError as error:
            if error.sqlstate in PASSING:
                return error
            if error.sqlstate == DISK_FULL:
                raise disk_full(self.directory.path) from error
            raise EmbeddedError(
                f"The PostgreSQL of {self.directory.path} refuses this program: {error}. Undo the "
                "change that was made to it, or name another directory with --data-dir."
            ) from error
        if place != str(self.directory.cluster):
            raise EmbeddedError(
                f"The PostgreSQL that answers at {self.sockets / SOCKET} works on {place}: the directory was "
                "moved while it ran. End that server and try again."
            )
        return None

    def _ask(self, sql: str, seconds: float = ANSWER_SECONDS) -> "list[asyncpg.Record]":
        """Run one statement on its own connection."""
        # Use a separate thread: the caller's thread may have a running loop.
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(asyncio.run, _ask(self._address("postgres"), sql, seconds)).result()

    def _set_password(self) -> None:
        """Set the superuser's password and write it to the passfile; the next start requires it."""
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        self._ask(f"ALTER ROLE {USER} PASSWORD '{password}'")
        self._keep_password(password)

    def _keep_password(self, password: str) -> None:
        self.directory.write_private(self.passfile, f"*:*:*:{USER}:{password}\n")

    def _write_rules(self) -> None:
        rules = RULES.format(method=WITH_PASSWORD if self.passfile.exists() else WITHOUT_PASSWORD)
        self.directory.write_private(self.directory.cluster / "pg_hba.conf", rules)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", deadline: float) -> bool:
        """Return True when the server answers, or False if sessions of a killed server prevent its start."""
        since = time.time() - 1
        while True:
            trouble = self._probe()
            if trouble is None:
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                output = self.last_words(since)
                if ORPHANS_TEXT in output and time.monotonic() < deadline:
                    return False
                raise failure("PostgreSQL ended while it started", output, self.directory.path)
            if time.monotonic() > deadline:
                what = f"PostgreSQL does not answer after {START_SECONDS:.0f} seconds: {trouble}"
                raise failure(what, self.last_words(since), self.directory.path)

    def _initdb(self) -> None:
        # Make it under another name and rename it when complete, so that a kill half-way leaves no incomplete cluster.
        draft = self.directory.cluster.with_name("postgres.new")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(draft)
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        password_file = self.directory.path / INITDB_PASSWORD
        self.directory.write_private(password_file, password)
        with initdb_for(self.directory.account, self.directory.path) as program:
            process = child.spawn(
                [program, "-D", draft, f"--pwfile={password_file}", *INITDB_OPTIONS],
                account=self.directory.account,
                cwd=self.directory.path,
                output=self._output,
                death_signal=signal.SIGTERM,
            )
            try:
                code = process.wait(INITDB_SECONDS)
            except subprocess.TimeoutExpired:
                raise failure(
                    f"initdb did not finish in {INITDB_SECONDS:.0f} seconds",
                    child.tail(self._output),
                    self.directory.path,
                ) from None
            finally:
                child.stop(process, INITDB_STOP_STEPS)
        if code != 0:
            raise failure("initdb failed", child.tail(self._output), self.directory.path)
        self._keep_password(password)
        password_file.unlink()
        draft.rename(self.directory.cluster)

    def _check_version(self) -> None:
        try:
            found = (self.directory.cluster / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return
        if found != str(POSTGRES_MAJOR):
            raise EmbeddedError(
                f"The data in {self.directory.path} was made by PostgreSQL {found}, and this is "
                f"PostgreSQL {POSTGRES_MAJOR}. Move it with pg_dump of version {found}, or name "
                "another directory with --data-dir."
            )

    def _noted_pid(self) -> int | None:
        try:
            return int((self.directory.cluster / "postmaster.pid").read_text().split("\n")[0])
        except (FileNotFoundError, ValueError):
            return None

    def _is_ours(self, pid: int) -> bool:
        """Return whether that process is a postgres that was started with our directory."""
        return f"postgres -D {self.directory.cluster} --" in child.command_line(pid)

    def _remove_leftovers(self) -> None:
        """Remove the files that a crash left behind; only after `find` found no server."""
        for name in (SOCKET, f"{SOCKET}.lock"):
            (self.sockets / name).unlink(missing_ok=True)
        notes = self.directory.cluster / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError):
            _, _, rest = notes.read_text().partition("\n")
            if rest:
                # The pid in the file may belong to another process by now, and postgres would then not start. It
                # treats the pid of its own parent as dead, so write ours. It still makes the safer check: whether
                # any process holds the shared memory of the old server.
                self.directory.write_private(notes, f"{os.getpid()}\n{rest}")
            else:
                notes.unlink()

    def _trim_logs(self) -> None:
        for log in self.directory.logs.glob("postgres-*.log"):
            if log.lstat().st_size > LOG_BYTES_MAX:
                log.unlink(missing_ok=True)


async def _ask(address: str, sql: str, seconds: float) -> "list[asyncpg.Record]":
    try:
        connection = await asyncpg.connect(address, timeout=seconds)
        try:
            return await connection.fetch(sql, timeout=seconds)
        finally:
            await connection.close(timeout=seconds)
    except TimeoutError:
        raise TimeoutError(f"it does not answer in {seconds:.0f} seconds") from None
