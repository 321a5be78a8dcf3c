"""From requests to the arrays that `post_transfers` takes, and from the arrays it gives back to outcomes."""

from collections.abc import Sequence

import asyncpg

from server.ledger.transfers import Attempt, Bound, TransferRequest


def columns(requests: Sequence[TransferRequest], sets: Sequence[int]) -> tuple[Sequence[object], ...]:
    """
    Return the arguments of `transfer_post_many` after the ledger, but for the last.

    Args:
        requests: The batch, in the order in which it is to be decided.

        sets: The number of the linked set of each request, below 0 of its bulk, 0 for one that stands alone.
    """
    (
        keys,
        fingerprints,
        ids,
        sources,
        destinations,
        amounts,
        currencies,
        references,
        descriptions,
        metadata,
        conditions,
        request_ids,
        source_versions,
        destination_versions,
        source_availables,
    ) = zip(*requests, strict=True)
    accounts = sorted({*sources, *destinations})
    position = {account: number for number, account in enumerate(accounts, 1)}
    return (
        accounts,
        keys,
        fingerprints,
        ids,
        [position[source] for source in sources],
        [position[destination] for destination in destinations],
        amounts,
        currencies,
        references,
        descriptions,
        metadata,
        conditions,
        request_ids,
        sets,
        source_versions,
        destination_versions,
        source_availables,
    )


def bound_outcomes(requests: Sequence[TransferRequest], result: "asyncpg.Record") -> list[Bound | str]:
    """
    Return for each request the attempt it became, or `known`, `unbound` or `locked` where there is none.

    Args:
        requests: The batch that was posted.

        result: The row that `post_transfers` gave back.
    """
    posted_at = result["posted_at"]
    outcomes: list[Bound | str] = []
    for request, outcome, pointer, source_balance, destination_balance, source_version, destination_version in zip(
        requests,
        result["outcomes"],
        result["pointers"],
        result["source_balances"],
        result["destination_balances"],
        result["source_versions"],
        result["destination_versions"],
        strict=True,
    ):
        if outcome in ("known", "unbound", "locked"):
            outcomes.append(outcome)
            continue
        refused = outcome != "posted"
        outcomes.append(
            Bound(
                Attempt(
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
                    outcome if refused else None,
                    pointer,
                    request.request_id if refused else None,
                    posted_at,
                ),
                replayed=False,
            )
        )
    return outcomes
