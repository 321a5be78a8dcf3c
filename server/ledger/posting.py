"""The posting lane: sends the transfers of all ledgers to Postgres in shared batches, and posts each one once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter

from server.ledger.batch_poster import BatchPoster
from server.ledger.row_locks import RowLocks
from server.ledger.sending import BatchSender
from server.ledger.transfers import Attempt, Outcome, TransferRequest, Unbound, resolve_known, with_answer
from server.ledger.unit import Unit
from server.store.cache import Cache
from server.store.coalescer import Coalescer, QueueFullError
from server.store.errors import OutcomeUnknownError, StoreUnavailableError
from server.store.fair_queue import FairQueue
from server.store.lanes import LedgerLanes
from server.store.postgres import Database
from server.store.resend import SENDING_MIN_SECONDS
from server.store.throughput import Throughput
from server.telemetry.failpoints import Failpoints
from server.telemetry.tallies import Tallies, Timing

# Requests in a batch. Shared by 500, a commit costs each a few microseconds; larger batches only hold locks longer.
BATCH_MAX = 500
# A batch larger than this takes only half of what waits, so that this worker answers one batch while PostgreSQL posts
# the other. A batch of 100 requests still shares its cost among enough of them.
SPLIT_FROM = 100
# Batches in flight at once: one decides while the one before it commits. More would only wait for locks.
IN_FLIGHT_MAX = 2
# Seconds that a posting may take in all: waiting, posting, and finding out what was done after a lost connection.
DEADLINE_SECONDS = 5.0
# Seconds that a request may wait for its batch. One that has waited longer is refused unsent: the rest of its deadline
# is needed to find out what was done after a lost connection. One that would have to wait longer is refused at once.
WAIT_MAX_SECONDS = 2.5
# Transfers a second that are expected before any were posted. Measurements replace it within a few batches.
EXPECTED_PER_SECOND = 16_000
# Transfers that may wait even if few were posted in the last seconds: some large bulks.
QUEUE_MIN = 8_000
# Transfers that may wait even if many were posted in the last seconds: some tens of megabytes.
QUEUE_MAX = 64_000
# Transfers of one ledger that have met locked accounts and may wait for a statement of their own: as many as 64 bulks
# of 500, all of them admitted before.
APART_MAX = 32_000


class KeyInUseError(Exception):
    """The first request with this key has not been resolved within its deadline."""


class _Pending:
    """The duplicates that wait for the outcome of a request that is queued or in flight in this process."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[Outcome]] = []


