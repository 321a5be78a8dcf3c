"""Servers behind a balancer, and callers that post, read and check what they read."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp

from tests.support.balancer import Balancer
from tests.support.books import verdict
from tests.support.client import Answer, Client
from tests.support.command import call
from tests.support.history import BACK_SECONDS, RETRY_SECONDS, History
from tests.support.service import ServerProcess, make_key

# Each test has its own ledger, which contains only what its callers sent.
_ledgers = itertools.count(1)
# Callers at once, each on its own connections: enough that requests are under way on both servers at any moment.
CALLERS = 8
# The longest pause of a caller, in seconds: some requests are always under way, without overloading the machine.
THINK_SECONDS = 0.15
# Accounts that callers pay into; each is written by several callers and read by all.
PAYEES = 4
# Transfers that must be acknowledged before an event and after it.
STEADY = 40
# Failed authentications that the servers allow an address; no token comes back during a test.
FAILURES_BURST = 20
# Seconds for callers to finish.
END_SECONDS = 40.0


Servers = tuple[ServerProcess, ServerProcess]


class Machines(NamedTuple):
    """Two servers and the balancer in front of them."""

    servers: Servers
    balancer: Balancer


class Hosts(NamedTuple):
    """The machines, a client of the balancer, and the history of the callers."""

    servers: Servers
    balancer: Balancer
    client: Client
    history: History

    def direct(self, number: int) -> Client:
        """Return a client of one server, without the balancer."""
        return Client(self.client.session, self.servers[number].url, self.client.token)

    async def audited(self) -> None:
        """Assert that every caller got true answers, and that `tallystick audit` finds the books right."""
        await self.history.check()
        ended = await call("audit", database_url=self.history.database_url)
        assert ended.code == 0, (ended.out, ended.err)


@asynccontextmanager
async def two_servers(database_url: str, redis_url: str, folder: Path) -> AsyncIterator[Servers]:
    """Start two servers."""
    settings = {
        "TALLYSTICK_TRUSTED_PROXIES": "127.0.0.1",
        "TALLYSTICK_AUTH_FAILURE_RATE": "1/day",
        "TALLYSTICK_AUTH_FAILURE_BURST": str(FAILURES_BURST),
    }
    one, two = (ServerProcess(database_url, folder / f"{name}.log", settings, redis_url) for name in ("one", "two"))
    try:
        await asyncio.gather(one.start(), two.start())
        yield one, two
    finally:
        await asyncio.gather(one.stop(), two.stop())


@asynccontextmanager
async def machines_behind(
    kind: type[Balancer], servers: Servers, folder: Path, **variables: str
) -> AsyncIterator[Machines]:
    """Start a balancer in front of two servers."""
    balancer = kind(folder, (servers[0].port, servers[1].port), **variables)
    try:
        await balancer.start()
        yield Machines(servers, balancer)
    finally:
        await balancer.stop()


@asynccontextmanager
async def hosts_of(machines: Machines) -> AsyncIterator[Hosts]:
    """Open the accounts in a new ledger."""
    servers, balancer = machines
    ledger, database_url = f"hosts-{next(_ledgers)}", servers[0].database_url
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = Client(session, balancer.url, await make_key(database_url, ledger), through_others=True)
        await client.fund("payer", 1_000_000)
        for number in range(PAYEES):
            assert (await client.open(f"payee-{number}")).status == 201
        yield Hosts(servers, balancer, client, History(database_url, ledger))


class Callers:
    """
    A steady load: each caller posts a transfer, retries with the same key until it is answered, and reads.

    Attributes:
        acknowledged: Transfers that were answered 201.

        reads: Statuses of all reads; None stands for no answer.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged = 0
        self.reads: list[int | None] = []

    async def steady(self, happens: Callable[[], Awaitable[None]]) -> None:
        """Run the callers before, during and after an event; return when all have their answers."""
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(CALLERS)]
        try:
            await self.more()
            await happens()
            await self.more()
        finally:
            self._stop.set()
            async with asyncio.timeout(END_SECONDS):
                await asyncio.gather(*self._tasks)

    async def more(self) -> None:
        """Return when some more transfers have been acknowledged."""
        goal = self.acknowledged + STEADY
        async with asyncio.timeout(END_SECONDS):
            while self.acknowledged < goal:
                await asyncio.sleep(RETRY_SECONDS)
                if failed := [task for task in self._tasks if task.done()]:
                    await failed[0]

    async def _call(self, number: int) -> None:
        hosts, count, chance = self._hosts, 0, random.Random(number)
        payee = f"payee-{number % PAYEES}"
        async with aiohttp.ClientSession() as session:
            client = Client(session, hosts.client.url, hosts.client.token, through_others=True)
            while not self._stop.is_set():
                answer = await hosts.history.insist(client, f"call-{number}-{count}", "payer", payee, 1)
                assert verdict(answer) == "posted", answer
                self.acknowledged += 1
                count += 1
                # Whichever server answers must know what was acknowledged through the other.
                read = await self._read(client, payee)
                assert read.json["version"] >= answer.json["destination_version"], (read, answer)
                await asyncio.sleep(chance.uniform(0, THINK_SECONDS))

    async def _read(self, client: Client, account: str) -> Answer:
        async with asyncio.timeout(BACK_SECONDS):
            while True:
                answer = None
                with suppress(aiohttp.ClientError, OSError):
                    answer = await client.get(f"/v1/accounts/{account}")
                self.reads.append(answer.status if answer else None)
                if answer is not None and answer.status == 200:
                    return answer
                await asyncio.sleep(RETRY_SECONDS)


def definite(hosts: Hosts, callers: Callers) -> None:
    """Assert that every write and every read succeeded at the first attempt."""
    assert not hosts.history.errors, (hosts.history.errors, hosts.balancer.log.read_text())
    others = [o.answer for o in hosts.history.operations if verdict(o.answer) != "posted"]
    assert not others, (others, hosts.balancer.log.read_text())
    assert set(callers.reads) == {200}, Counter(callers.reads)
