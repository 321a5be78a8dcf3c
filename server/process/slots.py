"""The places of workers."""

import socket
from collections import Counter
from collections.abc import Iterable, Mapping

from server.process.children import STATES, Child, Report


class Slot:
    """A place for a worker: its number, its socket, and who serves from it."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.current: Child | None = None
        # Ends in a row, or attempts at a start, without having served for long.
        self.failures = 0

    async def report(self) -> Report:
        """Return what its worker says of itself; without one it waits for that to be started again."""
        if self.current is None:
            return Report(self.number, 0, "restarting", ())
        return await self.current.report()


def count_states(slots: Iterable[Slot], children: Iterable[Child]) -> Mapping[str, int]:
    """Return how many workers are in which state; one of which there are none is told too."""
    counts = Counter(child.state for child in children)
    missing = sum(slot.current is None for slot in slots)
    return {**{state: counts[state] for state in STATES}, "restarting": missing}
