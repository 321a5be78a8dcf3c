"""Sends reports of metrics that hold only the values that have changed since the last report."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from server.process.channel import Counted, Value
from server.telemetry.metrics import Metric, Sample
from server.telemetry.tallies import Histogram

# Most values in one message. A value has at most about 300 bytes, so any socket takes the message as a whole.
VALUES_MAX: Final = 100


def values_of(samples: Iterable[Sample]) -> list[Value]:
    """Return samples in the form in which they are sent."""
    return [
        Value(name, labels, value.numbers() if isinstance(value, Histogram) else (value,))
        for name, labels, value in samples
    ]


class Reporter:
    """
    Sends the values that have changed since the last report.

    Args:
        send: Sends a message, and returns whether the socket took all of it.
    """

    def __init__(self, send: Callable[[Counted], bool]) -> None:
        self._send = send
        self._described: dict[str, Metric] = {}
        # The numbers that were last sent, by name and labels.
        self._sent: dict[tuple[str, tuple[str, ...]], tuple[float, ...]] = {}

    def report(self, values: Collection[Value], metrics: Mapping[str, Metric], *, whole: bool = False) -> bool:
        """
        Send the values that have changed; the next report sends what the socket does not take now.

        Args:
            metrics: Descriptions of all metrics, by name.

            whole: Whether *values* holds all values. Values that were sent before and are missing are then gone.

        Returns:
            Whether the socket took all of it.
        """
        changed = [value for value in values if self._sent.get(value[:2]) != value.numbers]
        if whole:
            gone = self._sent.keys() - {value[:2] for value in values}
            changed += [Value(*key, ()) for key in gone if self._sent[key]]
        for start in range(0, len(changed), VALUES_MAX):
            part = tuple(changed[start : start + VALUES_MAX])
            names = {value.name for value in part}
            new = {name: metrics[name] for name in names if self._described.get(name) != metrics[name]}
            if not self._send(Counted(part, new)):
                return False
            self._described |= new
            self._sent.update({value[:2]: value.numbers for value in part})
        return True
