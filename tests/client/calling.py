"""One interface to both clients: a test names a call, which runs in a thread or is awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, closing
from itertools import islice
from typing import Any

from tallystick_client import AsyncTallystick, Tallystick

KINDS = ("blocking", "async")
# A call on either client; their methods have the same names and parameters.
Asked = Callable[[Any], Any]


class Caller:
    """
    A client of either kind.

    Args:
        client: The client.
    """

    def __init__(self, client: Tallystick | AsyncTallystick) -> None:
        self.client = client

    async def __call__(self, asked: Asked) -> Any:
        """Return the result of a call."""
        if isinstance(self.client, Tallystick):
            return await asyncio.to_thread(asked, self.client)
        return await asked(self.client)

    async def take(self, asked: Asked, number: int = 1_000) -> list[Any]:
        """Return the first items of a series, or all if there are fewer, and close it."""
        if isinstance(self.client, Tallystick):
            return await asyncio.to_thread(lambda: _take(asked(self.client), number))
        taken = []
        async with aclosing(asked(self.client)) as series:
            async for item in series:
                taken.append(item)
                if len(taken) == number:
                    break
        return taken


def _take(series: Generator[Any, None, None], number: int) -> list[Any]:
    with closing(series):
        return list(islice(series, number))


@asynccontextmanager
async def calling(kind: str, url: str, token: str, **options: float) -> AsyncIterator[Caller]:
    """Open a client of one kind."""
    if kind == "blocking":
        with Tallystick(url, token, **options) as blocking:  # type: ignore[arg-type]  # few, by name
            yield Caller(blocking)
    else:
        async with AsyncTallystick(url, token, **options) as client:  # type: ignore[arg-type]  # few, by name
            yield Caller(client)
