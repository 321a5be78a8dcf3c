"""A history in the form that checks use, the code that reads it from files, and the results of checks."""

import bisect
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.errors import NotRunError
from loadtests.figures import grouped
from loadtests.history.recorder import FAIL, LOOK_UP, OK, UNKNOWN, problem_of

# A member with one of these values means the same as an absent member.
_DEFAULTS: tuple[object, ...] = (None, False, {})
# The kind of the transfer that is answered, by the last part of the request's path.
CHILDREN = {"capture": "capture", "void": "void", "reverse": "reversal"}
# Kinds of transfers that move money.
MOVING = ("transfer", "capture", "reversal")
SIDES = ("source", "destination")
# Members that rows of the books and transfers share.
LISTED = ("kind", "parent", *SIDES, "amount", "created_at")
# Violations that are shown for each check; the count tells how many there are.
SHOWN_MAX = 10
# A ledger, and a transfer, an account or a key in it.
Name = tuple[str, str]


class Timeline:
    """
    Folds changes up to an instant: by default to the highest value, otherwise with *fold*, beginning with *start*.
    """

    def __init__(self, changes: Iterable[tuple[float, Any]], start: Any, fold: Callable[[Any, Any], Any] = max) -> None:
        ordered = sorted(changes)
        self._instants = [at for at, _ in ordered]
        self._values = list(itertools.accumulate((value for _, value in ordered), fold, initial=start))

    def before(self, instant: float) -> Any:
        return self._values[bisect.bisect_left(self._instants, instant)]

    def reached(self, value: Any) -> float | None:
        """Return when this value, which is above the start, or a higher one was reached; None if it never was."""
        first = bisect.bisect_left(self._values, value)
        return self._instants[first - 1] if first < len(self._values) else None


class Shown(NamedTuple):
    account: str
    version: int
    balance: int


@dataclass(slots=True)
class Operation:
    """One request and its outcome, with the accounts, the transfer and the instant that its answer shows."""

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
    created_at: str = ""
    shown: tuple[Shown, ...] = ()

    @property
    def asked(self) -> Any:
        return json.loads(self.request)

    @property
    def said(self) -> Any:
        return json.loads(self.response)

    @property
    def parent(self) -> str:
        """The transfer that a capture, void or reversal names in its path; empty for any other request."""
        return self.path.split("/")[3] if self.path.rpartition("/")[2] in CHILDREN else ""

    @property
    def kind(self) -> str:
        """The kind of transfer that it asks for."""
        if self.parent:
            return CHILDREN[self.path.rpartition("/")[2]]
        return "hold" if self.asked.get("hold") else "transfer"

    @property
    def bound(self) -> bool:
        """Whether the answer is final for its key: posted, or refused because of the state of the ledger."""
        if self.operation != "transfer":
            return False
        refused = self.status in (404, 409) and problem_of(self.response).get("outcome") == "refused"
        return self.outcome == OK or refused

    @property
    def fingerprint(self) -> str:
        """What identifies the request: the same for equal requests, whatever their bytes, alone or in a bulk."""
        asked = {name: value for name, value in self.asked.items() if name != "key" and value not in _DEFAULTS}
        return f"{self.path if self.parent else ''}{json.dumps(asked, sort_keys=True)}"


class Account(NamedTuple):
    ledger: str
    id: str
    currency: str
    balance: int
    version: int
    floor: int | None


class Entry(NamedTuple):
    """One line of an account's statement; `key` is the idempotency key of its transfer, if it is known."""

    ledger: str
    account: str
    transfer_id: str
    key: str
    amount: int
    counterparty: str
    balance: int
    version: int


class Row(NamedTuple):
    """A hold, a child of one, or a reversal, as the books list it; the key of a hold is known, as in an entry."""

    ledger: str
    transfer_id: str
    kind: str
    key: str
    parent: str
    source: str
    destination: str
    amount: int
    created_at: str


class Told(NamedTuple):
    """An event of the feed as a reader got it; `data` is the JSON of the transfer or account."""

    reader: str
    ledger: str
    position: int
    type: str
    subject: str
    data: str

    def __str__(self) -> str:
        return f"{self.type} of {self.subject}, at {self.position} of {self.ledger},"


class Mark(NamedTuple):
    """A named instant."""

    at: float
    name: str


