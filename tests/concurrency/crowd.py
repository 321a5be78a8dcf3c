"""Many clients of one ledger at once."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.books import verdict
from tests.support.client import Answer, Client
from tests.support.history import History


class Crowd(NamedTuple):
    """Clients, one an instance of the service, and what they sent and heard."""

    clients: Sequence[Client]
    history: History

    @property
    def first(self) -> Client:
        """The client used to prepare and to look."""
        return self.clients[0]

    async def all_at_once(self, transfers: Sequence[tuple[str, str, str, int]]) -> list[Answer]:
        """
        Send transfers (key, source, destination, amount), by turns to each instance, all in the same instant.

        Every one of them must get a definite answer: contention is no excuse.
        """
        turns = itertools.cycle(self.clients)
        async with asyncio.timeout(60):
            answers = await asyncio.gather(
                *(self.history.transfer(next(turns), *transfer) for transfer in transfers),
            )
        return [definite(answer) for answer in answers]


def definite(answer: Answer | None) -> Answer:
    """Return an answer that must tell for good what became of the request."""
    assert answer is not None
    assert verdict(answer) in ("posted", "refused", "reused"), answer
    return answer
