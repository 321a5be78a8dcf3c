"""
The ledger as it is promised, as plain Python: a dict of accounts, a dict of keys, a clock, and no concurrency.

This is a specification. It says what each request is answered and what it changes, in the fewest words that
leave nothing open; the service is held to it by test_state_machine.py. What is asked for stands in ledger_orders.py.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.ledger_orders import (
    BALANCE_MAX,
    BALANCE_MIN,
    Asked,
    Follow,
    Item,
    Order,
    difference,
    early,
    kind_of,
    well_formed,
)


class Posted(NamedTuple):
    """It was done: what it was, and both sides after it."""

    kind: str
    source: str
    destination: str
    amount: int
    currency: str
    source_balance: int
    destination_balance: int
    source_version: int
    destination_version: int
    effective_at: int | None = None


class Refusal(NamedTuple):
    """It was not done, and never will be under this key."""

    code: str
    pointer: str | None = None


class Attempt(NamedTuple):
    """What a key is bound to."""

    asked: Asked
    result: Posted | Refusal


class Outcome(NamedTuple):
    """
    What a request is answered.

    `attempt` is what its key is bound to; `differs` names the fields of a reuse, or is None where the two are of
    different kinds and hardly comparable.
    """

    status: int
    code: str | None = None
    replayed: bool = False
    attempt: Attempt | None = None
    differs: tuple[str, ...] | None = ()


class Entry(NamedTuple):
    """A line of a statement; it counts for `effective_at`, or for the instant of posting."""

    kind: str
    amount: int
    counterparty: str
    balance: int
    version: int
    effective_at: int | None


@dataclass
class Account:
    """An account and its statement, oldest line first."""

    currency: str
    floor: int | None
    ceiling: int | None
    balance: int = 0
    held_in: int = 0
    held_out: int = 0
    version: int = 1
    closed: bool = False
    entries: list[Entry] = field(default_factory=list)

    @property
    def available(self) -> int:
        """What can be spent down to the floor."""
        return self.balance - self.held_out

    def effective_balance(self, at: int) -> int:
        """Return what the books say today about an instant before the first posting."""
        return sum(e.amount for e in self.entries if e.effective_at is not None and e.effective_at <= at)


@dataclass
class Progress:
    """What has become of a posted transfer since; the state is that of a hold."""

    amount: int
    state: str | None = None
    expires_at: int = 0
    remaining: int = 0
    captured: int = 0
    reversed: int = 0


class Ledger:
    """All accounts and all bound keys of one ledger. `now` is in seconds; posting takes no time."""

    def __init__(self) -> None:
        self.now = 0
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, Attempt] = {}
        # Of what was posted, by key.
        self.progress: dict[str, Progress] = {}

    def advance(self, seconds: int) -> None:
        """Let time pass. At its instant a hold is gone, which counts a version of both sides."""
        self.now += seconds
        for key, progress in self.progress.items():
            if progress.state == "open" and progress.expires_at <= self.now:
                hold = self.keys[key].result
                assert isinstance(hold, Posted)
                self._book(hold, held=-progress.remaining)
                progress.state, progress.remaining = "expired", 0

    def open(self, name: str, currency: str, floor: int | None, ceiling: int | None) -> Outcome:
        """Open an account; the same again is a replay, another of the same name is refused."""
        if floor is not None and ceiling is not None and floor > ceiling:
            return Outcome(400, "invalid_request")
        account = self.accounts.get(name)
        if account is None:
            self.accounts[name] = Account(currency, floor, ceiling)
            return Outcome(201)
        asked = {"currency": currency, "floor": floor, "ceiling": ceiling}
        differs = tuple(member for member, value in asked.items() if getattr(account, member) != value)
        return Outcome(409, "account_exists", differs=differs) if differs else Outcome(200, replayed=True)

    def patch(self, name: str, changes: Mapping[str, int | bool | None], if_version: int | None) -> Outcome:
        """Change limits or closedness; every change that is made counts a version."""
        floor, ceiling = changes.get("floor"), changes.get("ceiling")
        if floor is not None and ceiling is not None and floor > ceiling:
            return Outcome(400, "invalid_request")
        account = self.accounts.get(name)
        if account is None:
            return Outcome(404, "account_not_found")
        if if_version is not None and if_version != account.version:
            return Outcome(412, "precondition_failed")
        changed = copy.copy(account)
        for member, value in changes.items():
            setattr(changed, member, value)
        if changed.floor is not None and changed.ceiling is not None and changed.floor > changed.ceiling:
            return Outcome(409, "limits_conflict")
        changed.version += 1
        self.accounts[name] = changed
        return Outcome(200)

    def post(self, item: Item) -> Outcome:
        """Post one request. The shape comes before the key, and the key before the clock and all the ledger holds."""
        if not well_formed(item.asked):
            return Outcome(400, "invalid_request")
        if item.key in self.keys:
            return self._known(item)
        if early(item.asked, self.now):
            return Outcome(400, "invalid_request")
        return self._bind(item, self._do(item))

    def preview(self, item: Item) -> Outcome:
        """Say what the request would be answered, and do nothing."""
        return copy.deepcopy(self).post(item)

    def post_bulk(self, items: Sequence[Item], *, atomic: bool) -> list[Outcome]:
        """Post requests: each for itself, in order; or all of them or none."""
        if not atomic:
            return [self.post(item) for item in items]
        unposted = Outcome(409, "linked_failed")
        broken: list[bool] = []
        seen: set[str] = set()
        for item in items:
            broken.append(not well_formed(item.asked) or item.key in seen)
            seen.update(() if broken[-1] else (item.key,))
        if any(broken):
            return [Outcome(400, "invalid_request") if wrong else unposted for wrong in broken]
        if any(item.key in self.keys for item in items):
            return [self._known(item) if item.key in self.keys else unposted for item in items]
        if any(early(item.asked, self.now) for item in items):
            return [Outcome(400, "invalid_request") if early(item.asked, self.now) else unposted for item in items]
        before = copy.deepcopy((self.accounts, self.progress))
        outcomes: list[Outcome] = []
        for item in items:
            # What is bound here may be named by the items after it.
            outcomes.append(self._bind(item, self._do(item)))
            if outcomes[-1].status != 201:
                self.accounts, self.progress = before
                linked = {other.key: self._bind(other, Refusal("linked_failed")) for other in items if other != item}
                return [linked.get(other.key, outcomes[-1]) for other in items]
        return outcomes

    def _known(self, item: Item) -> Outcome:
        attempt = self.keys[item.key]
        differs = difference(item.asked, attempt.asked)
        if differs == ():
            return outcome(attempt, replayed=True)
        return Outcome(422, "idempotency_key_reused", attempt=attempt, differs=differs)

    def _bind(self, item: Item, result: Posted | Refusal) -> Outcome:
        self.keys[item.key] = Attempt(item.asked, result)
        return outcome(self.keys[item.key], replayed=False)

    def _do(self, item: Item) -> Posted | Refusal:
        """Do what is asked, or say why not."""
        asked = item.asked
        result = self._order(asked) if isinstance(asked, Order) else self._follow(asked)
        if isinstance(result, Posted):
            self.progress[item.key] = Progress(result.amount)
            if isinstance(asked, Order) and asked.hold:
                expires_at = self.now + asked.lifetime
                self.progress[item.key] = Progress(result.amount, "open", expires_at, remaining=result.amount)
        return result

    def _order(self, order: Order) -> Posted | Refusal:
        """Move or reserve money."""
        refusal = self._refused_sides(order) or self._refused_conditions(order) or self._refused_funds(order)
        if refusal is not None:
            return refusal
        kind = kind_of(order)
        row = Posted(kind, *order[:4], 0, 0, 0, 0, order.effective_at)
        return self._book(row, held=order.amount) if order.hold else self._book(row, moved=order.amount)

    def _follow(self, follow: Follow) -> Posted | Refusal:
        """Capture, void or reverse, in the order of the checks: existence, state, what remains, funds."""
        bound = self.keys.get(follow.parent)
        if bound is None:
            return Refusal("transfer_not_found", "/parent")
        if follow.kind == "reversal":
            return self._reverse(follow, bound.result)
        parent = bound.result
        progress = self.progress.get(follow.parent)
        if not isinstance(parent, Posted) or progress is None or progress.state != "open":
            return Refusal("hold_not_open", "/parent")
        row = parent._replace(kind=follow.kind, effective_at=None, amount=follow.amount or progress.remaining)
        if follow.kind == "void":
            progress.state, progress.remaining = "voided", 0
            return self._book(row, held=-row.amount)
        if closed := self._refused_closed(row.source, row.destination):
            return closed
        if row.amount > progress.remaining:
            return Refusal("capture_exceeds_hold", "/amount")
        released = progress.remaining if follow.release_rest else row.amount
        progress.captured += row.amount
        progress.remaining -= released
        if not progress.remaining:
            progress.state = "captured"
        return self._book(row, moved=row.amount, held=-released)

    def _reverse(self, follow: Follow, parent: Posted | Refusal) -> Posted | Refusal:
        """Move money back."""
        if not isinstance(parent, Posted) or parent.kind not in ("transfer", "capture"):
            return Refusal("reversal_exceeds_transfer", "/parent")
        progress = self.progress[follow.parent]
        left = progress.amount - progress.reversed
        if follow.amount is None and not left:
            return Refusal("reversal_exceeds_transfer", "/parent")
        sides = (parent.destination, parent.source)
        if closed := self._refused_closed(*sides):
            return closed
        amount = follow.amount or left
        if amount > left:
            return Refusal("reversal_exceeds_transfer", "/amount")
        if refusal := self._refused_funds(Order(*sides, amount, parent.currency)):
            return refusal
        progress.reversed += amount
        return self._book(Posted("reversal", *sides, amount, parent.currency, 0, 0, 0, 0), moved=amount)

    def _book(self, row: Posted, *, moved: int = 0, held: int = 0) -> Posted:
        """Change both sides, and return the row with what they are after it."""
        source, destination = self.accounts[row.source], self.accounts[row.destination]
        source.held_out += held
        destination.held_in += held
        for account, amount, other in ((source, -moved, row.destination), (destination, moved, row.source)):
            account.balance += amount
            account.version += 1
            if moved:
                entry = Entry(row.kind, amount, other, account.balance, account.version, row.effective_at)
                account.entries.append(entry)
        return row._replace(
            source_balance=source.balance,
            destination_balance=destination.balance,
            source_version=source.version,
            destination_version=destination.version,
        )

    def _refused_sides(self, order: Order) -> Refusal | None:
        """Existence, currency and state; the source first."""
        for side, name in (("/source", order.source), ("/destination", order.destination)):
            if name not in self.accounts:
                return Refusal("account_not_found", side)
        for side, name in (("/source", order.source), ("/destination", order.destination)):
            if self.accounts[name].currency != order.currency:
                return Refusal("currency_mismatch", side)
        return self._refused_closed(order.source, order.destination)

    def _refused_closed(self, source: str, destination: str) -> Refusal | None:
        for side, name in (("/source", source), ("/destination", destination)):
            if self.accounts[name].closed:
                return Refusal("account_closed", side)
        return None

    def _refused_conditions(self, order: Order) -> Refusal | None:
        source, destination = self.accounts[order.source], self.accounts[order.destination]
        conditions = order.conditions or {}
        holds = {
            "source_version": source.version == conditions.get("source_version", source.version),
            "destination_version": destination.version == conditions.get("destination_version", destination.version),
            "source_available_gte": source.available >= conditions.get("source_available_gte", 2 * BALANCE_MIN),
        }
        broken = [condition for condition, met in holds.items() if not met]
        return Refusal("condition_failed", f"/conditions/{broken[0]}") if broken else None

    def _refused_funds(self, order: Order) -> Refusal | None:
        """What is held counts as gone from the source, and as arrived at the destination."""
        source, destination = self.accounts[order.source], self.accounts[order.destination]
        least = source.available - order.amount
        most = destination.balance + destination.held_in + order.amount
        if source.floor is not None and least < source.floor:
            return Refusal("insufficient_funds", "/source")
        reserved = order.amount if order.hold else 0
        if least < BALANCE_MIN or source.held_out + reserved > BALANCE_MAX:
            return Refusal("balance_overflow" if source.floor is None else "insufficient_funds", "/source")
        if destination.ceiling is not None and most > destination.ceiling:
            return Refusal("ceiling_exceeded", "/destination")
        if max(most, destination.held_in + reserved) > BALANCE_MAX:
            return Refusal("balance_overflow" if destination.ceiling is None else "ceiling_exceeded", "/destination")
        return None


def outcome(attempt: Attempt, *, replayed: bool) -> Outcome:
    """Return what an attempt is answered, the first time and every time after it."""
    if isinstance(attempt.result, Posted):
        return Outcome(201, None, replayed, attempt)
    status = 404 if attempt.result.code in ("account_not_found", "transfer_not_found") else 409
    return Outcome(status, attempt.result.code, replayed, attempt)
