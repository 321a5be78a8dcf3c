"""The part common to all children: they get their settings from the supervisor, send it beats, and end with it."""

import asyncio
import ctypes
import logging
import os
import platform
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import uvloop

from server.process.channel import Beat, Channel, Orders, Ready, Refused, ToChild
from server.process.embedded.child import PR_SET_PDEATHSIG
from server.process.error_messages import explain
from server.settings import Settings, load
from server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    # The admin process has no database and must not load the driver.
    from server.store.readiness import Readiness

# Seconds between two beats.
BEAT_SECONDS: Final = 1.0

EXIT_FAULT: Final = 1
EXIT_REFUSED: Final = 2

log = logging.getLogger(__name__)

# A child's work: takes the supervisor's first message, the settings made from it, and the channel to the supervisor.
Work = Callable[[Orders, Settings, Channel[ToChild]], Coroutine[Any, Any, None]]


def run(channel: int, supervisor: int, work: Work, **fields: object) -> int:
    """
    Run *work* with the settings that the supervisor sends, and return the exit code.

    Args:
        channel: The descriptor of this end of the channel.

        supervisor: The id of the process that started this one.

        fields: Fields of every line of the log.
    """
    _end_with(supervisor)
    # The supervisor handles signals to the whole group and ends its children in order.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel_to_supervisor: Channel[ToChild] = Channel(socket.socket(fileno=channel), ToChild)
    orders = channel_to_supervisor.wait()
    if not isinstance(orders, Orders):
        # The supervisor has ended, or is ending before it sent any settings.
        return 0
    try:
        settings = load({}, orders.values).settings
        configure_logs(settings.log_level, **fields, pid=os.getpid())
        uvloop.run(work(orders, settings, channel_to_supervisor))
    except Exception as error:
        text = explain(error)
        if text is None:
            log.exception("the process failed")
            return EXIT_FAULT
        channel_to_supervisor.send(Refused(text))
        return EXIT_REFUSED
    return 0


async def beat(channel: Channel[ToChild]) -> None:
    """Send the supervisor beats until cancelled."""
    while True:
        channel.send(Beat())
        await asyncio.sleep(BEAT_SECONDS)


async def answer(channel: Channel[ToChild], readiness: "Readiness | None") -> None:
    """Tell the supervisor whether this process is ready; without *readiness* it is still starting."""
    failures = ("it is starting",) if readiness is None else await readiness.failures()
    channel.send(Ready(failures))


def leave() -> None:
    """End at once: the supervisor has ended, and its successor may need the address."""
    os._exit(EXIT_FAULT)


def _end_with(supervisor: int) -> None:
    """Ask the kernel to kill this process when the supervisor ends, however it ends (Linux only)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != supervisor:
        # The supervisor ended before prctl took effect.
        os._exit(EXIT_FAULT)
