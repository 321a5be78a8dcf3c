"""When keys were used last: kept in memory, and written now and then."""

import asyncio
import logging
import time
from typing import Final

from server.store.background import stop
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError
from server.store.postgres import Database

# Seconds between two writes, and so what a crash loses: as much as what is written is exact to.
WRITE_SECONDS: Final = 60.0
# Keys of one write: as many as a worker remembers. Of those on top the next use is noted.
USES_MAX: Final = 10_000
# Seconds that the last write may take when a worker ends.
CLOSE_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class KeyUses:
    """
    The keys that were used since the last write.

    Args:
        database: Where that is written, in one statement for all of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # By ledger and id: when, on the clock of `time.monotonic`.
        self._uses: dict[tuple[int, str], float] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, ledger_id: int, key_id: str, at: float) -> None:
        """Remember that a key is used, on the clock of `time.monotonic`."""
        name = (ledger_id, key_id)
        if name in self._uses or len(self._uses) < USES_MAX:
            self._uses[name] = at

    def start(self) -> None:
        """Write from now on."""
        self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Write no more, but what there is."""
        await stop(self._writing)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.write()
        except TimeoutError:
            log.warning("the last uses of %d keys could not be written in time", len(self._uses))

    async def write(self) -> None:
        """Write what was noted. What cannot be written is kept for the next time."""
        uses = dict(self._uses)
        if not uses:
            return
        now = time.monotonic()
        ledgers, ids = zip(*uses, strict=True)
        try:
            await self._database.write("api_key_use_many", list(ledgers), list(ids), [now - at for at in uses.values()])
        except (StoreError, DatabaseError, QueueFullError) as error:
            log.warning("the last uses of keys could not be written: %s", type(error).__name__)
            return
        for name, at in uses.items():
            if self._uses[name] == at:
                del self._uses[name]

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()
