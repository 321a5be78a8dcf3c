"""Accounts whose rows somebody else keeps locked: their callers wait apart, so that nobody else waits for them."""

import time
from collections.abc import Iterable

from server.store.postgres import Database

# Seconds for which an account is looked at before it is posted to again; without news of it, it is taken for free.
REMEMBERED_SECONDS = 10.0


class LockedAccounts:
    """
    What is known of rows that stay locked for longer than any batch holds them.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[tuple[int, str], float] = {}

    def suspected(self, ledger_id: int, accounts: Iterable[str]) -> set[str]:
        """Return those of *accounts* that were locked when they were looked at last; costs nothing while none are."""
        if not self._seen:
            return set()
        oldest = time.monotonic() - REMEMBERED_SECONDS
        self._seen = {name: at for name, at in self._seen.items() if at > oldest}
        return {account for account in accounts if (ledger_id, account) in self._seen}

    async def look(self, ledger_id: int, accounts: Iterable[str]) -> set[str]:
        """
        Return those of *accounts* that are locked now, without waiting for any.

        A row that a working batch of another process holds for a moment is among them: its callers come back.

        Raises:
            StoreUnavailableError: Postgres cannot be asked.
        """
        asked = sorted(accounts)
        locked = {row["id"] for row in await self._database.look("account_locked_many", ledger_id, asked)}
        now = time.monotonic()
        for account in asked:
            self._seen.pop((ledger_id, account), None)
        self._seen.update(dict.fromkeys(((ledger_id, account) for account in locked), now))
        return locked
