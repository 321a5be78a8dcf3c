"""Many clients of one ledger at once."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.books import verdict
from tests.support.client import Answer, Client
from tests.support.history import History

# Times that a transfer is sent: on a machine busy with other tests some may wait too long for a place.
SENT_MAX = 10


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
            answers = await asyncio.gather(*(self._send(next(turns), transfer) for transfer in transfers))
        return [definite(answer) for answer in answers]

    async def _send(self, client: Client, transfer: tuple[str, str, str, int]) -> Answer | None:
        """Send a transfer, and again while there is no place for it."""
        answer = await self.history.transfer(client, *transfer)
        for _ in range(SENT_MAX - 1):
            if answer is None or answer.status != 503 or answer.code != "overloaded":
                break
            answer = await self.history.transfer(client, *transfer)
        return answer


def definite(answer: Answer | None) -> Answer:
    """Return an answer that must tell for good what became of the request."""
    assert answer is not None
    assert verdict(answer) in ("posted", "refused", "reused"), answer
    return answer
