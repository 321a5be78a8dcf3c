"""Named places where a test can inject a failure, armed by a setting."""

import asyncio
import logging
import os
import re
import signal

from server.settings import FAILPOINT_NAMES

_POINT = re.compile(r"^(?P<name>[a-z_.]+)=(?P<action>kill|raise|stall)(?:@(?P<time>[1-9][0-9]*))?$")

# Seconds of a stall: longer than every deadline of the service.
STALL_SECONDS = 60.0

log = logging.getLogger(__name__)


class FailpointError(Exception):
    """A failpoint with the action `raise` was reached."""


class Failpoints:
    """
    The failpoints of a process.

    Args:
        text: `name=action` or `name=action@n` (the n-th time it is reached), separated by commas. Actions: `kill`
            ends this process at once, `raise` raises, `stall` waits for a minute.

    Raises:
        ValueError: *text* has another form or names a failpoint that does not exist.
    """

    def __init__(self, text: str = "") -> None:
        self._points: dict[str, tuple[str, int]] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            match = _POINT.match(part)
            if match is None or match["name"] not in FAILPOINT_NAMES:
                raise ValueError(f"expected NAME=kill|raise|stall[@N] with NAME one of {', '.join(FAILPOINT_NAMES)}")
            self._points[match["name"]] = (match["action"], int(match["time"] or 1))
        self.armed = bool(self._points)

    async def reach(self, name: str) -> None:
        """Carry out the action of the failpoint *name*, if it is armed."""
        action, countdown = self._points.get(name, ("", 0))
        if not action:
            return
        if countdown > 1:
            self._points[name] = (action, countdown - 1)
            return
        del self._points[name]
        log.warning("reached the failpoint %s: %s", name, action)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "stall":
            await asyncio.sleep(STALL_SECONDS)
        raise FailpointError(name)
