"""A history as the checks see it, read from its files, and what a check is and finds."""

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

# A member with such a value says what its absence says.
_DEFAULTS: tuple[object, ...] = (None, False, {})
# What the last part of a path asks for: the kind of the transfer that is answered.
CHILDREN = {"capture": "capture", "void": "void", "reverse": "reversal"}
# Kinds of transfers that move money.
MOVING = ("transfer", "capture", "reversal")
SIDES = ("source", "destination")
# What rows of the books have of transfers.
LISTED = ("kind", "parent", *SIDES, "amount", "created_at")
# Violations that are shown of each check; the count says how many there are.
SHOWN_MAX = 10
# A ledger, and a transfer, an account or a key of it.
Name = tuple[str, str]


class Timeline:
    """What changes came to by an instant: by default the highest, or what *fold* makes of them, beginning with one."""

    def __init__(self, changes: Iterable[tuple[float, Any]], start: Any, fold: Callable[[Any, Any], Any] = max) -> None:
        ordered = sorted(changes)
        self._instants = [at for at, _ in ordered]
        self._values = list(itertools.accumulate((value for _, value in ordered), fold, initial=start))

    def before(self, instant: float) -> Any:
        return self._values[bisect.bisect_left(self._instants, instant)]

    def reached(self, value: Any) -> float | None:
        """Return when a value above the first one was reached; None where it never was."""
        first = bisect.bisect_left(self._values, value)
        return self._instants[first - 1] if first < len(self._values) else None


class Shown(NamedTuple):
    account: str
    version: int
    balance: int


@dataclass(slots=True)
class Operation:
    """One request and what became of it, with the accounts, the transfer and the instant that its answer shows."""

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
        """The transfer that a capture, void or reversal names in its path; empty for anything else."""
        return self.path.split("/")[3] if self.path.rpartition("/")[2] in CHILDREN else ""

    @property
    def kind(self) -> str:
        """What kind of transfer it asks for."""
        if self.parent:
            return CHILDREN[self.path.rpartition("/")[2]]
        return "hold" if self.asked.get("hold") else "transfer"

    @property
    def bound(self) -> bool:
        """Whether the answer is the one that its key has for ever: posted, or refused by the state of the ledger."""
        if self.operation != "transfer":
            return False
        refused = self.status in (404, 409) and problem_of(self.response).get("outcome") == "refused"
        return self.outcome == OK or refused

    @property
    def fingerprint(self) -> str:
        """What makes a transfer the same request: what it asks for, in whatever bytes, alone or in a bulk."""
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
    """One line of an account's statement; `key` is the idempotency key of its transfer, as far as it is known."""

    ledger: str
    account: str
    transfer_id: str
    key: str
    amount: int
    counterparty: str
    balance: int
    version: int


class Row(NamedTuple):
    """A hold or what came of one, or a reversal, as the books list it; the key of a hold is known, as is an entry's."""

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
    """An event of the feed as a reader was told it; `data` is the JSON of the transfer or account."""

    reader: str
    ledger: str
    position: int
    type: str
    subject: str
    data: str

    def __str__(self) -> str:
        return f"{self.type} of {self.subject}, at {self.position} of {self.ledger},"


class Mark(NamedTuple):
    """An instant that somebody named."""

    at: float
    name: str


@dataclass
class History:
    """All that was noted of one run; the books are there when `accounts` is not empty."""

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
        """The operations that ask for transfers, by the key that they name."""
        return grouped(self.transfers(), lambda operation: (operation.ledger, operation.key))

    @cached_property
    def legs(self) -> dict[Name, list[Entry]]:
        """The entries of each transfer."""
        return grouped(self.entries, lambda entry: (entry.ledger, entry.transfer_id))

    @cached_property
    def listed(self) -> dict[Name, Row]:
        """The rows by their transfers."""
        return {(row.ledger, row.transfer_id): row for row in self.rows}

    @cached_property
    def children(self) -> dict[Name, list[Row]]:
        """The rows by the transfers that they came of."""
        return grouped(self.rows, lambda row: (row.ledger, row.parent))

    def booked_otherwise(self, name: Name, said: Mapping[str, Any]) -> str:
        """Return what the books have of a transfer, unless that is what was told of it."""
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
    """One thing that must not be, and the check that found it."""

    check: str
    what: str


@dataclass(slots=True)
class Verdict:
    """The violations, and how much each check had to judge: one that judged nothing proves nothing."""

    violations: list[Violation] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)

    def flag(self, check: str, what: str) -> None:
        self.violations.append(Violation(check, what))

    def lines(self, checks: "Mapping[str, Check]") -> Iterator[str]:
        """Say what some checks found, with what they assert."""
        for name, check in checks.items():
            found = [violation.what for violation in self.violations if violation.check == name]
            said = f"{len(found):,} violations" if found else "holds" if self.judged[name] else "nothing to judge"
            yield f"  {name:<2} {said:<17}{self.judged[name]:>9,} judged   {check.asserts}"
            yield from (f"       {what}" for what in found[:SHOWN_MAX])


class Check(NamedTuple):
    """What a check asserts, and how it is made."""

    asserts: str
    make: Callable[[History, Verdict], None]


# What is written down beside operations, and in which list it comes.
_LISTS = {Account: "accounts", Entry: "entries", Row: "rows", Told: "told", Mark: "marks"}
_NOTED = {kind.__name__.lower(): (kind, name) for kind, name in _LISTS.items()}


def noted(item: Account | Entry | Row | Told) -> dict[str, Any]:
    """Return the event by which something is written down."""
    return {"event": type(item).__name__.lower(), **item._asdict()}


def load(paths: Iterable[Path]) -> History:
    """Read one run out of the files of its clients. A last line that was cut short by a kill is left out."""
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
            # A client that was killed while it wrote: the request was not sent, or its outcome is unknown.
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
                    # All readers are told the same.
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
    # A read that was answered 304 shows nothing.
    if outcome == OK and operation.response:
        answer = operation.said
        if operation.operation == "transfer":
            operation.transfer_id, operation.created_at = answer["id"], answer.get("created_at", "")
            operation.shown = tuple(Shown(answer[s], answer[f"{s}_version"], answer[f"{s}_balance"]) for s in SIDES)
        elif operation.operation == LOOK_UP and answer.get("state") == "posted":
            operation.transfer_id = answer["id"]
        elif operation.operation == "read":
            operation.shown = (Shown(answer["id"], answer["version"], answer["balance"]),)
