"""A circuit breaker: after some failures in a row a dependency is no longer asked, until it answers a probe."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from server.store.background import stop

# Failures in a row that open it. One may be an accident; after three no other caller should wait.
FAILURES_MAX = 3
# Seconds between probes while it is open, with jitter so that workers do not probe together.
PROBE_SECONDS = 0.25

log = logging.getLogger(__name__)


class Breaker:
    """
    Tracks whether a dependency answers this process.

    Args:
        name: Name of the dependency, for the log.

        probe: Asks the dependency something harmless, within a bounded time. Raises if it does not answer.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        self._name = name
        self._probe = probe
        self._failures = 0
        self._prober: asyncio.Task[None] | None = None
        # True while the dependency should not be asked.
        self.open = False

    def succeeded(self) -> None:
        """Record an answer."""
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """Record a failure; the last of FAILURES_MAX in a row opens the breaker."""
        self._failures += 1
        if self._failures >= FAILURES_MAX and not self.open:
            self.open = True
            log.warning("%s is away (%s): not asked until it answers a probe", self._name, type(error).__name__)
            self._prober = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop probing."""
        await stop(self._prober)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 -- jitter, not a secret
            try:
                await self._probe()
            except Exception as error:
                log.debug("%s does not answer: %s", self._name, type(error).__name__)
                continue
            self._failures = 0
            self.open = False
            log.warning("%s is back", self._name)
            return
