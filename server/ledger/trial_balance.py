"""The trial balance: what all accounts of a ledger hold, by currency, now or at an instant of the past."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from server.ledger.history import FutureInstantError
from server.store.postgres import Database
from server.store.reports import Reports

# An instant so old has all of its entries: a posting is visible, or has failed, two and a half seconds after it has
# taken its instant; the rest allows for a clock that was set back.
SETTLED: Final = timedelta(seconds=5)
# Currencies of one answer: more than there are in ISO 4217, and a bound on its size.
CURRENCIES_MAX: Final = 1_000


class Total(NamedTuple):
    """
    The accounts of one currency.

    Attributes:
        debit: Sum of the magnitudes of all balances below zero.

        credit: Sum of all balances above zero.

        accounts: How many there are.
    """

    currency: str
    debit: int
    credit: int
    accounts: int

    @property
    def net(self) -> int:
        """What all of them hold together: zero for a whole ledger."""
        return self.credit - self.debit


class TooManyCurrenciesError(Exception):
    """The accounts have more currencies than one answer holds."""


class TrialBalances:
    """
    Makes trial balances. A sum may be larger than any balance.

    Args:
        database: Tells the time.

        reports: Where the accounts are read.
    """

    def __init__(self, database: Database, reports: Reports) -> None:
        self._database = database
        self._reports = reports

    async def read(self, ledger_id: int, prefixes: Sequence[str], at: datetime | None) -> list[Total]:
        """
        Return the sums over all accounts whose ids begin with one of the *prefixes*, by currency.

        Args:
            prefixes: No two have an account in common.

            at: Each account as it was then, after all entries at or before that instant. One of the last moments is
                waited for, so the answer never changes. None is now: as one snapshot of the database has them.

        Raises:
            FutureInstantError: The instant is still to come, by the database's clock.
            TooManyCurrenciesError: The answer would be too large.
            QueueFullError: Too many wait already.
            StoreUnavailableError: It could not be read, or not in time.
        """
        # Ids are ASCII: the character above all of theirs closes the range of the prefix.
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
