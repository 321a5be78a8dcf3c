"""Previews: what transfers would become if they were posted now."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from server.ledger.invalidation import InvalidatingDatabase, Versions, attempt_shown
from server.ledger.post_transfers import columns, resolve
from server.ledger.transfers import Attempt, Bound, TransferRequest, Unbound
from server.ledger.unit import Unit
from server.store.cache import Cache
from server.store.postgres import READ_DEADLINE_SECONDS, Database
from server.store.sessions import LOCK_TIMEOUT_MS


class Previewer:
    """
    Decides transfers without posting them: by the function that posts, which then locks nothing and writes nothing.

    Args:
        render: Returns status and body of the answer to a single request.
    """

    def __init__(self, database: Database, cache: Cache, render: Callable[[Attempt], tuple[int, bytes]]) -> None:
        self._database = database
        self._invalidating = InvalidatingDatabase(database, cache)
        self._render = render

    async def preview(
        self, ledger_id: int, requests: Sequence[TransferRequest], *, atomic: bool
    ) -> Sequence[Bound | Unbound]:
        """
        Return what would become of the requests, in order, if they were posted now under unbound keys.

        Raises:
            QueueFullError, StoreUnavailableError: It cannot be decided now.
        """
        return await self._invalidating.run(ledger_id, partial(self._decide, ledger_id, requests, atomic), _shown)

    async def _decide(self, ledger_id: int, requests: Sequence[TransferRequest], atomic: bool) -> list[Bound | Unbound]:
        now = time.monotonic()
        unit = Unit(ledger_id, tuple(requests), now, now + READ_DEADLINE_SECONDS, atomic=atomic)
        arrays = columns([unit])
        [result] = await self._database.read("transfer_post_many", *arrays.arguments, [None], LOCK_TIMEOUT_MS, False)
        resolve([unit], arrays, result, iter(()), self._render)
        assert isinstance(unit.result, list), "nothing is locked for a preview"
        return [outcome for outcome in unit.result if isinstance(outcome, Bound | Unbound)]


def _shown(outcomes: Sequence[Bound | Unbound]) -> Versions:
    """Return the present versions of the accounts; the versions in the preview are counted on from these."""
    first: dict[str, int] = {}
    for outcome in outcomes:
        if isinstance(outcome, Bound):
            for account, version in attempt_shown(outcome.attempt):
                if version is not None:
                    first[account] = min(version, first.get(account, version))
    return [(account, version - 1) for account, version in first.items()]
