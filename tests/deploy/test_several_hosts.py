"""Two servers behind HAProxy and behind nginx are killed, drained and replaced while callers pay and read."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiohttp

from server.gate.key_store import KeyLimit
from tests.deploy.hosts import FAILURES_BURST, Callers, Hosts, definite
from tests.support.balancer import BALANCERS
from tests.support.client import Client
from tests.support.service import make_key
from tests.support.waiting import until

# The burst of the limited key, and the number of requests.
BURST = 40
ASKERS = 120
# A window so long that no token comes back during the test.
DAY_SECONDS = 86_400
# Seconds in which both servers swap their workers: 5 s for silent connections, and the starts.
SWAP_SECONDS = 40.0
# How often a write through one server is read through the other.
CROSSINGS = 60


async def test_a_server_is_killed(hosts: Hosts) -> None:
    """
    If a server is killed, a caller whose answer was lost learns the outcome by its key, and other callers notice
    nothing.
    """
    callers = Callers(hosts)

    async def kill() -> None:
        hosts.servers[0].kill()
        await hosts.servers[0].wait()
        await callers.more()
        await start(hosts, 0)

    await callers.steady(kill)
    # The balancer sends a read that was under way to the other server.
    assert set(callers.reads) == {200}, Counter(callers.reads)
    await hosts.history.settle(hosts.client)
    await hosts.audited()


async def test_both_are_replaced(hosts: Hosts) -> None:
    """
    As in a new release, each server in turn is stopped and started, and then both swap their workers at once.

    Every request gets a definite answer at the first attempt, because unsent requests go to the other server.
    """
    callers = Callers(hosts)

    async def roll() -> None:
        for number, server in enumerate(hosts.servers):
            server.kill(signal.SIGTERM)
            assert await server.wait() == 0
            await callers.more()
            await start(hosts, number)

    async def swap() -> None:
        before = {pid for server in hosts.servers for pid in await server.workers()}
        for server in hosts.servers:
            server.kill(signal.SIGHUP)

        async def swapped() -> bool:
            now = {report["pid"] for server in hosts.servers for report in await server.reports()}
            return not before & now and not any(map(_runs, before))

        await until(swapped, SWAP_SECONDS)

    async def replace() -> None:
        await roll()
        await callers.more()
        await swap()

    await callers.steady(replace)
    definite(hosts, callers)
    await hosts.audited()


async def start(hosts: Hosts, number: int) -> None:
    """Start a server, and return when the balancer sends it requests under load."""
    await hosts.servers[number].start()
    await until(partial(hosts.balancer.uses, number))


async def test_limits_hold_over_both(hosts: Hosts) -> None:
    """Of many requests at once over both servers, exactly as many are admitted as the key's limit allows."""
    limit = KeyLimit(1, DAY_SECONDS, BURST, ASKERS)
    key = await make_key(hosts.history.database_url, hosts.history.ledger, limit=limit)
    limited = Client(hosts.client.session, hosts.client.url, key, through_others=True)
    answers = await asyncio.gather(*(limited.get("/v1/accounts/payer") for _ in range(ASKERS)))
    assert Counter(answer.status for answer in answers) == {200: BURST, 429: ASKERS - BURST}


async def test_failures_count_for_the_caller(hosts: Hosts) -> None:
    """A caller that fails too often to authenticate is limited whatever headers it sends, and other callers are not."""
    # Each balancer's test uses its own addresses, because the servers keep failures during the tests.
    network = f"127.0.{sorted(BALANCERS).index(hosts.balancer.name)}"
    async with called_from(hosts, f"{network}.2") as stranger, called_from(hosts, f"{network}.3") as other:
        answers = await asyncio.gather(*(stranger.get("/v1/accounts") for _ in range(2 * FAILURES_BURST)))
        assert Counter(answer.status for answer in answers) == {401: FAILURES_BURST, 429: FAILURES_BURST}
        assert (await stranger.get("/v1/accounts", X_Forwarded_For=f"{network}.4")).status == 429
        assert (await other.get("/v1/accounts", X_Forwarded_For=f"{network}.2")).status == 401


async def test_what_one_acknowledged_the_other_knows(hosts: Hosts) -> None:
    """A read through one server shows a write that the other has just acknowledged."""
    for number in range(CROSSINGS):
        writer, reader = hosts.direct(number % 2), hosts.direct((number + 1) % 2)
        posted = await writer.transfer("payer", "payee-0", 1)
        assert (await reader.account("payee-0"))["version"] == posted.json["destination_version"]


async def test_ids_pass(hosts: Hosts) -> None:
    """A caller's request id is returned, and one is made if it is missing or invalid."""
    assert (await hosts.client.get("/readyz", X_Request_Id="order-17")).headers["X-Request-Id"] == "order-17"
    made = [
        (await hosts.client.get("/readyz", **headers)).headers["X-Request-Id"]
        for headers in ({}, {"X_Request_Id": "a b"})
    ]
    assert len(set(made)) == 2
    assert not {"", "a b"} & set(made)


@asynccontextmanager
async def called_from(hosts: Hosts, address: str) -> AsyncIterator[Client]:
    """Yield a client of the balancer with the given source address and a wrong key."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0))) as session:
        yield Client(session, hosts.client.url, "wrong", through_others=True)


def _runs(pid: int) -> bool:
    """Return whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
