"""Carries out a plan: faults, healing, and the times without them in which everything has to work again."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

from loadtests.chaos.faults import injected
from loadtests.chaos.plan import GAP_SECONDS, KINDS, QUIET_SECONDS, STAGGER_SECONDS, Phase, Step
from loadtests.chaos.rig import DATABASE, POOL, SERVERS, WORKERS, Rig
from loadtests.chaos.sending import Traffic
from loadtests.history.recorder import FAULTS_STARTED, FAULTS_STOPPED

# Marks between which, and a snapshot's life after which, reads may be too old.
BOUNDED_STARTED, BOUNDED_STOPPED = "bounded_started", "bounded_stopped"
# In which every client must have been answered well after a fault was healed: breakers probe four times a second, and
# a request that the fault caught may take its whole deadline before it is sent again.
PROGRESS_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
# Memory in the end, as a multiple of that before the first fault: a process that has worked for a while is larger than
# one just started.
MEMORY_GROWTH_MAX = 2.0
# What all pools together may hold; they open connections as they need them.
SESSIONS_MAX = SERVERS * WORKERS * 2 * POOL
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Nemesis:
    """
    Makes everything go wrong.

    Args:
        rig: What it is done to.

        traffic: Of the clients that must be answered afterwards.

        clients: Their names.

        say: Takes a line for the person who watches.

    Attributes:
        done: Faults by kind.

        skipped: Steps for which no time was left.
    """

    def __init__(self, rig: Rig, traffic: Traffic, clients: list[str], say: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self.skipped = 0
        self._rig = rig
        self._traffic = traffic
        self._clients = clients
        self._say = say

    async def run(self, phases: list[Phase]) -> None:
        """Go through the phases; each ends with everything healed."""
        began = time.monotonic()
        recorder = self._traffic.recorder
        await _until(began + phases[0].steps[0].at if phases[0].steps else began)
        await self._measure()
        for phase in phases:
            recorder.mark(FAULTS_STARTED)
            for step in phase.steps:
                await _until(began + step.at)
                if time.monotonic() + step.hold > began + phase.until:
                    self.skipped += 1
                    continue
                late = time.monotonic() - began - step.at
                self._say(f"{step}{f'   ({late:.1f} s late)' if late > 1 else ''}")
                await self._do(step)
            recorder.mark(FAULTS_STOPPED)
            self._say(f"{time.monotonic() - began:6.1f} s  nothing, {QUIET_SECONDS:.0f} s: all has to work again")
            await asyncio.sleep(max(QUIET_SECONDS, began + phase.until + QUIET_SECONDS - time.monotonic()))
        await self._measure()

    async def _do(self, step: Step) -> None:
        """Inject the faults one by one, hold them, heal them one by one, and wait until clients are answered again."""
        recorder = self._traffic.recorder
        if step.bounded:
            recorder.mark(BOUNDED_STARTED)
        stacks: list[AsyncExitStack] = []
        try:
            for fault in step.faults:
                stacks.append(AsyncExitStack())
                await stacks[-1].enter_async_context(injected(self._rig, fault))
                self.done[fault.kind] += 1
                if fault is not step.faults[-1]:
                    await asyncio.sleep(STAGGER_SECONDS)
            await asyncio.sleep(step.hold)
            for number in step.heals:
                await stacks[number].aclose()
                if number != step.heals[-1]:
                    await asyncio.sleep(STAGGER_SECONDS)
        finally:
            # Whatever was interrupted: nothing stays frozen. What is closed already stays as it is.
            for stack in stacks:
                await stack.aclose()
        healed = time.monotonic()
        if step.bounded:
            recorder.mark(BOUNDED_STOPPED)
        await self._rig.ready()
        await self._progress(healed, step)
        await asyncio.sleep(GAP_SECONDS)

    async def _progress(self, healed: float, step: Step) -> None:
        deadline = time.monotonic() + PROGRESS_SECONDS_MAX
        waiting = self._clients
        while waiting:
            if time.monotonic() > deadline:
                self._rig.violations.append(
                    f"no progress: {', '.join(waiting)} had no answer {PROGRESS_SECONDS_MAX:.0f} s after: {step}"
                )
                return
            await asyncio.sleep(POLL_SECONDS)
            waiting = [name for name in waiting if self._traffic.answered.get(name, 0.0) < healed]

    async def _measure(self) -> None:
        """Note the sizes that must be back in the end."""
        recorder = self._traffic.recorder
        for server in self._rig.servers:
            recorder.gauge(f"rss_bytes of server {server.name}", server.resident_bytes(), MEMORY_GROWTH_MAX)
        rows = await self._rig.postgres.ask(DATABASE, SESSIONS)
        recorder.gauge("sessions beyond the pools", max(0, rows[0]["count"] - SESSIONS_MAX))


def kinds_done(nemesis: Nemesis) -> list[tuple[str, int]]:
    """Return how often each kind was done, none of them too."""
    return [(kind, nemesis.done[kind]) for kind in KINDS]


async def _until(instant: float) -> None:
    await asyncio.sleep(max(0.0, instant - time.monotonic()))
