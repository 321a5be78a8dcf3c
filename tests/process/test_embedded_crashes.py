"""What a crash leaves behind is no obstacle, and nobody else's process is touched."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.process.embedded.binaries import postgres_bin
from server.process.embedded.child import stop
from server.process.embedded.errors import EmbeddedError
from server.process.embedded.postgres_settings import LOG_BYTES_MAX
from server.process.embedded.servers import EmbeddedServers
from tests.process.embedded_helpers import copied, psql, valkey
from tests.process.embedded_parent import Parent

BUSY_SECONDS = 1.5


def test_a_number_of_a_dead_server_may_be_taken(data: Path) -> None:
    """
    After a crash of the machine the noted process is another one: it is left alone, we start.
    """
    with EmbeddedServers.open(data):
        notes = (data / "postgres/postmaster.pid").read_text()
    owner = data.stat()
    same_user = owner.st_uid if os.geteuid() == 0 else None
    stranger = subprocess.Popen(["sleep", "60"], user=same_user)
    try:
        _, rest = notes.split("\n", 1)
        for name in ("postgres/postmaster.pid", "run/.s.PGSQL.5432.lock"):
            (data / name).write_text(f"{stranger.pid}\n{rest}")
            os.chown(data / name, owner.st_uid, owner.st_gid)
        for name in (".s.PGSQL.5432", "valkey.sock"):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(data / "run" / name))
        with EmbeddedServers.open(data) as servers:
            assert servers.started
            assert psql(servers.database_url, "SELECT 1") == "1"
            assert valkey(servers.redis_url, "PING") == "+PONG\r\n"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_empty_note_is_no_server(data: Path) -> None:
    """
    A machine that crashed while postgres noted its number leaves an empty file.
    """
    (data / "postgres/postmaster.pid").touch()
    with EmbeddedServers.open(data, redis=False) as servers:
        assert servers.started


def test_a_start_waits_for_sessions_of_a_killed_server(data: Path) -> None:
    """
    A session that outlives its killed server still has the data open: the next start waits.
    """
    parent = Parent(data)
    first = parent.answer()
    busy = f"""
        DO $$ BEGIN
            WHILE clock_timestamp() < now() + interval '{BUSY_SECONDS} s' LOOP END LOOP;
        END $$
    """
    began = time.monotonic()
    command = [str(postgres_bin("psql")), "-Xqc", busy, first["database_url"]]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%clock_timestamp() <%'"
    while psql(first["database_url"], running) != "2":
        time.sleep(0.02)
    os.kill(first["postgres_pid"], signal.SIGKILL)
    parent.kill()
    with EmbeddedServers.open(data) as second:
        assert time.monotonic() - began > BUSY_SECONDS
        assert psql(second.database_url, "SELECT 1") == "1"
    worker.wait(10)


def test_half_an_initdb_is_made_again(data: Path) -> None:
    """
    Only a complete database gets its name, so a process killed while making it does no harm.
    """
    (data / "postgres").rename(data / "postgres.new")
    (data / "postgres.new/PG_VERSION").unlink()
    with EmbeddedServers.open(data, redis=False) as servers:
        assert psql(servers.database_url, "SELECT 1") == "1"


def test_two_opens_at_once_share_one_start(place: Path) -> None:
    """
    Of two processes that open a new directory together one starts the servers for both.
    """
    with Parent(place / "data") as one, Parent(place / "data") as other:
        answers = [one.answer(), other.answer()]
        assert sorted(answer["started"] for answer in answers) == [False, True]
        for name in ("database_url", "redis_url", "postgres_pid", "redis_pid"):
            assert answers[0][name] == answers[1][name]


def test_two_directories_side_by_side(place: Path, made: Path) -> None:
    """
    Servers of two data directories know nothing of each other.
    """
    for name in ("a", "b"):
        copied(made, place / name)
    with EmbeddedServers.open(place / "a") as a, EmbeddedServers.open(place / "b") as b:
        psql(a.database_url, "CREATE TABLE only_here ()")
        assert psql(b.database_url, "SELECT to_regclass('only_here')") == ""
        valkey(a.redis_url, "SET only here")
        assert valkey(b.redis_url, "GET only") == "$-1\r\n"
        assert a.postgres_pid != b.postgres_pid
        assert a.redis_pid != b.redis_pid


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("deep/" * 20 + "data", id="longer than a socket's path may be"),
        pytest.param("my data, näh", id="characters that addresses and lists give a meaning"),
    ],
)
def test_sockets_move_out_of_an_unfit_path(place: Path, made: Path, name: str) -> None:
    """
    The sockets lie in a private temporary directory that every later start finds again.
    """
    copied(made, place / name)
    with Parent(place / name) as owner:
        first = owner.answer()
        sockets = Path(first["redis_url"].removeprefix("unix://")).parent
        assert place not in sockets.parents
        assert sockets.stat().st_mode & 0o077 == 0
        with EmbeddedServers.open(place / name) as guest:
            assert not guest.started
            assert guest.database_url == first["database_url"]
            assert psql(guest.database_url, "SELECT 1") == "1"
    shutil.rmtree(sockets)
    with EmbeddedServers.open(place / name) as again:
        assert psql(again.database_url, "SELECT 1") == "1"
        assert again.redis_url is not None
        moved = Path(again.redis_url.removeprefix("unix://")).parent
    shutil.rmtree(moved)


def test_a_frozen_server_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A server that holds its socket and does not answer is named, after a bounded wait.
    """
    with EmbeddedServers.open(place / "data", postgres=False) as servers:
        assert servers.redis_pid is not None
        os.kill(servers.redis_pid, signal.SIGSTOP)
        try:
            for name in ("ANSWER_SECONDS", "START_SECONDS"):
                monkeypatch.setattr(f"server.process.embedded.valkey.{name}", 0.5)
            with pytest.raises(EmbeddedError, match=rf"\(process {servers.redis_pid}\) does not"):
                EmbeddedServers.open(place / "data", postgres=False)
        finally:
            os.kill(servers.redis_pid, signal.SIGCONT)


