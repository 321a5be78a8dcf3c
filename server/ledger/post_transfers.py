"""From a batch to the arrays that `post_transfers` takes, and from the arrays it gives back to outcomes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import asyncpg

from server.ledger.transfers import Attempt, Bound, Outcome, TransferRequest, Unbound, resolve_known, with_answer
from server.ledger.unit import Unit
from server.store.errors import RowLockedError

# Where a request names its sides, and where its conditions begin.
_SOURCE = TransferRequest._fields.index("source")
_DESTINATION = TransferRequest._fields.index("destination")
_CONDITIONS = TransferRequest._fields.index("source_version")
# What the function gives back for each request.
_OUTCOMES = (
    "outcomes",
    "pointers",
    "source_balances",
    "destination_balances",
    "source_versions",
    "destination_versions",
)


class Columns(NamedTuple):
    """A batch as arrays: the arguments of `transfer_post_many` but for the last three."""

    # Distinct and ascending.
    ledgers: Sequence[int]
    # Of each ledger, the position of its last account from 1.
    last_accounts: Sequence[int]
    # Of each account, the position of its ledger from 1.
    account_ledgers: Sequence[int]
    # By ledger and id.
    accounts: Sequence[str]
    # The fields of TransferRequest, in its order, an array each, or None where no request has the field. The sides are
    # positions in the accounts from 1, and the numbers of sets and bulks stand before the conditions.
    fields: Sequence[Sequence[Any] | None]

    @property
    def arguments(self) -> tuple[Sequence[Any] | None, ...]:
        """All arrays, in the order of the function's arguments."""
        return (self.ledgers, self.last_accounts, self.account_ledgers, self.accounts, *self.fields)

    def account(self, position: int) -> tuple[int, str]:
        """Return ledger and id of the account at a position, from 1."""
        return self.ledgers[self.account_ledgers[position - 1] - 1], self.accounts[position - 1]


def columns(units: Sequence[Unit]) -> Columns:
    """
    Return a batch as arrays.

    Args:
        units: The batch by ledger, the units of a ledger in the order in which they are to be decided.
    """
    ledgers: list[int] = []
    last_accounts: list[int] = []
    account_ledgers: list[int] = []
    accounts: list[str] = []
    sources: list[int] = []
    destinations: list[int] = []
    for ledger_id, of_ledger in groupby(units, attrgetter("ledger_id")):
        pairs = [(request.source, request.destination) for unit in of_ledger for request in unit.requests]
        names = sorted({name for pair in pairs for name in pair})
        position = {name: number for number, name in enumerate(names, len(accounts) + 1)}
        sources += [position[source] for source, _ in pairs]
        destinations += [position[destination] for _, destination in pairs]
        ledgers.append(ledger_id)
        account_ledgers += [len(ledgers)] * len(names)
        accounts += names
        last_accounts.append(len(accounts))
    fields: list[Sequence[Any]] = list(zip(*(request for unit in units for request in unit.requests), strict=True))
    fields[_SOURCE], fields[_DESTINATION] = sources, destinations
    fields.insert(_CONDITIONS, [unit.set_number(number) for number, unit in enumerate(units, 1) for _ in unit.requests])
    return Columns(ledgers, last_accounts, account_ledgers, accounts, [_filled(field) for field in fields])


def _filled(field: Sequence[Any]) -> Sequence[Any] | None:
    """Return a field of all requests, or None where it is nothing but nulls: to Postgres both are the same."""
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

        result: The row that `post_transfers` gave back.

        known: The attempts that known keys are bound to, in the order of their requests.

        render: Returns status and body of what a single request is answered.
    """
    posted_at = dict(zip(arrays.ledgers, result["posted_ats"], strict=True))
    locked = {arrays.account(position) for position in result["locked"] or ()}
    rows = zip(*(result[name] for name in _OUTCOMES), strict=True)
    for unit in units:
        created_at = posted_at[unit.ledger_id]
        outcomes: list[Outcome] = []
        for request in unit.requests:
            code, pointer, source_balance, destination_balance, source_version, destination_version = next(rows)
            if code == "known":
                outcomes.append(resolve_known(request, next(known)))
                continue
            if code == "unbound":
                outcomes.append(Unbound())
                continue
            if code == "locked":
                continue
            refused = code != "posted"
            attempt = Attempt(
                request.id,
                request.key,
                request.fingerprint,
                "transfer",
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
                created_at,
            )
            outcomes.append(Bound(attempt, replayed=False))
        if len(outcomes) < len(unit.requests):
            unit.result = RowLockedError(name for name in unit.accounts if (unit.ledger_id, name) in locked)
            continue
        if len(outcomes) == 1 and not unit.atomic:
            outcomes[0] = with_answer(outcomes[0], render)
        unit.result = outcomes
