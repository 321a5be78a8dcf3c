"""
The ledger as it is promised, as plain Python: one dict of accounts, one dict of keys, no time and no concurrency.

This is a specification. It says what each request is answered and what it changes, in the fewest words that
leave nothing open; the service is held to it by test_state_machine.py.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

BALANCE_MIN, BALANCE_MAX = -(2**63), 2**63 - 1


class Order(NamedTuple):
    """What a transfer asks for."""

    source: str
    destination: str
    amount: int
    currency: str
    reference: str | None = None
    conditions: Mapping[str, int] | None = None


class Posted(NamedTuple):
    """The money moved: both sides after it."""

    source_balance: int
    destination_balance: int
    source_version: int
    destination_version: int


class Refusal(NamedTuple):
    """The money did not move, and never will under this key."""

    code: str
    pointer: str | None = None


class Attempt(NamedTuple):
    """What a key is bound to."""

    order: Order
    result: Posted | Refusal


class Outcome(NamedTuple):
    """What a request is answered; `attempt` is what its key is bound to, `differs` names the fields of a reuse."""

    status: int
    code: str | None = None
    replayed: bool = False
    attempt: Attempt | None = None
    differs: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A line of a statement."""

    amount: int
    counterparty: str
    balance: int
    version: int


@dataclass
class Account:
    """An account and its statement, oldest line first."""

    currency: str
    floor: int | None
    ceiling: int | None
    balance: int = 0
    version: int = 1
    closed: bool = False
    entries: list[Entry] = field(default_factory=list)


class Item(NamedTuple):
    """One transfer of a bulk."""

    key: str
    order: Order


class Ledger:
    """All accounts and all bound keys of one ledger."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, Attempt] = {}

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
        """Post one transfer. The shape comes before the key, and the key before anything the ledger holds."""
        if not well_formed(item.order):
            return Outcome(400, "invalid_request")
        if item.key in self.keys:
            return self._known(item)
        return self._bind(item, self._move(item.order))

    def post_bulk(self, items: Sequence[Item], *, atomic: bool) -> list[Outcome]:
        """Post transfers: each for itself, in order; or all of them or none."""
        if not atomic:
            return [self.post(item) for item in items]
        broken: set[int] = set()
        seen: set[str] = set()
        for position, item in enumerate(items):
            if not well_formed(item.order) or item.key in seen:
                broken.add(position)
            else:
                seen.add(item.key)
        if broken:
            return [
                Outcome(400, "invalid_request") if position in broken else Outcome(409, "linked_failed")
                for position in range(len(items))
            ]
        if any(item.key in self.keys for item in items):
            return [self._known(item) if item.key in self.keys else Outcome(409, "linked_failed") for item in items]
        before = copy.deepcopy(self.accounts)
        results: list[Posted | Refusal] = []
        for item in items:
            result = self._move(item.order)
            if isinstance(result, Refusal):
                self.accounts = before
                results = [Refusal("linked_failed")] * len(items)
                results[items.index(item)] = result
                break
            results.append(result)
        return [self._bind(item, result) for item, result in zip(items, results, strict=True)]

    def _known(self, item: Item) -> Outcome:
        attempt = self.keys[item.key]
        if attempt.order == item.order:
            return outcome(attempt, replayed=True)
        pairs = zip(Order._fields, item.order, attempt.order, strict=True)
        differs = tuple(member for member, asked, bound in pairs if asked != bound)
        return Outcome(422, "idempotency_key_reused", attempt=attempt, differs=differs)

    def _bind(self, item: Item, result: Posted | Refusal) -> Outcome:
        self.keys[item.key] = Attempt(item.order, result)
        return outcome(self.keys[item.key], replayed=False)

    def _move(self, order: Order) -> Posted | Refusal:
        """Move the money, or say why not."""
        refusal = self._refusal(order)
        if refusal is not None:
            return refusal
        source, destination = self.accounts[order.source], self.accounts[order.destination]
        source.balance -= order.amount
        destination.balance += order.amount
        for account, amount, other in (
            (source, -order.amount, order.destination),
            (destination, order.amount, order.source),
        ):
            account.version += 1
            account.entries.append(Entry(amount, other, account.balance, account.version))
        return Posted(source.balance, destination.balance, source.version, destination.version)

    def _refusal(self, order: Order) -> Refusal | None:
        """Return the first rule an order breaks: existence, currency, state, conditions, funds; the source first."""
        for side, name in (("/source", order.source), ("/destination", order.destination)):
            if name not in self.accounts:
                return Refusal("account_not_found", side)
        source, destination = self.accounts[order.source], self.accounts[order.destination]
        sides = (("/source", source), ("/destination", destination))
        for side, account in sides:
            if account.currency != order.currency:
                return Refusal("currency_mismatch", side)
        for side, account in sides:
            if account.closed:
                return Refusal("account_closed", side)
        conditions = order.conditions or {}
        holds = {
            "source_version": source.version == conditions.get("source_version", source.version),
            "destination_version": destination.version == conditions.get("destination_version", destination.version),
            "source_available_gte": source.balance >= conditions.get("source_available_gte", BALANCE_MIN),
        }
        for condition, met in holds.items():
            if not met:
                return Refusal("condition_failed", f"/conditions/{condition}")
        least, most = source.balance - order.amount, destination.balance + order.amount
        if source.floor is not None and least < source.floor:
            return Refusal("insufficient_funds", "/source")
        if least < BALANCE_MIN:
            return Refusal("balance_overflow", "/source")
        if destination.ceiling is not None and most > destination.ceiling:
            return Refusal("ceiling_exceeded", "/destination")
        if most > BALANCE_MAX:
            return Refusal("balance_overflow", "/destination")
        return None


def well_formed(order: Order) -> bool:
    """Tell whether an order can be right at all, whatever the ledger holds."""
    return order.source != order.destination and 1 <= order.amount <= BALANCE_MAX


def outcome(attempt: Attempt, *, replayed: bool) -> Outcome:
    """Return what an attempt is answered, the first time and every time after it."""
    if isinstance(attempt.result, Posted):
        return Outcome(201, None, replayed, attempt)
    status = 404 if attempt.result.code == "account_not_found" else 409
    return Outcome(status, attempt.result.code, replayed, attempt)