def test_a_copied_directory_has_its_own_servers(place: Path, made: Path) -> None:
    """
    A copy of a directory with far-away sockets does not reach for the servers of the original.
    """
    long = "long-" * 20
    EmbeddedServers.open(copied(made, place / long), redis=False).close()
    copied(place / long, place / f"{long}2")
    with (
        EmbeddedServers.open(place / long, redis=False) as original,
        EmbeddedServers.open(place / f"{long}2", redis=False) as copy,
    ):
        assert copy.started
        assert copy.database_url != original.database_url
        data = Path(psql(copy.database_url, "SHOW data_directory"))
        sockets = [psql(s.database_url, "SHOW unix_socket_directories") for s in (original, copy)]
        assert data == place / f"{long}2/postgres"
    for path in sockets:
        shutil.rmtree(path)


def test_a_log_that_grew_is_dropped(data: Path) -> None:
    """
    A start removes a log that is past its limit, and keeps the others.
    """
    logs = [data / f"logs/postgres-{name}.log" for name in ("Old", "New")]
    for log, size in zip(logs, (LOG_BYTES_MAX + 1, LOG_BYTES_MAX), strict=True):
        log.touch()
        os.truncate(log, size)
    EmbeddedServers.open(data, redis=False).close()
    assert [log.exists() for log in logs] == [False, True]


def test_only_the_main_thread_starts_servers(place: Path) -> None:
    """
    A start from another thread is refused: the servers would end with that thread.
    """
    with ThreadPoolExecutor(1) as threads:
        start = threads.submit(EmbeddedServers.open, place / "data")
        with pytest.raises(RuntimeError, match="from the main thread only"):
            start.result()


def test_a_server_that_does_not_stop_is_killed() -> None:
    """
    Each signal has its time; the last one cannot be ignored.
    """
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf = f"{ignore}; print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    stop(process, (("SIGTERM", 0.1), ("SIGKILL", 10)))
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
