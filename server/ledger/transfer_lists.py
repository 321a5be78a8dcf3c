"""Lists of posted transfers: filtered, newest first, in pages that each read a bounded number of rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from server.ledger.invalidation import InvalidatingDatabase, transfer_shown
from server.ledger.limits import TIME_MAX, TIME_MIN
from server.ledger.prefixes import Prefixes
from server.ledger.transfers import Attempt
from server.store.cache import Cache
from server.store.postgres import Database

# All kinds. Those that move money and those that do not have indexes of their own; the statements know both.
KINDS: Final = ("transfer", "hold", "capture", "void", "expiry", "reversal")
# Rows that one page examines if no index tells which of them match: some 20 ms of a reading connection, and a fifth of
# a statement's time if all of them have the most metadata allowed. A page ends there, full or not.
EXAMINED_MAX: Final = 5_000
# Ids above and below those of all transfers.
ID_MAX: Final = UUID(int=2**128 - 1)
_ID_MIN: Final = UUID(int=0)

# The statement by whether a reference and an account are given: each is served by indexes of its own.
_STATEMENTS: Final = {
    (False, False): "transfer_page",
    (True, False): "transfer_page_by_reference",
    (False, True): "transfer_page_by_account",
    (True, True): "transfer_page_by_reference_and_account",
}

# Instant and id of a transfer.
Place = tuple[datetime, UUID]


class Chosen(NamedTuple):
    """The conditions that each transfer of a list meets."""

    reference: str | None = None
    # On either side.
    account: str | None = None
    kind: str | None = None
    # Entries that the metadata has, among others.
    metadata: Mapping[str, str] | None = None
    # Posted at *since* or later, and before *until*.
    since: datetime = TIME_MIN
    until: datetime = TIME_MAX
    # At least one side is among these.
    accounts: Prefixes | None = None


class TransferPage(NamedTuple):
    """Transfers of a list, newest first."""

    attempts: list[Attempt]
    # The last transfer that was examined, if older ones were not; None if *attempts* has one more than was asked for,
    # or the list ends with them.
    examined: Place | None


class TransferLists:
    """Reads lists of posted transfers. Every method may raise QueueFullError or StoreUnavailableError."""

    def __init__(self, database: Database, cache: Cache) -> None:
        self._database = InvalidatingDatabase(database, cache)

    async def page(self, ledger_id: int, chosen: Chosen, *, before: Place | None, limit: int) -> TransferPage:
        """
        Return up to *limit* of the chosen transfers in the order of their instants and ids, newest first, and one more
        if there is one.

        A posting that has not committed yet may still add a row before rows that were read: docs/reference/requests.md
        tells how to read on without missing one.

        Args:
            before: Place of the last transfer already seen.
        """
        at = min(before or (TIME_MAX, ID_MAX), (chosen.until, _ID_MIN))
        name = _STATEMENTS[chosen.reference is not None, chosen.account is not None]
        texts = [text for text in (chosen.reference, chosen.account) if text is not None]
        metadata = msgspec.json.encode(chosen.metadata).decode() if chosen.metadata else None
        size = limit + 1
        # A caller who sees an account sees all of its transfers.
        accounts = None if chosen.account is not None or chosen.accounts is None else list(chosen.accounts.texts)
        examined = size if chosen.kind is None and metadata is None and accounts is None else EXAMINED_MAX
        bounds = (*at, chosen.since, chosen.kind, metadata, examined, size, accounts)
        rows = await self._database.read(transfer_shown, name, ledger_id, *bounds, *texts)
        attempts = [Attempt(*tuple(row.values())[: len(Attempt._fields)]) for row in rows if row["matches"]]
        if len(attempts) == size or not rows or rows[-1]["number"] < examined:
            return TransferPage(attempts, None)
        return TransferPage(attempts, _place(rows[-1]["created_at"], rows[-1]["id"]))


def place(attempt: Attempt) -> Place:
    """Return a transfer's place in lists."""
    return _place(attempt.created_at, attempt.id)


def _place(at: datetime, transfer_id: UUID) -> Place:
    # The driver's UUID is a class of its own, which a cursor cannot hold.
    return at, UUID(int=transfer_id.int)
