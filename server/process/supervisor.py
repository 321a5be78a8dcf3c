"""The supervisor: keeps the sockets, starts its children, replaces them and ends them."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from types import TracebackType
from typing import Final

from server.process.channel import Orders, Retire, Stop
from server.process.children import Child, Program, Report
from server.process.orphans import collect_orphans
from server.process.slots import Slot, count_states
from server.process.timeouts import TIMEOUTS, Timeouts
from server.process.totals import Counts, Totals
from server.settings import SettingsError
from server.store.background import stop

Values = Mapping[str, str | int]

# What its children run.
WORKER_MODULE: Final = "server.process.worker"
BACKGROUND_MODULE: Final = "server.process.background"
# Of the background process, in the log and in metrics.
BACKGROUND: Final = "background"

# Failed starts of a worker in a row after which a server that has never served gives up.
FIRST_ATTEMPTS_MAX: Final = 3
# Seconds between two checks of the children. A check that is late by the second number of seconds shows that this
# process itself was stopped or starved.
WATCH_SECONDS: Final = 1.0
HELD_UP_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Supervisor:
    """
    Keeps one worker on each of its sockets, and the background process beside them.

    Requests are served without the background process: whatever becomes of it, the workers go on, and neither start nor
    end waits for it for long.

    Args:
        listeners: One for each worker; closed with the supervisor.

        background: Whether there is a background process.

        timeouts: Time-outs for children.
    """

    def __init__(self, listeners: Sequence[socket.socket], *, background: bool, timeouts: Timeouts = TIMEOUTS):
        # Sums of what ended children had counted.
        self._ended_counts = Totals()
        self._listeners = listeners
        self._workers = [Slot(_worker(number, listener)) for number, listener in enumerate(listeners, start=1)]
        self._background = Slot(Program(BACKGROUND, BACKGROUND, BACKGROUND_MODULE, vital=False)) if background else None
        # In the order in which they are swapped.
        self._slots = [*self._workers, *([self._background] if self._background else [])]
        self._timeouts = timeouts
        # Each with its place.
        self._children: dict[Child, Slot] = {}
        self._others: Sequence[subprocess.Popen[bytes]] = ()
        self._values: Values = {}
        self._reload: Callable[[], Values] | None = None
        self._started: Callable[[], None] | None = None
        # Whether requests have been served at all.
        self._served = False
        # Set when it ends: the reason why nothing can be served, or None after a signal.
        self._outcome: asyncio.Future[str | None] | None = None
        self._swap_wanted, self._all_ended = asyncio.Event(), asyncio.Event()
        self.stopping = False
        # Workers load their code while the rest of the server starts; then they wait for their settings. The background
        # process is started when requests are served.
        for slot in self._workers:
            slot.current = self._spawn(slot)

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for listener in self._listeners:
            listener.close()
        for child in self._children:
            child.abandon()

    @property
    def size(self) -> int:
        """How many workers it keeps."""
        return len(self._workers)

    async def run(
        self,
        values: Values,
        reload: Callable[[], Values],
        started: Callable[[], None],
        others: "Sequence[subprocess.Popen[bytes]]" = (),
    ) -> str | None:
        """
        Serve until a signal to stop; a second signal ends everything at once.

        Args:
            values: Settings for the children, those that differ from the defaults.

            reload: Gives the settings as they are now; called on SIGHUP.

            started: Called when the first worker serves.

            others: Further children of this process.

        Returns:
            The reason if no worker could be started, otherwise None.
        """
        loop = asyncio.get_running_loop()
        self._values, self._reload, self._started, self._others = values, reload, started, others
        self._outcome = loop.create_future()
        # A terminal that is closed sends SIGHUP too.
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, os.isatty(0))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGCHLD, self._collect_ended)
        for child in self._children:
            child.begin(self._orders(values), self._serves)
        tasks = [asyncio.create_task(work) for work in (self._watch(), self._swap_on_request())]
        try:
            self._collect_ended()
            return await self._outcome
        finally:
            await self._stop()
            await stop(*tasks)

    async def reports(self) -> list[Report]:
        """Return the state of the child in each place; an empty place waits for its child to be restarted."""
        return await asyncio.gather(*(slot.report() for slot in self._slots))

    @property
    def restarts(self) -> int:
        """Workers that died and were, or are to be, started again."""
        return sum(slot.restarts for slot in self._workers)

    def states(self) -> Mapping[str, int]:
        """Return how many workers are in which state."""
        return count_states(self._workers, [child for child, slot in self._children.items() if slot.program.vital])

    def background(self) -> tuple[Mapping[str, int], int] | None:
        """Return how many background processes are in which state and how many died; None where there is to be none."""
        if self._background is None:
            return None
        children = [child for child, slot in self._children.items() if slot is self._background]
        return count_states([self._background], children), self._background.restarts

    def pids(self) -> Mapping[str, int]:
        """Return the process of each place that has one, by its label."""
        return {slot.program.label: slot.current.pid for slot in self._slots if slot.current}

    def silent_seconds(self) -> Mapping[str, float]:
        """Return the time since the last message of the child in each place; each sends one a second."""
        now = asyncio.get_running_loop().time()
        return {slot.program.label: now - slot.current.last_message_at for slot in self._slots if slot.current}

    def counts(self) -> list[Counts]:
        """Return the last report of each child that runs."""
        return [child.counts for child in self._children]

    def totals(self) -> Totals:
        """Return the sums over all children, including those that have ended, up to their last reports."""
        totals = deepcopy(self._ended_counts)
        for counts in self.counts():
            totals.add(counts)
        return totals

    def _spawn(self, slot: Slot) -> Child:
        child = Child(slot.program)
        self._children[child] = slot
        return child

    def _start(self, slot: Slot, values: Values, *, must_be_ready: bool = False) -> Child:
        child = self._spawn(slot)
        log.info("%s (process %d) starts", slot.program.name, child.pid)
        serves = self._serves if slot.program.vital else _do_nothing
        child.begin(self._orders(values, must_be_ready=must_be_ready), serves)
        return child

    def _orders(self, values: Values, *, must_be_ready: bool = False) -> Orders:
        return Orders(dict(values), self.size, must_be_ready)

    def _serves(self) -> None:
        if not self._served:
            self._served = True
            assert self._started is not None, "workers get their settings in run()"
            self._started()
            if self._background is not None:
                self._restart(self._background)

    def _collect_ended(self) -> None:
        """Collect children that have ended."""
        for child in [child for child in self._children if child.process.poll() is not None]:
            slot = self._children.pop(child)
            child.close()
            self._ended_counts.add(child.counts, has_ended=True)
            self._ended(child, slot)
        if not self._children:
            self._all_ended.set()
        collect_orphans([*(child.process for child in self._children), *self._others])

    def _ended(self, child: Child, slot: Slot) -> None:
        code = child.process.returncode
        ending = f"signal {-code}" if code < 0 else f"code {code}"
        reason = child.refusal or child.killed_for or ending
        if self.stopping or slot.current is not child:
            log.info("%s (process %d) ended: %s", slot.program.name, child.pid, reason)
            return
        slot.current = None
        lived = asyncio.get_running_loop().time() - child.served if child.served else 0.0
        if lived >= self._timeouts.stable:
            slot.failures = 0
        log.error("%s (process %d) died: %s", slot.program.name, child.pid, reason)
        slot.restarts += 1
        self._failed(slot, reason, is_final=child.refusal is not None)

    def _failed(self, slot: Slot, reason: str, *, is_final: bool) -> None:
        """Start a child after a delay, or give up if no worker has ever served."""
        slot.failures += 1
        if not self._served and (is_final or slot.failures >= FIRST_ATTEMPTS_MAX):
            self._end(reason if is_final else f"no worker could be started ({reason}): its log says why")
            return
        asyncio.get_running_loop().call_later(self._timeouts.restart(slot.failures), self._restart, slot)

    def _restart(self, slot: Slot) -> None:
        if slot.current is not None or self.stopping:
            return
        try:
            slot.current = self._start(slot, self._values)
        except OSError as error:
            # No memory, too many processes, or the program is just being replaced.
            reason = error.strerror or type(error).__name__
            log.error("%s cannot be started: %s", slot.program.name, reason)
            self._failed(slot, reason, is_final=False)

    async def _watch(self) -> None:
        """Kill children that send nothing, do not begin to work, or do not end in time."""
        loop = asyncio.get_running_loop()
        planned = loop.time() + WATCH_SECONDS
        while True:
            await asyncio.sleep(planned - loop.time())
            now = loop.time()
            if now - planned > HELD_UP_SECONDS:
                # This process was stopped or starved: messages are handled late, and perhaps the children were
                # stopped too. Every time-out begins anew.
                for child in self._children:
                    child.last_message_at = max(child.last_message_at, now)
                    child.began = max(child.began, now)
            planned = now + WATCH_SECONDS
            self._collect_ended()
            for child in self._children:
                if reason := child.overdue(now, self._timeouts):
                    child.kill(reason)

    def _on_hangup(self, has_terminal: bool) -> None:
        if has_terminal and not os.isatty(0):
            log.info("the terminal was closed")
            self._end(None)
        elif not self.stopping:
            self._swap_wanted.set()

    async def _swap_on_request(self) -> None:
        while True:
            await self._swap_wanted.wait()
            # A SIGHUP during a swap starts another one: the code may have changed since.
            self._swap_wanted.clear()
            try:
                assert self._reload is not None, "it runs"
                values = self._reload()
            except SettingsError as error:
                log.error("workers are not swapped: %s", error)
                continue
            for number, slot in enumerate(self._slots, start=1):
                if self.stopping or not await self._swap(slot, values):
                    break
                if slot is self._background:
                    log.info("the background process was swapped")
                elif number == self.size:
                    log.info("all %d workers were swapped", self.size)

    async def _swap(self, slot: Slot, values: Values) -> bool:
        """Replace the child of a slot by a new one; return False when that fails and the old one stays."""
        is_ready = slot.current is not None and not (await slot.current.report()).failures
        if self.stopping:
            return False
        try:
            successor = self._start(slot, values, must_be_ready=is_ready)
        except OSError as error:
            log.error("swapping stops at %s, which stays: %s", slot.program.name, error.strerror)
            return False
        await successor.served_or_ended.wait()
        if not successor.served:
            reason = successor.refusal or successor.killed_for or f"code {successor.process.returncode}"
            log.error("swapping stops at %s, which stays: its successor ended: %s", slot.program.name, reason)
            return False
        # A child works with these settings, so restarted ones get them too.
        self._values = values
        # Not the child from the beginning of the swap, if that one has died meanwhile.
        predecessor, slot.current = slot.current, successor
        slot.failures = 0
        if predecessor is not None:
            predecessor.drain(Retire(), self._end_seconds(slot))
            await predecessor.ended.wait()
        return True

    def _on_stop_signal(self) -> None:
        if self.stopping:
            # Postings under way are safe to abandon: callers retry with the same key.
            log.warning("stopping at once")
            for child in self._children:
                child.kill("the server was told twice to stop")
            logging.shutdown()
            os._exit(1)
        self._end(None)

    def _end(self, outcome: str | None) -> None:
        if self._outcome is not None and not self._outcome.done():
            self.stopping = True
            self._outcome.set_result(outcome)

    async def _stop(self) -> None:
        """Let all children finish what they are at and end."""
        self.stopping = True
        log.info("stopping")
        # Closed here first: then each socket is closed for good when its worker has accepted what is queued.
        for listener in self._listeners:
            listener.close()
        for child, slot in self._children.items():
            child.drain(Stop(), self._end_seconds(slot))
        self._all_ended.clear()
        self._collect_ended()
        await self._all_ended.wait()

    def _end_seconds(self, slot: Slot) -> float:
        """Return how long a child may take to end."""
        return self._timeouts.end if slot.program.vital else self._timeouts.end_background


def _worker(number: int, listener: socket.socket) -> Program:
    """Return the program of a worker."""
    descriptor = listener.fileno()
    return Program(f"worker {number}", str(number), WORKER_MODULE, (str(number), str(descriptor)), (descriptor,))


def _do_nothing() -> None:
    """Do nothing: only that a worker serves is of consequence."""
