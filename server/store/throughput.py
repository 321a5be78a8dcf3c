"""Measures how much work a lane gets done while it works."""

from typing import Final

# Each measured batch multiplies all earlier measurements by this: about the last ten batches count.
KEPT: Final = 0.9
# The expected throughput counts as much as a measurement of this many seconds.
EXPECTED_SECONDS: Final = 0.2


class Throughput:
    """
    Measures the weight that a lane processes in a second.

    Args:
        expected: Weight per second that is assumed before anything is measured.

        telling: Minimum weight of a batch that is measured. Lighter batches spend most of their time on other things
            than their items, so they do not show how much could be done.
    """

    def __init__(self, expected: float, telling: int) -> None:
        self._telling = telling
        self._weight = expected * EXPECTED_SECONDS
        self._seconds = EXPECTED_SECONDS
        self._last_end = 0.0

    @property
    def per_second(self) -> float:
        """Weight per second."""
        return self._weight / self._seconds

    def ended(self, weight: int, began: float, now: float) -> None:
        """Record that a batch has ended; *began* and *now* are seconds on the same clock."""
        # Batches overlap: only the time since the previous batch ended counts.
        seconds = now - max(began, self._last_end)
        self._last_end = now
        if weight >= self._telling:
            self._weight = KEPT * self._weight + weight
            self._seconds = KEPT * self._seconds + seconds
