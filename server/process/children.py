"""Child processes, as the supervisor sees them."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import site
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import server
from server.process.channel import (
    MESSAGE_MAX_BYTES,
    Ask,
    Beat,
    Channel,
    Counted,
    Hot,
    Inquire,
    Orders,
    Ready,
    Refused,
    Report,
    Retire,
    Serving,
    Stop,
    ToChild,
    ToSupervisor,
)
from server.process.timeouts import Timeouts
from server.process.totals import Counts
from server.settings import PREFIX

# Seconds a child has to answer whether it is ready: a little more than its own check of Postgres may take.
ASK_SECONDS: Final = 2.5

# Numbers the children of this process in the order of their start; 0 stands for all that have ended.
_numbers = itertools.count(1)

# States of a child.
STATES: Final = ("starting", "serving", "draining")

log = logging.getLogger(__name__)


class Program(NamedTuple):
    """
    The program that a child runs.

    Args:
        name: Its name in the log.

        label: Its name in metrics and on the admin port.

        module: The module to run. Its arguments are the descriptor of its end of the channel, the id of this process,
            and *arguments*.

        descriptors: Descriptors that the child inherits under the same numbers; this process keeps them open.

        vital: Whether nothing can be served without it. A server that could never start a vital child gives up.
    """

    name: str
    label: str
    module: str
    arguments: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    vital: bool = True


class Child:
    """
    A child process.

    Args:
        program: The program that it runs.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.number = next(_numbers)
        self.counts = Counts()
        ours, theirs = socket.socketpair()
        # All settings must fit in one message; the default buffers of some systems are smaller.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_MAX_BYTES)
        with theirs, contextlib.ExitStack() as stack:
            stack.enter_context(ours)
            channel = theirs.fileno()
            self.process = subprocess.Popen(
                # -P: Python must not look for modules in the current folder.
                [sys.executable, "-P", "-m", program.module, str(channel), str(os.getpid()), *program.arguments],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=(channel, *program.descriptors),
                # Ctrl-C in the terminal must reach only the supervisor.
                start_new_session=True,
            )
            # The process exists, so our end stays open.
            stack.pop_all()
        self._channel: Channel[ToSupervisor] = Channel(ours, ToSupervisor)
        # One of STATES.
        self.state = "starting"
        # Why it cannot work, if it has sent `Refused`.
        self.refusal: str | None = None
        # On the loop's clock: when it got its settings, when it began to serve, when its last message came, and the
        # deadline for its end.
        self.began = self.served = self.last_message_at = 0.0
        self.must_end = float("inf")
        # Why it was killed, if it was.
        self.killed_for = ""
        # The first is set when it serves or has ended, the second when it has ended.
        self.served_or_ended, self.ended = asyncio.Event(), asyncio.Event()
        self._failures: tuple[str, ...] = ()
        self._asking: asyncio.Future[None] | None = None
        self._serves: Callable[[], None] = _do_nothing
        self._inquires: Callable[[], None] = _do_nothing

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid

    def begin(self, orders: Orders, serves: Callable[[], None], inquires: Callable[[], None]) -> None:
        """
        Send the child its settings and handle its messages from now on.

        Args:
            serves: Called when it serves.

            inquires: Called when it asks for the state of the server.
        """
        self._serves, self._inquires = serves, inquires
        self.began = self.last_message_at = asyncio.get_running_loop().time()
        self._channel.listen(self._handle, _do_nothing)
        if not self._channel.send(orders):
            self.kill("its settings could not be sent to it")

    def send(self, message: ToChild) -> bool:
        """Send a message, and return whether the socket took all of it."""
        return self._channel.send(message)

    def drain(self, message: Retire | Stop, seconds: float) -> None:
        """Tell the child to end within *seconds*."""
        self.state = "draining"
        self.must_end = asyncio.get_running_loop().time() + seconds
        self._channel.send(message)

    def overdue(self, now: float, timeouts: Timeouts) -> str | None:
        """Return the reason to kill the child now, or None."""
        if now > self.must_end:
            return "it did not end in time"
        if self.state == "starting":
            return "it did not start in time" if now - self.began > timeouts.start else None
        if now - self.last_message_at > timeouts.silence:
            return f"it gave no sign of life for {timeouts.silence:.0f} s"
        return None

    def kill(self, reason: str) -> None:
        """Kill the child at once and keep the reason."""
        if not self.killed_for:
            self.killed_for = reason
            self.process.send_signal(signal.SIGKILL)

    @property
    def ending(self) -> str:
        """Why it has ended: its refusal, the reason to kill it, or its signal or exit code."""
        code = self.process.returncode
        # A child that ended by itself before it could be killed has an exit code.
        killed_for = self.killed_for if code == -signal.SIGKILL else ""
        return self.refusal or killed_for or (f"signal {-code}" if code < 0 else f"code {code}")

    def close(self) -> None:
        """Handle the child's last messages and mark it as ended."""
        self._channel.read_all()
        self._channel.close()
        self.served_or_ended.set()
        self.ended.set()

    def abandon(self) -> None:
        """Kill the child and wait until it has ended; this blocks."""
        self._channel.close()
        self.process.kill()
        self.process.wait()

    async def report(self) -> Report:
        """Ask the child whether it is ready, and return its state."""
        failures: tuple[str, ...] = ()
        if self.state == "serving":
            if self._asking is None:
                self._asking = asyncio.get_running_loop().create_future()
                self._channel.send(Ask())
            try:
                # One answer serves all callers that wait for it.
                await asyncio.wait_for(asyncio.shield(self._asking), ASK_SECONDS)
                failures = self._failures
            except TimeoutError:
                self._asking = None
                failures = ("it does not answer",)
        return Report(self.program.label, self.program.vital, self.pid, self.state, failures)

    def _handle(self, message: ToSupervisor) -> None:
        loop = asyncio.get_running_loop()
        self.last_message_at = loop.time()
        match message:
            case Beat():
                pass
            case Counted():
                self.counts.update(message)
            case Hot():
                self.counts.hot = message
            case Serving(failures):
                self._failures = failures
                self.served = self.last_message_at
                if self.state == "starting":
                    self.state = "serving"
                log.info("%s (process %d) serves after %.2f s", self.program.name, self.pid, self.served - self.began)
                self.served_or_ended.set()
                self._serves()
            case Ready(failures):
                self._failures = failures
                if self._asking is not None and not self._asking.done():
                    self._asking.set_result(None)
                self._asking = None
            case Refused(text):
                self.refusal = text
            case Inquire():
                self._inquires()


def _do_nothing() -> None:
    """Do nothing: the supervisor notices the end of the process instead of the end of the channel."""


def _environment() -> Mapping[str, str]:
    """Return this process's environment without TALLYSTICK_ variables and with this program on PYTHONPATH."""
    variables = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    root = str(Path(server.__file__).parents[1])
    if root not in site.getsitepackages():
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (root, variables.get("PYTHONPATH"))))
    return variables
