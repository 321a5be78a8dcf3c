"""Carries out a plan: faults, healing, and the quiet times in which everything has to work again."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

from loadtests.chaos.faults import SESSIONS, injected
from loadtests.chaos.plan import GAP_SECONDS, QUIET_SECONDS, STAGGER_SECONDS, Phase, Step
from loadtests.chaos.rig import POOL, SERVERS, WORKERS, Rig
from loadtests.history.recorder import FAULTS_STARTED, FAULTS_STOPPED, Recorder
from loadtests.processes import family, resident_bytes

# Between these marks, and for a snapshot's life afterwards, reads may be stale.
BOUNDED_STARTED, BOUNDED_STOPPED = "bounded_started", "bounded_stopped"
# Time in which every client must get a good answer after a fault was healed: breakers probe four times a second, and a
# request that the fault caught may take its whole deadline before it is sent again.
PROGRESS_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
# Memory at the end, as a multiple of that before the first fault: a process that has worked for a while is larger than
# one that has just started.
MEMORY_GROWTH_MAX = 2.0
# Connections of a server's background process: two pools of two, and one for the election.
BACKGROUND_SESSIONS = 5
# Connections that all pools may hold together; they open them as they need them.
SESSIONS_MAX = SERVERS * (WORKERS * 2 * POOL + BACKGROUND_SESSIONS)


class Nemesis:
    """Injects the faults of a plan. `done`: faults by kind."""

    def __init__(self, rig: Rig, recorder: Recorder, clients: list[str], say: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self._rig = rig
        self._mark = recorder.mark
        self._clients = clients
        self._say = say

    async def run(self, phases: list[Phase]) -> None:
        """Go through the phases; at the end of each, everything is healed."""
        began = time.monotonic()
        await asyncio.sleep(phases[0].steps[0].at if phases[0].steps else 0.0)
        before = await self._sizes()
        for phase in phases:
            self._mark(FAULTS_STARTED)
            for step in phase.steps:
                await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
                # Healing the steps before may have taken long. Faults that a run must have had are injected even late.
                if step.needed or time.monotonic() + step.hold < began + phase.until:
                    self._say(str(step))
                    await self._do(step)
            self._mark(FAULTS_STOPPED)
            self._say(f"{time.monotonic() - began:6.1f} s  nothing, {QUIET_SECONDS:.0f} s: all has to work again")
            await asyncio.sleep(max(QUIET_SECONDS, began + phase.until + QUIET_SECONDS - time.monotonic()))
        self._rig.violations += grown(before, await self._sizes())

    async def _do(self, step: Step) -> None:
        """Inject the faults one by one, hold them, heal them one by one, and wait until clients are answered again."""
        if step.bounded:
            self._mark(BOUNDED_STARTED)
        stacks: list[AsyncExitStack] = []
        try:
            for fault in step.faults:
                stacks.append(AsyncExitStack())
                await stacks[-1].enter_async_context(injected(self._rig, fault, self._mark))
                self.done[fault.kind] += 1
                if fault is not step.faults[-1]:
                    await asyncio.sleep(STAGGER_SECONDS)
            await asyncio.sleep(step.hold)
            for number in step.heals:
                await stacks[number].aclose()
                if number != step.heals[-1]:
                    await asyncio.sleep(STAGGER_SECONDS)
        finally:
            # Also after an interruption, nothing stays frozen. Stacks that are closed already do nothing here.
            for stack in stacks:
                await stack.aclose()
        healed = time.monotonic()
        if step.bounded:
            self._mark(BOUNDED_STOPPED)
        await self._rig.ready()
        await self._progress(healed, step)
        await asyncio.sleep(GAP_SECONDS)

    async def _progress(self, healed: float, step: Step) -> None:
        """Return when every client has been answered since the heal; record a violation for those that are late."""
        deadline = time.monotonic() + PROGRESS_SECONDS_MAX
        while waiting := [name for name in self._clients if self._rig.answered.get(name, 0.0) < healed]:
            if time.monotonic() > deadline:
                who = f"{', '.join(waiting)} had no answer {PROGRESS_SECONDS_MAX:.0f} s after: {step}"
                self._rig.violations.append(f"no progress: {who}")
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _sizes(self) -> dict[str, int]:
        """Return the sizes that must be back to normal at the end."""
        [row] = await self._rig.databases.postgres.ask(f"SELECT count(*) {SESSIONS}")
        memory = {f"bytes of server {s.name}": sum(map(resident_bytes, family(s.pid))) for s in self._rig.servers}
        return {"sessions": max(SESSIONS_MAX, row["count"]), **memory}


def grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Return what is larger than it may be after all faults; there may be as many sessions as all pools allow."""
    return [
        f"{name} was {before[name]:,} before the first fault and is {size:,} in the end"
        for name, size in after.items()
        if size > before[name] * (1.0 if name == "sessions" else MEMORY_GROWTH_MAX)
    ]
