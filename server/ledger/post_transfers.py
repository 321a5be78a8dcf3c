"""Turns a batch into the arrays that `post_transfers` takes, and the arrays that it returns into outcomes."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from server.ledger.transfers import (
    CHILDREN,
    Attempt,
    Bound,
    Outcome,
    TransferRequest,
    Unbound,
    resolve_known,
    with_answer,
)
from server.ledger.unit import Unit
from server.store.errors import RowLockedError

# Positions of a request's sides, and of its first condition, among its fields.
_SOURCE = TransferRequest._fields.index("source")
_DESTINATION = TransferRequest._fields.index("destination")
_CONDITIONS = TransferRequest._fields.index("source_version")
# The outcomes of requests that did nothing and bound no key.
_UNBOUND: Final = {"unbound": Unbound(), "future": Unbound(future=True)}


# The arrays that the function returns for each request.
_DECISION: Final = (
    "outcomes",
    "pointers",
    "source_balances",
    "destination_balances",
    "source_versions",
    "destination_versions",
)


class Child(NamedTuple):
    """What it also returns for a request with a parent: values of the parent. The names are those of its arrays."""

    child_parents: UUID | None
    child_sources: str | None
    child_destinations: str | None
    child_amounts: int | None
    child_currencies: str | None


class Columns(NamedTuple):
    """A batch as arrays: the arguments of `transfer_post_many` except the last three."""

    # Distinct and ascending.
    ledgers: Sequence[int]
    # Of each ledger, the position of its last account from 1.
    last_accounts: Sequence[int]
    # Of each account, the position of its ledger from 1.
    account_ledgers: Sequence[int]
    # By ledger and id; the function itself finds the accounts of requests with a parent.
    accounts: Sequence[str]
    # Of each request, the position of its ledger from 1.
    request_ledgers: Sequence[int]
    # The fields of TransferRequest, in its order, an array each, or None if no request has the field. The sides are
    # positions in the accounts from 1, and the numbers of sets and bulks come before the conditions.
    fields: Sequence[Sequence[Any] | None]

    @property
    def arguments(self) -> tuple[Sequence[Any] | None, ...]:
        """All arrays, in the order of the function's arguments."""
        heads = (self.ledgers, self.last_accounts, self.account_ledgers, self.accounts, self.request_ledgers)
        return (*heads, *self.fields)


def columns(units: Sequence[Unit]) -> Columns:
    """
    Return a batch as arrays.

    Args:
        units: The batch, ordered by ledger; the units of a ledger are decided in this order.
    """
    ledgers: list[int] = []
    last_accounts: list[int] = []
    account_ledgers: list[int] = []
    accounts: list[str] = []
    request_ledgers: list[int] = []
    sources: list[int | None] = []
    destinations: list[int | None] = []
    for ledger_id, of_ledger in groupby(units, attrgetter("ledger_id")):
        pairs = [(request.source, request.destination) for unit in of_ledger for request in unit.requests]
        names = sorted({name for pair in pairs for name in pair if name is not None})
        position: dict[str | None, int] = {name: number for number, name in enumerate(names, len(accounts) + 1)}
        sources += [position.get(source) for source, _ in pairs]
        destinations += [position.get(destination) for _, destination in pairs]
        ledgers.append(ledger_id)
        request_ledgers += [len(ledgers)] * len(pairs)
        account_ledgers += [len(ledgers)] * len(names)
        accounts += names
        last_accounts.append(len(accounts))
    fields: list[Sequence[Any]] = list(zip(*(request for unit in units for request in unit.requests), strict=True))
    fields[_SOURCE], fields[_DESTINATION] = sources, destinations
    fields.insert(_CONDITIONS, [unit.set_number(number) for number, unit in enumerate(units, 1) for _ in unit.requests])
    arrays = [_filled(field) for field in fields]
    return Columns(ledgers, last_accounts, account_ledgers, accounts, request_ledgers, arrays)


def _filled(field: Sequence[Any]) -> Sequence[Any] | None:
    """Return a field of all requests, or None if every value is null: Postgres treats both the same."""
    return None if field[0] is None and field.count(None) == len(field) else field


def resolve(
    units: Sequence[Unit],
    arrays: Columns,
    result: "asyncpg.Record",
    known: Iterator[Attempt],
    render: Callable[[Attempt], tuple[int, bytes]],
) -> None:
    """
    Set the result of each unit of a batch that was posted.

    Args:
        arrays: What `columns` made of the units.

        result: The row that `post_transfers` returned.

        known: The attempts that known keys are bound to, in the order of their requests.

        render: Returns status and body of the answer to a single request.
    """
    posted_at = dict(zip(arrays.ledgers, result["posted_ats"], strict=True))
    locked: dict[int, set[str]] = {}
    for position, name in zip(result["locked_ledgers"] or (), result["locked"] or (), strict=True):
        locked.setdefault(arrays.ledgers[position - 1], set()).add(name)
    decisions = zip(*(result[name] for name in _DECISION), strict=True)
    children: Iterator[Child] | None = None
    if result["child_parents"] is not None:
        children = map(Child._make, zip(*(result[name] for name in Child._fields), strict=True))
    for unit in units:
        outcomes: list[Outcome] = []
        for request in unit.requests:
            decision = next(decisions)
            child = None if children is None else next(children)
            code = decision[0]
            if code == "locked":
                continue
            if code in _UNBOUND:
                outcomes.append(_UNBOUND[code])
            elif code == "known":
                outcomes.append(resolve_known(request, next(known)))
            else:
                attempt = _attempt(request, posted_at[unit.ledger_id], decision)
                if child is not None and request.kind in CHILDREN:
                    attempt = _with_parent(attempt, request, child)
                outcomes.append(Bound(attempt, replayed=False))
        if len(outcomes) < len(unit.requests):
            unit.result = RowLockedError(unit.meets(locked[unit.ledger_id]))
            continue
        if len(outcomes) == 1 and not unit.atomic:
            outcomes[0] = with_answer(outcomes[0], render)
        unit.result = outcomes


def _attempt(request: TransferRequest, posted_at: datetime, decision: tuple[Any, ...]) -> Attempt:
    """Return the attempt that a request became, equal to its row; *decision* is in the order of `_DECISION`."""
    code, pointer, source_balance, destination_balance, source_version, destination_version = decision
    refused = code != "posted"
    return Attempt(
        request.id,
        request.key,
        request.fingerprint,
        request.kind or "transfer",
        None,
        request.source,
        request.destination,
        request.amount,
        request.currency,
        source_balance,
        destination_balance,
        source_version,
        destination_version,
        request.reference,
        request.description,
        request.conditions,
        request.metadata,
        code if refused else None,
        pointer,
        request.request_id if refused else None,
        posted_at,
        request.effective_at,
        request.expires_at if request.expires_in is None else posted_at + timedelta(seconds=request.expires_in),
    )


def _with_parent(attempt: Attempt, request: TransferRequest, child: Child) -> Attempt:
    """Return the attempt of a request with a parent, with the values of the parent filled in."""
    return attempt._replace(
        parent=child.child_parents,
        source=child.child_sources,
        destination=child.child_destinations,
        amount=child.child_amounts,
        currency=child.child_currencies,
        amount_asked=request.amount,
        release_rest=request.release_rest,
        parent_key=request.parent_key,
    )
