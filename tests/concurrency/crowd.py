"""Sends requests of many clients of one ledger at once."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.books import verdict
from tests.support.client import Answer, Client
from tests.support.history import History

# How often a transfer is sent: on a busy machine, some may wait too long for a place and be refused.
SENT_MAX = 10


class Crowd(NamedTuple):
    """A client for each instance of the service, and the history of their requests and answers."""

    clients: Sequence[Client]
    history: History

    @property
    def first(self) -> Client:
        """The client that prepares the ledger and reads results."""
        return self.clients[0]

    async def all_at_once(self, transfers: Sequence[tuple[str, str, str, int]]) -> list[Answer]:
        """
        Send transfers (key, source, destination, amount) to the instances in turn, all at the same instant.

        Each of them must get a definite answer, even under contention.
        """
        turns = itertools.cycle(self.clients)
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(self._send(next(turns), transfer) for transfer in transfers))
        return [definite(answer) for answer in answers]

    async def _send(self, client: Client, transfer: tuple[str, str, str, int]) -> Answer | None:
        """Send a transfer, and again while the service is overloaded."""
        answer = await self.history.transfer(client, *transfer)
        for _ in range(SENT_MAX - 1):
            if answer is None or answer.status != 503 or answer.code != "overloaded":
                break
            answer = await self.history.transfer(client, *transfer)
        return answer


def definite(answer: Answer | None) -> Answer:
    """Return an answer, which must tell the final outcome of the request."""
    assert answer is not None
    assert verdict(answer) in ("posted", "refused", "reused"), answer
    return answer
