"""The trial balance: the sums of all balances of a ledger, by currency, now or at an instant of the past."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from server.ledger.history import FutureInstantError
from server.store.postgres import Database
from server.store.reports import Reports

# An instant this old has all of its entries: two and a half seconds after a posting has taken its instant, it is
# visible or has failed; the rest allows for a clock that was set back.
SETTLED: Final = timedelta(seconds=5)
# Currencies in one answer: more than ISO 4217 has, and a bound on its size.
CURRENCIES_MAX: Final = 1_000


class Total(NamedTuple):
    """
    The sums over the accounts of one currency.

    Attributes:
        debit: Sum of the magnitudes of all balances below zero.

        credit: Sum of all balances above zero.

        accounts: Number of accounts.
    """

    currency: str
    debit: int
    credit: int
    accounts: int

    @property
    def net(self) -> int:
        """Sum of all balances: zero for a whole ledger."""
        return self.credit - self.debit


class TooManyCurrenciesError(Exception):
    """The accounts have more currencies than one answer holds."""


class TrialBalances:
    """
    Makes trial balances. A sum may be larger than any balance.

    Args:
        database: Tells the time.

        reports: Reads the accounts.
    """

    def __init__(self, database: Database, reports: Reports) -> None:
        self._database = database
        self._reports = reports

    async def read(self, ledger_id: int, prefixes: Sequence[str], at: datetime | None) -> list[Total]:
        """
        Return the sums over all accounts whose ids begin with one of the *prefixes*, by currency.

        Args:
            prefixes: No two match the same account.

            at: Count each account as it was then, after all entries at or before that instant. If the instant is not
                yet settled, the call waits, so the answer never changes. None is now, in one snapshot of the database.

        Raises:
            FutureInstantError: The instant has not come yet, by the database's clock.
            TooManyCurrenciesError: The answer would be too large.
            QueueFullError: Too many callers wait already.
            StoreUnavailableError: The accounts could not be read, or not in time.
        """
        # Ids are ASCII, so this character, which is above all of theirs, ends the range of the prefix.
        span = (ledger_id, list(prefixes), [prefix + "\x7f" for prefix in prefixes])
        if at is None:
            rows = await self._reports.read("trial_balance", *span, CURRENCIES_MAX + 1)
        else:
            await self._settled(at)
            rows = await self._reports.read("trial_balance_at", *span, at, CURRENCIES_MAX + 1)
        if len(rows) > CURRENCIES_MAX:
            raise TooManyCurrenciesError
        return [Total(row["currency"], int(row["debit"]), int(row["credit"]), row["accounts"]) for row in rows]

    async def _settled(self, at: datetime) -> None:
        """Return when no entry at or before *at* can be added any more."""
        age = (await self._database.read("clock_read"))[0]["clock"] - at
        if age < timedelta(0):
            raise FutureInstantError
        if age < SETTLED:
            await asyncio.sleep((SETTLED - age).total_seconds())
