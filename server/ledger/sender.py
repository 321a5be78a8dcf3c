"""One batch on its way to Postgres and back, sent again until it is known what became of it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg

from server.ledger.batch import bound_outcomes, columns
from server.ledger.transfers import Attempt, Bound, Locked, Outcome, TransferRequest, Unbound, resolve_known
from server.store.errors import OutcomeUnknownError, RowLockedError, StoreUnavailableError
from server.store.postgres import Database
from server.store.resend import resend, statement_seconds
from server.telemetry.failpoints import Failpoints

# By then an armed failpoint has seen the batch leave; nothing waits for it otherwise.
_SENT_SECONDS = 0.001


class BatchSender:
    """
    Sends batches.

    Args:
        database: Where they go.

        failpoints: Where tests make it fail.
    """

    def __init__(self, database: Database, failpoints: Failpoints) -> None:
        self._database = database
        self._failpoints = failpoints

    async def send(
        self, ledger_id: int, requests: list[TransferRequest], sets: list[int], deadline: float, *, waits: bool
    ) -> list[Outcome | Locked]:
        """
        Post a batch in one transaction and say what each request became.

        Args:
            sets: The number of the linked set of each request, below 0 of its bulk, 0 for one that stands alone.

            deadline: On the clock of `time.monotonic`, in seconds.

            waits: Whether to wait for locked accounts. Without it their requests become `Locked`, unless a sending
                was lost on the way: then it may be the one that holds them.

        Raises:
            RowLockedError: The wait for a locked row ran out; nothing was done.
            StoreUnavailableError: Nothing was done.
            OutcomeUnknownError: It was lost on the way, and nothing after it found out.
        """
        return await resend(lambda lost: self._once(ledger_id, requests, sets, deadline, waits=waits or lost), deadline)

    async def _once(
        self, ledger_id: int, requests: list[TransferRequest], sets: list[int], deadline: float, *, waits: bool
    ) -> list[Outcome | Locked]:
        """Send the batch, then read what its known keys are bound to."""
        async with self._database.posting() as connection:
            await self._failpoints.reach("posting.before_batch")
            arguments = (ledger_id, *columns(requests, sets), waits)
            posting = self._database.run(
                connection,
                "transfer_post_many",
                *arguments,
                timeout=statement_seconds(deadline),
                items=len(requests),
            )
            try:
                [result] = await (self._watched(posting) if self._failpoints.armed else posting)
            except RowLockedError as error:
                raise RowLockedError({side for r in requests for side in (r.source, r.destination)}) from error
            await self._failpoints.reach("posting.committed")
            outcomes = bound_outcomes(requests, result)
            known = [r.key for r, outcome in zip(requests, outcomes, strict=True) if outcome == "known"]
            try:
                rows = await self._database.run(connection, "transfer_by_keys", ledger_id, known) if known else []
            except StoreUnavailableError as error:
                # The batch has committed: a refusal from here on is not one of the batch.
                raise OutcomeUnknownError(str(error)) from error
        attempts = {row["idempotency_key"]: Attempt.from_row(row) for row in rows}
        unbound, locked = Unbound(), Locked(tuple(result["locked"] or ()))
        return [
            outcome
            if isinstance(outcome, Bound)
            else unbound
            if outcome == "unbound"
            else locked
            if outcome == "locked"
            else resolve_known(request, attempts[request.key])
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

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
