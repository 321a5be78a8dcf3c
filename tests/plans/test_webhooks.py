"""Statements of webhooks read a page from indexes, however many endpoints, attempts and retries there are."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest

from server.events.webhooks import deliveries, pruning, records
from server.events.webhooks.endpoints import ENDPOINTS_OF_LEDGER_MAX
from server.store.sql import queries, query, sql_root
from tests.plans.plan import explain, session
from tests.support.postgres import create_database, drop_database

LEDGERS = 300
PAGE = 101
# Attempts of one endpoint, its waiting events, and its events that were given up, some of them long ago.
ATTEMPTS, WAITING, DEAD = 20_000, 1_000, 20_000
# Rows for each endpoint of a page: the endpoint, the head of its ledger, and a retry.
EACH = 3
ID_MIN, ID_MAX = UUID(int=0), UUID(int=2**128 - 1)

_LEDGERS = "INSERT INTO ledgers (name) SELECT 'hooks-' || n FROM generate_series(1, $1::integer) AS n"
_HEADS = "INSERT INTO feed_heads (ledger_id, position) SELECT id, 7 FROM ledgers"
_ENDPOINTS = """
    INSERT INTO webhook_endpoints (ledger_id, id, url, types, position, place, secrets, secrets_until)
    SELECT l.id, uuidv7(), 'https://example.com', 0, 0, n, '{x}', '{infinity}'
    FROM ledgers AS l CROSS JOIN generate_series(1, $1::integer) AS n
"""
_ATTEMPTS = """
    INSERT INTO webhook_attempts (
        ledger_id, endpoint_id, id, position, type, attempt, outcome, attempted_at, duration_ms, answer
    )
    SELECT $1, $2, uuidv7(n * interval '-1 second'), n, 'transfer.posted', 1, 'delivered', now(), 1, ''
    FROM generate_series(1, $3::integer) AS n
"""
_RETRIES = """
    INSERT INTO webhook_retries (ledger_id, endpoint_id, position, attempts, attempted_at, due_at)
    SELECT $1, $2, n, 1, now() - n * interval '1 hour',
           CASE WHEN n <= $3 THEN now() + (n - 500) * interval '1 second' END
    FROM generate_series(1, $3::bigint + $4) AS n
