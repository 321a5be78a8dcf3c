"""Old attempts are deleted; the newest of each endpoint stay for a month."""

from datetime import UTC, datetime, timedelta

import pytest

from server.events.webhooks import pruning as module
from server.events.webhooks.pruning import ATTEMPT_DAYS, DEAD_DAYS, WebhookPruning
from server.store.postgres import Database
from tests.support.postgres import administer
from tests.support.service import Service
from tests.webhooks.conftest import make

_ATTEMPTS = """
    INSERT INTO tallystick.webhook_attempts (
        ledger_id, endpoint_id, id, position, type, attempt, outcome, attempted_at, duration_ms, answer
    )
    SELECT ledger_id, id,
           (lpad(to_hex((extract(epoch FROM $1::timestamptz) * 1000)::bigint), 12, '0')
            || lpad(to_hex(n), 20, '0'))::uuid,
           n, 'x', 1, 'delivered', $1, 1, ''
    FROM tallystick.webhook_endpoints CROSS JOIN generate_series(1, $2::integer) AS n
"""
_DEAD = """
    INSERT INTO tallystick.webhook_retries (ledger_id, endpoint_id, position, attempts, attempted_at, due_at)
    SELECT ledger_id, id, $1, 1, $2, $3 FROM tallystick.webhook_endpoints
"""


async def test_what_stays(own: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each endpoint keeps its newest attempts that are not too old; long dead events are deleted too."""
    monkeypatch.setattr(module, "ENDPOINTS_PAGE", 2)
    monkeypatch.setattr(module, "ROWS_MAX", 10)
    monkeypatch.setattr(module, "ATTEMPTS_KEPT", 7)
    for ledger in ("one", "two"):
        client = await own.client(ledger)
        for _ in range(3):
            await make(client, "https://example.com/")
    now = datetime.now(UTC)
    await administer(own.database_url, _ATTEMPTS, now - timedelta(days=ATTEMPT_DAYS, minutes=1), 5)
    await administer(own.database_url, _ATTEMPTS, now - timedelta(days=ATTEMPT_DAYS - 1), 2)
    await administer(own.database_url, _DEAD, 1, now - timedelta(days=DEAD_DAYS, minutes=1), None)
    await administer(own.database_url, _DEAD, 2, now - timedelta(days=DEAD_DAYS - 1), None)
    await administer(own.database_url, _DEAD, 3, now - timedelta(days=DEAD_DAYS, minutes=1), now)
    async with Database(own.database_url, posting_connections=1, reading_connections=1) as database:
        job = WebhookPruning(database)

        async def round_of_steps() -> list[tuple[int, int]]:
            while await job.step() < module.ROUND_SECONDS:
                pass
            rows = await administer(
                own.database_url,
                "SELECT count(*) AS kept, min(position) AS first FROM tallystick.webhook_attempts GROUP BY endpoint_id",
            )
            return [(row["kept"], row["first"]) for row in rows]

        assert await round_of_steps() == [(2, 1)] * 6
        rows = await administer(own.database_url, "SELECT position FROM tallystick.webhook_retries")
        assert sorted(row["position"] for row in rows) == [2] * 6 + [3] * 6
        await administer(own.database_url, _ATTEMPTS, now, 30)
        assert await round_of_steps() == [(7, 24)] * 6
        assert [sample.value for sample in job.samples()] == [6 * (5 + 1 + 25)]
