"""Generators as processes of their own, and what several of one run have found, put together."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from loadtests.openloop.generator import Task, new_run
from loadtests.openloop.results import Results, Run
from loadtests.process_table import cpu_times, cpu_used, family, keep_to
from loadtests.processes import KILLED_SECONDS_MAX, PROJECT, ServerError

# Cores from which on generators get some for themselves. On fewer everything shares what there is, as the kernel likes.
PINNING_CORES = 4
# Generators where there are as many cores.
GENERATORS = 2
# Seconds beside those of a run: the interpreter starts, connections are made, what is under way is answered.
MARGIN_SECONDS = 90.0
# Bytes of the line of a generator that says what it has found: a few for each time that differs from the others.
LINE_BYTES_MAX = 1024 * 1024


class GeneratorError(ServerError):
    """A generator failed; the message ends with the last line of its output."""


class Child:
    """A generator in a process of its own, which is gone when the body ends."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.openloop.generator"),
            cwd=PROJECT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            # Ctrl-C reaches the whole group; this process is ended by us.
            start_new_session=True,
        )
        self._tell(json.dumps({**self._task._asdict(), "target": self._task.target._asdict()}))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if kind is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILLED_SECONDS_MAX):
                await self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def _line(self, seconds_max: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(seconds_max):
                line = await self._process.stdout.readline()
                if not line:
                    lines = (await self._process.stderr.read()).decode(errors="replace").splitlines()
                    raise GeneratorError("a generator failed: " + (lines[-1] if lines else "it wrote nothing"))
        except TimeoutError:
            raise GeneratorError(f"a generator wrote nothing for {seconds_max:.0f} s") from None
        return line

    async def ready(self) -> None:
        """Return when it is connected."""
        await self._line(MARGIN_SECONDS)

    def begin(self) -> None:
        """Let it send."""
        self._tell("")

    async def found(self) -> dict[str, Any]:
        """Return its results and the CPU time that it has used."""
        found: dict[str, Any] = json.loads(await self._line(self._task.seconds + MARGIN_SECONDS))
        return found


def cores() -> list[int | None]:
    """Return the core of each generator, or None where none is kept free for it."""
    free = sorted(os.sched_getaffinity(0))
    return [None] if len(free) < PINNING_CORES else list(free[-GENERATORS:])


def leave_cores(roots: Sequence[int]) -> None:
    """Keep these processes and all that they have started off the cores of the generators."""
    taken = {core for core in cores() if core is not None}
    if taken:
        keep_to(os.sched_getaffinity(0) - taken, [pid for root in roots for pid in family(root)])


async def run_apart(task: Task, roots: Sequence[int]) -> Run:
    """
    Make one run with generators that have processes of their own; a run with a rate has one.

    Args:
        roots: The processes whose CPU time, and that of their children, is counted.

    Raises:
        GeneratorError: A generator failed.
    """
    chosen = cores() if task.rate is None and task.connections >= GENERATORS else cores()[:1]
    leave_cores(roots)
    run, keys = new_run(), task.target.keys
    results, own = Results(), [0.0, 0.0]
    async with contextlib.AsyncExitStack() as stack:
        children = []
        for number, core in enumerate(chosen):
            part = task._replace(
                # Each begins with another key.
                target=task.target._replace(keys=keys[number:] + keys[:number]),
                run=f"{run}-{number}",
                seed=task.seed + number,
                connections=task.connections // len(chosen) + (number < task.connections % len(chosen)),
                core=core,
            )
            children.append(await stack.enter_async_context(Child(part)))
        for child in children:
            await child.ready()
        before = cpu_times(roots)
        for child in children:
            child.begin()
        for child in children:
            found = await child.found()
            results.add(found["results"])
            own = [known + used for known, used in zip(own, found["cpu"], strict=True)]
        after = cpu_times(roots)
    return {
        "workload": task.workload,
        "connections": task.connections,
        "rate": task.rate,
        **results.summary()._asdict(),
        "seconds": task.seconds,
        "generators": len(chosen),
        "generator_share": sum(own) / task.seconds / len(chosen),
        "cpu": {**cpu_used(before, after), "generator": own},
    }
