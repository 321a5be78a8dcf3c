"""Records when keys were last used: in memory, and written to Postgres once a minute."""

import asyncio
import logging
import time
from typing import Final

from server.store.background import stop
from server.store.coalescer import QueueFullError
from server.store.errors import DatabaseError, StoreError
from server.store.postgres import Database

# Seconds between two writes, and so the most that a crash loses. The stored times are exact to a minute too.
WRITE_SECONDS: Final = 60.0
# Keys of one write: as many as a worker remembers. The use of a further key is not noted, but its next use may be.
USES_MAX: Final = 10_000
# Seconds that the last write may take when a worker ends.
CLOSE_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class KeyUses:
    """
    Remembers the keys that were used since the last write.

    Args:
        database: The database that the uses are written to, in one statement.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # By ledger and id: the time of the last use, on the clock of `time.monotonic`.
        self._uses: dict[tuple[int, str], float] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, ledger_id: int, key_id: str, at: float) -> None:
        """Remember that a key was used at *at*, on the clock of `time.monotonic`."""
        name = (ledger_id, key_id)
        if name in self._uses or len(self._uses) < USES_MAX:
            self._uses[name] = at

    def start(self) -> None:
        """Begin to write regularly."""
        self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Write the remaining uses and stop."""
        await stop(self._writing)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.write()
        except TimeoutError:
            log.warning("the last uses of %d keys could not be written in time", len(self._uses))

    async def write(self) -> None:
        """Write the noted uses. If that fails, all are kept for the next write, and always those of locked rows."""
        uses = dict(self._uses)
        if not uses:
            return
        now = time.monotonic()
        ledgers, ids = zip(*uses, strict=True)
        try:
            ago = [now - at for at in uses.values()]
            rows = await self._database.write("api_key_use_many", list(ledgers), list(ids), ago)
        except (StoreError, DatabaseError, QueueFullError) as error:
            log.warning("the last uses of keys could not be written: %s", type(error).__name__)
            return
        left = {(row["ledger_id"], row["id"]) for row in rows}
        for name, at in uses.items():
            if name not in left and self._uses[name] == at:
                del self._uses[name]

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()
