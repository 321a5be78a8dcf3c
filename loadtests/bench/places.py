"""Servers that requests are sent to: Tallystick itself, the peer, and a handler that does nothing."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.bench.beside import Beside
from loadtests.bench.record import BenchError
from loadtests.bench.requests import Place
from loadtests.bench.scale import ACCOUNTS
from loadtests.own_server import HOST, PROJECT, OwnServer, run_command, said

PEER_PYTHON = PROJECT / ".venv-peer" / "bin" / "python"
# Seconds after its start from which on Tallystick reads accounts out of Redis, and a little more.
WARM_SECONDS = 12.0
# In one request: what the contract allows.
ACCOUNTS_MAX = 1_000
ASK_SECONDS = 60.0
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
PEER_DATABASE = "peer"
PEER_LIMIT = "1000000/second"
# What has to be so of a peer's books: nothing was made or lost, every balance is what its transfers make it, and no key
# moved money twice, which its constraint sees to. One row, one column.
PEER_AUDIT = """
    SELECT (SELECT coalesce(sum(balance), 0) FROM accounts) = 0
       AND NOT EXISTS (
            SELECT FROM accounts AS a
            LEFT JOIN (
                SELECT id, sum(amount) AS total FROM (
                    SELECT destination AS id, amount FROM transfers UNION ALL SELECT source, -amount FROM transfers
                ) AS sides GROUP BY id
            ) AS s USING (id)
            WHERE a.balance <> coalesce(s.total, 0))
"""


class PlaceError(BenchError):
    """A server could not be started or asked."""


class Tallystick:
    """A server of one's own with accounts in it."""

    def __init__(self, server: OwnServer) -> None:
        self.server = server
        self._began = time.monotonic()
        self.place = self.ledgers(1)

    def ledgers(self, count: int) -> Place:
        """Return so many new ledgers, with the same accounts in each."""
        parts = urlsplit(self.server.url)
        now = time.monotonic_ns()
        keys = [self.server.create_key(f"bench-{now}-{number}") for number in range(count)]
        return open_accounts(parts.hostname or HOST, parts.port or 80, keys)

    def warm(self) -> None:
        """Return when accounts are read out of Redis."""
        end = self._began + WARM_SECONDS
        while (left := end - time.monotonic()) > 0:
            # Asked now and then: a Redis that nobody asks is not looked at.
            ask(self.place, "GET", f"/v1/accounts/{self.place.accounts[0]}")
            time.sleep(min(0.5, left))


def ask(place: Place, method: str, path: str, body: object = None, key: int = 0) -> tuple[int, bytes]:
    """Send one request and return its status and its body."""
    connection = http.client.HTTPConnection(place.host, place.port, timeout=ASK_SECONDS)
    headers = {"Authorization": f"Bearer {place.keys[key]}"} if place.keys else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def open_accounts(host: str, port: int, keys: Sequence[str]) -> Place:
    """
    Open the accounts of a run in the ledger of each key, without floors.

    Raises:
        PlaceError: They could not be opened.
    """
    place = Place(host, port, list(keys), [f"load:{number}" for number in range(ACCOUNTS)])
    for key in range(len(keys)):
        for start in range(0, ACCOUNTS, ACCOUNTS_MAX):
            some = place.accounts[start : start + ACCOUNTS_MAX]
            asked = [{"id": name, "currency": "EUR", "floor": None} for name in some]
            status, body = ask(place, "POST", "/v1/accounts/bulk", {"accounts": asked}, key)
            if status != 200 or {result["status"] for result in json.loads(body)["results"]} - {200, 201}:
                raise PlaceError(f"accounts cannot be opened: {status} {body[:300]!r}")
    return place


@contextmanager
def bare(body: bytes) -> Iterator[tuple[Place, int]]:
    """Run a handler that answers always the same; yields where it is and its process."""
    port = _free_port()
    command = [sys.executable, "-m", "loadtests.bench.bare", str(port), body.decode()]
    with _running(command, Place(HOST, port, [], []), "/", os.environ) as pid:
        yield Place(HOST, port, ["none"], []), pid


@contextmanager
def peer(servers: Beside) -> Iterator[tuple[Place, int]]:
    """Run the peer on servers of its own; yields where it is and its process."""
    servers.create_database(PEER_DATABASE)
    database = servers.database_url(PEER_DATABASE, "postgresql+asyncpg")
    with run_peer(database, servers.redis_url) as (address, pid):
        key = peer_key(database, servers.redis_url, "bench", PEER_LIMIT)
        yield open_accounts(address.host, address.port, [key]), pid


@contextmanager
def run_peer(database_url: str, redis_url: str) -> Iterator[tuple[Place, int]]:
    """Run the peer: uvicorn with uvloop and httptools, one worker; its tables are made by `peer_key`."""
    port = _free_port()
    command = [str(PEER_PYTHON), "-m", "uvicorn", "loadtests.peer.app:app", "--host", HOST, "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    place = Place(HOST, port, [], [])
    with _running(command, place, "/readyz", _peer_environment(database_url, redis_url)) as pid:
        yield place, pid


def peer_key(database_url: str, redis_url: str, ledger: str, limit: str) -> str:
    """Make the peer's tables unless they are there, and a key."""
    command = [str(PEER_PYTHON), "-m", "loadtests.peer.prepare", "--ledger", ledger, "--limit", limit]
    done = run_command(command, ASK_SECONDS, _peer_environment(database_url, redis_url))
    if done.returncode != 0:
        raise PlaceError(f"the peer's tables cannot be made:\n{said(done)}")
    return done.stdout.strip()


def _peer_environment(database_url: str, redis_url: str) -> dict[str, str]:
    own = {"PEER_DATABASE_URL": database_url, "PEER_REDIS_URL": redis_url, "PYTHONPATH": str(PROJECT)}
    return {**os.environ, **own}


@contextmanager
def _running(command: list[str], place: Place, path: str, environment: Mapping[str, str]) -> Iterator[int]:
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _answers(place, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PlaceError(f"{' '.join(map(str, command[1:4]))} does not answer")
            time.sleep(POLL_SECONDS)
        yield process.pid
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)


def _answers(place: Place, path: str) -> bool:
    try:
        return ask(place, "GET", path)[0] == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def has_peer() -> bool:
    """Whether the peer's virtual environment is there."""
    return Path(PEER_PYTHON).exists()
