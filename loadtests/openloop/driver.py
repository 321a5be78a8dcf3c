"""Sends requests when they are due, on free connections, without waiting for answers; or when the last is answered."""

import asyncio
import itertools
import math
import random
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Self

from loadtests.client import BROKEN, Client, Connection, address_of, connect
from loadtests.errors import NotRunError
from loadtests.openloop.results import ANSWERED, REFUSED, UNKNOWN, Results
from loadtests.openloop.workloads import Requests, Target

# Seconds after which an answer is too late to be good.
PATIENCE_SECONDS = 1.0
# Seconds at the start of a run in which its queues fill, so that answers then say little about later ones. They count
# in a run shorter than twice that, and where callers wait for answers and so fill no queues.
SETTLING_SECONDS = 1.0
# Seconds that a request waits for a free connection before it is given up. With a longer queue, the generator would
# send only old requests, and measure itself.
WAIT_SECONDS = 0.01
# Connections opened at once: as many as a listener's queue surely holds.
CONNECTING_MAX = 64
# Seconds between checks for due requests, which is how late a request may be sent.
TICK_SECONDS = 0.001
# Seconds for requests under way to be answered when a run is over.
DRAIN_SECONDS = 5.0
# Seconds before a connection that ended is opened again, so that a server that refuses is not asked constantly.
RECONNECT_SECONDS = 0.1
# Seconds for all requests before a run, and how many of them are under way at once.
FIRST_SECONDS_MAX = 60.0
FIRST_CONNECTIONS = 64
REFUSALS = (429, 503)


class Task(NamedTuple):
    """
    One run.

    `rate` is in requests a second, at instants that are fixed beforehand; None sends on each connection as soon as the
    last request is answered. At most `connections` requests are under way. The API keys are shared out among the
    connections; if there are no more keys than connections, each connection uses one key. `core` is the CPU core of the
    run's process.
    """

    target: Target
    workload: str
    connections: int
    seconds: float
    rate: float | None = None
    seed: int = 1
    core: int | None = None


class Driver:
    """Generates load from this process, and is connected while its body runs. `name` is the prefix of its keys."""

    def __init__(self, task: Task) -> None:
        self.name = uuid.uuid4().hex[:12]
        self.results = Results()
        self._task = task
        self._requests = Requests(task.workload, task.target, self.name, task.seed)
        self._address = address_of(task.target.url)
        self._patience_seconds = math.inf if task.rate is None else PATIENCE_SECONDS
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        # Numbers and due instants of requests that are waiting for a free connection.
        self._waiting: deque[tuple[int, float]] = deque()
        self._under_way = 0
        self._settled = 0.0
        self._closed_loop = False
        # Whether sending has ended.
        self._over = False
        self._closed = False
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        task, keys = self._task, len(self._task.target.keys)
        await self._send_first()
        try:
            for start in range(0, task.connections, CONNECTING_MAX):
                numbers = range(start, min(start + CONNECTING_MAX, task.connections))
                turns = (itertools.cycle(range(number % keys, keys, task.connections)) for number in numbers)
                await asyncio.gather(*map(self._connect, turns))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)

    async def _send_first(self) -> None:
        first = self._requests.first
        async with Client(self._task.target.url, "", FIRST_CONNECTIONS) as client, asyncio.timeout(FIRST_SECONDS_MAX):
            for start in range(0, len(first), FIRST_CONNECTIONS):
                sent = map(client.send, first[start : start + FIRST_CONNECTIONS])
                for answer in await asyncio.gather(*sent):
                    if not 200 <= answer.status < 300:
                        raise NotRunError(f"a request before the run was answered {answer.status} {answer.response}")

    async def run(self) -> Results:
        """Send requests, at the instants of a Poisson process if there is a rate; then wait for the last answers."""
        clock, results, rate = time.perf_counter, self.results, self._task.rate
        arrivals = random.Random(self._task.seed)
        self._closed_loop = rate is None
        began = now = clock()
        settles = rate is not None and self._task.seconds > 2 * SETTLING_SECONDS
        self._settled = began + SETTLING_SECONDS * settles
        end = began + self._task.seconds
        due = end if rate is None else began + arrivals.expovariate(rate)
        while self._closed_loop and self._idle:
            self._send_next(self._idle.popleft(), began)
        while now < end:
            while due <= now and due < end:
                results.due += 1
                self._waiting.append((self._number, due))
                self._number += 1
                due += arrivals.expovariate(rate or 1)
            self._serve(now)
            # Without a rate, callers send from their connections' callbacks, and this only waits for the end.
            await asyncio.sleep(end - now if rate is None else TICK_SECONDS if due > now else 0)
            now = clock()
        if self._closed_loop:
            results.due = self._number
        self._closed_loop = False
        self._over = True
        results.seconds, results.window = clock() - began, clock() - self._settled
        results.gave_up += len(self._waiting)
        self._waiting.clear()
        deadline = clock() + DRAIN_SECONDS
        while self._under_way and clock() < deadline:  # noqa: ASYNC110 -- bounded, and nothing is measured any more
            await asyncio.sleep(TICK_SECONDS)
        return results

    def _serve(self, now: float) -> None:
        waiting, idle, lags = self._waiting, self._idle, self.results.lags
        while waiting and idle:
            connection = idle.popleft()
            if connection.transport is None:
                continue
            number, due = waiting.popleft()
            if idle:
                lags.append(now - due)
            self._send(connection, number, due)
        while waiting and waiting[0][1] + WAIT_SECONDS < now:
            waiting.popleft()
            self.results.gave_up += 1

    def _send_next(self, connection: Connection, now: float) -> None:
        self._send(connection, self._number, now)
        self._number += 1

    def _send(self, connection: Connection, number: int, due: float) -> None:
        self._under_way += 1
        connection.send(self._requests.make(number, next(connection.keys)), number, due)

    def _answered(self, connection: Connection, status: int, _received: bytes, _end: int) -> None:
        results = self.results
        now = time.perf_counter()
        taken = now - connection.due
        results.statuses[status] += 1
        if 200 <= status < 300:
            fate = ANSWERED
            if taken > self._patience_seconds:
                results.late += 1
            else:
                results.good += 1
                if not self._over:
                    results.latencies.append(taken)
                    results.counted += now >= self._settled
        elif status in REFUSALS:
            fate = REFUSED
            results.refused += 1
            results.refusal_latencies.append(taken)
        else:
            fate = UNKNOWN
            results.broken += status == BROKEN
            results.failed += status != BROKEN
        results.fates[connection.tag] = fate
        self._under_way -= 1
        if connection.transport is None:
            return
        if self._closed_loop:
            self._send_next(connection, now)
        else:
            self._idle.append(connection)
            if self._waiting:
                self._serve(now)

    def _ended(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._closed:
            task = asyncio.get_running_loop().create_task(self._connect_again(connection.keys))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect_again(self, keys: Iterator[int]) -> None:
        while True:
            await asyncio.sleep(RECONNECT_SECONDS)
            try:
                return await self._connect(keys)
            except OSError:
                continue

    async def _connect(self, keys: Iterator[int]) -> None:
        connection = await connect(self._address, self._answered, self._ended)
        connection.keys = keys
        self._open.add(connection)
        if self._closed_loop:
            self._send_next(connection, time.perf_counter())
        else:
            self._idle.append(connection)
