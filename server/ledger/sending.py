"""Sends a batch until its outcome is known, then invalidates the cache, and only then returns."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

import asyncpg

from server.ledger.invalidation import InvalidatingDatabase, Shown
from server.ledger.post_transfers import columns, resolve
from server.ledger.transfers import Attempt, Bound, Unbound
from server.ledger.unit import Unit
from server.store.cache import Cache, Name, Replay
from server.store.errors import DuplicateError, OutcomeUnknownError, StoreUnavailableError
from server.store.postgres import Database
from server.store.resend import resend, statement_seconds
from server.store.sessions import LOCK_TIMEOUT_MS
from server.telemetry.failpoints import Failpoints
from server.telemetry.top import Top

# Seconds for which keys are looked up before they are inserted, after a batch had a known key. A client that repeats
# old requests usually repeats several, and each batch that meets such a key unprepared is sent twice.
KNOWN_KEYS_SECONDS: Final = 10.0
# Seconds after which the batch has certainly left. Only an armed failpoint waits for them.
_SENT_SECONDS = 0.001


class _Batch(NamedTuple):
    """
    Units that are sent together, ordered by ledger; the ledgers that may wait for locked accounts, and for how many
    milliseconds; when the batch was first sent and when it gives up, in seconds of `time.monotonic`.
    """

    units: Sequence[Unit]
    waits: Collection[int]
    wait_ms: int
    left: float
    deadline: float


class BatchSender:
    """
    Sends batches to the database.

    Args:
        database: Receives the batches.

        cache: Is told what was committed before any caller is.

        render: Returns status and body of the answer to a single request.

        failpoints: Where tests inject failures.

        hot_accounts: Counts the accounts that batches are about.
    """

    def __init__(
        self,
        database: Database,
        cache: Cache,
        render: Callable[[Attempt], tuple[int, bytes]],
        failpoints: Failpoints,
        hot_accounts: Top[tuple[int, str]],
    ) -> None:
        self._database = database
        self._invalidating = InvalidatingDatabase(database, cache)
        self._render = render
        self._failpoints = failpoints
        self._hot_accounts = hot_accounts
        # Until when keys are looked up before they are inserted, on the clock of `time.monotonic`.
        self._known_keys_until = 0.0

    async def send(self, units: Sequence[Unit], *, waits: Collection[int] = (), wait_ms: int = LOCK_TIMEOUT_MS) -> None:
        """
        Post a batch in one transaction and set the result of each unit.

        Args:
            waits: Ledgers that may wait for locked accounts. In the other ledgers, a unit that names a locked account
                gets a RowLockedError as its result. So does a unit of any ledger if its parent's progress is locked
                although the accounts are not. After a sending was lost on the way, all ledgers wait: the lost sending
                may hold the locks.

            wait_ms: Milliseconds that each wait may take.

        Raises:
            RowLockedError: The wait for a locked row ran out; nothing was done.
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: The batch was lost on the way, and no later sending found out what it did.
            DatabaseError: Postgres refuses the batch; nothing was done.
        """
        by_ledger = sorted(units, key=attrgetter("ledger_id"))
        batch = _Batch(by_ledger, waits, wait_ms, time.monotonic(), min(unit.deadline for unit in units))
        sending = partial(resend, partial(self._send_once, batch), batch.deadline)
        await self._invalidating.run_batch(sending, lambda _: _shown(units))

    async def _send_once(self, batch: _Batch, lost: bool) -> None:
        """Send a batch, then read the attempts that its known keys are bound to."""
        async with self._database.posting() as connection:
            await self._failpoints.reach("posting.before_batch")
            arrays = columns(batch.units)
            posting = self._database.run(
                connection,
                "transfer_post_many",
                *arrays.arguments,
                [lost or ledger_id in batch.waits for ledger_id in arrays.ledgers],
                LOCK_TIMEOUT_MS if lost else batch.wait_ms,
                lost or time.monotonic() < self._known_keys_until,
                timeout=statement_seconds(batch.deadline),
                items=sum(len(unit.requests) for unit in batch.units),
            )
            try:
                [result] = await (self._watched(posting) if self._failpoints.armed else posting)
            except DuplicateError:
                self._note_known_keys()
                raise
            await self._failpoints.reach("posting.committed")
            rows: list[asyncpg.Record] = []
            if "known" in result["outcomes"]:
                self._note_known_keys()
                names = ((unit.ledger_id, request.key) for unit in batch.units for request in unit.requests)
                known = [n for n, outcome in zip(names, result["outcomes"], strict=True) if outcome == "known"]
                try:
                    rows = await self._database.run(connection, "transfer_by_keys", *zip(*known, strict=True))
                except StoreUnavailableError as error:
                    # The batch has committed, so this must not look as if nothing was done.
                    raise OutcomeUnknownError(str(error)) from error
        resolve(batch.units, arrays, result, map(Attempt.from_row, rows), self._render)
        seconds = time.monotonic() - batch.left
        for unit in batch.units:
            unit.note(self._hot_accounts, batch.left, seconds)

    def _note_known_keys(self) -> None:
        self._known_keys_until = time.monotonic() + KNOWN_KEYS_SECONDS

    async def _watched(self, posting: "Coroutine[Any, Any, list[asyncpg.Record]]") -> "list[asyncpg.Record]":
        """Send the batch and reach a failpoint while it is in flight."""
        sent = asyncio.ensure_future(posting)
        try:
            await asyncio.sleep(_SENT_SECONDS)
            await self._failpoints.reach("posting.sent")
            return await sent
        finally:
            if not sent.done():
                sent.cancel()
                await asyncio.wait([sent])


def _shown(units: Sequence[Unit]) -> Shown:
    """Return the account versions and the answers that the outcomes of the units show."""
    versions: list[tuple[Name, int | None]] = []
    replays: dict[Name, Replay] = {}
    for unit in units:
        if not isinstance(unit.result, list):
            continue
        ledger_id = unit.ledger_id
        for outcome in unit.result:
            if isinstance(outcome, Unbound):
                continue
            attempt = outcome.attempt
            if attempt.source is not None and attempt.destination is not None:
                versions.append(((ledger_id, attempt.source), attempt.source_version))
                versions.append(((ledger_id, attempt.destination), attempt.destination_version))
            if isinstance(outcome, Bound) and outcome.answer is not None:
                replays[ledger_id, attempt.idempotency_key] = outcome.answer
    return Shown(versions, replays)
