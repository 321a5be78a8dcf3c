"""Summarises a ledger in a few numbers, at a cost that does not grow with it."""

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from server.ledger.audit_rounds import read_round
from server.store.postgres import Database

# Rows that are counted when asked, well below a millisecond. If there are more, the auditor's count is given.
COUNTED_MAX: Final = 1_000


class Count(NamedTuple):
    """A number of rows: exact, or as the auditor has counted them."""

    rows: int
    exact: bool


class End(NamedTuple):
    """The first or the last posted transfer."""

    id: UUID
    created_at: datetime


class Summary(NamedTuple):
    """A ledger in numbers: `transfers` counts all attempts that a key is bound to, refused ones too."""

    name: str
    created_at: datetime
    accounts: Count
    transfers: Count
    events: int
    oldest: End | None
    newest: End | None


class Summaries:
    """
    Makes summaries.

    Args:
        database: Holds the ledgers.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, ledger_id: int) -> Summary:
        """
        Return the summary of a ledger.

        Raises:
            QueueFullError, StoreUnavailableError, DatabaseError: It could not be read.
        """
        (row,) = await self._database.read("ledger_summary", ledger_id, COUNTED_MAX)
        audited = read_round(row["audited"])
        return Summary(
            row["name"],
            row["created_at"],
            _count(row["accounts"], 0 if audited is None else audited.accounts),
            _count(row["transfers"], 0 if audited is None else audited.transfers),
            row["events"],
            None if row["oldest_id"] is None else End(row["oldest_id"], row["oldest_at"]),
            None if row["newest_id"] is None else End(row["newest_id"], row["newest_at"]),
        )


def _count(counted: int, audited: int) -> Count:
    return Count(counted, exact=True) if counted < COUNTED_MAX else Count(max(counted, audited), exact=False)
