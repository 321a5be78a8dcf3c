"""How the supervisor forwards the reports and states of its children to the admin process."""

from collections.abc import Callable, Mapping
from functools import partial

from server.process.channel import Counted, Hot, Status, Told, Value
from server.process.reporter import Reporter
from server.process.totals import Counts

Send = Callable[[Told | Status], bool]


class Forwarding:
    """
    Sends one admin process what has changed since it was last sent something.

    Args:
        send: Sends it a message, and returns whether the socket took all of it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        # By the number of the process that made the reports.
        self._reporters: dict[int, Reporter] = {}
        self._hot: dict[int, Hot] = {}

    def tell(self, sources: Mapping[int, Counts], status: Status) -> None:
        """
        Send what has changed, then *status*; the next call sends what the socket does not take now.

        Args:
            sources: The counts of each process, by the number of the process.
        """
        for number, counts in sources.items():
            if not self._tell_counts(number, counts):
                return
        if self._send(status):
            for number in self._reporters.keys() - sources.keys():
                del self._reporters[number]
                self._hot.pop(number, None)

    def _tell_counts(self, number: int, counts: Counts) -> bool:
        reporter = self._reporters.get(number)
        if reporter is None:
            reporter = self._reporters[number] = Reporter(partial(self._tell, number))
        values = [Value(name, labels, numbers) for (name, labels), numbers in counts.values.items()]
        if not reporter.report(values, counts.metrics, whole=True):
            return False
        if self._hot.get(number) is counts.hot:
            return True
        if not self._tell(number, counts.hot):
            return False
        self._hot[number] = counts.hot
        return True

    def _tell(self, number: int, report: Counted | Hot) -> bool:
        return self._send(Told(number, report))
