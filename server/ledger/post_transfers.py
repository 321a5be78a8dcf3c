"""From a batch to the arrays that `post_transfers` takes, and from the arrays it gives back to outcomes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg

from server.ledger.transfers import Attempt, Bound, Outcome, TransferRequest, Unbound, resolve_known, with_answer
from server.ledger.unit import Unit
from server.store.errors import RowLockedError

# Where a request names its sides, and where its conditions begin.
_SOURCE = TransferRequest._fields.index("source")
_DESTINATION = TransferRequest._fields.index("destination")
_CONDITIONS = TransferRequest._fields.index("source_version")


def columns(units: Sequence[Unit]) -> tuple[Sequence[object] | None, ...]:
    """
    Return the arguments of `transfer_post_many` after the ledger, but for the last.

    They are the fields of TransferRequest, in its order, an array each, or None where no request has the field. The
    accounts come before them, and the sides are positions in the accounts. The numbers of sets and bulks stand before
    the conditions.

    Args:
        units: The batch, in the order in which it is to be decided.
    """
    fields: list[Sequence[Any]] = list(zip(*(request for unit in units for request in unit.requests), strict=True))
    accounts = sorted({*fields[_SOURCE], *fields[_DESTINATION]})
    position = {account: number for number, account in enumerate(accounts, 1)}
    for side in (_SOURCE, _DESTINATION):
        fields[side] = [position[account] for account in fields[side]]
    sets = [unit.set_number(number) for number, unit in enumerate(units, 1) for _ in unit.requests]
    arrays = [_filled(field) for field in fields]
    return (accounts, *arrays[:_CONDITIONS], sets, *arrays[_CONDITIONS:])


def _filled(field: Sequence[Any]) -> Sequence[Any] | None:
    """Return a field of all requests, or None where it is nothing but nulls: to Postgres both are the same."""
    return None if field[0] is None and field.count(None) == len(field) else field


def resolve(
    units: Sequence[Unit],
    result: "asyncpg.Record",
    known: Mapping[str, Attempt],
    render: Callable[[Attempt], tuple[int, bytes]],
) -> None:
    """
    Set the result of each unit of a batch that was posted.

    Args:
        result: The row that `post_transfers` gave back.

        known: The attempts that known keys are bound to, by key.

        render: Returns status and body of what a single request is answered.
    """
    posted_at = result["posted_at"]
    rows = zip(
        result["outcomes"],
        result["pointers"],
        result["source_balances"],
        result["destination_balances"],
        result["source_versions"],
        result["destination_versions"],
        strict=True,
    )
    for unit in units:
        outcomes: list[Outcome] = []
        for request in unit.requests:
            code, pointer, source_balance, destination_balance, source_version, destination_version = next(rows)
            if code == "known":
                outcomes.append(resolve_known(request, known[request.key]))
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
                posted_at,
            )
            outcomes.append(Bound(attempt, replayed=False))
        if len(outcomes) < len(unit.requests):
            unit.result = RowLockedError(unit.accounts.intersection(result["locked"]))
            continue
        if len(outcomes) == 1 and not unit.atomic:
            outcomes[0] = with_answer(outcomes[0], render)
        unit.result = outcomes
