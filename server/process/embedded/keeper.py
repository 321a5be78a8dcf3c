"""Restarts embedded servers that have ended, while the service uses them."""

import asyncio
import logging
from collections.abc import Callable

from .errors import EmbeddedError, LockedError
from .kept import Kept
from .servers import EmbeddedServers

# Seconds before the next attempt if another process holds the directory's lock.
HELD_SECONDS = 0.1

log = logging.getLogger(__name__)


class Keeper:
    """
    Restarts embedded servers that have ended, after growing pauses.

    It does not wait until a server takes connections: a server that fails to start ends, and `look` finds that.

    Args:
        servers: The embedded servers, opened by this thread with `serving`.

        pause: Returns the seconds before a start, given the number of failures in a row.

        stable: After a server has run for this many seconds, its next end counts as the first failure.
    """

    def __init__(self, servers: EmbeddedServers, pause: Callable[[int], float], stable: float) -> None:
        self.servers = servers
        self._pause = pause
        self._stable = stable
        self._failures: dict[Kept, int] = {}
        self._started_at: dict[Kept, float] = {}
        # Servers that have ended, each with the timer of its next start.
        self._planned: dict[Kept, asyncio.TimerHandle] = {}
        self._stopped = False

    def look(self) -> None:
        """Log which servers have ended and plan their starts; call this when a child ends and at regular intervals."""
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
        """Start no more servers."""
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
