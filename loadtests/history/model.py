"""A history as the checks see it, read from its files."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.history.recorder import FORMAT, OK, UNKNOWN, problem_of

# A member with such a value says what its absence says.
_DEFAULTS: tuple[object, ...] = (None, False, {})


class HistoryError(Exception):
    """A file is no history; the message names the line."""


class Shown(NamedTuple):
    """An account as an answer showed it."""

    account: str
    version: int
    balance: int


@dataclass(slots=True)
class Operation:
    """
    One request and what became of it; `ended` is infinite where no outcome was noted.

    `clock` names the clock of its times. `shown` are the accounts in its answer, `transfer_id` the transfer in it.
    """

    clock: str
    process: str
    operation: str
    ledger: str
    key: str
    path: str
    request: str
    invoked: float
    ended: float = math.inf
    outcome: str = UNKNOWN
    status: int = 0
    response: str = ""
    replayed: bool = False
    transfer_id: str = ""
    shown: tuple[Shown, ...] = ()

    @property
    def bound(self) -> bool:
        """Whether the answer is the one that its key has for ever: posted, or refused by the state of the ledger."""
        if self.operation != "transfer":
            return False
        return self.outcome == OK or (
            self.status in (404, 409) and problem_of(self.response).get("outcome") == "refused"
        )

    @property
    def fingerprint(self) -> str:
        """What makes a transfer the same request: what it asks for, in whatever bytes, alone or in a bulk."""
        members = json.loads(self.request).items()
        asked = {name: value for name, value in members if name != "key" and value not in _DEFAULTS}
        return json.dumps(asked, sort_keys=True)


class Account(NamedTuple):
    """An account as the books have it in the end."""

    ledger: str
    id: str
    currency: str
    balance: int
    version: int
    floor: int | None


class Entry(NamedTuple):
    """One line of an account's statement; `key` is the idempotency key of its transfer, as far as it is known."""

    ledger: str
    account: str
    transfer_id: str
    key: str
    amount: int
    counterparty: str
    balance: int
    version: int


class Mark(NamedTuple):
    """An instant that somebody named."""

    clock: str
    at: float
    name: str


class Gauge(NamedTuple):
    """A size at an instant."""

    clock: str
    at: float
    name: str
    value: float
    growth_max: float


@dataclass(slots=True)
class History:
    """All that was noted of one run; the books are there when `accounts` is not empty."""

    operations: list[Operation] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    gauges: list[Gauge] = field(default_factory=list)

    def transfers(self) -> Iterator[Operation]:
        """The operations that ask for a transfer."""
        return (operation for operation in self.operations if operation.operation == "transfer")


def load(paths: Iterable[Path]) -> History:
    """
    Read one run out of the files of its clients.

    Raises:
        HistoryError: A line is no event of a history. A last line that was cut short by a kill is left out.
    """
    history = History()
    for path in paths:
        with path.open(encoding="utf-8") as file:
            _read(history, file, str(path))
    return history


def parse(lines: Iterable[str], name: str = "history") -> History:
    """
    Read one file's worth of lines.

    Raises:
        HistoryError: As `load`.
    """
    history = History()
    _read(history, lines, name)
    return history


def _read(history: History, lines: Iterable[str], name: str) -> None:
    clock = ""
    pending: dict[int, Operation] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            # A client that was killed while it wrote: the request was not sent, or its outcome is unknown.
            break
        try:
            event = json.loads(line)
            if number == 1:
                clock = _begin(event)
            else:
                _take(history, pending, clock, event)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HistoryError(f"{name}, line {number}: {type(error).__name__} {error}") from error


def _begin(event: Mapping[str, Any]) -> str:
    if event["event"] != "begin" or event["format"] != FORMAT:
        raise ValueError(f"a history begins with its format, which is {FORMAT}")
    return str(event["clock"])


def _take(history: History, pending: dict[int, Operation], clock: str, event: dict[str, Any]) -> None:
    kind = event.pop("event")
    if kind == "invoke":
        number, invoked = event.pop("op"), event.pop("at")
        pending[number] = Operation(clock, invoked=invoked, **event)
        history.operations.append(pending[number])
    elif kind in ("ok", "fail", "unknown"):
        _end(pending.pop(event["op"]), kind, event)
    elif kind == "account":
        history.accounts.append(Account(**event))
    elif kind == "entry":
        history.entries.append(Entry(**event))
    elif kind == "mark":
        history.marks.append(Mark(clock, **event))
    elif kind == "gauge":
        history.gauges.append(Gauge(clock, **event))
    else:
        raise ValueError(f"no event is called {kind}")


def _end(operation: Operation, outcome: str, event: Mapping[str, Any]) -> None:
    operation.outcome = outcome
    operation.ended = event["at"]
    operation.status = event["status"]
    operation.response = event.get("response", "")
    operation.replayed = event.get("replayed", False)
    # A read that was answered 304 shows nothing.
    if outcome == OK and operation.response:
        answer = json.loads(operation.response)
        if operation.operation == "transfer":
            operation.transfer_id = answer["id"]
            operation.shown = tuple(
                Shown(answer[side], answer[f"{side}_version"], answer[f"{side}_balance"])
                for side in ("source", "destination")
            )
        elif operation.operation == "read":
            operation.shown = (Shown(answer["id"], answer["version"], answer["balance"]),)
