"""Sends what is due on connections that are free, and waits for none of the answers; or sends when it is answered."""

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Iterator

from loadtests.client import BROKEN, Connection, retry_after_of
from loadtests.openloop.results import ANSWERED, REFUSED, UNKNOWN, Results
from loadtests.openloop.workloads import Requests, Target

# Seconds after which an answer comes too late to be good.
PATIENCE_SECONDS = 1.0
# Seconds that a request waits for a free connection before it is given up: its caller is busy with another one. A
# longer queue in here would send only what is old already, and measure itself.
WAIT_SECONDS = 0.01
# Connections made at once: as many as a listener's queue surely holds.
CONNECTING_MAX = 64
# Seconds between looks at what is due; how late a request can be sent for that.
TICK_SECONDS = 0.001
# Seconds that requests under way get to be answered when a run is over.
DRAIN_SECONDS = 5.0
# Seconds before a connection that has ended is made again: a server that refuses is not asked all the time.
RECONNECT_SECONDS = 0.1
# Lags kept: enough for a quantile.
LAGS_MAX = 1_000_000

REFUSALS = (429, 503)


class _Line(Connection):
    """A connection, and the numbers of the target's keys that its requests have in turns."""

    keys: Iterator[int]


class Driver:
    """
    A generator in this process.

    Args:
        target: Where requests go.

        requests: What is sent.

        connections: How many there are, and so how many requests can be under way. Each has keys of its own, and one
            only where there are no more keys than connections.

        results: Takes what becomes of them.

        patience_seconds: After which an answer comes too late to be good.
    """

    def __init__(
        self,
        target: Target,
        requests: Requests,
        connections: int,
        results: Results,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._target = target
        self._make = requests.make
        self._connections = connections
        self._results = results
        self._patience_seconds = patience_seconds
        self._idle: deque[_Line] = deque()
        self._open: set[_Line] = set()
        # Numbers and instants of requests that are due and found no free connection.
        self._waiting: deque[tuple[int, float]] = deque()
        self._under_way = 0
        self._began = self._settled = 0.0
        self._closed_loop = False
        # Whether nothing is sent any more.
        self._over = False
        self._closed = False
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Make the connections, so many at once as a listener's queue holds."""
        for start in range(0, self._connections, CONNECTING_MAX):
            number = min(CONNECTING_MAX, self._connections - start)
            await asyncio.gather(*(self._connect(self._keys_of(start + n)) for n in range(number)))

    def _keys_of(self, connection: int) -> Iterator[int]:
        keys = len(self._target.keys)
        return itertools.cycle(range(connection % keys, keys, self._connections))

    async def run(self, rate: float | None, seconds: float, seed: int, tick: Callable[[], None] | None = None) -> None:
        """
        Send requests whose instants are those of a Poisson process; then wait for the last answers.

        Args:
            rate: Requests a second; None sends on each connection as soon as it is free.

            tick: Called about once a second.
        """
        clock = time.perf_counter
        arrivals = random.Random(seed)
        self._closed_loop = rate is None
        self._began = began = clock()
        self._settled = began + self._results.settling_seconds
        end = began + seconds
        due = end if rate is None else began + arrivals.expovariate(rate)
        if rate is None:
            while self._idle:
                self._send_next(self._idle.popleft(), began)
        next_tick = began + 1
        now = began
        while now < end:
            while due <= now and due < end:
                self._results.due += 1
                self._waiting.append((self._number, due))
                self._number += 1
                due += arrivals.expovariate(rate or 1)
            self._serve(now)
            if now >= next_tick:
                next_tick += 1
                if tick is not None:
                    tick()
            # Callers that wait for their answers are not waited for.
            await asyncio.sleep(min(1.0, end - now) if rate is None else TICK_SECONDS if due > now else 0)
            now = clock()
        if self._closed_loop:
            self._results.due = self._number
        self._closed_loop = False
        self._over = True
        self._results.seconds = clock() - began
        self._results.gave_up += len(self._waiting)
        self._waiting.clear()
        deadline = clock() + DRAIN_SECONDS
        while self._under_way and clock() < deadline:  # noqa: ASYNC110 -- bounded, and nothing is measured any more
            await asyncio.sleep(TICK_SECONDS)

    async def close(self) -> None:
        """End the connections; what is under way still has no answer that anybody waits for."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)

    def _serve(self, now: float) -> None:
        waiting, idle = self._waiting, self._idle
        lags = self._results.lags
        while waiting and idle:
            number, due = waiting.popleft()
            connection = idle.popleft()
            if connection.transport is None:
                waiting.appendleft((number, due))
                continue
            if len(lags) < LAGS_MAX and idle:
                lags.append(now - due)
            self._under_way += 1
            connection.send(self._make(number, next(connection.keys)), number, due)
        while waiting and waiting[0][1] + WAIT_SECONDS < now:
            waiting.popleft()
            self._results.gave_up += 1

    def _send_next(self, connection: _Line, now: float) -> None:
        number = self._number
        self._number += 1
        self._under_way += 1
        connection.send(self._make(number, next(connection.keys)), number, now)

    def _answered(self, connection: Connection, status: int, received: bytes, end: int) -> None:
        assert isinstance(connection, _Line)
        results = self._results
        now = time.perf_counter()
        taken = now - connection.due
        results.statuses[status] += 1
        if 200 <= status < 300:
            fate = ANSWERED
            if taken > self._patience_seconds:
                results.late += 1
            else:
                results.good += 1
                if self._over:
                    results.drained += 1
                else:
                    results.latencies.append(taken)
                    results.early += now < self._settled
        else:
            fate = self._note_refusal(status, taken, received[:end])
        if results.fates:
            results.note(connection.tag, fate, now - self._began)
        self._under_way -= 1
        if connection.transport is None:
            return
        if self._closed_loop:
            self._send_next(connection, now)
        else:
            self._idle.append(connection)
            if self._waiting:
                self._serve(now)

    def _note_refusal(self, status: int, taken: float, head: bytes) -> int:
        results = self._results
        if status in REFUSALS:
            results.refused += 1
            results.retry_after[retry_after_of(head)] += 1
            results.refusal_latencies.append(taken)
            return REFUSED
        results.broken += status == BROKEN
        results.failed += status != BROKEN
        return UNKNOWN

    def _ended(self, connection: Connection) -> None:
        assert isinstance(connection, _Line)
        self._open.discard(connection)
        if self._closed:
            return
        task = asyncio.get_running_loop().create_task(self._connect_again(connection.keys))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_again(self, keys: Iterator[int]) -> None:
        while True:
            await asyncio.sleep(RECONNECT_SECONDS)
            try:
                await self._connect(keys)
            except OSError:
                continue
            return

    async def _connect(self, keys: Iterator[int]) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Line(self._answered, self._ended), self._target.host, self._target.port
        )
        connection.keys = keys
        self._open.add(connection)
        if self._closed_loop:
            self._send_next(connection, time.perf_counter())
        else:
            self._idle.append(connection)
