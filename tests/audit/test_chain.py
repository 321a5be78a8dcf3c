"""The chain of events: whatever is changed behind the service's back is found and named, and nothing else is."""

import re

import asyncpg
import pytest

from server.background.auditor import AUDITOR_SETTINGS
from server.ledger.audit_pages import ACCOUNTS, SAMPLES_MAX, TRANSFERS
from server.store.sql import query
from tests.audit.planted import KEY
from tests.audit.tampered import OF_BOOKS, TAMPERED, UNTOLD
from tests.audit.traffic import LEDGER, NEIGHBOUR
from tests.support.audits import look, look_by_pages, plant, relay_all
from tests.support.command import call
from tests.support.postgres import administer

# Few enough that books of a hundred rows have several pages, and accounts two.
SIZE = 15


async def test_real_traffic_is_clean(told: str) -> None:
    """Whole and page by page; events are counted, and the link of the last one is told."""
    findings, reports = await look(told)
    assert findings == {}
    for size in (1, SIZE, 1_000):
        assert await look_by_pages(told, size) == {}
    heads = await administer(told, "SELECT position, link FROM tallystick.feed_heads ORDER BY ledger_id")
    assert [(report.events, report.link) for report in reports] == [tuple(head) for head in heads]
    ended = await call("audit", database_url=told)
    assert f"  head of its chain: {heads[0]['position']} {heads[0]['link'].hex()}\n" in ended.out


async def check(url: str, statements: list[str], kinds: dict[str, int | None], texts: list[str]) -> None:
    """Plant, and assert what is found by both ways; None is some number."""
    await plant(url, *statements)
    findings, reports = await look(url)
    found = {finding.kind: finding.total for finding in findings.values()}
    assert found.keys() == kinds.keys(), findings
    assert {kind: total for kind, total in found.items() if kinds[kind]} == {k: n for k, n in kinds.items() if n}
    assert [text for text in texts if text not in str(findings)] == [], findings
    assert not any(report.findings for report in reports if report.ledger == NEIGHBOUR)
    by_pages = await look_by_pages(url, SIZE, LEDGER)
    assert {kind: finding.total for kind, finding in by_pages.items()} == found
    assert await look_by_pages(url, SIZE, NEIGHBOUR) == {}


@pytest.mark.parametrize(("statements", "kinds", "texts"), TAMPERED)
async def test_tampered(told: str, statements: list[str], kinds: dict[str, int | None], texts: list[str]) -> None:
    """What has a position."""
    await check(told, statements, kinds, texts)


@pytest.mark.parametrize(("statements", "kinds", "texts"), UNTOLD)
async def test_waiting(books: str, statements: list[str], kinds: dict[str, int | None], texts: list[str]) -> None:
    """What waits for one."""
    await check(books, statements, kinds, texts)


async def test_the_first_link_is_named(told: str) -> None:
    """Of several, the first position is the first that is told."""
    await plant(told, "UPDATE transfers SET metadata = '{ }' WHERE idempotency_key LIKE 'pay-%'")
    findings, _ = await look(told, LEDGER)
    details = findings["link_differs"].details
    positions = [int(match[1]) for match in map(re.compile(r"position (\d+): ").match, details) if match]
    [first] = await administer(
        told,
        "SELECT min(f.position) AS position FROM tallystick.feed AS f JOIN tallystick.transfers AS t ON t.id = ANY"
        " (f.transfers) WHERE t.idempotency_key LIKE 'pay-%'",
    )
    assert positions == sorted(positions)
    assert (len(positions), positions[0]) == (3, first["position"])


async def test_a_backlog_is_no_finding(books: str) -> None:
    """Where more waits than is looked through, what is not in the feed is left to the next round."""
    await plant(books, f"DELETE FROM outbox WHERE {OF_BOOKS} AND transfers IS NOT NULL AND ctid <> '(0,1)'")
    connection = await asyncpg.connect(books, server_settings=AUDITOR_SETTINGS)
    ledger_id = await connection.fetchval("SELECT id FROM ledgers WHERE name = $1", LEDGER)
    statement = (query("audit_told"), ledger_id, SAMPLES_MAX, *TRANSFERS)
    left = await connection.fetchval(f"SELECT count(*) FROM outbox WHERE {OF_BOOKS}")
    assert await connection.fetch(*statement, left) == []
    assert {row["kind"] for row in await connection.fetch(*statement, left + 1)} == {"transfer_untold"}
    await connection.close()


async def test_a_backlog_hides_no_change(books: str) -> None:
    """Where more waits than is looked through, what accounts should be is left to the next round."""
    await plant(books, f"UPDATE accounts SET closed = true WHERE {OF_BOOKS} AND id = 'idle'")
    connection = await asyncpg.connect(books, server_settings=AUDITOR_SETTINGS)
    ledger_id = await connection.fetchval("SELECT id FROM ledgers WHERE name = $1", LEDGER)
    statement = (query("audit_accounts"), ledger_id, SAMPLES_MAX, *ACCOUNTS)
    left = await connection.fetchval(f"SELECT count(*) FROM outbox WHERE {OF_BOOKS}")
    assert await connection.fetch(*statement, left) == []
    assert [row["kind"] for row in await connection.fetch(*statement, left + 1)] == ["account_differs"]
    await connection.close()


async def test_accounts_from_before_the_feed(books: str) -> None:
    """No event tells that they were opened; of their first changes none tells the version of their limits."""
    await plant(
        books,
        f"INSERT INTO accounts (ledger_id, id, currency, created_at) VALUES ({KEY}, 'ancient', 'EUR', now())",
        "UPDATE outbox SET change = (change::jsonb - 'limits_version')::json",
        f"UPDATE accounts SET limits_version = 2 WHERE {OF_BOOKS} AND id = 'idle'",
        "UPDATE schema_migrations SET applied_at = now() + interval '1 second' WHERE number = 2",
    )
    assert (await look(books))[0] == {}
    await relay_all(books)
    assert await look_by_pages(books, SIZE) == {}
