"""The places of workers."""

import socket
from collections import Counter
from collections.abc import Iterable, Mapping

from server.process.children import STATES, Child, Report


class Slot:
    """A place for a worker: its number, its socket and the worker that serves from it."""

    def __init__(self, number: int, listener: socket.socket) -> None:
        self.number = number
        self.listener = listener
        self.current: Child | None = None
        # Failed starts and early ends in a row.
        self.failures = 0

    async def report(self) -> Report:
        """Return the state of its worker; `restarting` when there is none."""
        if self.current is None:
            return Report(self.number, 0, "restarting", ())
        return await self.current.report()


def count_states(slots: Iterable[Slot], children: Iterable[Child]) -> Mapping[str, int]:
    """Return the number of workers in each state, zeros included."""
    counts = Counter(child.state for child in children)
    missing = sum(slot.current is None for slot in slots)
    return {**{state: counts[state] for state in STATES}, "restarting": missing}
