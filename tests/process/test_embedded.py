"""The embedded servers run, keep their data, are found again and end with their parent."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.process.embedded.servers import EmbeddedServers
from tests.process.embedded_helpers import ended, is_alive, psql, valkey
from tests.process.embedded_parent import Parent
from tests.support.folders import server_folder

SECRET = "4111-1111-1111-1111"


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServers]:
    with server_folder("tallystick-test-") as path, EmbeddedServers.open(path / "data") as servers:
        yield servers


def listening_inodes() -> set[str]:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [row.split() for t in tables if t.exists() for row in t.read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A"}


def test_both_servers_answer(running: EmbeddedServers) -> None:
    """
    A new directory becomes a UTF-8 database named tallystick and a Redis server, both children.
    """
    assert running.started
    sql = "SELECT current_database(), current_user, getdatabaseencoding()"
    assert psql(running.database_url, sql) == "tallystick|postgres|UTF8"
    assert psql(running.database_url, "SHOW server_version_num").startswith("18")
    assert valkey(running.redis_url, "PING") == "+PONG\r\n"
    assert is_alive(running.postgres_pid)
    assert is_alive(running.redis_pid)


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_what_was_answered_is_on_the_disk(running: EmbeddedServers, name: str) -> None:
    """
    The settings that make a commit durable are on, and no ALTER SYSTEM turns them off.
    """
    psql(running.database_url, f"ALTER SYSTEM SET {name} = off")
    psql(running.database_url, "SELECT pg_reload_conf()")
    time.sleep(0.05)
    assert psql(running.database_url, f"SHOW {name}") == "on"
    psql(running.database_url, f"ALTER SYSTEM RESET {name}")


def test_valkey_is_bounded_and_writes_nothing(running: EmbeddedServers) -> None:
    """
    Valkey has a memory limit, evicts instead of refusing, and does not touch the disk.
    """
    expected = {
        "maxmemory": "268435456",
        "maxmemory-policy": "volatile-lru",
        "save": "",
        "appendonly": "no",
    }
    found = {name: valkey(running.redis_url, f"CONFIG GET {name}") for name in expected}
    assert {name: reply.split("\r\n")[4] for name, reply in found.items()} == expected


def test_nothing_listens_on_a_network(running: EmbeddedServers) -> None:
    """
    Neither server has a TCP socket, and the directory of the unix sockets is its user's alone.
    """
    assert psql(running.database_url, "SHOW listen_addresses") == ""
    for pid in (running.postgres_pid, running.redis_pid):
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except PermissionError:
            pytest.skip("this system does not show the sockets of other users' processes")
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        assert inodes
        assert not inodes & listening_inodes()
    assert running.redis_url is not None
    sockets = Path(running.redis_url.removeprefix("unix://")).parent
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700


def test_servers_leave_the_terminal_and_root_alone(running: EmbeddedServers) -> None:
    """
    The servers are in a session of their own, so Ctrl-C passes them by, and never run as root.
    """
    for pid in (running.postgres_pid, running.redis_pid):
        assert pid is not None
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_the_log_keeps_no_row(running: EmbeddedServers) -> None:
    """
    A statement that fails leaves neither its text nor a row's contents in the server's log.
    """
    sql = f"CREATE TEMP TABLE t (a text UNIQUE); INSERT INTO t VALUES ('{SECRET}'), ('{SECRET}')"
    for statement in (sql, f"SELECT '{SECRET}'::int"):
        with pytest.raises(subprocess.CalledProcessError):
            psql(running.database_url, statement)
    logs = Path(psql(running.database_url, "SHOW data_directory")).parent / "logs"
    texts = [log.read_text() for log in logs.iterdir()]
    assert any("ready to accept connections" in text for text in texts)
    assert not any(SECRET in text for text in texts)


def test_data_outlives_a_restart(data: Path) -> None:
    """
    Closing ends both servers, closing twice is harmless, and the next start has the same data.
    """
    with EmbeddedServers.open(data) as first:
        psql(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert not is_alive(first.postgres_pid)
    assert not is_alive(first.redis_pid)
    first.close()
    with EmbeddedServers.open(data) as second:
        assert psql(second.database_url, "SELECT answer FROM kept") == "42"


def test_one_server_alone(data: Path) -> None:
    """
    Only what is asked for is started, and the other can join it later.
    """
    with EmbeddedServers.open(data, redis=False) as database:
        assert database.redis_url is None
        assert database.redis_pid is None
        with EmbeddedServers.open(data) as both:
            assert both.started
            assert both.postgres_pid == database.postgres_pid
        assert is_alive(database.postgres_pid)
        assert not is_alive(both.redis_pid)


def test_a_second_process_uses_the_same_servers(data: Path) -> None:
    """
    Whoever opens a directory whose servers run gets these, and leaves them running.
    """
    with Parent(data) as owner:
        first = owner.answer()
        with EmbeddedServers.open(data) as guest:
            assert not guest.started
            assert guest.database_url == first["database_url"]
            assert guest.redis_url == first["redis_url"]
            assert guest.postgres_pid == first["postgres_pid"]
            assert guest.redis_pid == first["redis_pid"]
        assert psql(first["database_url"], "SELECT 1") == "1"
        assert valkey(first["redis_url"], "PING") == "+PONG\r\n"
    assert ended(first["postgres_pid"], 0)


def test_a_forked_worker_stops_nothing(data: Path) -> None:
    """
    The servers go on when a process that was forked off after their start ends in order.
    """
    with Parent(data, "--fork") as parent:
        servers = parent.answer()
        time.sleep(0.2)
        assert psql(servers["database_url"], "SELECT 1") == "1"
        assert valkey(servers["redis_url"], "PING") == "+PONG\r\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux tells of a parent's death")
def test_no_server_outlives_a_killed_parent(data: Path) -> None:
    """
    After kill -9 of the parent both servers end, and the next start has what was committed.
    """
    parent = Parent(data)
    first = parent.answer()
    psql(first["database_url"], "CREATE TABLE kept AS SELECT 42 AS answer")
    parent.kill()
    with EmbeddedServers.open(data) as second:
        assert second.postgres_pid != first["postgres_pid"]
        assert second.redis_pid != first["redis_pid"]
        assert ended(first["postgres_pid"], 0)
        assert ended(first["redis_pid"])
        assert psql(second.database_url, "SELECT answer FROM kept") == "42"
        assert valkey(second.redis_url, "PING") == "+PONG\r\n"
