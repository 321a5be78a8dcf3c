"""Starts embedded servers again that have ended, while a server serves with them."""

import asyncio
import logging
from collections.abc import Callable

from .errors import EmbeddedError, LockedError
from .kept import Kept
from .servers import EmbeddedServers

# Seconds after which a directory that somebody else holds is tried again.
HELD_SECONDS = 0.1

log = logging.getLogger(__name__)


class Keeper:
    """
    Starts servers again that have ended, after pauses that grow.

    Nothing here waits: one that does not come up ends, which is seen like every other end.

    Args:
        servers: They were opened by this thread, as one that serves.

        pause: Gives the seconds before a start, by how many have failed in a row.

        stable: Seconds of life after which an end counts as the first one again.
    """

    def __init__(self, servers: EmbeddedServers, pause: Callable[[int], float], stable: float) -> None:
        self.servers = servers
        self._pause = pause
        self._stable = stable
        self._failures: dict[Kept, int] = {}
        self._started_at: dict[Kept, float] = {}
        # Those that have ended.
        self._planned: dict[Kept, asyncio.TimerHandle] = {}
        self._stopped = False

    def look(self) -> None:
        """Log which servers have ended, and plan their starts; to be called when a child ends, and now and then."""
        now = asyncio.get_running_loop().time()
        for kept in self.servers.kept.values():
            started_at = self._started_at.setdefault(kept, now)
            if self._stopped or kept in self._planned or not kept.has_ended():
                continue
            if now - started_at >= self._stable:
                self._failures.pop(kept, None)
            log.error("%s", kept.ending())
            self._fail(kept)

    def stop(self) -> None:
        """Start none any more."""
        self._stopped = True
        for planned in self._planned.values():
            planned.cancel()

    def _fail(self, kept: Kept) -> None:
        self._failures[kept] = self._failures.get(kept, 0) + 1
        self._plan(kept, self._pause(self._failures[kept]))

    def _plan(self, kept: Kept, seconds: float) -> None:
        self._planned[kept] = asyncio.get_running_loop().call_later(seconds, self._start, kept)

    def _start(self, kept: Kept) -> None:
        del self._planned[kept]
        try:
            self.servers.start_again(kept)
        except LockedError:
            self._plan(kept, HELD_SECONDS)
            return
        except EmbeddedError as error:
            log.error("%s cannot be started: %s", kept.name, error)
            self._fail(kept)
            return
        self._started_at[kept] = asyncio.get_running_loop().time()
        log.info("%s (process %d) starts", kept.name, kept.pid)
