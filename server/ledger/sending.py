"""A batch on its way: sent until it is known what became of it, then invalidated, and only then heard of."""

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

# Seconds for which keys are looked up before they are inserted, after a batch had one that was known. Whoever repeats
# old requests seldom does so once, and each batch that meets such a key unprepared is sent twice.
KNOWN_KEYS_SECONDS: Final = 10.0
# By then an armed failpoint has seen the batch leave; nothing waits for it otherwise.
_SENT_SECONDS = 0.001


class _Batch(NamedTuple):
    """
    Units that travel together, by ledger; the ledgers that may wait for locked accounts, and how long, in milliseconds;
    when they left and when they give up, in seconds of `time.monotonic`.
    """

    units: Sequence[Unit]
    waits: Collection[int]
    wait_ms: int
    left: float
    deadline: float


class BatchSender:
    """
    Sends batches.

    Args:
        database: Where they go.

        cache: Is told what was committed before anybody else is.

        render: Returns status and body of what a single request is answered.

        failpoints: Where tests make it fail.

        hot_accounts: Counts what accounts batches are about.
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
        # Until when keys are looked up, on the clock of `time.monotonic`.
        self._known_keys_until = 0.0

    async def send(self, units: Sequence[Unit], *, waits: Collection[int] = (), wait_ms: int = LOCK_TIMEOUT_MS) -> None:
        """
        Post a batch in one transaction and set the result of each unit.

        Args:
            waits: Ledgers that may wait for locked accounts. Of the others, the result of the units that name them is a
                RowLockedError, unless a sending was lost on the way: then it may be the one that holds them.

            wait_ms: Milliseconds that they may wait for each.

        Raises:
            RowLockedError: The wait for a locked row ran out; nothing was done.
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: It was lost on the way, and nothing after it found out.
            DatabaseError: Postgres refuses the batch; nothing was done.
        """
        by_ledger = sorted(units, key=attrgetter("ledger_id"))
        batch = _Batch(by_ledger, waits, wait_ms, time.monotonic(), min(unit.deadline for unit in units))
        sending = partial(resend, partial(self._send_once, batch), batch.deadline)
        await self._invalidating.run_batch(sending, lambda _: _shown(units))

    async def _send_once(self, batch: _Batch, lost: bool) -> None:
        """Send a batch, then read what its known keys are bound to."""
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
                    # The batch has committed: a refusal from here on is not one of the batch.
                    raise OutcomeUnknownError(str(error)) from error
        resolve(batch.units, arrays, result, map(Attempt.from_row, rows), self._render)
        seconds = time.monotonic() - batch.left
        for unit in batch.units:
            unit.note(self._hot_accounts, batch.left, seconds)

    def _note_known_keys(self) -> None:
        self._known_keys_until = time.monotonic() + KNOWN_KEYS_SECONDS

    async def _watched(self, posting: "Coroutine[Any, Any, list[asyncpg.Record]]") -> "list[asyncpg.Record]":
        """Send the batch and reach a failpoint while it is away."""
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
    """Return what the outcomes of the units show."""
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
