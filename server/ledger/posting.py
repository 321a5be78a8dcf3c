"""The posting lane: transfers of all callers, sent to Postgres together and resolved whatever happens on the way."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from server.ledger.batch import bound_outcomes, columns
from server.ledger.transfers import Attempt, Bound, Outcome, TransferRequest, Unbound, resolve_known
from server.store.errors import StoreError, StoreUnavailableError
from server.store.lanes import LedgerLanes
from server.store.postgres import Database
from server.store.resend import resend
from server.store.sql import query
from server.telemetry.failpoints import Failpoints

# Requests a batch. At 500 the commit costs each of them a few microseconds; larger batches only hold locks longer.
BATCH_MAX = 500
# Batches of one ledger away at once: one decides while the one before it commits. More wait on one another's locks.
IN_FLIGHT_MAX = 2
# Requests of one ledger that may wait: a fifth of a second of work. Past it a caller is better served by a refusal.
QUEUE_MAX = 4_000
# How long a posting may take in all, from its arrival: waiting, posting, and finding out after a lost connection.
DEADLINE_SECONDS = 5.0
# A request that has waited this long for its batch is refused unsent: what is left of its deadline belongs to
# finding out, and its caller is better served by an early answer.
WAIT_MAX_SECONDS = 1.0

log = logging.getLogger(__name__)


class Unit(NamedTuple):
    """Requests that travel in one batch: a single one, a part of a bulk, or (*atomic*) a linked set."""

    requests: tuple[TransferRequest, ...]
    atomic: bool
    # Instant of arrival, on the clock of `time.monotonic`, in seconds.
    arrived: float


class KeyInUseError(Exception):
    """The first request with this key has not been resolved within its deadline."""


class _Pending:
    """A key that waits or is away in this process, and those who wait to hear of it."""

    __slots__ = ("fingerprint", "waiters")

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.waiters: list[asyncio.Future[Outcome | None]] = []


class PostingLane:
    """
    Posts transfers, each exactly once however often it is asked for.

    Duplicates within this process meet in memory: one travels, the others wait for its outcome. Duplicates elsewhere
    meet in the database, on the locks of `post_transfers` and on the unique key.
    """

    def __init__(self, database: Database, failpoints: Failpoints) -> None:
        self._database = database
        self._failpoints = failpoints
        self._lanes: LedgerLanes[Unit, list[Outcome]] = LedgerLanes(
            lambda ledger_id: partial(self._run, ledger_id),
            batch_max=BATCH_MAX,
            in_flight_max=IN_FLIGHT_MAX,
            queue_max=QUEUE_MAX,
        )
        self._pending: dict[tuple[int, str], _Pending] = {}

    async def post(self, ledger_id: int, request: TransferRequest) -> Outcome:
        """
        Post one transfer, or learn what its key is bound to.

        Raises:
            QueueFullError: Too much waits already; nothing was done.
            StoreUnavailableError: Postgres could not be used in time; nothing was done.
            OutcomeUnknownError: Postgres was lost meanwhile; the same request tells, later.
            KeyInUseError: A request with this key is still unresolved past its deadline.
        """
        name = (ledger_id, request.key)
        while (first := self._pending.get(name)) is not None:
            outcome = await self._join(first)
            if first.fingerprint == request.fingerprint and isinstance(outcome, Bound):
                return Bound(outcome.attempt, replayed=True)
        unit = Unit((request,), False, time.monotonic())
        return (await self._submit(ledger_id, unit))[0]

    async def post_many(self, ledger_id: int, requests: Sequence[TransferRequest], *, atomic: bool) -> list[Outcome]:
        """
        Post the requests in order; the keys must be distinct. An atomic set is posted whole or not at all.

        Raises:
            QueueFullError, StoreUnavailableError, OutcomeUnknownError: As `post`. Without *atomic* a part of the
                requests may have been posted: the same call again tells.
            KeyInUseError: As `post`.
        """
        step = len(requests) if atomic else BATCH_MAX
        outcomes: list[Outcome] = []
        for start in range(0, len(requests), step):
            part = tuple(requests[start : start + step])
            while first := next((p for r in part if (p := self._pending.get((ledger_id, r.key))) is not None), None):
                await self._join(first)
            outcomes += await self._submit(ledger_id, Unit(part, atomic, time.monotonic()))
        return outcomes

    async def drain(self) -> None:
        """Return when all that was submitted has been resolved."""
        await self._lanes.drain()

    async def _join(self, first: _Pending) -> Outcome | None:
        """Wait until another caller's request is resolved; None when it ended without an outcome."""
        waiter: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        first.waiters.append(waiter)
        return await waiter

    def _submit(self, ledger_id: int, unit: Unit) -> "asyncio.Future[list[Outcome]]":
        future = self._lanes.submit(ledger_id, unit, len(unit.requests))
        for request in unit.requests:
            self._pending[ledger_id, request.key] = _Pending(request.fingerprint)
        return future

    def _settle(self, ledger_id: int, unit: Unit, result: list[Outcome] | BaseException) -> None:
        """Tell all who waited for keys of this unit, and let the keys travel again."""
        for position, request in enumerate(unit.requests):
            for waiter in self._pending.pop((ledger_id, request.key)).waiters:
                if waiter.done():
                    continue
                if isinstance(result, StoreUnavailableError):
                    waiter.set_exception(result)
                elif isinstance(result, BaseException):
                    waiter.set_exception(KeyInUseError())
                else:
                    waiter.set_result(result[position])

    async def _run(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        results: list[list[Outcome] | BaseException] = [StoreUnavailableError("cancelled")] * len(units)
        try:
            results = await self._post_units(ledger_id, units)
        except BaseException as error:
            results = [error] * len(units)
            raise
        finally:
            for unit, result in zip(units, results, strict=True):
                self._settle(ledger_id, unit, result)
        return results

    async def _post_units(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        """Post what has not waited too long; when the batch fails for itself, find out which unit is at fault."""
        oldest = time.monotonic() - WAIT_MAX_SECONDS
        timely = [unit for unit in units if unit.arrived >= oldest]
        if len(timely) < len(units):
            answers = iter(await self._post_units(ledger_id, timely) if timely else [])
            late = StoreUnavailableError("waited too long for a batch")
            return [next(answers) if unit.arrived >= oldest else late for unit in units]
        try:
            return await self._post_batch(ledger_id, units)
        except StoreError as error:
            return [error] * len(units)
        except Exception as error:
            log.exception("a batch of %d units failed", len(units))
            if len(units) == 1:
                return [error]
            half = len(units) // 2
            return [
                *await self._post_units(ledger_id, units[:half]),
                *await self._post_units(ledger_id, units[half:]),
            ]

    async def _post_batch(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        requests = [request for unit in units for request in unit.requests]
        sets = [number if unit.atomic else 0 for number, unit in enumerate(units, 1) for _ in unit.requests]
        deadline = min(unit.arrived for unit in units) + DEADLINE_SECONDS
        outcomes = iter(await resend(partial(self._send, ledger_id, requests, sets), self._database, deadline))
        return [[next(outcomes) for _ in unit.requests] for unit in units]

    async def _send(self, ledger_id: int, requests: list[TransferRequest], sets: list[int]) -> list[Outcome]:
        """Send the batch as one transaction, then read what its known keys are bound to."""
        async with self._database.posting() as connection:
            await self._failpoints.reach("posting.before_batch")
            posting = connection.fetchrow(query("transfer_post_many"), ledger_id, *columns(requests, sets))
            if self._failpoints.armed:
                sent = asyncio.ensure_future(posting)
                await asyncio.sleep(0.001)
                await self._failpoints.reach("posting.sent")
                result = await sent
            else:
                result = await posting
            await self._failpoints.reach("posting.committed")
            assert result is not None, "a function call yields one row"
            outcomes = bound_outcomes(requests, result)
            known = [r.key for r, outcome in zip(requests, outcomes, strict=True) if outcome == "known"]
            rows = await connection.fetch(query("transfer_by_keys"), ledger_id, known) if known else []
        attempts = {row["idempotency_key"]: Attempt.from_row(row) for row in rows}
        return [
            outcome
            if isinstance(outcome, Bound)
            else Unbound()
            if outcome == "unbound"
            else resolve_known(request, attempts[request.key])
            for request, outcome in zip(requests, outcomes, strict=True)
        ]
