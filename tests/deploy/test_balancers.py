"""
The shipped configurations of balancers: retries, their own answers to callers, and HAProxy's commands for operators.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from loadtests.processes import free_port
from server.http.problems import KINDS
from tests.deploy.hosts import Callers, Hosts, definite
from tests.deploy.sinks import Sinks, sinks
from tests.support.balancer import ALL_TESTS, BALANCERS, Balancer, Haproxy, program
from tests.support.client import Answer, Client
from tests.support.listening import stop_accepting
from tests.support.waiting import until

# The exceptions of pytest for a failed test and for a skipped one.
Failed, Skipped = pytest.fail.Exception, pytest.skip.Exception
# Requests that are divided between two servers.
DIVIDED = 40


@pytest.fixture(params=sorted(BALANCERS))
def kind(request: pytest.FixtureRequest) -> type[Balancer]:
    """HAProxy and nginx."""
    return BALANCERS[request.param]


@asynccontextmanager
async def asked(balancer: Balancer) -> AsyncIterator[Client]:
    """Start a balancer and yield a client of it."""
    try:
        await balancer.start()
        async with aiohttp.ClientSession() as session:
            yield Client(session, balancer.url, "key", through_others=True)
    finally:
        await balancer.stop()


@pytest.fixture
async def lost(kind: type[Balancer], folder: Path) -> AsyncIterator[tuple[Client, Sinks]]:
    """A client of a balancer whose servers fail at every request."""
    async with sinks() as both, asked(kind(folder, (both.ports[0], both.ports[1]))) as client:
        yield client, both


def problem(answer: Answer) -> tuple[int, str, str, str]:
    """Return status, code, outcome and retry of a problem, which must name the id of its request."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer
    assert answer.json["request_id"] == answer.headers["X-Request-Id"] == "order-17"
    assert answer.json["status"] == answer.status
    assert answer.headers["Retry-After"] == "1"
    return answer.status, answer.code, answer.json["outcome"], answer.json["retry"]


@pytest.mark.parametrize(("everything", "ending"), [("1", Failed), ("", Skipped)])
def test_a_balancer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, everything: str, ending: Any) -> None:
    """
    If a balancer is missing, its tests fail where no test may be skipped, and are skipped elsewhere; both name it.
    """
    monkeypatch.setenv(ALL_TESTS, everything)
    with pytest.raises(ending, match="no-such-balancer is not installed"):
        program("no-such-balancer")


async def test_a_write_that_was_sent_is_never_sent_again(lost: tuple[Client, Sinks]) -> None:
    """A write whose answer is lost reaches one server once, and its caller is told that the outcome is unknown."""
    client, both = lost
    answer = await client.send("POST", "/v1/transfers", {}, headers={"X-Request-Id": "order-17"})
    assert problem(answer) == (502, "unavailable", "unknown", "same_key")
    assert both.heard == {"POST /v1/transfers": 1}
    for number in range(2, 6):
        # On a connection that was used before, HAProxy ends the connection without an answer.
        with suppress(aiohttp.ServerDisconnectedError):
            answer = await client.send("POST", "/v1/transfers", {}, headers={"X-Request-Id": "order-17"})
            assert problem(answer) == (502, "unavailable", "unknown", "same_key")
        assert both.heard == {"POST /v1/transfers": number}
    with suppress(aiohttp.ServerDisconnectedError):
        await client.send("PATCH", "/v1/accounts/a", {})
    assert both.heard["PATCH /v1/accounts/a"] == 1


async def test_a_read_that_was_lost_is_sent_again(lost: tuple[Client, Sinks]) -> None:
    """A read whose answer is lost is tried at more than one server before its caller gets an error."""
    client, both = lost
    answer = await client.get("/v1/accounts/a", X_Request_Id="order-17")
    assert problem(answer)[:2] in ((502, "unavailable"), (503, "overloaded"))
    assert 2 <= both.heard["GET /v1/accounts/a"] <= 3


async def test_nobody_is_there(kind: type[Balancer], folder: Path) -> None:
    """Without any server, callers get an error at once; HAProxy reports `not_applied`, and nginx `unknown`."""
    said = {
        "haproxy": (503, "overloaded", "not_applied", "same_key"),
        "nginx": (502, "unavailable", "unknown", "same_key"),
    }
    async with asked(kind(folder, (free_port(), free_port()))) as client:
        answer = await client.send("POST", "/v1/transfers", {}, headers={"X-Request-Id": "order-17"})
        assert problem(answer) == said[kind.name]
        nameless = await client.send("POST", "/v1/transfers", {})
        assert nameless.json["request_id"] == nameless.headers["X-Request-Id"]
        assert nameless.json["request_id"] not in ("", "order-17")


