"""No read is too old while two processes on one Postgres and one Redis are killed, flushed and short of memory."""

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
# Rounds in which Redis warms up and then every fault happens once; over all rounds, each process is killed once.
ROUNDS = 2
# Life of a snapshot and of a quarantine in these processes. Each process must notice a restart of Redis within this
# time, even on a busy machine.
LIFE_MS = 4_000
PATHS = (str(Path(__file__).parent / "short_lives"), os.environ.get("PYTHONPATH"))
SHORT_LIVES = {"PYTHONPATH": os.pathsep.join(filter(None, PATHS)), "SNAPSHOT_MS": str(LIFE_MS)}
# Seconds for the quarantine of Redis to end and an account to be stored.
WARM_SECONDS = 3 * LIFE_MS / 1_000
# Fills Redis, so that it evicts at the next writes.
FILL = "for n = 1, 2000 do redis.call('SET', 'fill:' .. n, string.rep('x', 1000), 'PX', 3600000) end"
# Restarts of Redis in a row: workers notice each of them at a different moment.
RESTARTS = 5
# Pause of a writer: without one, no snapshot would live long enough to be read. Readers pause for less, only so that
# both processes can answer others.
THINK_SECONDS = 0.08
GLANCE_SECONDS = 0.05
# Seconds for a killed service to come back and for an answer to arrive.
BACK_SECONDS = 30.0


class Traffic:
    """
    Clients of both processes, with what they may be shown.

    Args:
        clients: One client for each process.
    """

    def __init__(self, clients: list[Client], chance: random.Random) -> None:
        self._clients = clients
        self._chance = chance
        self._acknowledged: dict[str, int] = defaultdict(int)
        self.count: Counter[str] = Counter()
        self.stopped = False

    async def write(self, number: int) -> None:
        """Move money with the writer's own keys, each sent to random processes until it is answered."""
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
        """Read accounts through random processes; no version goes back or is behind what was acknowledged before."""
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
    """Run the traffic; the first failure ends the block."""
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(traffic.write(number))
        for number in range(READERS):
            group.create_task(traffic.read(number))
        yield
        traffic.stopped = True


def snapshots(valkey: OwnValkey) -> int:
    """Return how many accounts Redis holds."""
    return len(valkey.ask("KEYS", "*:s:*"))


def evicted(valkey: OwnValkey) -> int:
    """Return how many keys Redis has evicted since its start."""
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
    """In each round, let the cache warm up and then inject every fault."""
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
    No client's version of an account goes back, and a write that any process has acknowledged is in the next read
    through any other, while Redis is killed and restarted, flushed and evicts, and processes are killed.
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