"""


class Hooks(NamedTuple):
    """A database with many endpoints, and the one with the most attempts and retries."""

    url: str
    ledger_id: int
    endpoint_id: UUID


@pytest.fixture(scope="module")
async def hooks(template: str) -> AsyncIterator[Hooks]:
    """A database with many endpoints."""
    url = await create_database(template)
    connection = await asyncpg.connect(url, server_settings={"search_path": "tallystick"})
    await connection.execute(_LEDGERS, LEDGERS)
    await connection.execute(_HEADS)
    await connection.execute(_ENDPOINTS, ENDPOINTS_OF_LEDGER_MAX - 1)
    row = await connection.fetchrow("SELECT ledger_id, id FROM webhook_endpoints ORDER BY 1, 2 LIMIT 1 OFFSET 5")
    assert row is not None
    key = tuple(row)
    await connection.execute(_ATTEMPTS, *key, ATTEMPTS)
    await connection.execute(_RETRIES, *key, WAITING, DEAD)
    tables = "ledgers, feed_heads, webhook_endpoints, webhook_attempts, webhook_retries"
    await connection.execute(f"VACUUM (ANALYZE) {tables}")
    await connection.close()
    yield Hooks(url, *key)
    await drop_database(template, url)


def told(hooks: Hooks, outcomes: list[str], first: bool) -> tuple[object, ...]:
    """Return the arguments that record attempts at one endpoint."""
    count = len(outcomes)
    positions = list(range(1, count + 1))
    return (
        *([hooks.ledger_id] * count, [hooks.endpoint_id] * count, [0] * count),
        [number if first else None for number in positions],
        *(positions, [2] * count, outcomes, [5.0] * count, [UUID(int=number) for number in positions]),
        *(["transfer.posted"] * count, [datetime.now(UTC)] * count, [1] * count, [500] * count),
        *([None] * count, [b""] * count, records.WAITING_MAX),
    )


CASES: dict[str, tuple[Callable[[Hooks], tuple[object, ...]], int]] = {
    "webhook_endpoint_create": (lambda at: (at.ledger_id, ID_MAX, "x", 0, None, b"x", 50), 2 * 50 + 1),
    "webhook_endpoint_read": (lambda at: at[1:], 1),
    "webhook_endpoint_page": (lambda at: (at.ledger_id, ID_MIN, PAGE), PAGE),
    "webhook_endpoint_locked_many": (lambda at: (at.ledger_id, [str(at.endpoint_id)]), 3),
    "webhook_endpoint_change": (lambda at: (*at[1:], "x", 1, True, None, True), 2),
    "webhook_endpoint_delete": (lambda at: at[1:], 2),
    "webhook_endpoint_rotate": (lambda at: (*at[1:], b"y", 60, 5), 2),
    "webhook_endpoint_replay": (lambda at: (*at[1:], WAITING + DEAD - 5), 20),
    "webhook_attempt_page": (lambda at: (*at[1:], ID_MAX, PAGE), PAGE),
    "webhook_retry_page": (lambda at: (*at[1:], WAITING // 2, PAGE), PAGE),
    "webhook_retry_due": (lambda at: (*at[1:], deliveries.RETRIES_AT_ONCE), deliveries.RETRIES_AT_ONCE),
    "webhook_work_page": (lambda at: (at.ledger_id, ID_MIN, 1_000), EACH * 1_000),
    "webhook_attempt_record": (lambda at: told(at, ["delivered", "failed", "dead"], False), 40),
    "webhook_endpoint_key_page": (lambda at: (at.ledger_id, ID_MIN, PAGE), PAGE),
    "webhook_secret_list": (lambda _: (PAGE,), PAGE),
    "webhook_attempt_prune": (
        lambda at: (*at[1:], pruning.ATTEMPTS_KEPT, ID_MIN, pruning.ROWS_MAX),
        pruning.ATTEMPTS_KEPT + 4 * pruning.ROWS_MAX,
    ),
    "webhook_dead_prune": (lambda at: (*at[1:], 30, pruning.ROWS_MAX), 4 * pruning.ROWS_MAX),
}


@pytest.mark.parametrize("seqscan", ["off", "on"])
@pytest.mark.parametrize("name", CASES)
async def test_plans(hooks: Hooks, name: str, seqscan: str) -> None:
    """No table is scanned, and no more rows are read than the result needs."""
    arguments, rows_max = CASES[name]
    connection = await session(hooks.url, seqscan=seqscan)
    try:
        plan = await explain(connection, query(name), arguments(hooks))
    finally:
        await connection.close()
    assert plan.scanned == set(), plan.text
    assert plan.rows <= rows_max, plan.text


@pytest.mark.parametrize("outcome", ["delivered", "failed"])
async def test_many_at_once(hooks: Hooks, outcome: str) -> None:
    """A full batch of attempts reads only its own rows, in a plan made for that number."""
    connection = await session(hooks.url, seqscan="off")
    try:
        arguments = told(hooks, [outcome] * records.BATCH_MAX, False)
        plan = await explain(connection, query("webhook_attempt_record"), arguments)
    finally:
        await connection.close()
    assert plan.rows <= 5 * records.BATCH_MAX, plan.text


async def test_those_that_wait_are_counted_to_their_bound(hooks: Hooks) -> None:
    """A first attempt that fails reads at most the limit of waiting events, and none that was given up."""
    connection = await session(hooks.url, seqscan="off")
    try:
        plan = await explain(connection, query("webhook_attempt_record"), told(hooks, ["failed"], True))
    finally:
        await connection.close()
    assert plan.rows <= records.WAITING_MAX + 20, plan.text


def test_every_statement_is_looked_at() -> None:
    """Every statement of webhooks has a case here."""
    text = (sql_root() / "queries" / "webhooks.sql").read_text()
    assert set(CASES) == {name for name in queries() if f"-- name: {name}(" in text}
