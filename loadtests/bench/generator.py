"""Runs closed-loop generators and puts together what they found; or `wrk`, to see how they compare."""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

from loadtests.bench import cpu
from loadtests.bench.record import BenchError, Run
from loadtests.bench.requests import Place
from loadtests.own_server import PROJECT, family

# Cores from which on generators get some for themselves. On fewer everything shares what there is, as the kernel likes.
PINNING_CORES = 4
# Generators where there are as many cores.
GENERATORS = 2
# Seconds beside those of a run: the interpreter starts, connections are made, what is under way is answered.
MARGIN_SECONDS = 90.0
# Seconds between a generator's last word and its end, and until one that was killed is gone.
EXIT_SECONDS_MAX = 2.0
STOP_SECONDS_MAX = 5.0
# Share of a core from which on the generator may be what limits a run.
BUSY = 0.9


class GeneratorError(BenchError):
    """A generator failed; the message says what it said."""


def cores() -> list[int | None]:
    """Return the core of each generator, or None where none is kept free for it."""
    free = sorted(os.sched_getaffinity(0))
    if len(free) < PINNING_CORES:
        return [None]
    return list(free[-GENERATORS:])


def leave_cores(roots: Iterable[int]) -> None:
    """Keep these processes and all that they have started off the cores of the generators."""
    taken = {core for core in cores() if core is not None}
    if not taken:
        return
    rest = os.sched_getaffinity(0) - taken
    for root in roots:
        for pid in family(root):
            for thread in cpu.threads(pid):
                os.sched_setaffinity(thread, rest)


def run_closed(workload: str, place: Place, connections: int, seconds: float, roots: Iterable[int]) -> Run:
    """
    Send requests on so many connections, each as soon as the last one is answered.

    Args:
        roots: The processes whose CPU time, and that of their children, is counted.

    Raises:
        GeneratorError: A generator failed.
    """
    roots = list(roots)
    chosen = cores() if connections >= GENERATORS else cores()[:1]
    leave_cores(roots)
    name = f"{workload}-{uuid.uuid4().hex[:10]}"
    children = []
    try:
        for number, core in enumerate(chosen):
            task = {
                "place": place._asdict(),
                "workload": workload,
                "run": f"{name}-{number}",
                "seed": number + 1,
                "connections": connections // len(chosen) + (number < connections % len(chosen)),
                "seconds": seconds,
                "first_key": number,
                "core": core,
            }
            children.append(_Child(task))
        for child in children:
            if child.line(MARGIN_SECONDS).strip() != "ready":
                raise GeneratorError(child.said())
        before = cpu.times(roots)
        for child in children:
            child.tell("\n")
        found = [json.loads(child.line(seconds + MARGIN_SECONDS) or "null") for child in children]
        after = cpu.times(roots)
        if None in found:
            raise GeneratorError(children[found.index(None)].said())
    finally:
        for child in children:
            child.stop()
    figures = _together(found, seconds)
    figures["cpu"] = {**cpu.used(before, after), "generator": figures.pop("own")}
    return {"workload": workload, "connections": connections, "seconds": seconds, **figures}


class _Child:
    def __init__(self, task: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.bench.closed"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C reaches the whole group; this process is ended by us.
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tell(json.dumps(task) + "\n")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def line(self, seconds_max: float) -> str:
        try:
            return self._lines.get(timeout=seconds_max)
        except queue.Empty:
            raise GeneratorError(f"a generator said nothing for {seconds_max:.0f} s") from None

    def said(self) -> str:
        self.stop()
        lines = self._errors.splitlines()
        return "a generator failed: " + (lines[-1] if lines else f"exit {self._process.returncode}")

    def stop(self) -> None:
        process = self._process
        if process.stdin is None or process.stdin.closed:
            return
        try:
            process.wait(EXIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)
        self._reader.join(STOP_SECONDS_MAX)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        assert process.stdout is not None
        assert process.stderr is not None
        self._errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()


def _together(found: list[dict[str, Any]], seconds: float) -> Run:
    latencies: Counter[float] = Counter()
    other: Counter[str] = Counter()
    for one in found:
        latencies.update({float(text): count for text, count in one["latencies"].items()})
        other.update(one["other"])
    good = sum(one["good"] for one in found)
    own = [sum(one["cpu"][part] for one in found) for part in (0, 1)]
    return {
        "good": good,
        "answered": good + sum(one["late"] for one in found) + sum(other.values()),
        "other": {status: count for status, count in other.items() if count},
        "per_second": good / seconds,
        "p50": _quantile(latencies, 0.5),
        "p99": _quantile(latencies, 0.99),
        "p999": _quantile(latencies, 0.999),
        "own": own,
        "generators": len(found),
        "generator_share": sum(own) / seconds / len(found),
    }


def _quantile(latencies: "Counter[float]", share: float) -> float:
    """Milliseconds that *share* of the latencies do not exceed; 0 of none."""
    left = share * sum(latencies.values())
    for latency in sorted(latencies):
        left -= latencies[latency]
        if left <= 0:
            return round(latency * 1e3, 3)
    return 0.0


def run_wrk(program: str, url: str, connections: int, seconds: float, roots: Iterable[int]) -> Run:
    """Ask for one address with `wrk`, one thread."""
    roots = list(roots)
    command = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    before = cpu.times(roots)
    began = os.times()
    started = time.perf_counter()
    done = subprocess.run(
        [*command, url], capture_output=True, text=True, check=False, timeout=seconds + MARGIN_SECONDS
    )
    taken = time.perf_counter() - started
    after, ended = cpu.times(roots), os.times()
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    if done.returncode != 0 or rate is None or "Non-2xx" in done.stdout:
        raise GeneratorError(f"wrk failed: {(done.stdout + done.stderr)[-500:]}")
    own = [ended.children_user - began.children_user, ended.children_system - began.children_system]
    used = {**cpu.used(before, after), "generator": own}
    return {
        "connections": connections,
        "seconds": round(seconds),
        "per_second": float(rate[1]),
        "generator_share": sum(own) / taken,
        "cpu": used,
    }
