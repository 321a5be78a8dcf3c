"""The posting lane: transfers of all callers, sent to Postgres together and resolved whatever happens on the way."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from server.ledger.row_locks import RowLocks
from server.ledger.sender import BatchSender
from server.ledger.settler import Settler
from server.ledger.transfers import Locked, Outcome, TransferRequest, Unbound, resolve_known
from server.ledger.unit import Unit
from server.store.coalescer import QueueFullError
from server.store.errors import OutcomeUnknownError, RowLockedError, StoreError, StoreUnavailableError
from server.store.lanes import LedgerLanes
from server.store.postgres import Database
from server.store.resend import SENDING_MIN_SECONDS
from server.telemetry.failpoints import Failpoints
from server.telemetry.tallies import Tallies, Timing

# Requests a batch. At 500 the commit costs each of them a few microseconds; larger batches only hold locks longer.
BATCH_MAX = 500
# Requests from which a batch leaves half of what waits to the next one, so that this worker answers one batch while
# PostgreSQL posts the other; at 100 the cost of a batch is still shared by enough.
SPLIT_FROM = 100
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


class KeyInUseError(Exception):
    """The first request with this key has not been resolved within its deadline."""


class _Pending:
    """A key that waits or is away in this process, and those who wait to hear of it."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[Outcome]] = []