async def test_a_body_that_does_not_come(lost: tuple[Client, Sinks], kind: type[Balancer]) -> None:
    """
    HAProxy answers as the service does if the rest of a body does not come; nginx ends the connection without an
    answer. No server hears of the request.
    """
    client, both = lost
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(client.url).port)
    writer.write(
        b"POST /v1/transfers HTTP/1.1\r\nHost: balancer\r\nX-Request-Id: order-17\r\nContent-Length: 9\r\n\r\n{"
    )
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert not both.heard
    if kind is Haproxy:
        assert b"\r\nx-request-id: order-17\r\n" in head
        assert b"\r\ncontent-type: application/problem+json\r\n" in head
        said = {"type": "/problems/request_timeout", "code": "request_timeout", "retry": "same_key", "status": 408}
        said |= {"title": KINDS["request_timeout"].title, "outcome": "not_applied", "request_id": "order-17"}
        assert {name: value for name, value in orjson.loads(body).items() if name != "detail"} == said
    else:
        assert head + body == b""


async def test_what_is_on_top_hears_not_now(folder: Path) -> None:
    """When its servers are full, HAProxy queues a request for a moment and then answers `not_applied`."""
    release = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"GET /readyz"):
            await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    balancer = Haproxy(folder, (port, port))
    async with asked(balancer) as client:
        for name in ("one", "two"):
            assert "error" not in await balancer.ask(f"set maxconn server tallystick/{name} 1")
        running = [asyncio.create_task(client.get("/v1/accounts/a")) for _ in range(2)]

        async def full() -> bool:
            return [(await balancer.state(name))["scur"] for name in ("one", "two")] == ["1", "1"]

        await until(full)
        answer = await client.send("POST", "/v1/transfers", {}, headers={"X-Request-Id": "order-17"})
        assert problem(answer) == (503, "overloaded", "not_applied", "same_key")
        release.set()
        assert {(await task).status for task in running} == {200}
    await stop_accepting([server])
    server.close()


async def test_weights_divide(haproxy_hosts: Hosts) -> None:
    """A server with three times the weight gets three times the requests; one with weight 0 gets none."""
    balancer = haproxy_hosts.balancer
    assert isinstance(balancer, Haproxy)

    async def divided(weight: int) -> dict[str, int]:
        await balancer.ask(f"set weight tallystick/two {weight}")
        before = {name: int((await balancer.state(name))["stot"]) for name in ("one", "two")}
        for _ in range(DIVIDED):
            await haproxy_hosts.client.account("payer")
        return {name: int((await balancer.state(name))["stot"]) - count for name, count in before.items()}

    await balancer.ask("set weight tallystick/one 90")
    counts = await divided(30)
    assert abs(counts["one"] - 3 * counts["two"]) <= 4, counts
    assert await divided(0) == {"one": DIVIDED, "two": 0}
    for name in ("one", "two"):
        await balancer.ask(f"set weight tallystick/{name} 100")


@pytest.mark.parametrize("way", ["set server tallystick/one state drain", "set weight tallystick/one 0"])
async def test_drained_by_hand(haproxy_hosts: Hosts, way: str) -> None:
    """If an operator drains a server and stops it once it is idle, no caller notices anything."""
    hosts = haproxy_hosts
    balancer, callers = hosts.balancer, Callers(haproxy_hosts)
    assert isinstance(balancer, Haproxy)

    async def idle() -> bool:
        return (await balancer.state("one"))["scur"] == "0"

    async def drain() -> None:
        await balancer.ask(way)
        await until(idle)
        served = (await balancer.state("one"))["stot"]
        await callers.more()
        assert (await balancer.state("one"))["stot"] == served
        # The server is idle, so even a kill does no harm.
        hosts.servers[0].kill()
        await hosts.servers[0].wait()
        await hosts.servers[0].start()
        await balancer.ask("set server tallystick/one state ready")
        await balancer.ask("set weight tallystick/one 100")
        await until(partial(balancer.uses, 0))

    await callers.steady(drain)
    definite(hosts, callers)
    await hosts.audited()


async def test_haproxy_counts(haproxy_hosts: Hosts) -> None:
    """HAProxy has metrics for Prometheus at this address, and nothing else."""
    balancer = haproxy_hosts.balancer
    assert isinstance(balancer, Haproxy)
    url = f"http://127.0.0.1:{balancer.metrics_port}"
    own = Client(haproxy_hosts.client.session, url, None, through_others=True)
    text = (await own.get("/metrics")).body.decode()
    assert 'haproxy_server_status{proxy="tallystick",server="one",state="UP"} 1' in text
    assert Counter(answer.status for answer in [await own.get("/"), await own.get("/stats")]) == {404: 2}
