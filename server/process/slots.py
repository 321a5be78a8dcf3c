"""The places of children."""

from collections import Counter
from collections.abc import Iterable

from server.process.channel import Place, Report
from server.process.children import STATES, Child, Program


class Slot:
    """A place for a child: its program, and the process that runs it now."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.current: Child | None = None
        # Failed starts and early ends in a row.
        self.failures = 0
        # Children that died here; each was started again or will be.
        self.restarts = 0

    async def report(self) -> Report:
        """Return the state of its child; `restarting` if there is none."""
        if self.current is None:
            return Report(self.program.label, self.program.vital, 0, "restarting", ())
        return await self.current.report()

    def place(self, now: float) -> Place:
        """Return its state for `Status`; *now* is the time of the loop."""
        label, vital = self.program.label, self.program.vital
        if self.current is None:
            return Place(label, vital, 0, "restarting", self.restarts, 0.0)
        child = self.current
        return Place(label, vital, child.pid, child.state, self.restarts, now - child.last_message_at)


def count_states(slots: Iterable[Slot], children: Iterable[Child]) -> dict[str, int]:
    """Return the number of children in each state, zeros included."""
    counts = Counter(child.state for child in children)
    missing = sum(slot.current is None for slot in slots)
    return {**{state: counts[state] for state in STATES}, "restarting": missing}
