"""The supervisor: keeps the listening sockets, and starts, replaces and stops its child processes."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final

from server.process.channel import Orders, Reported, Retire, Status, Stop
from server.process.children import Child, Program
from server.process.forwarding import Forwarding
from server.process.orphans import collect_orphans
from server.process.slots import Slot, count_states
from server.process.timeouts import TIMEOUTS, Timeouts
from server.process.totals import Totals
from server.settings import SettingsError
from server.store.background import stop

if TYPE_CHECKING:
    from server.process.embedded.keeper import Keeper

Values = Mapping[str, str | int | bool]

# Modules that the children run.
WORKER_MODULE: Final = "server.process.worker"
BACKGROUND_MODULE: Final = "server.process.background"
ADMIN_MODULE: Final = "server.process.admin"
# Names of the background process and of the admin process in the log and in metrics.
BACKGROUND: Final = "background"
ADMIN: Final = "admin"
# Settings that only the admin process gets.
OF_ADMIN: Final = frozenset({"console_token"})

# A server that has never served gives up after this many failed starts of a worker in a row.
FIRST_ATTEMPTS_MAX: Final = 3
# Seconds between two checks of the children. If a check is late by HELD_UP_SECONDS, this process itself was stopped or
# starved of CPU.
WATCH_SECONDS: Final = 1.0
HELD_UP_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class Supervisor:
    """
    Keeps one worker running on each socket, and also the background process and the admin process.

    Workers serve requests without those two processes. If one of the two fails, the workers go on, and neither start
    nor shutdown waits long for it.

    Args:
        listeners: One socket for each worker; the supervisor closes them when it ends.

        admin: The socket on which the admin process answers operators.

        background: Whether to run a background process.

        timeouts: Time-outs for children.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        admin: socket.socket,
        *,
        background: bool,
        timeouts: Timeouts = TIMEOUTS,
    ):
        # Sums of the counts of children that have ended, and the same sums in the form that the admin process is sent.
        self._ended_counts = Totals()
        self._ended_told = self._ended_counts.counts()
        self._listeners = listeners
        self._workers = [Slot(_worker(number, listener)) for number, listener in enumerate(listeners, start=1)]
        self._background = Slot(Program(BACKGROUND, BACKGROUND, BACKGROUND_MODULE, vital=False)) if background else None
        self._admin = Slot(_admin(admin))
        # In the order in which they are swapped.
        self._slots = [*self._workers, *([self._background] if self._background else []), self._admin]
        # For each admin process: what it has been sent, and the task that answers its inquiry.
        self._forwarding: dict[Child, Forwarding] = {}
        self._answers: dict[Child, asyncio.Task[None]] = {}
        self._timeouts = timeouts
        # The slot of each child.
        self._children: dict[Child, Slot] = {}
        self._keeper: Keeper | None = None
        self._values: Values = {}
        self._reload: Callable[[], Values] | None = None
        self._started: Callable[[], None] | None = None
        # Whether any worker has served yet.
        self._served = False
        # Set when the server must end: the reason why nothing can be served, or None after a signal.
        self._outcome: asyncio.Future[str | None] | None = None
        self._swap_wanted = asyncio.Event()
        self.stopping = False
        # Workers start now, so that they load their code while the rest of the server starts; then they wait for their
        # settings. The background process starts when the first worker serves.
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
        """The number of workers."""
        return len(self._workers)

    async def run(
        self,
        values: Values,
        reload: Callable[[], Values],
        started: Callable[[], None],
        keeper: "Keeper | None" = None,
    ) -> str | None:
        """
        Serve until a signal asks to stop; a second signal ends everything at once.

        Args:
            values: Settings for the children that differ from the defaults.

            reload: Returns the current settings; called on SIGHUP.

            started: Called when the first worker serves.

            keeper: Keeps the embedded servers running, if there are any.

        Returns:
            Why no worker could be started, or None if one could.
        """
        loop = asyncio.get_running_loop()
        self._values, self._reload, self._started, self._keeper = values, reload, started, keeper
        self._outcome = loop.create_future()
        # Closing the terminal sends SIGHUP too.
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, os.isatty(0))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGCHLD, self._collect_ended)
        for child, slot in self._children.items():
            child.begin(self._orders(slot, values), self._serves, _do_nothing)
        self._restart(self._admin)
        tasks = [asyncio.create_task(work) for work in (self._watch(), self._swap_on_request())]
        try:
            self._collect_ended()
            return await self._outcome
        finally:
            await self._stop()
            await stop(*tasks)

    def _tell(self) -> None:
        """Send the admin process the state of all children and what they have reported."""
        sources = {0: self._ended_told, **{child.number: child.counts for child in self._children}}
        now = asyncio.get_running_loop().time()
        background = None if self._background is None else self._states(self._background)
        places = tuple(slot.place(now) for slot in self._slots)
        status = Status(tuple(sources), places, self._states(*self._workers), background)
        for child, slot in self._children.items():
            if slot is self._admin and child.state == "serving":
                self._forwarding.setdefault(child, Forwarding(child.send)).tell(sources, status)

    def _states(self, *slots: Slot) -> dict[str, int]:
        """Return how many children of these slots are in each state."""
        return count_states(slots, [child for child, slot in self._children.items() if slot in slots])

    def _on_inquiry(self, child: Child) -> None:
        """Answer an admin process that asks for the state of the other children."""
        if child not in self._answers:
            task = asyncio.get_running_loop().create_task(self._report(child))
            self._answers[child] = task
            task.add_done_callback(lambda _: self._answers.pop(child))

    async def _report(self, child: Child) -> None:
        reports = await asyncio.gather(*(slot.report() for slot in self._slots if slot is not self._admin))
        child.send(Reported(self.stopping, tuple(reports)))

    def _spawn(self, slot: Slot) -> Child:
        child = Child(slot.program)
        self._children[child] = slot
        return child

    def _start(self, slot: Slot, values: Values, *, must_be_ready: bool = False) -> Child:
        child = self._spawn(slot)
        log.info("%s (process %d) starts", slot.program.name, child.pid)
        serves = self._serves if slot.program.vital else self._tell if slot is self._admin else _do_nothing
        child.begin(self._orders(slot, values, must_be_ready=must_be_ready), serves, partial(self._on_inquiry, child))
        return child

    def _orders(self, slot: Slot, values: Values, *, must_be_ready: bool = False) -> Orders:
        told = {name: value for name, value in values.items() if slot is self._admin or name not in OF_ADMIN}
        return Orders(told, self.size, must_be_ready)

    def _serves(self) -> None:
        if not self._served:
            self._served = True
            assert self._started is not None, "workers get their settings in run()"
            self._started()
            if self._background is not None:
                self._restart(self._background)

    def _collect_ended(self) -> None:
        """Collect children that have ended, and restart them if they died."""
        for child in [child for child in self._children if child.process.poll() is not None]:
            slot = self._children.pop(child)
            child.close()
            self._forwarding.pop(child, None)
            self._ended_counts.add(child.counts, has_ended=True)
            self._ended_told = self._ended_counts.counts()
            self._ended(child, slot)
        own = [child.process for child in self._children]
        if self._keeper is not None:
            self._keeper.look()
            own += self._keeper.servers.processes
        collect_orphans(own)

    def _ended(self, child: Child, slot: Slot) -> None:
        reason = child.ending
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
        """Restart a child after a delay, or give up if no worker has ever served."""
        slot.failures += 1
        if slot.program.vital and not self._served and (is_final or slot.failures >= FIRST_ATTEMPTS_MAX):
            self._end(reason if is_final else f"no worker could be started ({reason}): its log says why")
            return
        asyncio.get_running_loop().call_later(self._timeouts.restart(slot.failures), self._restart, slot)

    def _restart(self, slot: Slot) -> None:
        if slot.current is not None or self.stopping:
            return
        try:
            slot.current = self._start(slot, self._values)
        except OSError as error:
            # There is no memory, there are too many processes, or the program is being replaced right now.
            reason = error.strerror or type(error).__name__
            log.error("%s cannot be started: %s", slot.program.name, reason)
            self._failed(slot, reason, is_final=False)

    async def _watch(self) -> None:
        """Kill children that are silent for too long, or do not start or end in time."""
        loop = asyncio.get_running_loop()
        planned = loop.time() + WATCH_SECONDS
        while True:
            await asyncio.sleep(planned - loop.time())
            now = loop.time()
            if now - planned > HELD_UP_SECONDS:
                # This process was stopped or starved, so it handles messages late, and the children may have been
                # stopped too. Every time-out begins again.
                for child in self._children:
                    child.last_message_at = max(child.last_message_at, now)
                    child.began = max(child.began, now)
            planned = now + WATCH_SECONDS
            self._collect_ended()
            for child in self._children:
                if reason := child.overdue(now, self._timeouts):
                    child.kill(reason)
            self._tell()

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
                if not slot.program.vital:
                    log.info("the %s process was swapped", slot.program.name)
                elif number == self.size:
                    log.info("all %d workers were swapped", self.size)

    async def _swap(self, slot: Slot, values: Values) -> bool:
        """Replace the child of a slot by a new one; return False if that fails and the old one stays."""
        is_ready = slot.current is not None and not (await slot.current.report()).failures
        if self.stopping:
            return False
        try:
            successor = self._start(slot, values, must_be_ready=is_ready)
        except OSError as error:
            log.error("swapping stops at %s, which keeps running: %s", slot.program.name, error.strerror)
            return False
        await successor.served_or_ended.wait()
        if not successor.served:
            ending = successor.ending
            log.error("swapping stops at %s, which keeps running: its successor ended: %s", slot.program.name, ending)
            return False
        # These settings work, so children that are restarted later get them too.
        self._values = values
        # The child from the beginning of the swap may have died during the swap, so this looks again.
        predecessor, slot.current = slot.current, successor
        slot.failures = 0
        if predecessor is not None:
            predecessor.drain(Retire(), self._end_seconds(slot))
            await predecessor.ended.wait()
        return True

    def _on_stop_signal(self) -> None:
        if self.stopping:
            # Running postings can be abandoned safely: callers retry with the same key.
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
        """Let all children finish their work and end."""
        self.stopping = True
        log.info("stopping")
        if self._keeper is not None:
            self._keeper.stop()
        # Close them here first: each socket is then closed for good when its worker has accepted what is queued.
        for listener in self._listeners:
            listener.close()
        # The admin process ends last, so that operators get answers until then.
        await self._end_children([child for child, slot in self._children.items() if slot is not self._admin])
        await self._end_children(list(self._children))

    async def _end_children(self, children: Sequence[Child]) -> None:
        for child in children:
            child.drain(Stop(), self._end_seconds(self._children[child]))
        self._collect_ended()
        for child in children:
            await child.ended.wait()

    def _end_seconds(self, slot: Slot) -> float:
        """Return how many seconds a child may take to end."""
        return self._timeouts.end if slot.program.vital else self._timeouts.end_background


def _worker(number: int, listener: socket.socket) -> Program:
    """Return the program of a worker."""
    descriptor = listener.fileno()
    return Program(f"worker {number}", str(number), WORKER_MODULE, (str(number), str(descriptor)), (descriptor,))


def _admin(listener: socket.socket) -> Program:
    """Return the program of the admin process."""
    descriptor = listener.fileno()
    return Program(ADMIN, ADMIN, ADMIN_MODULE, (str(descriptor),), (descriptor,), vital=False)


def _do_nothing() -> None:
    """Do nothing: stands in for a callback of a child that needs no reaction."""
