"""The only way to the rows of accounts and transfers: the cache learns what a statement shows before it returns."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

import asyncpg

from server.ledger.transfers import Attempt
from server.store.cache import Cache, Name, Replay, Snapshot, highest
from server.store.postgres import Database

T = TypeVar("T")

# Accounts of one ledger, and the versions that a caller is about to see; None is ignored.
Versions = Iterable[tuple[str, int | None]]
Shows = Callable[[asyncpg.Record], Versions]


class Shown(NamedTuple):
    """
    What callers of any ledgers are about to see: versions of accounts, where None is ignored, and answers of finished
    writes by idempotency key.
    """

    versions: Iterable[tuple[Name, int | None]]
    replays: Mapping[Name, Replay]


def account_shown(row: asyncpg.Record) -> Versions:
    """Return the version that an account's row shows."""
    return ((row["id"], row["version"]),)


def transfer_shown(row: asyncpg.Record) -> Versions:
    """Return the account versions that a transfer's row shows."""
    return _sides_shown(row["source"], row["source_version"], row["destination"], row["destination_version"])


def attempt_shown(attempt: Attempt) -> Versions:
    """Return the account versions that an attempt shows."""
    return _sides_shown(attempt.source, attempt.source_version, attempt.destination, attempt.destination_version)


def _sides_shown(
    source: str | None, source_version: int | None, destination: str | None, destination_version: int | None
) -> Versions:
    if source is None or destination is None:
        # A refusal without sides.
        return ()
    return ((source, source_version), (destination, destination_version))


class InvalidatingDatabase:
    """
    Runs statements on the database, and tells the cache what they show.

    Each method runs a statement, then tells the cache which account versions it shows, and only then returns. So no
    caller can forget it, and no snapshot older than an answer is served after that answer. The parts of the ledger that
    show accounts have no other way to Postgres. Each method raises what the method of `Database` raises.
    """

    def __init__(self, database: Database, cache: Cache) -> None:
        self._database = database
        self._cache = cache

    async def read(self, shows: Shows, name: str, ledger_id: int, *arguments: object) -> Sequence[asyncpg.Record]:
        """Return what `Database.read` returns; *shows* returns the versions that a row shows."""
        statement = partial(self._database.read, name, ledger_id, *arguments)
        return await self.run(ledger_id, statement, partial(_rows_shown, shows))

    async def write(self, shows: Shows, name: str, ledger_id: int, *arguments: object) -> Sequence[asyncpg.Record]:
        """Return what `Database.write` returns."""
        statement = partial(self._database.write, name, ledger_id, *arguments)
        return await self.run(ledger_id, statement, partial(_rows_shown, shows))

    async def write_once(self, shows: Shows, name: str, ledger_id: int, *arguments: object) -> Sequence[asyncpg.Record]:
        """Return what `Database.write_once` returns."""
        statement = partial(self._database.write_once, name, ledger_id, *arguments)
        return await self.run(ledger_id, statement, partial(_rows_shown, shows))

    async def run(self, ledger_id: int, statement: Callable[[], Awaitable[T]], shown: Callable[[T], Versions]) -> T:
        """
        Return what *statement* returns, once no older snapshot can be served.

        Args:
            statement: Commits before it returns. It is about accounts of one ledger.

            shown: Returns the versions that a result of *statement* shows.
        """

        def of_ledger(result: T) -> Shown:
            return Shown((((ledger_id, account), version) for account, version in shown(result)), {})

        return await self.run_batch(statement, of_ledger)

    async def run_batch(self, statement: Callable[[], Awaitable[T]], shown: Callable[[T], Shown]) -> T:
        """
        Return what *statement* returns, once no older snapshot can be served and its answers are stored.

        Args:
            statement: Commits before it returns.

            shown: Returns the versions and answers that a result of *statement* shows.
        """
        # Read before anything is sent: if it has changed afterwards, no answer is stored.
        confirmation = self._cache.confirmation
        result = await statement()
        versions, replays = shown(result)
        await self._cache.invalidate(highest(versions), replays, confirmation)
        return result

    async def fill(
        self,
        ledger_id: int,
        account_id: str,
        lease: bytes,
        statement: Callable[[], Awaitable[T]],
        snapshot: Callable[[T], Snapshot],
    ) -> T:
        """
        Return what *statement* returns, and store it as the account's snapshot unless something newer has been shown.

        Args:
            lease: The lease on the account's snapshot.

            snapshot: Makes the snapshot of what the statement returns.
        """
        confirmation = self._cache.confirmation
        result = await statement()
        await self._cache.fill(ledger_id, account_id, lease, snapshot(result), confirmation)
        return result


def _rows_shown(shows: Shows, rows: Iterable[asyncpg.Record]) -> Versions:
    return chain.from_iterable(map(shows, rows))
