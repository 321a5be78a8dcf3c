"""Many clients of one ledger at once."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from tests.support.books import verdict
from tests.support.client import Answer, Client
from tests.support.history import History

# Times that a request is sent: on a machine busy with other tests some may wait too long for a place.
SENT_MAX = 10

Sent = TypeVar("Sent", Answer, Answer | None)


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
        return await placed(partial(self.history.transfer, client, *transfer))


def definite(answer: Answer | None) -> Answer:
    """Return an answer that must tell for good what became of the request."""
    assert answer is not None
    assert verdict(answer) in ("posted", "refused", "reused"), answer
    return answer


async def placed(send: Callable[[], Awaitable[Sent]]) -> Sent:
    """Send a request, and again while there is no place for it: nothing has been done then."""
    answer = await send()
    for _ in range(SENT_MAX - 1):
        if not _overloaded(answer):
            break
        answer = await send()
    return answer


def _overloaded(answer: Answer | None) -> bool:
    return answer is not None and answer.status == 503 and answer.code == "overloaded"
