"""Helpers that relay events, audit at once or page by page, and plant errors that the service cannot make."""

import asyncpg

from server.background.auditor import AUDITOR_SETTINGS
from server.events.relay import Relay
from server.ledger.audit import LedgerReport, audit
from server.ledger.audit_pages import Finding, PageAudit, Place, add
from server.store.sessions import session
from server.store.sql import query


async def relay_all(url: str) -> None:
    """Give all committed events their positions in the feed."""
    relay = Relay(url)
    # What it leaves since another relay is at it may not be committed yet.
    while await relay.step() == 0.0 or relay._locked:
        pass
    await relay.close()


async def plant(url: str, *statements: str) -> None:
    """Run statements as the superuser, which the service itself may not run."""
    settings = {"search_path": "tallystick", "allow_system_table_mods": "on"}
    connection = await asyncpg.connect(url, server_settings=settings)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def look(url: str, ledger: str | None = None) -> tuple[dict[str, Finding], list[LedgerReport]]:
    """Audit, and return the findings by kind and the reports."""
    findings, reports = {}, []
    async for part in audit(url, ledger, lambda *_: None):
        if isinstance(part, LedgerReport):
            reports.append(part)
        for finding in [part] if isinstance(part, Finding) else part.findings:
            findings[finding.kind] = finding
    return findings, reports


async def look_by_pages(url: str, size: int, ledger: str | None = None) -> dict[str, Finding]:
    """Audit page by page, and return the findings by kind."""
    found: dict[str, Finding] = {}
    async with session(url, AUDITOR_SETTINGS) as own:
        for row in await own.fetch(query("ledger_list")):
            place: Place | None = Place() if ledger in (None, row["name"]) else None
            while place is not None:
                async with own.transaction(isolation="repeatable_read", readonly=True):
                    page = await PageAudit(own, row["id"]).check(place, size)
                add(found, page.findings.values())
                place = page.next
    return found
