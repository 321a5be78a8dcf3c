"""The audit: proves from the rows that the books add up, in one snapshot for each ledger, during traffic."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import NamedTuple

import asyncpg

from server.store.errors import StoreError
from server.store.readiness import UNMIGRATED, explain_refusal
from server.store.sessions import Session, scanning_session
from server.store.sql import query

# Findings of one kind that are reported one by one; the rest is counted.
SAMPLES_MAX = 20

# The passes over a ledger in order: a statement, and how a person is told of it. The first one takes the snapshot and
# looks at the clock: what falls due later, during a long audit, is swept where the snapshot does not see it.
PASSES = {
    "audit_unswept": "holds that are due",
    "audit_currencies": "sums of the balances",
    "audit_held": "sums of the holds",
    "audit_rows": "transfers one by one",
    "audit_keys": "idempotency keys",
    "audit_entries": "entries along the accounts",
}
# Further passes, over a ledger in which there is more than transfers.
HOLD_PASSES = {
    "audit_parents": "captures, voids, expiries and reversals",
    "audit_progress": "what has become of holds and transfers",
    "audit_holds": "holds along the accounts",
}


class AuditError(StoreError):
    """The audit could not be made."""


class Finding(NamedTuple):
    """All errors of one kind: their number, and a sentence on each of the first ones."""

    kind: str
    total: int
    details: tuple[str, ...]


class LedgerReport(NamedTuple):
    """How much of a ledger was checked, and what is wrong with it."""

    ledger: str
    accounts: int
    transfers: int
    # Two for each transfer that moved money.
    entries: int
    holds: int
    findings: tuple[Finding, ...]


async def audit(
    dsn: str, ledger: str | None, on_pass: Callable[[str, str], None]
) -> AsyncIterator[LedgerReport | Finding]:
    """
    Check the ledger called *ledger*, or all one after the other; a fault of the schema comes first.

    Args:
        on_pass: Is told the ledger and what is checked whenever a pass begins.

    Raises:
        AuditError: There is no such ledger, or no schema.
        StoreUnavailableError: Postgres cannot be reached, or is lost.
        DatabaseError: It refuses.
    """
    try:
        async with scanning_session(dsn) as connection:
            ledgers = [
                (row["id"], row["name"])
                for row in await connection.fetch(query("ledger_list"))
                if ledger in (None, row["name"])
            ]
            if ledger is not None and not ledgers:
                raise AuditError(f"there is no ledger {ledger}")
            if not (await connection.fetch(query("audit_key_constraint")))[0]["holds"]:
                text = "transfers_idempotency_key_unique is missing, not valid or on other columns"
                yield Finding("key_constraint", 1, (text,))
            for ledger_id, name in ledgers:
                yield await _audit_ledger(connection, ledger_id, name, on_pass)
    except UNMIGRATED as error:
        raise AuditError(explain_refusal(error)) from error


async def _audit_ledger(
    connection: Session, ledger_id: int, name: str, on_pass: Callable[[str, str], None]
) -> LedgerReport:
    found: dict[str, Finding] = {}
    # All passes see the same instant, whatever is posted meanwhile.
    async with connection.transaction(isolation="repeatable_read", readonly=True):

        async def run(passes: Mapping[str, str]) -> None:
            for statement, what in passes.items():
                on_pass(name, what)
                _add(found, await connection.fetch(query(statement), ledger_id, SAMPLES_MAX))

        await run(PASSES)
        on_pass(name, "rows that were checked")
        [count] = await connection.fetch(query("audit_count"), ledger_id)
        if count["more_than_transfers"]:
            await run(HOLD_PASSES)
    return LedgerReport(
        name, count["accounts"], count["transfers"], count["entries"], count["holds"], tuple(found.values())
    )


def _add(found: dict[str, Finding], rows: "Iterable[asyncpg.Record]") -> None:
    """Add what a pass has found; two passes may find errors of one kind."""
    by_kind: dict[str, Finding] = {}
    for row in rows:
        earlier = by_kind.get(row["kind"], Finding(row["kind"], 0, ()))
        by_kind[row["kind"]] = Finding(row["kind"], row["total"], (*earlier.details, row["detail"]))
    for kind, finding in by_kind.items():
        earlier = found.get(kind, Finding(kind, 0, ()))
        details = (*earlier.details, *finding.details)[:SAMPLES_MAX]
        found[kind] = Finding(kind, earlier.total + finding.total, details)
