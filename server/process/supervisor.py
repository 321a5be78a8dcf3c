"""The supervisor: keeps the sockets, starts workers, replaces them and ends them."""

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
from server.process.children import Child, Report
from server.process.orphans import collect_orphans
from server.process.slots import Slot, count_states
from server.process.timeouts import TIMEOUTS, Timeouts
from server.process.totals import Counts, Totals
from server.settings import SettingsError
from server.store.background import stop

Values = Mapping[str, str | int]

# Failed starts of a worker in a row after which a server that has never served gives up.
FIRST_ATTEMPTS_MAX: Final = 3
# Seconds between two checks of the workers. A check that is late by the second number of seconds shows that this
# process itself was stopped or starved.
WATCH_SECONDS: Final = 1.0
HELD_UP_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Supervisor:
    """
    Keeps one worker on each of its sockets.

    Args:
        listeners: One for each worker; closed with the supervisor.

        timeouts: Time-outs for workers.

    Attributes:
        restarts: Workers that died and were, or are to be, started again.
    """

    def __init__(self, listeners: Sequence[socket.socket], timeouts: Timeouts = TIMEOUTS):
        self.restarts = 0
        # Sums of what ended workers had counted.
        self._ended_counts = Totals()
        self._slots = [Slot(number, listener) for number, listener in enumerate(listeners, start=1)]
        self._timeouts = timeouts
        self._children: list[Child] = []
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
        # Workers load their code while the rest of the server starts; then they wait for their settings.
        for slot in self._slots:
            slot.current = self._spawn(slot)

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for slot in self._slots:
            slot.listener.close()
        for child in self._children:
            child.abandon()

    @property
    def size(self) -> int:
        """How many workers it keeps."""
        return len(self._slots)

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
            values: Settings for the workers, those that differ from the defaults.

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
        """Return the state of the worker in each slot; an empty slot waits for its worker to be restarted."""
        return await asyncio.gather(*(slot.report() for slot in self._slots))

    def states(self) -> Mapping[str, int]:
        """Return how many workers are in which state."""
        return count_states(self._slots, self._children)

    def pids(self) -> Mapping[int, int]:
        """Return the process of each slot that has one."""
        return {slot.number: slot.current.pid for slot in self._slots if slot.current}

    def silent_seconds(self) -> Mapping[int, float]:
        """Return the time since the last message of the worker in each slot; workers send one a second."""
        now = asyncio.get_running_loop().time()
        return {slot.number: now - slot.current.last_message_at for slot in self._slots if slot.current}

    def counts(self) -> list[Counts]:
        """Return the last report of each worker that runs."""
        return [child.counts for child in self._children]

    def totals(self) -> Totals:
        """Return the sums over all workers, including those that have ended, up to their last reports."""
        totals = deepcopy(self._ended_counts)
        for counts in self.counts():
            totals.add(counts)
        return totals

    def _spawn(self, slot: Slot) -> Child:
        child = Child(slot.number, slot.listener)
        self._children.append(child)
        return child

    def _start(self, slot: Slot, values: Values, *, must_be_ready: bool = False) -> Child:
        child = self._spawn(slot)
        log.info("worker %d (process %d) starts", slot.number, child.pid)
        child.begin(self._orders(values, must_be_ready=must_be_ready), self._serves)
        return child

    def _orders(self, values: Values, *, must_be_ready: bool = False) -> Orders:
        return Orders(dict(values), self.size, must_be_ready)

    def _serves(self) -> None:
        if not self._served:
            self._served = True
            assert self._started is not None, "workers get their settings in run()"
            self._started()

    def _collect_ended(self) -> None:
        """Collect workers that have ended."""
        for child in [child for child in self._children if child.process.poll() is not None]:
            self._children.remove(child)
            child.close()
            self._ended_counts.add(child.counts, has_ended=True)
            self._ended(child)
        if not self._children:
            self._all_ended.set()
        collect_orphans([*(child.process for child in self._children), *self._others])

    def _ended(self, child: Child) -> None:
        code = child.process.returncode
        ending = f"signal {-code}" if code < 0 else f"code {code}"
        reason = child.refusal or child.killed_for or ending
        slot = self._slots[child.slot - 1]
        if self.stopping or slot.current is not child:
            log.info("worker %d (process %d) ended: %s", child.slot, child.pid, reason)
            return
        slot.current = None
        lived = asyncio.get_running_loop().time() - child.served if child.served else 0.0
        if lived >= self._timeouts.stable:
            slot.failures = 0
        log.error("worker %d (process %d) died: %s", child.slot, child.pid, reason)
        self.restarts += 1
        self._failed(slot, reason, is_final=child.refusal is not None)

    def _failed(self, slot: Slot, reason: str, *, is_final: bool) -> None:
        """Start a worker after a delay, or give up if none has ever served."""
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
            log.error("worker %d cannot be started: %s", slot.number, reason)
            self._failed(slot, reason, is_final=False)

    async def _watch(self) -> None:
        """Kill workers that send nothing, do not begin to serve, or do not end in time."""
        loop = asyncio.get_running_loop()
        planned = loop.time() + WATCH_SECONDS
        while True:
            await asyncio.sleep(planned - loop.time())
            now = loop.time()
            if now - planned > HELD_UP_SECONDS:
                # This process was stopped or starved: messages are handled late, and perhaps the workers were
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
            swapped = 0
            for slot in self._slots:
                if self.stopping or not await self._swap(slot, values):
                    break
                swapped += 1
            if swapped == self.size:
                log.info("all %d workers were swapped", swapped)

    async def _swap(self, slot: Slot, values: Values) -> bool:
        """Replace the worker of a slot by a new one; return False when that fails and the old one stays."""
        is_ready = slot.current is not None and not (await slot.current.report()).failures
        if self.stopping:
            return False
        try:
            successor = self._start(slot, values, must_be_ready=is_ready)
        except OSError as error:
            log.error("swapping stops at worker %d, which stays: %s", slot.number, error.strerror)
            return False
        await successor.served_or_ended.wait()
        if not successor.served:
            reason = successor.refusal or successor.killed_for or f"code {successor.process.returncode}"
            log.error("swapping stops at worker %d, which stays: its successor ended: %s", slot.number, reason)
            return False
        # A worker serves with these settings, so restarted workers get them too.
        self._values = values
        # Not the worker from the beginning of the swap, if that one has died meanwhile.
        predecessor, slot.current = slot.current, successor
        slot.failures = 0
        if predecessor is not None:
            predecessor.drain(Retire(), self._timeouts.end)
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
        """Let all workers finish their requests and end."""
        self.stopping = True
        log.info("stopping")
        # Closed here first: then each socket is closed for good when its worker has accepted what is queued.
        for slot in self._slots:
            slot.listener.close()
        for child in self._children:
            child.drain(Stop(), self._timeouts.end)
        self._all_ended.clear()
        self._collect_ended()
        await self._all_ended.wait()
