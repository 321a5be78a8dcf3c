"""Numbers are reported once a second, and only those that have changed since the last report."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from server.process.channel import Counted, Value
from server.telemetry.metrics import Metric, Sample
from server.telemetry.tallies import Histogram

# Values in one message, each of at most some 300 bytes: small enough for any socket to take it as a whole.
VALUES_MAX: Final = 100


def values_of(samples: Iterable[Sample]) -> list[Value]:
    """Return samples as they are sent."""
    return [
        Value(name, labels, value.numbers() if isinstance(value, Histogram) else (value,))
        for name, labels, value in samples
    ]


class Reporter:
    """
    Sends what has changed since the last report.

    Args:
        send: Sends a message, and returns whether it was taken as a whole.
    """

    def __init__(self, send: Callable[[Counted], bool]) -> None:
        self._send = send
        self._described: dict[str, Metric] = {}
        # Numbers that have been sent, by name and labels.
        self._sent: dict[tuple[str, tuple[str, ...]], tuple[float, ...]] = {}

    def report(self, values: Collection[Value], metrics: Mapping[str, Metric], *, whole: bool = False) -> bool:
        """
        Send the values that have changed; what is not taken now is sent with the next report.

        Args:
            metrics: Descriptions of all of them, by name.

            whole: Whether these are all values there are: what was sent before and is not among them is gone.

        Returns:
            Whether all of it was taken.
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
