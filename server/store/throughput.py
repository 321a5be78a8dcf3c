"""How much a lane gets done, measured while it works."""

from typing import Final

# What is told of the past by each batch: the last ten or so count.
KEPT: Final = 0.9
# Seconds that the expectation counts as if it had been measured.
EXPECTED_SECONDS: Final = 0.2


class Throughput:
    """
    The weight that a lane gets done in a second.

    Args:
        expected: What it is before anything is measured.

        telling: Batches lighter than this tell nothing of how much could be done: most of their time is not spent on
            their items.
    """

    def __init__(self, expected: float, telling: int) -> None:
        self._telling = telling
        self._weight = expected * EXPECTED_SECONDS
        self._seconds = EXPECTED_SECONDS
        self._last_end = 0.0

    @property
    def per_second(self) -> float:
        """Weight a second."""
        return self._weight / self._seconds

    def ended(self, weight: int, began: float, now: float) -> None:
        """Note that a batch has ended; *began* and *now* are on one clock, in seconds."""
        # Batches overlap: only the time that the one before did not take counts.
        seconds = now - max(began, self._last_end)
        self._last_end = now
        if weight >= self._telling:
            self._weight = KEPT * self._weight + weight
            self._seconds = KEPT * self._seconds + seconds
