"""The audit: proves from the rows that the books add up, in one snapshot for each ledger, during traffic."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

import asyncpg

from server.ledger.audit_pages import ACCOUNTS, INDEX, SAMPLES_MAX, TRANSFERS, Finding, behind, merge
from server.store.errors import StoreError
from server.store.readiness import UNMIGRATED, explain_refusal
from server.store.sessions import AUDIT_SETTINGS, Session, scanning_session
from server.store.sql import query

# The passes over a ledger, in order: a statement, and its description for a person. The first one takes the snapshot
# and reads the clock: holds that fall due later, during a long audit, are swept where the snapshot does not show it.
PASSES = {
    "audit_unswept": "holds that are due",
    "audit_currencies": "sums of the balances",
    "audit_held": "sums of the holds",
    "audit_rows": "transfers one by one",
    "audit_keys": "idempotency keys",
    "audit_entries": "entries along the accounts",
    "audit_accounts": "accounts and their newest changes",
    "audit_indexed": "the index of events by account",
    "audit_waiting": "events that wait",
    "audit_head": "the head of the feed",
}
# Further passes, for a ledger that has more than transfers.
HOLD_PASSES = {
    "audit_parents": "captures, voids, expiries and reversals",
    "audit_progress": "what has become of holds and transfers",
    "audit_holds": "holds along the accounts",
}
# Bounds that leave nothing out, for the passes that can also check a part of a ledger.
BOUNDS: dict[str, tuple[object, ...]] = {
    "audit_rows": TRANSFERS,
    "audit_parents": TRANSFERS,
    "audit_progress": TRANSFERS,
    "audit_held": ACCOUNTS,
    "audit_accounts": (*ACCOUNTS, None),
    "audit_indexed": INDEX,
}
# Events, and transfers, in a page of the passes that go page by page: so few that the memory does not matter, and so
# many that the overhead of a page does not matter either.
FEED_PAGE = 10_000
TOLD_PAGE = 20_000


class AuditError(StoreError):
    """The audit could not be made."""


class LedgerReport(NamedTuple):
    """How much of a ledger was checked, and what is wrong with it."""

    ledger: str
    accounts: int
    transfers: int
    # Two for each transfer that moved money.
    entries: int
    holds: int
    # The newest position, and the link of the chain there: a person who keeps it can tell whether anything before it
    # was rewritten.
    events: int
    link: bytes
    findings: tuple[Finding, ...]


async def audit(
    dsn: str, ledger: str | None, on_pass: Callable[[str, str], None]
) -> AsyncIterator[LedgerReport | Finding]:
    """
    Check the ledger called *ledger*, or all of them one after the other; a fault of the schema comes first.

    Args:
        on_pass: Called with the ledger and what is checked, whenever a pass begins.

    Raises:
        AuditError: There is no such ledger, or no schema.
        StoreUnavailableError: Postgres cannot be reached, or the connection is lost.
        DatabaseError: Postgres refuses.
    """
    try:
        async with scanning_session(dsn, **AUDIT_SETTINGS) as connection:
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
    # All passes see the same instant, whatever is posted in the meantime.
    async with connection.transaction(isolation="repeatable_read", readonly=True):

        async def run(passes: Iterable[tuple[str, str]]) -> None:
            for statement, what in passes:
                on_pass(name, what)
                merge(found, await fetch(statement, SAMPLES_MAX, *BOUNDS.get(statement, ())))

        async def fetch(statement: str, *arguments: object) -> "list[asyncpg.Record]":
            return await connection.fetch(query(statement), ledger_id, *arguments)

        await run(PASSES.items())
        on_pass(name, "the chain of events")
        position = 0
        while (upto := (await fetch("feed_range", position, FEED_PAGE))[0]["upto"]) is not None:
            for statement in ("audit_feed", "audit_index"):
                merge(found, await fetch(statement, SAMPLES_MAX, position, upto))
            position = upto
        on_pass(name, "whether each transfer is told")
        first, transfers = TRANSFERS[0], TOLD_PAGE
        while transfers == TOLD_PAGE:
            [(transfers, last)] = await fetch("transfer_range", first, TOLD_PAGE)
            if transfers:
                merge(found, await fetch("audit_told", SAMPLES_MAX, first, last, None))
                first = behind(last)
        on_pass(name, "rows that were checked")
        [count] = await fetch("audit_count")
        if count["more_than_transfers"]:
            await run(HOLD_PASSES.items())
    counts = (count["accounts"], count["transfers"], count["entries"], count["holds"])
    return LedgerReport(name, *counts, count["events"], count["link"], tuple(found.values()))
