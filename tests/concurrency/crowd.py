"""Sends requests of many clients of one ledger at once."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from tests.support.books import verdict
from tests.support.client import Answer, Client
from tests.support.history import History

# How often a request is sent: on a busy machine, some may wait too long for a place and be refused.
SENT_MAX = 10

Sent = TypeVar("Sent", Answer, Answer | None)


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
        return await placed(partial(self.history.transfer, client, *transfer))


def definite(answer: Answer | None) -> Answer:
    """Return an answer, which must tell the final outcome of the request."""
    assert answer is not None
    assert verdict(answer) in ("posted", "refused", "reused"), answer
    return answer


async def placed(send: Callable[[], Awaitable[Sent]]) -> Sent:
    """Send a request, and again while it is refused as overloaded, which means that it had no effect."""
    answer = await send()
    for _ in range(SENT_MAX - 1):
        if not _overloaded(answer):
            break
        answer = await send()
    return answer


def _overloaded(answer: Answer | None) -> bool:
    return answer is not None and answer.status == 503 and answer.code == "overloaded"
