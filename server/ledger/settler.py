"""What has to happen between the commit of a batch and its first answer."""

from collections.abc import Callable, Iterable

from server.ledger.transfers import Attempt, Bound, Outcome, Unbound, meaning
from server.store.cache import Cache, Replay, highest
from server.store.keyspace import Confirmation


class Settler:
    """
    Tells the cache what was committed before anybody else is told.

    Args:
        cache: Where snapshots and replays are.

        render: Returns status and body of what a single request is answered.
    """

    def __init__(self, cache: Cache, render: Callable[[Attempt], tuple[int, bytes]]) -> None:
        self._cache = cache
        self._render = render

    def answered(self, outcome: Outcome) -> Outcome:
        """Return the outcome of a single request with what the request is answered."""
        if not isinstance(outcome, Bound):
            return outcome
        attempt = outcome.attempt
        return outcome._replace(answer=Replay(attempt.fingerprint, meaning(attempt), *self._render(attempt)))

    @property
    def confirmation(self) -> Confirmation | None:
        """Of the database's present run: to be looked at before a batch is sent."""
        return self._cache.confirmation

    async def settle(self, ledger_id: int, outcomes: Iterable[Outcome], confirmation: Confirmation | None) -> None:
        """
        Return when no snapshot older than *outcomes* can be served, and their answers are kept for retries.

        Args:
            confirmation: As it was before the batch was sent; where it is another one now, no answer is kept.
        """
        sides: list[tuple[str, int | None]] = []
        replays: dict[str, Replay] = {}
        for outcome in outcomes:
            if isinstance(outcome, Unbound):
                continue
            attempt = outcome.attempt
            sides.append((attempt.source, attempt.source_version))
            sides.append((attempt.destination, attempt.destination_version))
            if isinstance(outcome, Bound) and outcome.answer is not None:
                replays[attempt.idempotency_key] = outcome.answer
        await self._cache.invalidate(ledger_id, highest(sides), replays, confirmation)
