"""
A closed-loop generator, a process of its own: each connection sends its next request when the last one is answered.

Reads what to do as JSON on its standard input and says what came of it as JSON on its standard output. It says
`ready` on a line when it is connected, and begins when it gets an empty line.
"""

import asyncio
import json
import os
import re
import resource
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvloop

from loadtests.bench.requests import Place, make
from loadtests.openloop.files import allow_files

# Seconds that requests under way get to be answered when a run is over.
DRAIN_SECONDS = 5.0
# Seconds that the requests before a run may take in all.
FIRST_SECONDS_MAX = 60.0
# Connections made at once: as many as a listener's queue surely holds.
CONNECTING_MAX = 64
# Significant digits of a latency that are kept: a thousandth of it is below what two runs differ by.
DIGITS = 3
# An answer that is larger than this is none of ours.
ANSWER_MAX_BYTES = 4 * 1024 * 1024

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Answers:
    """What came back, of all connections of this process."""

    def __init__(self) -> None:
        self.latencies = array("d")
        self.statuses: Counter[str] = Counter()
        # Answered after the end of the run: they used CPU, and count for no rate.
        self.late = 0
        self.until = float("inf")


class Caller(asyncio.Protocol):
    """A connection that asks until it has nothing more to ask, or time is up."""

    def __init__(self, answers: Answers) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._answers = answers
        self._next: Callable[[], bytes | None] = lambda: None
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def start(self, source: Callable[[], bytes | None]) -> None:
        """Send the first request."""
        self.done = asyncio.get_running_loop().create_future()
        self._next = source
        self._send(time.perf_counter())

    def _send(self, now: float) -> None:
        request = self._next() if now < self._answers.until else None
        if request is None or self._transport is None:
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent = now
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole; if so, send the next request."""
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        length = _LENGTH.search(received, 0, end + 2) if end > 0 else None
        if length is None or len(received) < end + 4 + int(length[1]):
            self._received = received
            if len(received) > ANSWER_MAX_BYTES:
                self.close()
            return
        self._received = b""
        answers = self._answers
        now = time.perf_counter()
        if received[9:10] == b"2" and now <= answers.until:
            answers.latencies.append(now - self._sent)
        elif received[9:10] == b"2":
            answers.late += 1
        else:
            answers.statuses[received[9:12].decode("latin-1")] += 1
        self._send(now)

    def connection_lost(self, _error: Exception | None) -> None:
        """Count it: a connection that ends makes a run worse than it could have been."""
        self._transport = None
        if not self.done.done():
            self._answers.statuses["broken"] += 1
            self.done.set_result(None)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()


async def _connect(place: Place, number: int, answers: Answers) -> list[Caller]:
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    while len(callers) < number:
        some = min(CONNECTING_MAX, number - len(callers))
        made = (loop.create_connection(lambda: Caller(answers), place.host, place.port) for _ in range(some))
        callers += [caller for _, caller in await asyncio.gather(*made)]
    return callers


async def _run(task: dict[str, Any]) -> dict[str, Any]:
    place = Place(**task["place"])
    requests = make(task["workload"], place, task["run"], task["seed"])
    answers = Answers()
    callers = await _connect(place, task["connections"], answers)
    waiting: Iterator[bytes] = iter(requests.first)
    for caller in callers:
        caller.start(lambda: next(waiting, None))
    await asyncio.wait_for(asyncio.gather(*(caller.done for caller in callers)), FIRST_SECONDS_MAX)
    first = dict(answers.statuses)
    if first:
        raise RuntimeError(f"the requests before the run were answered {first}")
    answers.latencies = array("d")
    # Per key, not per connection: what is made beforehand is made once.
    sources = [requests.of(key) for key in range(len(place.keys))]
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    answers.until = began + task["seconds"]
    for index, caller in enumerate(callers):
        caller.start(sources[(task["first_key"] + index) % len(sources)])
    _, slow = await asyncio.wait([caller.done for caller in callers], timeout=task["seconds"] + DRAIN_SECONDS)
    after = resource.getrusage(resource.RUSAGE_SELF)
    for caller in callers:
        caller.close()
    kept: Counter[str] = Counter(f"{latency:.{DIGITS}g}" for latency in answers.latencies)
    statuses = answers.statuses + Counter({"unanswered": len(slow)})
    return {
        "good": len(answers.latencies),
        "late": answers.late,
        "other": dict(statuses),
        "latencies": kept,
        "cpu": [after.ru_utime - usage.ru_utime, after.ru_stime - usage.ru_stime],
    }


def main() -> int:
    """Do what standard input says."""
    task = json.loads(sys.stdin.readline())
    allow_files(task["connections"])
    if task["core"] is not None:
        os.sched_setaffinity(0, {task["core"]})
    print(json.dumps(uvloop.run(_run(task))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