class PostingLane:
    """
    Posts transfers, each exactly once however often it is requested.

    Waiting transfers of all ledgers are sent together, in shares that are fair between ledgers. A batch does not wait
    for locked accounts, except of ledgers where such a wait has just succeeded. A transfer that needs a locked account
    is sent again, apart from the other ledgers: at once, and then whenever the account may be free.

    Of several duplicates within this process only one is sent, and the others wait for its outcome. Duplicates in
    several processes meet in the database, on the locks of `post_transfers` and on the unique key.

    Args:
        cache: Is told what was committed before any caller is.

        render: Returns status and body of the answer to a single request.

        rows: Knows the locked accounts.

        failpoints: Where tests inject failures.

        tallies: Count batches and busy accounts.
    """

    def __init__(
        self,
        database: Database,
        cache: Cache,
        render: Callable[[Attempt], tuple[int, bytes]],
        rows: RowLocks,
        *,
        failpoints: Failpoints,
        tallies: Tallies,
    ) -> None:
        self._database = database
        sender = BatchSender(database, cache, render, failpoints, tallies.hot_accounts)
        self._poster = BatchPoster(sender, rows)
        self._render = render
        self._queue: FairQueue[Unit, list[Outcome]] = FairQueue(attrgetter("ledger_id"))
        self._shared: Coalescer[Unit, list[Outcome]] = Coalescer(
            self._run_shared,
            batch_max=BATCH_MAX,
            in_flight_max=IN_FLIGHT_MAX,
            split_from=SPLIT_FROM,
            tally=tallies.batches["post"],
            queue=self._queue,
        )
        self._apart: LedgerLanes[Unit, list[Outcome]] = LedgerLanes(
            lambda _: self._run_apart,
            batch_max=BATCH_MAX,
            in_flight_max=1,
            queue_max=APART_MAX,
            tally=tallies.batches["post"],
        )
        self._throughput = Throughput(EXPECTED_PER_SECOND, BATCH_MAX // 2)
        self._rows = rows
        self._pending: dict[tuple[int, str], _Pending] = {}

    def check_room(self, ledger_id: int, count: int) -> None:
        """
        Raise an error if *count* more requests of a ledger would wait too long.

        Raises:
            QueueFullError: They would, given the waiting requests of their ledger and the fair shares of the others.
        """
        room = min(QUEUE_MAX, max(QUEUE_MIN, self._throughput.per_second * WAIT_MAX_SECONDS))
        # The total is cheap to check, and seldom too high.
        if self._shared.queued + count > room and self._queue.ahead(ledger_id, count) > room:
            raise QueueFullError

    async def post(
        self,
        ledger_id: int,
        request: TransferRequest,
        timing: Timing | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> Outcome:
        """
        Post one transfer, or find out what its key is bound to.

        Args:
            timing: Receives how long the transfer waited for its batch, and how long Postgres took.

            on_wait: Called once if the transfer has to wait for a locked account.

        Raises:
            QueueFullError: Too many transfers wait already; nothing was done.
            StoreUnavailableError: Postgres could not be used in time; nothing was done.
            OutcomeUnknownError: The connection was lost; the same request, sent again later, finds out what was done.
            KeyInUseError: A request with this key is still unresolved past its deadline.
        """
        deadline = time.monotonic() + DEADLINE_SECONDS

        attempt = partial(self._post, ledger_id, request, deadline, timing)
        return await self._rows.retry_while_locked(ledger_id, attempt, deadline, on_wait)

    async def _post(
        self, ledger_id: int, request: TransferRequest, deadline: float, timing: Timing | None, waits: bool
    ) -> Outcome:
        name = (ledger_id, request.key)
        while (first := self._pending.get(name)) is not None:
            outcome = await self._join(first)
            if not isinstance(outcome, Unbound):
                # The key is bound for ever, so this request needs no batch of its own.
                return with_answer(resolve_known(request, outcome.attempt), self._render)
        unit = Unit(ledger_id, (request,), time.monotonic(), deadline, timing=timing)
        return (await self._submit(unit, waits))[0]

    async def post_many(
        self,
        ledger_id: int,
        requests: Sequence[TransferRequest],
        *,
        atomic: bool,
        began: float | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> list[Outcome]:
        """
        Post the requests in order; the keys must be distinct. An atomic set is posted whole or not at all.

        Args:
            began: When the requests began to wait, on the clock of `time.monotonic`, in seconds; None is now.

            on_wait: Called once if the requests have to wait for a locked account.

        Raises:
            QueueFullError, StoreUnavailableError: As `post`.
            OutcomeUnknownError: As `post`. Without *atomic*, some of the requests may have been posted.
            KeyInUseError: As `post`.
        """
        step = len(requests) if atomic else BATCH_MAX
        outcomes: list[Outcome] = []
        # One deadline for all parts: a service that stops waits no longer than this for any request.
        deadline = (time.monotonic() if began is None else began) + DEADLINE_SECONDS
        for start in range(0, len(requests), step):
            part = tuple(requests[start : start + step])
            try:
                attempt = partial(self._post_part, ledger_id, part, atomic, deadline)
                outcomes += await self._rows.retry_while_locked(ledger_id, attempt, deadline, on_wait)
            except (QueueFullError, StoreUnavailableError) as error:
                if start == 0:
                    raise
                # Nothing was done for this part, but the parts before it are posted.
                raise OutcomeUnknownError("a part was posted") from error
        return outcomes

    async def drain(self) -> None:
        """Return when every submitted transfer has been resolved."""
        await self._shared.drain()
        await self._apart.drain()

    async def _post_part(
        self, ledger_id: int, part: tuple[TransferRequest, ...], atomic: bool, deadline: float, waits: bool
    ) -> list[Outcome]:
        """Post one batch of a bulk, once none of its keys is in flight for another request."""
        while first := next((p for r in part if (p := self._pending.get((ledger_id, r.key))) is not None), None):
            await self._join(first)
        return await self._submit(Unit(ledger_id, part, time.monotonic(), deadline, atomic=atomic), waits)

    async def _join(self, first: _Pending) -> Outcome:
        """Return the outcome of another caller's request with the same key."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        first.waiters.append(waiter)
        return await waiter

    def _submit(self, unit: Unit, apart: bool) -> "asyncio.Future[list[Outcome]]":
        # Lost batches may block the lane until their deadline: no request may queue behind them.
        self._database.check()
        ledger_id, count = unit.ledger_id, len(unit.requests)
        if apart:
            future = self._apart.submit(ledger_id, unit, count)
        else:
            self.check_room(ledger_id, count)
            future = self._shared.submit(unit, count)
        for request in unit.requests:
            self._pending[ledger_id, request.key] = _Pending()
        return future

    def _resolve_duplicates(self, unit: Unit) -> None:
        """Give the result of a unit to the duplicates that wait for it, and let its keys be sent again."""
        result = unit.result
        for position, request in enumerate(unit.requests):
            for waiter in self._pending.pop((unit.ledger_id, request.key)).waiters:
                if waiter.done():
                    continue
                if isinstance(result, list):
                    waiter.set_result(result[position])
                elif isinstance(result, StoreUnavailableError):
                    waiter.set_exception(result)
                else:
                    waiter.set_exception(KeyInUseError())

    async def _run_shared(self, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        began = time.monotonic()
        results = await self._run(self._poster.post_shared, units)
        # Units without outcomes were refused or failed: they do not show how much can be done.
        done = sum(len(unit.requests) for unit in units if isinstance(unit.result, list))
        self._throughput.ended(done, began, time.monotonic())
        return results

    async def _run_apart(self, units: list[Unit]) -> list[list[Outcome] | BaseException]:
        return await self._run(self._poster.post_apart, units)

    async def _run(
        self, post: Callable[[list[Unit]], Awaitable[None]], units: list[Unit]
    ) -> list[list[Outcome] | BaseException]:
        """Post a batch. Each step sets the results of the units that it decides, and the next step takes the others."""
        try:
            self._refuse_late(units)
            await post([unit for unit in units if unit.result is None])
        except BaseException as error:
            for unit in units:
                unit.result = error if unit.result is None else unit.result
            raise
        finally:
            for unit in units:
                self._resolve_duplicates(unit)
        return [unit.result for unit in units if unit.result is not None]

    def _refuse_late(self, units: Iterable[Unit]) -> None:
        """Refuse units that have waited too long. Call this before anything is sent, when they are certainly unsent."""
        now = time.monotonic()
        for unit in units:
            if unit.arrived < now - WAIT_MAX_SECONDS or unit.deadline < now + SENDING_MIN_SECONDS:
                unit.result = StoreUnavailableError("waited too long for a batch")
