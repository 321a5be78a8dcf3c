"""What reads showed, and when: C5 and C6, and what reads showed that may be behind by some seconds."""

import bisect
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator

from loadtests.history.model import History, Operation, Shown
from loadtests.history.recorder import OK
from loadtests.history.verdict import Verdict


class _Newest:
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
            newest = 0
            self._ended, self._newest = [], []
            for ended, version in sorted(self._answers):
                newest = max(newest, version)
                self._ended.append(ended)
                self._newest.append(newest)
        position = bisect.bisect_left(self._ended, instant)
        return self._newest[position - 1] if position else 0


def _shown(history: History, *operations: str) -> Iterator[tuple[Operation, Shown]]:
    for operation in history.operations:
        if operation.outcome == OK and operation.operation in operations:
            for shown in operation.shown:
                yield operation, shown


def check_versions_read(
    history: History,
    verdict: Verdict,
    check: str,
    told_to: Callable[[Operation], Hashable],
    *,
    told_by: tuple[str, ...] = ("transfer",),
    read: str = "read",
    seconds: float = 0.0,
) -> None:
    """
    Flag reads of an older version than had been told before they were sent. Judged of accounts that had been told of.

    Args:
        check: Its name.

        told_to: Tells apart who is held to have been told what.

        told_by: The operations whose answers tell.

        read: The operation that is judged.

        seconds: By which a read may be behind.
    """
    newest: dict[Hashable, _Newest] = defaultdict(_Newest)
    for operation, shown in _shown(history, *told_by):
        newest[told_to(operation), operation.ledger, shown.account].add(operation.ended, shown.version)
    behind = f" more than {seconds:.0f} s" if seconds else ""
    for operation, shown in _shown(history, read):
        due = newest[told_to(operation), operation.ledger, shown.account].before(operation.invoked - seconds)
        verdict.judged[check] += due > 0
        if shown.version < due:
            who = f"{operation.process} read {shown.account} at version {shown.version}"
            verdict.flag(check, f"{who},{behind} after {due} was told")


def check_balances_read(history: History, verdict: Verdict, check: str, read: str = "read") -> None:
    """Flag reads that show another balance than the books have at that version."""
    balances = {(entry.ledger, entry.account, entry.version): entry.balance for entry in history.entries}
    for operation, shown in _shown(history, read):
        booked = balances.get((operation.ledger, shown.account, shown.version))
        if booked is not None and booked != shown.balance:
            verdict.flag(check, f"{shown.account} was read with {shown.balance}; at {shown.version} it had {booked}")


def check_acknowledged(history: History, verdict: Verdict) -> None:
    """C5. Judged of reads, within one clock; where the history has books, also what they show at their version."""
    check_versions_read(history, verdict, "C5", lambda operation: operation.clock)
    check_balances_read(history, verdict, "C5")


def check_versions(history: History, verdict: Verdict) -> None:
    """C6. Judged of reads by a client that had been shown the account before."""
    told_by = ("transfer", "read")
    check_versions_read(history, verdict, "C6", lambda o: (o.clock, o.process), told_by=told_by)
