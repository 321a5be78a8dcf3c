"""What reads showed, and when: C5 and C6."""

import bisect
from collections import defaultdict
from collections.abc import Iterator

from loadtests.history.model import History, Operation, Shown
from loadtests.history.recorder import OK
from loadtests.history.verdict import Verdict


class Newest:
    """The newest version of one account that answers had shown by an instant."""

    def __init__(self) -> None:
        self._answers: list[tuple[float, int]] = []
        self._ended: list[float] = []
        self._newest: list[int] = []

    def add(self, ended: float, version: int) -> None:
        self._answers.append((ended, version))

    def before(self, instant: float) -> int:
        """Return the newest version of all answers that were there before the instant; 0 when there was none."""
        if len(self._ended) != len(self._answers):
            self._sort()
        position = bisect.bisect_left(self._ended, instant)
        return self._newest[position - 1] if position else 0

    def _sort(self) -> None:
        newest = 0
        self._ended, self._newest = [], []
        for ended, version in sorted(self._answers):
            newest = max(newest, version)
            self._ended.append(ended)
            self._newest.append(newest)


def _shown(history: History) -> Iterator[tuple[Operation, Shown]]:
    for operation in history.operations:
        if operation.outcome == OK:
            for shown in operation.shown:
                yield operation, shown


def check_acknowledged(history: History, verdict: Verdict) -> None:
    """C5. Judged of reads, within one clock; where the history has books, also what they show at their version."""
    newest: dict[tuple[str, str, str], Newest] = defaultdict(Newest)
    for operation, shown in _shown(history):
        if operation.operation == "transfer":
            newest[operation.clock, operation.ledger, shown.account].add(operation.ended, shown.version)
    balances = {(entry.ledger, entry.account, entry.version): entry.balance for entry in history.entries}
    for operation, shown in _shown(history):
        if operation.operation != "read":
            continue
        acknowledged = newest[operation.clock, operation.ledger, shown.account].before(operation.invoked)
        verdict.judged["C5"] += acknowledged > 0
        if shown.version < acknowledged:
            verdict.flag(
                "C5",
                f"{operation.process} read {shown.account} at version {shown.version}, after {acknowledged} was told",
            )
        booked = balances.get((operation.ledger, shown.account, shown.version))
        if booked is not None and booked != shown.balance:
            verdict.flag("C5", f"{shown.account} was read with {shown.balance}; at {shown.version} it had {booked}")


def check_versions(history: History, verdict: Verdict) -> None:
    """C6. Judged of reads by a client that had been shown the account before."""
    newest: dict[tuple[str, str, str, str], Newest] = defaultdict(Newest)
    for operation, shown in _shown(history):
        newest[operation.clock, operation.process, operation.ledger, shown.account].add(operation.ended, shown.version)
    for operation, shown in _shown(history):
        if operation.operation != "read":
            continue
        seen = newest[operation.clock, operation.process, operation.ledger, shown.account].before(operation.invoked)
        verdict.judged["C6"] += seen > 0
        if shown.version < seen:
            verdict.flag(
                "C6", f"{operation.process} read {shown.account} at version {shown.version} after version {seen}"
            )
