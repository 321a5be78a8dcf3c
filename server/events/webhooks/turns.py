"""Works on many keys, a few at a time and each in turn, so that a slow one delays no other."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from server.store.background import stop

# Seconds in which turns may end by themselves, since cancelled work is done again. `stop` cancels again after a second.
GRACE_SECONDS: Final = 0.4

Key = TypeVar("Key", bound=Hashable)


class Turns(Generic[Key]):
    """
    Gives turns to keys that have work.

    Args:
        work: Does one turn of bounded work on a key, and returns whether there is more. It raises nothing.

        turns_max: Keys that are worked on at once.

        group: Returns a key's group, and how many keys of that group are worked on at once.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[bool]],
        turns_max: int,
        group: Callable[[Key], tuple[Hashable, int]],
    ) -> None:
        self._work = work
        self._turns_max = turns_max
        self._group = group
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._of_groups: Counter[Hashable] = Counter()
        # Keys that wait for a turn, each once, in the order in which they came.
        self._waiting: dict[Key, None] = {}

    def ask(self, key: Key) -> None:
        """Ask for a turn; a key that has a turn now gets another one after it."""
        self._waiting[key] = None
        self._begin()

    async def close(self) -> None:
        """End all turns; those that end by themselves at once may do so."""
        self._waiting.clear()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=GRACE_SECONDS)
        await stop(*self._running.values())
        # A turn that had not begun does not remove itself.
        self._running.clear()
        self._of_groups.clear()

    def _begin(self) -> None:
        if len(self._running) >= self._turns_max:
            return
        for key in [key for key in self._waiting if key not in self._running]:
            if len(self._running) >= self._turns_max:
                return
            group, group_max = self._group(key)
            if self._of_groups[group] >= group_max:
                continue
            del self._waiting[key]
            self._of_groups[group] += 1
            self._running[key] = asyncio.create_task(self._turn(key, group))

    async def _turn(self, key: Key, group: Hashable) -> None:
        more = False
        try:
            more = await self._work(key)
        finally:
            if self._running.pop(key, None) is not None:
                self._of_groups[group] -= 1
            if more:
                self._waiting[key] = None
            self._begin()
