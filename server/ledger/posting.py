"""The posting lane: transfers of all callers, sent to Postgres together and resolved whatever happens on the way."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple

import asyncpg

from server.ledger.batch import bound_outcomes, columns
from server.ledger.transfers import Attempt, Bound, Outcome, TransferRequest, Unbound, resolve_known
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, StoreError, StoreUnavailableError
from server.store.lanes import LedgerLanes
from server.store.postgres import REFUSED_FOR_NOW, Database
from server.store.resend import resend, statement_seconds
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

# By then an armed failpoint has seen the batch leave; nothing waits for it otherwise.
_SENT_SECONDS = 0.001

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
        self.waiters: list[asyncio.Future[Outcome]] = []


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
            if not isinstance(outcome, Unbound):
                # The key is bound for ever: what this request means beside it needs no batch of its own.
                return resolve_known(request, outcome.attempt)
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
            try:
                outcomes += await self._post_part(ledger_id, part, atomic=atomic)
            except (QueueFullError, StoreUnavailableError) as error:
                if start == 0:
                    raise
                # Nothing was done of this part, but the ones before it are posted.
                raise OutcomeUnknownError("a part was posted") from error
        return outcomes

    async def drain(self) -> None:
        """Return when all that was submitted has been resolved."""
        await self._lanes.drain()

    async def _post_part(self, ledger_id: int, part: tuple[TransferRequest, ...], *, atomic: bool) -> list[Outcome]:
        """Post one batch of a bulk once none of its keys is away for somebody else."""
        while first := next((p for r in part if (p := self._pending.get((ledger_id, r.key))) is not None), None):
            await self._join(first)
        return await self._submit(ledger_id, Unit(part, atomic, time.monotonic()))

    async def _join(self, first: _Pending) -> Outcome:
        """Wait until another caller's request is resolved."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
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
            results = await self._post_timely(ledger_id, units)
        except BaseException as error:
            results = [error] * len(units)
            raise
        finally:
            for unit, result in zip(units, results, strict=True):
                self._settle(ledger_id, unit, result)
        return results

    async def _post_timely(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        """Post what has not waited too long; asked once, before anything is sent, so that `late` means unsent."""
        oldest = time.monotonic() - WAIT_MAX_SECONDS
        timely = [unit for unit in units if unit.arrived >= oldest]
        if len(timely) == len(units):
            return await self._post_units(ledger_id, units)
        answers = iter(await self._post_units(ledger_id, timely) if timely else [])
        late = StoreUnavailableError("waited too long for a batch")
        return [next(answers) if unit.arrived >= oldest else late for unit in units]

    async def _post_units(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        """Post the units; when the batch fails for itself, find out which of them is at fault."""
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
        send = partial(self._send, ledger_id, requests, sets, deadline)
        outcomes = iter(await resend(send, self._database, deadline))
        return [[next(outcomes) for _ in unit.requests] for unit in units]

    async def _send(
        self, ledger_id: int, requests: list[TransferRequest], sets: list[int], deadline: float
    ) -> list[Outcome]:
        """Send the batch as one transaction, then read what its known keys are bound to."""
        async with self._database.posting() as connection:
            await self._failpoints.reach("posting.before_batch")
            timeout = statement_seconds(deadline)
            statement = query("transfer_post_many")
            posting = connection.fetchrow(statement, ledger_id, *columns(requests, sets), timeout=timeout)
            result = await (self._watched(posting) if self._failpoints.armed else posting)
            await self._failpoints.reach("posting.committed")
            assert result is not None, "a function call yields one row"
            outcomes = bound_outcomes(requests, result)
            known = [r.key for r, outcome in zip(requests, outcomes, strict=True) if outcome == "known"]
            try:
                rows = await connection.fetch(query("transfer_by_keys"), ledger_id, known) if known else []
            except REFUSED_FOR_NOW as error:
                # The batch has committed: a refusal from here on is not one of the batch.
                raise OutcomeUnknownError(type(error).__name__) from error
        attempts = {row["idempotency_key"]: Attempt.from_row(row) for row in rows}
        return [
            outcome
            if isinstance(outcome, Bound)
            else Unbound()
            if outcome == "unbound"
            else resolve_known(request, attempts[request.key])
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def _watched(self, posting: "Coroutine[Any, Any, asyncpg.Record | None]") -> "asyncpg.Record | None":
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