@dataclass
class History:
    """Everything recorded in one run; the books are there if `accounts` is not empty."""

    operations: list[Operation] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def transfers(self) -> Iterator[Operation]:
        return (operation for operation in self.operations if operation.operation == "transfer")

    @cached_property
    def by_key(self) -> dict[Name, list[Operation]]:
        """The operations that ask for transfers, by their key."""
        return grouped(self.transfers(), lambda operation: (operation.ledger, operation.key))

    @cached_property
    def legs(self) -> dict[Name, list[Entry]]:
        """The entries of each transfer."""
        return grouped(self.entries, lambda entry: (entry.ledger, entry.transfer_id))

    @cached_property
    def listed(self) -> dict[Name, Row]:
        """The rows by their transfers' names."""
        return {(row.ledger, row.transfer_id): row for row in self.rows}

    @cached_property
    def children(self) -> dict[Name, list[Row]]:
        """The rows by their parents."""
        return grouped(self.rows, lambda row: (row.ledger, row.parent))

    def booked_otherwise(self, name: Name, said: Mapping[str, Any]) -> str:
        """Return what the books have for a transfer, or nothing if it equals the answer."""
        row, legs = self.listed.get(name), self.legs.get(name, [])
        due = {
            (said[side], amount, said[other], said[f"{side}_version"], said[f"{side}_balance"])
            for side, other, amount in zip(SIDES, SIDES[::-1], (-said["amount"], said["amount"]), strict=True)
            if said["kind"] in MOVING
        }
        done = {(leg.account, leg.amount, leg.counterparty, leg.version, leg.balance) for leg in legs}
        same = row is None or all(getattr(row, each) == (said.get(each) or "") for each in LISTED)
        return "" if done == due and same else f"{row} with {legs}"


class Violation(NamedTuple):
    """One violation, and the check that found it."""

    check: str
    what: str


@dataclass(slots=True)
class Verdict:
    """The violations, and how much each check judged: a check that judged nothing proves nothing."""

    violations: list[Violation] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)

    def flag(self, check: str, what: str) -> None:
        self.violations.append(Violation(check, what))

    def lines(self, checks: "Mapping[str, Check]") -> Iterator[str]:
        """Yield lines with what each check asserts and what it found."""
        for name, check in checks.items():
            found = [violation.what for violation in self.violations if violation.check == name]
            said = f"{len(found):,} violations" if found else "holds" if self.judged[name] else "nothing to judge"
            yield f"  {name:<2} {said:<17}{self.judged[name]:>9,} judged   {check.asserts}"
            yield from (f"       {what}" for what in found[:SHOWN_MAX])


class Check(NamedTuple):
    """What a check asserts, and the function that runs it."""

    asserts: str
    make: Callable[[History, Verdict], None]


# The types that are recorded beside operations, and the list for each.
_LISTS = {Account: "accounts", Entry: "entries", Row: "rows", Told: "told", Mark: "marks"}
_NOTED = {kind.__name__.lower(): (kind, name) for kind, name in _LISTS.items()}


def noted(item: Account | Entry | Row | Told) -> dict[str, Any]:
    """Return the event that records an item."""
    return {"event": type(item).__name__.lower(), **item._asdict()}


def load(paths: Iterable[Path]) -> History:
    """Read one run from the files of its clients. A last line that was cut short by a kill is left out."""
    history = History()
    for path in paths:
        with path.open(encoding="utf-8") as file:
            read(history, file, str(path))
    return history


def load_folder(folder: Path) -> History:
    return load(sorted(folder.glob("*.jsonl")))


def read(history: History, lines: Iterable[str], name: str) -> None:
    pending: dict[int, Operation] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            # The client was killed while it wrote: its request was not sent, or the outcome is unknown.
            break
        try:
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "invoke":
                sent, invoked = event.pop("op"), event.pop("at")
                pending[sent] = Operation(invoked=invoked, **event)
                history.operations.append(pending[sent])
            elif kind in (OK, FAIL, UNKNOWN):
                _end(pending.pop(event["op"]), kind, event)
            else:
                what, name_of_list = _NOTED[kind]
                if what is Told:
                    # All readers get the same data.
                    event["data"] = sys.intern(event["data"])
                getattr(history, name_of_list).append(what(**event))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotRunError(f"{name}, line {number}: {type(error).__name__} {error}") from error


def _end(operation: Operation, outcome: str, event: Mapping[str, Any]) -> None:
    operation.outcome = outcome
    operation.ended = event["at"]
    operation.status = event["status"]
    operation.response = event.get("response", "")
    operation.replayed = event.get("replayed", False)
    # A read that was answered 304 has no body.
    if outcome == OK and operation.response:
        answer = operation.said
        if operation.operation == "transfer":
            operation.transfer_id, operation.created_at = answer["id"], answer.get("created_at", "")
            operation.shown = tuple(Shown(answer[s], answer[f"{s}_version"], answer[f"{s}_balance"]) for s in SIDES)
        elif operation.operation == LOOK_UP and answer.get("state") == "posted":
            operation.transfer_id = answer["id"]
        elif operation.operation == "read":
            operation.shown = (Shown(answer["id"], answer["version"], answer["balance"]),)