class PostingLane:
    """
    Posts transfers, each exactly once however often it is asked for.

    Duplicates within this process meet in memory: one travels, the others wait for its outcome. Duplicates elsewhere
    meet in the database, on the locks of `post_transfers` and on the unique key.

    Args:
        settler: Is told what was committed before anybody else is, and renders what single requests are answered.

        rows: What is known of locked accounts, and who waits for them.

        failpoints: Where tests make it fail.

        tallies: Of batches and of busy accounts.
    """

    def __init__(
        self,
        database: Database,
        settler: Settler,
        rows: RowLocks,
        failpoints: Failpoints,
        tallies: Tallies,
    ) -> None:
        self._hot_accounts = tallies.hot_accounts
        self._database = database
        self._sender = BatchSender(database, failpoints)
        self._settler = settler
        self._lanes: LedgerLanes[Unit, list[Outcome]] = LedgerLanes(
            lambda ledger_id: partial(self._run, ledger_id),
            batch_max=BATCH_MAX,
            in_flight_max=IN_FLIGHT_MAX,
            queue_max=QUEUE_MAX,
            split_from=SPLIT_FROM,
            tally=tallies.batches["post"],
        )
        self._rows = rows
        self._pending: dict[tuple[int, str], _Pending] = {}

    async def post(
        self,
        ledger_id: int,
        request: TransferRequest,
        timing: Timing | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> Outcome:
        """
        Post one transfer, or learn what its key is bound to.

        Args:
            timing: Is told how long it waited for its batch, and how long Postgres took.

            on_wait: Called once if it has to wait for a locked account.

        Raises:
            QueueFullError: Too much waits already; nothing was done.
            StoreUnavailableError: Postgres could not be used in time; nothing was done.
            OutcomeUnknownError: Postgres was lost meanwhile; the same request tells, later.
            KeyInUseError: A request with this key is still unresolved past its deadline.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS

        attempt = partial(self._post, ledger_id, request, deadline, timing)
        return await self._rows.outlast(ledger_id, attempt, deadline, on_wait)

    async def _post(
        self, ledger_id: int, request: TransferRequest, deadline: float, timing: Timing | None, _waits: bool
    ) -> Outcome:
        name = (ledger_id, request.key)
        while (first := self._pending.get(name)) is not None:
            outcome = await self._join(first)
            if not isinstance(outcome, Unbound):
                # The key is bound for ever: what this request means beside it needs no batch of its own.
                return self._settler.answered(resolve_known(request, outcome.attempt))
        unit = Unit((request,), False, time.monotonic(), deadline, timing)
        return (await self._submit(ledger_id, unit))[0]

    async def post_many(
        self,
        ledger_id: int,
        requests: Sequence[TransferRequest],
        *,
        atomic: bool,
        on_wait: Callable[[], None] | None = None,
    ) -> list[Outcome]:
        """
        Post the requests in order; the keys must be distinct. An atomic set is posted whole or not at all.

        Args:
            on_wait: Called once if they have to wait for a locked account.

        Raises:
            QueueFullError, StoreUnavailableError, OutcomeUnknownError: As `post`. Without *atomic* a part of the
                requests may have been posted: the same call again tells.
            KeyInUseError: As `post`.
        """
        step = len(requests) if atomic else BATCH_MAX
        outcomes: list[Outcome] = []
        # One for all parts: a service that stops waits no longer than this for any request.
        deadline = time.monotonic() + DEADLINE_SECONDS
        for start in range(0, len(requests), step):
            part = tuple(requests[start : start + step])
            try:
                attempt = partial(self._post_part, ledger_id, part, atomic, deadline)
                outcomes += await self._rows.outlast(ledger_id, attempt, deadline, on_wait)
            except (QueueFullError, StoreUnavailableError) as error:
                if start == 0:
                    raise
                # Nothing was done of this part, but the ones before it are posted.
                raise OutcomeUnknownError("a part was posted") from error
        return outcomes

    async def drain(self) -> None:
        """Return when all that was submitted has been resolved."""
        await self._lanes.drain()

    async def _post_part(
        self, ledger_id: int, part: tuple[TransferRequest, ...], atomic: bool, deadline: float, _waits: bool
    ) -> list[Outcome]:
        """Post one batch of a bulk once none of its keys is away for somebody else."""
        while first := next((p for r in part if (p := self._pending.get((ledger_id, r.key))) is not None), None):
            await self._join(first)
        return await self._submit(ledger_id, Unit(part, atomic, time.monotonic(), deadline))

    async def _join(self, first: _Pending) -> Outcome:
        """Wait until another caller's request is resolved."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        first.waiters.append(waiter)
        return await waiter

    def _submit(self, ledger_id: int, unit: Unit) -> "asyncio.Future[list[Outcome]]":
        # Batches that were lost on the way may hold the lane until their deadline: nobody queues behind them.
        self._database.check()
        future = self._lanes.submit(ledger_id, unit, len(unit.requests))
        for request in unit.requests:
            self._pending[ledger_id, request.key] = _Pending()
        return future

    def _tell(self, ledger_id: int, unit: Unit, result: list[Outcome] | BaseException) -> None:
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
                self._tell(ledger_id, unit, result)
        return results

    async def _post_timely(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        """Post what has not waited too long; asked once, before anything is sent, so that `late` means unsent."""
        now = time.monotonic()
        late = [unit.arrived < now - WAIT_MAX_SECONDS or unit.deadline < now + SENDING_MIN_SECONDS for unit in units]
        if not any(late):
            return await self._post_parted(ledger_id, units)
        timely = [unit for unit, is_late in zip(units, late, strict=True) if not is_late]
        answers = iter(await self._post_parted(ledger_id, timely) if timely else [])
        error = StoreUnavailableError("waited too long for a batch")
        return [error if is_late else next(answers) for is_late in late]

    async def _post_parted(self, ledger_id: int, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        """Post the units; those whose accounts are known to stay locked keep the others from waiting for nothing."""
        waits = self._rows.contended(ledger_id)
        stuck = [waits and self._rows.stuck(ledger_id, unit.accounts) for unit in units]
        if not any(stuck):
            return await self._post_units(ledger_id, units, waits=waits)
        apart = [unit for unit, is_stuck in zip(units, stuck, strict=True) if is_stuck]
        others = [unit for unit, is_stuck in zip(units, stuck, strict=True) if not is_stuck]
        answers = {
            True: iter(await self._post_units(ledger_id, apart, waits=False)),
            False: iter(await self._post_units(ledger_id, others, waits=waits) if others else []),
        }
        return [next(answers[is_stuck]) for is_stuck in stuck]

    async def _post_units(
        self, ledger_id: int, units: list[Unit], *, waits: bool
    ) -> list[list[Outcome] | BaseException]:
        """
        Post the units; when the batch fails for itself, find out which of them is at fault.

        Args:
            waits: Whether to wait for locked accounts, if not too many statements do so already.
        """
        try:
            waiters = self._database.posting_row_waiters
            if not waits or waiters.locked():
                return await self._post_batch(ledger_id, units, waits=False)
            async with waiters:
                try:
                    return await self._post_batch(ledger_id, units, waits=True)
                except RowLockedError:
                    # A wait ran out. The next batch tells for which accounts, and posts what does not need them.
                    pass
            results = await self._post_batch(ledger_id, units, waits=False)
            for result in results:
                if isinstance(result, RowLockedError):
                    self._rows.waited_in_vain(ledger_id, result.accounts)
            return results
        except StoreError as error:
            return [error] * len(units)
        except Exception as error:
            if len(units) == 1:
                # Logged under the id of the request that it is.
                return [error]
            log.warning("a batch of %d units failed (%s): sent again in halves", len(units), type(error).__name__)
            half = len(units) // 2
            return [
                *await self._post_units(ledger_id, units[:half], waits=waits),
                *await self._post_units(ledger_id, units[half:], waits=waits),
            ]

    async def _post_batch(
        self, ledger_id: int, units: list[Unit], *, waits: bool
    ) -> list[list[Outcome] | BaseException]:
        requests = [request for unit in units for request in unit.requests]
        sets = [unit.set_number(number) for number, unit in enumerate(units, 1) for _ in unit.requests]
        deadline = min(unit.deadline for unit in units)
        left = time.monotonic()
        confirmation = self._settler.confirmation
        remaining = iter(await self._sender.send(ledger_id, requests, sets, deadline, waits=waits))
        for unit in units:
            unit.note(ledger_id, self._hot_accounts, left, time.monotonic() - left)
        results: list[list[Outcome] | BaseException] = []
        for unit in units:
            outcomes: list[Outcome] = []
            locked: tuple[str, ...] = ()
            for _ in unit.requests:
                outcome = next(remaining)
                if isinstance(outcome, Locked):
                    locked = outcome.accounts
                else:
                    outcomes.append(outcome)
            if locked:
                results.append(RowLockedError(unit.accounts.intersection(locked)))
                continue
            if len(outcomes) == 1 and not unit.atomic:
                outcomes[0] = self._settler.answered(outcomes[0])
            results.append(outcomes)
        done = (outcome for result in results if isinstance(result, list) for outcome in result)
        await self._settler.settle(ledger_id, done, confirmation)
        return results
