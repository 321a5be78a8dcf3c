"""Two processes on one Postgres and one Redis, which are killed, flushed and short of memory: no read is too old."""

import asyncio
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.books import check_books
from tests.support.client import Answer, Client
from tests.support.service import ServerProcess, make_key
from tests.support.valkey import OwnValkey
from tests.support.waiting import until

LEDGER = "fresh"
ACCOUNTS = [f"account-{n}" for n in range(5)]
READERS = 5
WRITERS = 4
# Times that Redis is used until it is warm, and then everything happens to it: each process is killed once.
ROUNDS = 2
# Milliseconds that a snapshot lives in these processes, and a quarantine lasts. Each of them must notice within that
# that Redis was restarted, on a busy machine too.
LIFE_MS = 4_000
PATHS = (str(Path(__file__).parent / "short_lives"), os.environ.get("PYTHONPATH"))
SHORT_LIVES = {"PYTHONPATH": os.pathsep.join(filter(None, PATHS)), "SNAPSHOT_MS": str(LIFE_MS)}
# Seconds in which the quarantine of Redis ends and an account is stored.
WARM_SECONDS = 3 * LIFE_MS / 1_000
# What fills Redis, so that it evicts at the next writes.
FILL = "for n = 1, 2000 do redis.call('SET', 'fill:' .. n, string.rep('x', 1000), 'PX', 3600000) end"
# Restarts of Redis in a row: workers notice each of them at another moment.
RESTARTS = 5
# Seconds that a writer thinks; without a pause no snapshot would live long enough to be read. Readers think less: as
# long as lets both processes answer the others.
THINK_SECONDS = 0.08
GLANCE_SECONDS = 0.05
# Seconds in which a service that was killed is back and an answer must have come.
BACK_SECONDS = 30.0


class Traffic:
    """
    Clients of both processes, and what they may be shown.

    Args:
        clients: One a process.
    """

    def __init__(self, clients: list[Client], chance: random.Random) -> None:
        self._clients = clients
        self._chance = chance
        self._acknowledged: dict[str, int] = defaultdict(int)
        self.count: Counter[str] = Counter()
        self.stopped = False

    async def write(self, number: int) -> None:
        """Move money with keys of its own, each sent until it is answered, to any process."""
        turn = 0
        while not self.stopped:
            turn += 1
            source, destination = self._chance.sample(ACCOUNTS, 2)
            answer = await self._insist(f"write-{number}-{turn}", source, destination)
            assert answer.status == 201, answer
            for account, side in ((source, "source"), (destination, "destination")):
                version = answer.json[f"{side}_version"]
                self._acknowledged[account] = max(version, self._acknowledged[account])
            self.count["written"] += 1
            await asyncio.sleep(THINK_SECONDS * self._chance.random())

    async def read(self, number: int) -> None:
        """Read accounts through any process; no version goes back, nor is behind what was acknowledged before."""
        shown: dict[str, int] = defaultdict(int)
        while not self.stopped:
            account = self._chance.choice(ACCOUNTS)
            least = max(shown[account], self._acknowledged[account])
            try:
                answer = await self._chance.choice(self._clients).get(f"/v1/accounts/{account}")
            except (aiohttp.ClientError, OSError):
                self.count["reads lost"] += 1
                await asyncio.sleep(THINK_SECONDS)
                continue
            if answer.status != 200:
                self.count["reads refused"] += 1
                continue
            version = answer.json["version"]
            assert version >= least, f"reader {number} was shown {account} at {version}, where {least} is due"
            shown[account] = version
            self.count["read"] += 1
            await asyncio.sleep(GLANCE_SECONDS * self._chance.random())

    async def _insist(self, key: str, source: str, destination: str) -> Answer:
        async with asyncio.timeout(BACK_SECONDS):
            while True:
                try:
                    answer = await self._chance.choice(self._clients).transfer(source, destination, 1, key)
                except (aiohttp.ClientError, OSError):
                    self.count["writes lost"] += 1
                else:
                    if answer.status < 500:
                        return answer
                    self.count["writes refused"] += 1
                await asyncio.sleep(THINK_SECONDS)


@asynccontextmanager
async def running(traffic: Traffic) -> AsyncIterator[None]:
    """Let the traffic run; the first that fails ends the block."""
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(traffic.write(number))
        for number in range(READERS):
            group.create_task(traffic.read(number))
        yield
        traffic.stopped = True


def snapshots(valkey: OwnValkey) -> int:
    """Return how many accounts are stored."""
    return len(valkey.ask("KEYS", "*:s:*"))


def evicted(valkey: OwnValkey) -> int:
    """Return how many keys it has evicted since it was started."""
    return int(valkey.ask("INFO", "stats")["evicted_keys"])


async def restart(valkey: OwnValkey, traffic: Traffic, chance: random.Random) -> None:
    """Kill Redis, once or several times; it comes back empty, at once or a little later."""
    if not traffic.count["evicted"]:
        await asyncio.to_thread(valkey.ask, "EVAL", FILL, 0)
        await until(lambda: evicted(valkey) > 0)
    traffic.count["evicted"] += evicted(valkey)
    for _ in range(RESTARTS):
        valkey.stop()
        await asyncio.sleep(chance.choice((0.0, 0.0, 0.2)))
        await asyncio.to_thread(valkey.start)
        await asyncio.sleep(chance.uniform(0.2, 0.6))


async def break_everything(
    valkey: OwnValkey, processes: list[ServerProcess], traffic: Traffic, chance: random.Random
) -> None:
    """Go through some rounds of a warm cache and everything that may happen to it."""
    for number in range(ROUNDS):
        await until(lambda: snapshots(valkey) > 0, WARM_SECONDS)
        for _ in range(chance.randint(2, 4)):
            await asyncio.sleep(chance.random())
            await asyncio.to_thread(valkey.ask, "FLUSHALL")
            traffic.count["flushed"] += 1
        process = processes[number]
        process.kill()
        await process.wait()
        await process.start()
        traffic.count["killed"] += 1
        await until(lambda: snapshots(valkey) > 0)
        await restart(valkey, traffic, chance)
    await until(lambda: snapshots(valkey) > 0, WARM_SECONDS)


@pytest.mark.timeout(240)
async def test_no_read_is_too_old(database_url: str, tmp_path: Path, folder: Path) -> None:
    """
    While Redis is killed and started, flushed and evicts, and processes are killed: no client's version of an account
    goes back, and what any process has acknowledged is in the next read through any other.
    """
    chance = random.Random(11)
    valkey = OwnValkey(folder, maxmemory="1600kb", maxmemory_policy="volatile-lru")
    valkey.start()
    logs = [tmp_path / f"{n}.log" for n in range(2)]
    processes = [ServerProcess(database_url, log, SHORT_LIVES, valkey.url) for log in logs]
    try:
        token = await make_key(database_url, LEDGER)
        await asyncio.gather(*(process.start() for process in processes))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = [Client(session, process.url, token) for process in processes]
            for account in ACCOUNTS:
                await clients[0].fund(account, 100_000)
            traffic = Traffic(clients, chance)
            async with running(traffic):
                await break_everything(valkey, processes, traffic, chance)
    finally:
        await asyncio.gather(*(process.stop() for process in processes))
        valkey.stop()
    await check_books(database_url)
    said = "".join(log.read_text() for log in logs)
    traffic.count.update(hits=sum(map(int, re.findall(r"cache: hits=(\d+)", said))))
    for what in ("read", "written", "reads lost", "hits", "killed", "flushed", "evicted"):
        assert traffic.count[what] > 0, (what, traffic.count)
